//! A run that is not executed.

use super::Run;
use crate::Result;
use crate::external::Externals;
use crate::pipeline::Gate;
use crate::progress::Progress;
use crate::session::Session;
use crate::statement::Located;
use crate::view::View;
use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use std::path::PathBuf;
use std::sync::Arc;

/// A run whose statements are only planned, so that what is wrong in them shows. What they create has columns and no
/// rows, and is read by the statements after them. Nothing is written or published; of files that are read in place,
/// the columns are found out.
pub struct Rehearsal(Run);

impl Rehearsal {
    /// Begins a rehearsal.
    pub async fn start(session: Session, progress: Arc<dyn Progress>) -> Result<Self> {
        let view = View::now(&session, Externals::new()).await?;
        let run = Run::over(session, view, Run::new_id(), "REHEARSAL".to_string(), progress);
        Ok(Self(Run { rehearsed: true, ..run }))
    }

    /// Plans a statement that makes or changes something.
    pub async fn execute(&mut self, located: &Located, folder: Option<PathBuf>) -> Result<()> {
        self.0.execute(located, folder).await
    }

    /// Plans a check.
    pub async fn check(&self, located: &Located) -> Result<()> {
        self.0.check(located).await.map(drop)
    }

    /// Plans what a gate measures with a query.
    pub async fn gate(&self, gate: &Gate) -> Result<()> {
        self.0.plan_gate(gate).await
    }

    /// The columns that a table has in what is published, and those that it would have.
    pub async fn schemas(&self, table: &str) -> Result<(Option<SchemaRef>, Option<SchemaRef>)> {
        let (run, name) = (&self.0, TableReference::parse_str(table));
        let published = View::now(&run.session, Externals::new()).await?;
        let before = published.table(&run.session, &name).await?;
        let after = run.view.table(&run.session, &name).await?;
        Ok((before.map(|table| table.schema()), after.map(|table| table.schema())))
    }
}
