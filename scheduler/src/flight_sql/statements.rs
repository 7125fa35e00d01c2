//! Planning and executing statements, and what the handles that clients hold stand for.
//!
//! A query is planned when a client asks how to get its result, against what is published then, and
//! executed when the client comes for the rows: they go from the executors to the client without
//! being gathered here. Any other statement is executed at once, so that it is executed exactly once.

use super::clients::Client;
use super::status;
use crate::statement::error::SqlError;
use crate::statement::parameters::{Text, Values};
use crate::statement::{Log, change, is_query, parse_one};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use moka::future::Cache;
use nightshift_jobs::connection::{Connection, Planned};
use nightshift_jobs::external::Externals;
use nightshift_jobs::queries::Cancellation;
use nightshift_jobs::rows::plain_schema;
use nightshift_jobs::session::Session;
use nightshift_jobs::statement::Located;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::Status;
use uuid::Uuid;

/// How long a client may take to come for a result.
const PENDING: Duration = Duration::from_secs(600);

/// How long a prepared statement that is not used is kept.
pub(super) const PREPARED: Duration = Duration::from_secs(4 * 3600);

/// Results and prepared statements that are kept at the same time.
const MOST: u64 = 10_000;

/// A result that a client can come for, once.
pub(super) struct Pending {
    /// Its columns, as they are sent.
    pub(super) schema: SchemaRef,
    /// Rows that were written, if it is the result of a change.
    pub(super) changed: Option<i64>,
    planned: Mutex<Option<Planned>>,
}

impl Pending {
    fn query(planned: Planned) -> Self {
        let schema = plain_schema(planned.schema());
        Self { schema, changed: None, planned: Mutex::new(Some(planned)) }
    }

    fn changed(rows: u64) -> Self {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let schema = plain_schema(&Schema::empty());
        Self { schema, changed: Some(rows), planned: Mutex::new(None) }
    }

    /// The rows as the cluster sends them. Dropping the stream cancels what still runs.
    fn rows(&self) -> BoxStream<'static, Result<RecordBatch, Status>> {
        let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let failed = |error: datafusion::error::DataFusionError| status::of_error(error.into());
        let run = move |planned: Planned| async move {
            let rows = planned.run().await.map_err(status::of_error)?;
            Ok::<_, Status>(rows.map_err(failed))
        };
        futures::stream::iter(planned).then(run).try_flatten().boxed()
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
    prepared: Cache<String, Arc<Prepared>>,
}

impl Statements {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            pending: Cache::builder().time_to_idle(PENDING).max_capacity(MOST).build(),
            prepared: Cache::builder().time_to_idle(PREPARED).max_capacity(MOST).build(),
        }
    }

    /// The session that plans run in.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// A connection of a client that reads these files in place.
    pub(super) fn connection(&self, client: &Client, externals: Externals) -> Connection {
        let connection = Connection::new(self.session.clone(), None, Arc::new(Log));
        connection.with_externals(externals).with_caller(client.caller())
    }

    async fn change(&self, client: &Client, located: Located) -> Result<u64, SqlError> {
        let before = client.externals();
        let connection = self.connection(client, before.clone());
        let query = connection.begin(&located);
        let (made, after) = change(connection, query, located).await?;
        client.changed(&before, &after);
        Ok(made.rows())
    }

    /// Executes a statement that is not a query once for each row of values, or plans a query. Returns
    /// it with its handle: that of a query is its id.
    async fn answer(
        &self,
        client: &Client,
        text: &Text,
        values: &[Values],
    ) -> Result<(String, Pending), SqlError> {
        let located = parse_one(text.sql())?;
        if is_query(&located) {
            for values in values {
                text.check(values)?;
            }
            let connection = self.connection(client, client.externals());
            let query = connection.begin(&located);
            let planned = connection.plan(query, &located).await?.bind(values)?;
            return Ok((planned.id().to_string(), Pending::query(planned)));
        }
        let mut changed = 0;
        for values in values {
            let bound = parse_one(&text.with_literals(values)?)?;
            // It is known by what was prepared, not by the values.
            let bound = Located { text: located.text.clone(), ..bound };
            changed += self.change(client, bound).await?;
        }
        Ok((Uuid::now_v7().to_string(), Pending::changed(changed)))
    }

    async fn keep(&self, (handle, pending): (String, Pending)) -> (String, Arc<Pending>) {
        let pending = Arc::new(pending);
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
        let answer = self.answer(client, &text, &[Values::new()]).await?;
        Ok(self.keep(answer).await)
    }

    /// Begins a prepared statement with the values that are bound to it.
    pub(super) async fn begin_prepared(
        &self,
        client: &Client,
        prepared: &Prepared,
    ) -> Result<(String, Arc<Pending>), Status> {
        let answer = self.answer(client, &prepared.text, &prepared.values()).await?;
        Ok(self.keep(answer).await)
    }

    /// Executes a statement to its end with each of the rows of values; returns how many rows it has
    /// changed, or returned if it is a query.
    pub(super) async fn finish(
        &self,
        client: &Client,
        text: &Text,
        values: &[Values],
    ) -> Result<i64, Status> {
        let (_, pending) = self.answer(client, text, values).await?;
        if let Some(changed) = pending.changed {
            return Ok(changed);
        }
        let mut rows = pending.rows();
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
        let pending = self.pending.remove(name(handle)?).await;
        let pending = pending.ok_or_else(|| unknown("result"))?;
        Ok((Arc::clone(&pending.schema), pending.rows()))
    }

    /// Cancels the query whose rows a handle stands for; `false` if there is none, or no longer.
    pub(super) async fn cancel(&self, client: &Client, handle: &[u8]) -> Result<bool, Status> {
        let handle = name(handle)?;
        let Ok(id) = Uuid::parse_str(handle) else { return Ok(false) };
        let cancelled = self.session.queries().cancel(id, &client.caller());
        self.pending.invalidate(handle).await;
        Ok(cancelled == Cancellation::Requested)
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
            let connection = self.connection(client, client.externals());
            let plan = connection.prepare(&located).await.map_err(status::of_error)?;
            let result = plain_schema(plan.schema().as_arrow());
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
