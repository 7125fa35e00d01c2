//! One statement: values for its parameters, and what becomes of its result.

use crate::commands::tell_published;
use crate::interrupts::Interrupts;
use crate::output::{Output, Written};
use crate::progress::{self, Shown};
use crate::{Failure, Interrupted};
use futures::TryStreamExt;
use nightshift_jobs::connection::{Connection, Outcome};
use nightshift_jobs::session::Session;
use nightshift_jobs::statement::{Located, Parameters, Unparsed};
use std::sync::Arc;

/// What statements are executed with.
pub struct Execution {
    /// Where they run.
    pub connection: Connection,
    /// Where their results go.
    pub output: Output,
    /// Values for their parameters.
    pub parameters: Parameters,
    /// What stops them.
    pub interrupts: Interrupts,
    progress: Arc<dyn Shown>,
}

/// What a statement has done.
pub enum Done {
    /// Returned rows; `None` if they were not all looked at.
    Rows(Option<Written>),
    /// Changed something.
    Made,
}

impl Execution {
    /// Statements in the current folder.
    pub fn new(
        session: &Session,
        output: Output,
        parameters: Parameters,
        interrupts: Interrupts,
    ) -> Self {
        let folder = std::env::current_dir().ok();
        let progress = progress::to_standard_error();
        let connection = Connection::new(session.clone(), folder, progress.clone());
        Self { connection, output, parameters, interrupts, progress }
    }

    /// Executes a statement with the values that its parameters have.
    pub async fn statement(&mut self, statement: &Unparsed) -> Result<Done, Failure> {
        let located = tokio::select! {
            located = self.connection.bind(statement, &self.parameters) => located?,
            () = self.interrupts.next() => return Err(Interrupted.into()),
        };
        self.located(&located).await
    }

    /// Executes a statement.
    pub async fn located(&mut self, statement: &Located) -> Result<Done, Failure> {
        let executed = self.connection.execute(statement, self.interrupts.next()).await;
        self.progress.clear();
        match executed? {
            Outcome::Rows(rows) => {
                let schema = rows.schema();
                let rows = rows.map_err(|error| statement.locate(error.into()));
                let written = self.output.rows(schema, rows, &mut self.interrupts).await?;
                Ok(Done::Rows(written))
            }
            Outcome::Made(made) => {
                if !made.steps.is_empty() {
                    self.output.steps(&made.steps)?;
                }
                tell_published(&made.published);
                Ok(Done::Made)
            }
        }
    }
}
