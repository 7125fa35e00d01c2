//! Statements executed one after another, each published by itself: what a shell, a Flight SQL client
//! and an HTTP request do.

use crate::external::Externals;
use crate::progress::Progress;
use crate::run::{self, Run, Step};
use crate::session::Session;
use crate::statement::Located;
use crate::view::View;
use crate::{JobError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use nightshift_catalog::CatalogError;
use nightshift_catalog::registry::Entry;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How often a statement is executed whose table others change meanwhile.
const ATTEMPTS: u32 = 100;

/// The longest pause before the first repetition; those before later ones grow to ten times that.
const PAUSE: Duration = Duration::from_millis(20);

/// What a statement has come to.
pub enum Outcome {
    /// The rows of a query, as they come. Dropping the stream cancels the query.
    Rows(SendableRecordBatchStream),
    /// What a statement has changed.
    Made(Made),
}

/// What a statement has changed.
#[derive(Debug, Clone, Default)]
pub struct Made {
    /// The tables and models that it has written.
    pub steps: Vec<Step>,
    /// What was published.
    pub published: Vec<Entry>,
}

impl Made {
    /// Rows written.
    pub fn rows(&self) -> u64 {
        self.steps.iter().map(|step| step.rows).sum()
    }
}

/// A session, and what one user's statements have in common besides the warehouse.
pub struct Connection {
    session: Session,
    /// Files that are read in place, for as long as the connection is there.
    externals: Externals,
    /// What relative locations are relative to.
    folder: Option<PathBuf>,
    progress: Arc<dyn Progress>,
}

impl Connection {
    /// A connection without external tables.
    pub fn new(session: Session, folder: Option<PathBuf>, progress: Arc<dyn Progress>) -> Self {
        Self { session, externals: Externals::new(), folder, progress }
    }

    /// The same connection with files that it reads in place from the start.
    pub fn with_externals(self, externals: Externals) -> Self {
        Self { externals, ..self }
    }

    /// The session that runs its plans.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The files that it reads in place.
    pub fn externals(&self) -> &Externals {
        &self.externals
    }

    /// Plans a statement that returns rows, on what is published now. The plan may have placeholders.
    pub async fn prepare(&self, statement: &Located) -> Result<LogicalPlan> {
        let planned = async {
            let view = View::now(&self.session, self.externals.clone()).await?;
            run::plan(&self.session, &view, statement).await
        };
        planned.await.map_err(|error| statement.locate(error))
    }

    /// Executes one statement. What it changes is published at once, or not at all if it fails or
    /// `interrupted` comes to its end first.
    pub async fn execute(
        &mut self,
        statement: &Located,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        if statement.statement.returns_rows() {
            let rows = run::query(&self.session, &self.externals, statement);
            return tokio::select! {
                rows = rows => Ok(Outcome::Rows(rows?)),
                () = interrupted => Err(JobError::Interrupted),
            };
        }
        let mut interrupted = std::pin::pin!(interrupted);
        let mut attempt = 1;
        loop {
            match self.execute_alone(statement, interrupted.as_mut()).await {
                Err(JobError::Catalog(CatalogError::Conflict { .. })) if attempt < ATTEMPTS => {
                    // Of random length, so that those who met once don't meet again.
                    let part = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
                    tokio::time::sleep((PAUSE * attempt.min(10)).mul_f64(part)).await;
                    attempt += 1;
                }
                done => return done.map_err(|error| statement.locate(error)),
            }
        }
    }

    /// Executes one statement as a run of its own.
    async fn execute_alone(
        &mut self,
        statement: &Located,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        let (session, externals) = (self.session.clone(), self.externals.clone());
        let progress = Arc::clone(&self.progress);
        let mut run =
            Run::start(session, statement.statement.word().to_string(), externals, progress)
                .await?;
        let executed = tokio::select! {
            executed = run.execute(statement, self.folder.clone()) => executed,
            () = interrupted => Err(JobError::Interrupted),
        };
        match executed {
            Ok(()) => {
                self.externals = run.externals().clone();
                let (steps, published) = run.publish().await?;
                Ok(Outcome::Made(Made { steps, published }))
            }
            Err(error) => {
                run.abandon().await?;
                Err(error)
            }
        }
    }
}
