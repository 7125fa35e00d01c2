//! Planning and executing statements, and what the handles that clients hold stand for.
//!
//! A query is planned when a client asks how to get its result, against what is published then, and
//! executed when the client comes for the rows: they go from the executors to the client without
//! being gathered here. Any other statement is executed at once, so that it is executed exactly once.

use super::clients::Client;
use super::parameters::Text;
use super::{status, wire};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use futures::future::{BoxFuture, Shared};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use moka::future::Cache;
use nightshift_jobs::JobError;
use nightshift_jobs::connection::{Connection, Outcome};
use nightshift_jobs::external::Externals;
use nightshift_jobs::progress::Progress;
use nightshift_jobs::run::explain;
use nightshift_jobs::session::Session;
use nightshift_jobs::statement::{Located, STACK, Statement, parse};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tonic::Status;
use uuid::Uuid;

/// How long a client may take to come for a result.
const PENDING: Duration = Duration::from_secs(600);

/// How long a prepared statement that is not used is kept.
pub(super) const PREPARED: Duration = Duration::from_secs(4 * 3600);

/// Results and prepared statements that are kept at the same time.
const MOST: u64 = 10_000;

/// A value for each parameter of a statement.
pub(super) type Values = Vec<ScalarValue>;

/// Resolves when the request that something is done for has gone away.
pub(super) type Gone = Shared<BoxFuture<'static, ()>>;

/// Does something that has to tidy up after itself even when nobody waits for it any more, in a thread
/// of its own: the futures of runs need not be such that they can move between threads.
pub(super) async fn supervised<T, F>(
    work: impl FnOnce(Gone) -> F + Send + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Status>>,
{
    let (waiting, gone) = oneshot::channel::<()>();
    // Nothing is ever sent: the other end is dropped together with this future.
    let gone = gone.map(drop).boxed().shared();
    let (answer, answered) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("statement".to_string()).stack_size(STACK);
    let started = thread.spawn(move || {
        // When nobody waits for the answer, it is not missed.
        let _ = answer.send(runtime.block_on(work(gone)));
    });
    started.map_err(status::internal)?;
    let done = answered.await;
    drop(waiting);
    done.map_err(status::internal)?
}

/// The one statement of a request.
pub(super) fn parse_one(sql: &str) -> Result<Located, Status> {
    let mut statements = parse("statement", sql).map_err(status::of_error)?;
    match (statements.pop(), statements.last()) {
        (Some(statement), None) => Ok(statement),
        (None, _) => Err(status::of(status::SYNTAX, "there is no statement")),
        (Some(second), Some(_)) => {
            let reason = format!("statement:{}: send one statement at a time", second.line);
            Err(status::of(status::SYNTAX, reason))
        }
    }
}

/// Whether a statement is one that can be planned before it is executed.
fn is_query(located: &Located) -> bool {
    matches!(located.statement, Statement::Query(_))
}

/// A result that a client can come for.
pub(super) struct Pending {
    /// Its columns, as they are sent.
    pub(super) schema: SchemaRef,
    /// Rows that were written, if it is the result of a change.
    pub(super) changed: Option<i64>,
    source: Source,
    cancelled: watch::Sender<bool>,
}

enum Source {
    /// A query with each of the rows of values that were bound to it.
    Plans(Arc<Located>, Externals, Vec<LogicalPlan>),
    /// Rows that can be had once.
    Rows(Mutex<Option<SendableRecordBatchStream>>),
}

impl Pending {
    fn new(schema: &Schema, changed: Option<i64>, source: Source) -> Self {
        let (cancelled, _) = watch::channel(false);
        Self { schema: wire::wire_schema(schema), changed, source, cancelled }
    }

    fn changed(rows: u64) -> Self {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        Self::new(&Schema::empty(), Some(rows), Source::Rows(Mutex::new(None)))
    }

    /// The rows as the cluster sends them. Dropping the stream cancels what still runs.
    fn rows(&self, session: &Session) -> BoxStream<'static, Result<RecordBatch, Status>> {
        match &self.source {
            Source::Plans(located, externals, plans) => {
                let about = Arc::new((session.clone(), Arc::clone(located), externals.clone()));
                let failed = move |error: JobError| {
                    let about = Arc::clone(&about);
                    async move {
                        let (session, located, externals) = about.as_ref();
                        let error = explain(session, externals, located, error).await;
                        status::of_error(located.locate(error))
                    }
                };
                let session = session.clone();
                let run = move |plan: LogicalPlan| {
                    let (session, failed) = (session.clone(), failed.clone());
                    async move {
                        let rows = match session.stream(plan).await {
                            Ok(rows) => rows,
                            Err(error) => return Err(failed(error).await),
                        };
                        Ok(rows.or_else(move |error| {
                            let failed = failed(error.into());
                            async move { Err::<RecordBatch, Status>(failed.await) }
                        }))
                    }
                };
                futures::stream::iter(plans.clone()).then(run).try_flatten().boxed()
            }
            Source::Rows(rows) => {
                let rows = rows.lock().unwrap_or_else(PoisonError::into_inner).take();
                let failed =
                    |error: datafusion::error::DataFusionError| status::of_error(error.into());
                futures::stream::iter(rows).flatten().map_err(failed).boxed()
            }
        }
    }
}

/// A statement that a client has prepared.
pub(super) struct Prepared {
    /// The statement.
    pub(super) text: Text,
    bound: Mutex<Option<Vec<Values>>>,
}

impl Prepared {
    /// Keeps the values for the next execution.
    pub(super) fn bind(&self, rows: Vec<Values>) {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
    }

    /// The rows of values that it is to be executed with.
    fn values(&self) -> Vec<Values> {
        if self.text.count() == 0 {
            return vec![Values::new()];
        }
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Without values there are none for the parameters, which is found out then.
        bound.unwrap_or_else(|| vec![Values::new()])
    }
}

/// What is known about a statement before it is executed.
pub(super) struct Description {
    /// The columns of the result; `None` if the statement is not a query.
    pub(super) result: Option<SchemaRef>,
    /// The parameters.
    pub(super) parameters: Schema,
}

/// Executes statements, and keeps what clients have handles of.
pub(super) struct Statements {
    session: Session,
    pending: Cache<String, Arc<Pending>>,
    /// Results that are being sent, for as long as that takes.
    running: Arc<Mutex<HashMap<String, Arc<Pending>>>>,
    prepared: Cache<String, Arc<Prepared>>,
}

impl Statements {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            session: session.clone(),
            pending: Cache::builder().time_to_idle(PENDING).max_capacity(MOST).build(),
            running: Arc::default(),
            prepared: Cache::builder().time_to_idle(PREPARED).max_capacity(MOST).build(),
        }
    }

    /// The session that plans run in.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// A connection that reads these files in place.
    pub(super) fn connection(&self, externals: Externals) -> Connection {
        let connection = Connection::new(self.session.clone(), None, Arc::new(Log));
        connection.with_externals(externals)
    }

    async fn plan(&self, client: &Client, located: &Located) -> Result<LogicalPlan, Status> {
        let connection = self.connection(client.externals());
        connection.prepare(located).await.map_err(status::of_error)
    }

    async fn execute(&self, client: &Client, located: Located) -> Result<Outcome, Status> {
        let before = client.externals();
        let mut connection = self.connection(before.clone());
        let client = client.clone();
        supervised(move |gone| async move {
            let outcome = connection.execute(&located, gone).await.map_err(status::of_error)?;
            client.changed(&before, connection.externals());
            Ok(outcome)
        })
        .await
    }

    /// Executes a statement that is not a query once for each row of values, or plans a query.
    async fn answer(
        &self,
        client: &Client,
        text: &Text,
        values: &[Values],
    ) -> Result<Pending, Status> {
        let located = parse_one(text.sql())?;
        if is_query(&located) {
            let plan = self.plan(client, &located).await?;
            let bind = |values: &Values| {
                text.check(values)?;
                if values.is_empty() {
                    return Ok(plan.clone());
                }
                let bound =
                    plan.clone().replace_params_with_values(&ParamValues::from(values.clone()));
                bound.map_err(|error| status::of_error(located.locate(error.into())))
            };
            let plans = values.iter().map(bind).collect::<Result<Vec<_>, Status>>()?;
            let schema = plans.first().unwrap_or(&plan).schema().as_arrow().clone();
            return Ok(Pending::new(
                &schema,
                None,
                Source::Plans(Arc::new(located), client.externals(), plans),
            ));
        }
        let mut changed = 0;
        for values in values {
            let located = parse_one(&text.with_literals(values)?)?;
            match self.execute(client, located).await? {
                Outcome::Made(made) => changed += made.rows(),
                Outcome::Rows(rows) => {
                    let schema = rows.schema();
                    let rows = Source::Rows(Mutex::new(Some(rows)));
                    return Ok(Pending::new(&schema, None, rows));
                }
            }
        }
        Ok(Pending::changed(changed))
    }

    async fn keep(&self, pending: Pending) -> (String, Arc<Pending>) {
        let (handle, pending) = (Uuid::now_v7().to_string(), Arc::new(pending));
        self.pending.insert(handle.clone(), Arc::clone(&pending)).await;
        (handle, pending)
    }

    /// Begins a statement, and returns the handle by which its result can be had.
    pub(super) async fn begin(
        &self,
        client: &Client,
        sql: &str,
    ) -> Result<(String, Arc<Pending>), Status> {
        let located = parse_one(sql)?;
        let text = Text::new(sql)?;
        tracing::debug!(line = located.line, "statement");
        let pending = self.answer(client, &text, &[Values::new()]).await?;
        Ok(self.keep(pending).await)
    }

    /// Begins a prepared statement with the values that are bound to it.
    pub(super) async fn begin_prepared(
        &self,
        client: &Client,
        prepared: &Prepared,
    ) -> Result<(String, Arc<Pending>), Status> {
        let pending = self.answer(client, &prepared.text, &prepared.values()).await?;
        Ok(self.keep(pending).await)
    }

    /// Executes a statement to its end with each of the rows of values; returns how many rows it has
    /// changed, or returned if it is a query.
    pub(super) async fn finish(
        &self,
        client: &Client,
        text: &Text,
        values: &[Values],
    ) -> Result<i64, Status> {
        let pending = self.answer(client, text, values).await?;
        if let Some(changed) = pending.changed {
            return Ok(changed);
        }
        let mut rows = pending.rows(&self.session);
        let mut count = 0;
        while let Some(batch) = rows.try_next().await? {
            count += batch.num_rows();
        }
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// The result of a handle, as it comes.
    pub(super) async fn fetch(
        &self,
        handle: &[u8],
    ) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch, Status>>), Status> {
        let handle = name(handle)?;
        let Some(pending) = self.pending.get(handle).await else {
            return Err(unknown("result"));
        };
        let running = Running::new(&self.running, handle, Arc::clone(&pending));
        let mut cancelled = pending.cancelled.subscribe();
        let stop = async move {
            if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
                // Nobody can cancel it any more.
                std::future::pending::<()>().await;
            }
        };
        let last = Arc::clone(&pending);
        let last = futures::stream::once(async move {
            drop(running);
            let cancelled = *last.cancelled.borrow();
            cancelled.then(|| Err(status::of(status::CANCELLED, "the statement was cancelled")))
        });
        let rows =
            pending.rows(&self.session).take_until(stop).chain(last.filter_map(std::future::ready));
        Ok((Arc::clone(&pending.schema), rows.boxed()))
    }

    /// Cancels the statement whose result a handle stands for; `false` if there is none.
    pub(super) async fn cancel(&self, handle: &[u8]) -> Result<bool, Status> {
        let handle = name(handle)?;
        let waiting = self.pending.remove(handle).await;
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(handle);
        let pending = waiting.or(running);
        if let Some(pending) = &pending {
            pending.cancelled.send_replace(true);
        }
        Ok(pending.is_some())
    }

    /// Prepares a statement and returns its handle.
    pub(super) async fn prepare(
        &self,
        client: &Client,
        sql: &str,
    ) -> Result<(String, Description), Status> {
        // The text as it was written, for the places of errors.
        parse_one(sql)?;
        let text = Text::new(sql)?;
        let located = parse_one(text.sql())?;
        let description = if is_query(&located) {
            let plan = self.plan(client, &located).await?;
            let result = wire::wire_schema(plan.schema().as_arrow());
            Description { result: Some(result), parameters: text.schema(Some(&plan))? }
        } else {
            Description { result: None, parameters: text.schema(None)? }
        };
        let handle = Uuid::now_v7().to_string();
        let prepared = Prepared { text, bound: Mutex::default() };
        self.prepared.insert(handle.clone(), Arc::new(prepared)).await;
        Ok((handle, description))
    }

    /// The prepared statement of a handle.
    pub(super) async fn prepared(&self, handle: &[u8]) -> Result<Arc<Prepared>, Status> {
        let prepared = self.prepared.get(name(handle)?).await;
        prepared.ok_or_else(|| unknown("prepared statement"))
    }

    /// Forgets a prepared statement.
    pub(super) async fn close(&self, handle: &[u8]) -> Result<(), Status> {
        self.prepared.invalidate(name(handle)?).await;
        Ok(())
    }
}

fn unknown(what: &str) -> Status {
    let reason = format!("there is no {what} of this handle, or no longer");
    status::of(status::UNKNOWN_HANDLE, reason)
}

fn name(handle: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(handle).map_err(|_| unknown("statement"))
}

/// A result that is being sent, until this is dropped.
struct Running {
    all: Arc<Mutex<HashMap<String, Arc<Pending>>>>,
    handle: String,
}

impl Running {
    fn new(
        all: &Arc<Mutex<HashMap<String, Arc<Pending>>>>,
        handle: &str,
        pending: Arc<Pending>,
    ) -> Self {
        let mut running = all.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(handle.to_string(), pending);
        Self { all: Arc::clone(all), handle: handle.to_string() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.handle);
    }
}

/// Tells the log of the server.
struct Log;

impl Progress for Log {
    fn step(&self, number: usize, total: usize, name: &str) {
        tracing::debug!(number, total, name, "step");
    }

    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64) {
        tracing::debug!(model, iteration, total, measure, value, "iteration");
    }

    fn note(&self, text: &str) {
        tracing::info!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_statement() {
        assert!(is_query(&parse_one("SELECT 1;").unwrap()));
        assert!(!is_query(&parse_one("CREATE TABLE a.b AS SELECT 1 AS x").unwrap()));
        let two = parse_one("SELECT 1;\nSELECT 2").unwrap_err();
        assert!(two.message().starts_with("statement:2: send one"), "{}", two.message());
        let none = parse_one(" ; ").unwrap_err();
        assert!(none.message().starts_with("there is no statement"), "{}", none.message());
        let wrong = parse_one("SELEC 1").unwrap_err();
        assert!(wrong.message().starts_with("statement:1:1: "), "{}", wrong.message());
        assert!(wrong.message().ends_with("(SQLSTATE 42601)"), "{}", wrong.message());
    }

    #[tokio::test]
    async fn what_is_supervised_is_told_when_nobody_waits() {
        let (done, told) = oneshot::channel();
        let work = supervised(move |gone| async move {
            gone.await;
            done.send("tidied up").map_err(status::internal)
        });
        tokio::select! {
            biased;
            _ = work => panic!("nobody was gone"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(told.await.unwrap(), "tidied up");
        assert_eq!(supervised(|_| async { Ok(5) }).await.unwrap(), 5);
    }
}
