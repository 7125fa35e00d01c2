//! A run that is not executed.

use super::Run;
use crate::Result;
use crate::external::Externals;
use crate::progress::Progress;
use crate::session::Session;
use crate::statement::Located;
use std::path::PathBuf;
use std::sync::Arc;

/// A run whose statements are only planned, so that what is wrong in them shows. What they create has columns and no
/// rows, and is read by the statements after them. Nothing is written or published; of files that are read in place,
/// the columns are found out.
pub struct Rehearsal(Run);

impl Rehearsal {
    /// Begins a rehearsal.
    pub async fn start(session: Session, progress: Arc<dyn Progress>) -> Result<Self> {
        let operation = "REHEARSAL".to_string();
        Ok(Self(Run::prepare(session, operation, Externals::new(), progress, true).await?))
    }

    /// Plans a statement that makes or changes something.
    pub async fn execute(&mut self, located: &Located, folder: Option<PathBuf>) -> Result<()> {
        self.0.execute(located, folder).await
    }

    /// Plans a check.
    pub async fn check(&self, name: &str, located: &Located) -> Result<()> {
        self.0.check(name, located).await
    }
}
