//! Statements executed one after another, each published by itself: what a shell, a Flight SQL client
//! and an HTTP request do.

use crate::external::Externals;
use crate::progress::Progress;
use crate::queries::{Caller, Query, Via};
use crate::run::{self, Run, Step};
use crate::session::Session;
use crate::statement::{Located, Parameters, Unparsed};
use crate::view::View;
use crate::{JobError, Result, audit};
use arrow::datatypes::SchemaRef;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::CatalogError;
use nightshift_catalog::registry::Entry;
use std::collections::HashMap;
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
    /// Who sends the statements.
    caller: Caller,
    /// Files that are read in place, for as long as the connection is there.
    externals: Externals,
    /// What relative locations are relative to.
    folder: Option<PathBuf>,
    progress: Arc<dyn Progress>,
}

impl Connection {
    /// A connection without external tables, of whoever runs this process.
    pub fn new(session: Session, folder: Option<PathBuf>, progress: Arc<dyn Progress>) -> Self {
        let caller = Caller::of_this_process(Via::Sql);
        Self { session, caller, externals: Externals::new(), folder, progress }
    }

    /// The same connection with files that it reads in place from the start.
    pub fn with_externals(self, externals: Externals) -> Self {
        Self { externals, ..self }
    }

    /// The same connection of somebody else.
    pub fn with_caller(self, caller: Caller) -> Self {
        Self { caller, ..self }
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

    /// Parses a statement with values in the places of its parameters. They get the types that its query
    /// gives them, as far as that can be planned while they are open.
    pub async fn bind(&self, statement: &Unparsed, values: &Parameters) -> Result<Located> {
        let mut types = HashMap::new();
        if !statement.parameters().is_empty()
            && let Some(query) = statement.query()
            && let Ok(plan) = self.prepare(&query).await
        {
            // A parameter of two types has none that is known.
            types = plan.get_parameter_types().unwrap_or_default();
        }
        statement.bind(values, &types)
    }

    /// Makes a statement known as a query that can be listed and cancelled.
    pub fn begin(&self, statement: &Located) -> Query {
        self.session.queries().begin(&self.caller, statement)
    }

    /// Plans a query that was begun, to be run later.
    pub async fn plan(&self, query: Query, statement: &Located) -> Result<Planned> {
        let plan = query.work(self.prepare(statement)).await?;
        let (session, statement) = (self.session.clone(), statement.clone());
        let (externals, schema) = (self.externals.clone(), schema_of(&plan));
        Ok(Planned { session, externals, statement, query, schema, plans: vec![plan] })
    }

    /// Executes one statement. What it changes is published at once, or not at all if it fails or
    /// `interrupted` comes to its end first.
    pub async fn execute(
        &mut self,
        statement: &Located,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Outcome> {
        let query = self.begin(statement);
        if !statement.statement.returns_rows() {
            return self.change(query, statement, interrupted).await.map(Outcome::Made);
        }
        let rows = async { self.plan(query, statement).await?.run().await };
        tokio::select! {
            rows = rows => Ok(Outcome::Rows(rows?)),
            () = interrupted => Err(JobError::Interrupted),
        }
    }

    /// Executes a statement that was begun and changes something.
    pub async fn change(
        &mut self,
        query: Query,
        statement: &Located,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Made> {
        query.running();
        let stopped = async {
            tokio::select! {
                () = interrupted => JobError::Interrupted,
                () = query.cancelled() => JobError::Cancelled,
            }
        };
        let done = self.change_until(statement, stopped).await;
        let outcome = match &done {
            Ok(made) => {
                query.changed(made.rows());
                "done"
            }
            Err(error) => {
                query.failed(error);
                if error.is_cancellation() { "cancelled" } else { "failed" }
            }
        };
        let object = statement.object().unwrap_or_default();
        audit::record(&self.caller, query.id(), statement.statement.word(), &object, outcome);
        done
    }

    /// Executes a statement that changes something, again and again while others change the same.
    async fn change_until(
        &mut self,
        statement: &Located,
        stopped: impl Future<Output = JobError>,
    ) -> Result<Made> {
        let mut stopped = std::pin::pin!(stopped);
        let mut attempt = 1;
        loop {
            match self.change_once(statement, stopped.as_mut()).await {
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
    async fn change_once(
        &mut self,
        statement: &Located,
        stopped: impl Future<Output = JobError>,
    ) -> Result<Made> {
        let (session, externals) = (self.session.clone(), self.externals.clone());
        let progress = Arc::clone(&self.progress);
        let mut run =
            Run::start(session, statement.statement.word().to_string(), externals, progress)
                .await?;
        let executed = tokio::select! {
            executed = run.execute(statement, self.folder.clone()) => executed,
            reason = stopped => Err(reason),
        };
        match executed {
            Ok(_) => {
                self.externals = run.externals().clone();
                let (steps, published) = run.publish().await?;
                Ok(Made { steps, published })
            }
            Err(error) => {
                run.abandon().await?;
                Err(error)
            }
        }
    }
}

/// A query that is planned and not run yet.
pub struct Planned {
    session: Session,
    externals: Externals,
    statement: Located,
    query: Query,
    schema: SchemaRef,
    plans: Vec<LogicalPlan>,
}

fn schema_of(plan: &LogicalPlan) -> SchemaRef {
    Arc::new(plan.schema().as_arrow().clone())
}

impl Planned {
    /// The query's id.
    pub fn id(&self) -> Uuid {
        self.query.id()
    }

    /// The columns of its rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Puts values in the place of placeholders. With several rows of values it returns the rows for
    /// each of them, one after another.
    pub fn bind(mut self, values: &[Vec<ScalarValue>]) -> Result<Self> {
        let Some(plan) = self.plans.first() else { return Ok(self) };
        let bind = |values: &Vec<ScalarValue>| match values.as_slice() {
            [] => Ok(plan.clone()),
            _ => plan.clone().replace_params_with_values(&ParamValues::from(values.clone())),
        };
        match values.iter().map(bind).collect::<Result<Vec<_>, DataFusionError>>() {
            Ok(plans) => {
                self.schema = plans.first().map_or(self.schema, schema_of);
                self.plans = plans;
                Ok(self)
            }
            Err(error) => {
                let error = self.statement.locate(error.into());
                self.query.failed(&error);
                Err(error)
            }
        }
    }

    /// Runs it, and returns its rows when the first are there.
    pub async fn run(self) -> Result<SendableRecordBatchStream> {
        let Self { session, externals, statement, query, schema, plans } = self;
        query.running();
        let mut plans = plans.into_iter();
        let Some(first) = plans.next() else {
            let none = RecordBatchStreamAdapter::new(schema, futures::stream::empty());
            return Ok(query.rows(Box::pin(none), statement));
        };
        let located = async {
            match session.stream(first).await {
                Ok(rows) => Ok(rows),
                Err(error) => {
                    let error = run::explain(&session, &externals, &statement, error).await;
                    Err(statement.locate(error))
                }
            }
        };
        let first = query.work(located).await?;
        let schema = first.schema();
        let about = Arc::new((session.clone(), externals, statement.clone()));
        let others = futures::stream::iter(plans).then(move |plan| {
            let session = session.clone();
            async move { Ok::<_, DataFusionError>(session.stream(plan).await?) }
        });
        let all = first.chain(others.try_flatten()).or_else(move |error| {
            let about = Arc::clone(&about);
            async move {
                let (session, externals, statement) = about.as_ref();
                let error = run::explain(session, externals, statement, error.into()).await;
                Err(DataFusionError::from(error))
            }
        });
        let all = RecordBatchStreamAdapter::new(schema, all);
        Ok(query.rows(Box::pin(all), statement))
    }
}
