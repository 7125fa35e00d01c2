//! Queries as things that can be listed and cancelled: the statements that a session executes, and those
//! that it has executed.

use crate::statement::Located;
use crate::{JobError, Result, audit};
use arrow::array::{Array, RecordBatch};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use uuid::Uuid;

/// Queries that are remembered after their end.
pub const REMEMBERED: usize = 10_000;

/// Bytes of texts and errors of ended queries that are remembered.
pub const REMEMBERED_BYTES: usize = 16 << 20;

/// Bytes of a text or an error that are kept; the rest is cut off.
pub const LONGEST: usize = 8 << 10;

/// How a statement has come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The shell.
    Sql,
    /// A pipeline.
    Pipeline,
    /// A Flight SQL client.
    FlightSql,
    /// An HTTP request.
    Http,
}

impl Display for Via {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Via::Sql => "sql",
            Via::Pipeline => "pipeline",
            Via::FlightSql => "flight-sql",
            Via::Http => "http",
        })
    }
}

/// Who asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// A user's name, or a client's address where nobody has to say who they are.
    pub who: String,
    /// How it has come in.
    pub via: Via,
}

impl Caller {
    /// Whoever runs this process.
    pub fn of_this_process(via: Via) -> Self {
        let named = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let who = named.filter(|name| !name.is_empty()).or_else(number_of_user);
        Self { who: who.unwrap_or_else(|| "unknown".to_string()), via }
    }
}

/// The number of the user who runs this process: services and containers often have no name for it.
fn number_of_user() -> Option<String> {
    let own = std::fs::metadata("/proc/self").ok()?;
    Some(format!("user {}", std::os::unix::fs::MetadataExt::uid(&own)))
}

/// How far a query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is planned, or waits for its client to come for the rows.
    Planning,
    /// It is executed.
    Running,
    /// It has done everything.
    Finished,
    /// It has ended with an error.
    Failed,
    /// It was stopped, or its client has gone away.
    Cancelled,
}

impl State {
    const ALL: [State; 5] =
        [State::Planning, State::Running, State::Finished, State::Failed, State::Cancelled];

    /// Whether nothing happens any more.
    pub fn has_ended(self) -> bool {
        !matches!(self, State::Planning | State::Running)
    }

    /// The state's name.
    pub fn name(self) -> &'static str {
        match self {
            State::Planning => "planning",
            State::Running => "running",
            State::Finished => "finished",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        State::ALL.into_iter().find(|state| state.name() == text).ok_or_else(|| {
            let all = State::ALL.map(State::name).join(", ");
            format!("'{text}' is not a state: those are {all}")
        })
    }
}

/// What is known of a query. Times are in microseconds since 1970.
#[derive(Debug, Clone)]
pub struct QueryInfo {
    /// Its id; ids are in the order in which queries began.
    pub id: Uuid,
    /// Who has asked, and how.
    pub caller: Caller,
    /// Its text, without secrets, and cut off if it is long.
    pub statement: Arc<str>,
    /// How far it is.
    pub state: State,
    /// When it began.
    pub started: i64,
    /// When it ended.
    pub ended: Option<i64>,
    /// Rows that were returned so far.
    pub rows: u64,
    /// Bytes of these rows in memory.
    pub bytes: u64,
    /// Rows that it has changed, if it is a statement that changes something.
    pub rows_changed: Option<u64>,
    /// Why it has failed, cut off if it is long.
    pub error: Option<Arc<str>>,
}

impl QueryInfo {
    fn text_bytes(&self) -> usize {
        self.statement.len() + self.error.as_ref().map_or(0, |error| error.len())
    }
}

/// What has come of the wish to cancel a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// It ends now.
    Requested,
    /// It had ended before.
    Ended(State),
    /// There is no such query, or no longer.
    Unknown,
}

/// The queries of a session, and of its clones.
#[derive(Debug, Clone, Default)]
pub struct Queries(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    all: BTreeMap<Uuid, Entry>,
    /// Those that have ended, in the order of their ends.
    ended: VecDeque<Uuid>,
    /// Bytes of the texts of those that have ended.
    ended_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    info: QueryInfo,
    cancelled: watch::Sender<bool>,
}

impl Known {
    fn end(&mut self, id: Uuid, state: State, error: Option<&str>) {
        let Some(entry) = self.all.get_mut(&id).filter(|entry| !entry.info.state.has_ended())
        else {
            return;
        };
        entry.info.state = state;
        entry.info.ended = Some(now());
        entry.info.error = error.map(cut);
        self.ended.push_back(id);
        self.ended_bytes += entry.info.text_bytes();
        while self.ended.len() > REMEMBERED || self.ended_bytes > REMEMBERED_BYTES {
            let Some(forgotten) = self.ended.pop_front() else { break };
            if let Some(entry) = self.all.remove(&forgotten) {
                self.ended_bytes -= entry.info.text_bytes();
            }
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn cut(text: &str) -> Arc<str> {
    if text.len() <= LONGEST {
        return text.into();
    }
    let end = text.floor_char_boundary(LONGEST - '…'.len_utf8());
    format!("{}…", &text[..end]).into()
}

impl Queries {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a query.
    pub fn begin(&self, caller: &Caller, statement: &Located) -> Query {
        let (cancelled, told) = watch::channel(false);
        let info = QueryInfo {
            id: Uuid::now_v7(),
            caller: caller.clone(),
            statement: cut(&statement.text),
            state: State::Planning,
            started: now(),
            ended: None,
            rows: 0,
            bytes: 0,
            rows_changed: None,
            error: None,
        };
        let id = info.id;
        self.known().all.insert(id, Entry { info, cancelled });
        Query { id, queries: self.clone(), cancelled: told }
    }

    /// All that are known, the latest first.
    pub fn list(&self) -> Vec<QueryInfo> {
        self.known().all.values().rev().map(|entry| entry.info.clone()).collect()
    }

    /// What is known of one; `None` if there is no such query, or no longer.
    pub fn get(&self, id: Uuid) -> Option<QueryInfo> {
        self.known().all.get(&id).map(|entry| entry.info.clone())
    }

    /// Stops a query: its rows end with an error, its executors are freed, and what it would have
    /// changed is not published. A change whose publication has begun is not stopped any more.
    pub fn cancel(&self, id: Uuid, caller: &Caller) -> Cancellation {
        let mut known = self.known();
        let Some(entry) = known.all.get(&id) else { return Cancellation::Unknown };
        let state = entry.info.state;
        if state.has_ended() {
            return Cancellation::Ended(state);
        }
        entry.cancelled.send_replace(true);
        if state == State::Planning {
            // Perhaps nobody will ever come for its rows.
            known.end(id, State::Cancelled, None);
        }
        drop(known);
        audit::record(caller, id, "CANCEL", &id.to_string(), "requested");
        Cancellation::Requested
    }
}

/// A query that was begun. If this is dropped before the query has ended, the query is cancelled.
#[derive(Debug)]
pub struct Query {
    id: Uuid,
    queries: Queries,
    cancelled: watch::Receiver<bool>,
}

impl Query {
    /// Its id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Resolves when somebody cancels it.
    pub async fn cancelled(&self) {
        let mut cancelled = self.cancelled.clone();
        if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            // It has ended and was forgotten.
            std::future::pending::<()>().await;
        }
    }

    /// It is executed from now on.
    pub fn running(&self) {
        if let Some(entry) = self.queries.known().all.get_mut(&self.id)
            && !entry.info.state.has_ended()
        {
            entry.info.state = State::Running;
        }
    }

    /// It has changed something.
    pub fn changed(&self, rows: u64) {
        let mut known = self.queries.known();
        if let Some(entry) = known.all.get_mut(&self.id) {
            entry.info.rows_changed = Some(rows);
        }
        known.end(self.id, State::Finished, None);
    }

    /// It has ended with an error.
    pub fn failed(&self, error: &JobError) {
        let state = match error.is_cancellation() || *self.cancelled.borrow() {
            true => State::Cancelled,
            false => State::Failed,
        };
        let error = (state == State::Failed).then(|| error.to_string());
        self.queries.known().end(self.id, state, error.as_deref());
    }

    fn returned(&self, rows: &RecordBatch) {
        let size = |column: &Arc<dyn Array>| {
            let data = column.to_data();
            data.get_slice_memory_size().unwrap_or_else(|_| data.get_array_memory_size())
        };
        let bytes: usize = rows.columns().iter().map(size).sum();
        if let Some(entry) = self.queries.known().all.get_mut(&self.id) {
            entry.info.rows += rows.num_rows() as u64;
            entry.info.bytes += bytes as u64;
        }
    }

    /// Does a part of the query, unless it is cancelled before.
    pub async fn work<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = tokio::select! {
            biased;
            () = self.cancelled() => Err(JobError::Cancelled),
            done = work => done,
        };
        if let Err(error) = &done {
            self.failed(error);
        }
        done
    }

    /// Counts the rows of its result as they pass. The query ends with them.
    pub fn rows(
        self,
        rows: SendableRecordBatchStream,
        statement: Located,
    ) -> SendableRecordBatchStream {
        let schema = rows.schema();
        let passing = futures::stream::unfold(Some((rows, self)), move |left| {
            let statement = statement.clone();
            async move {
                let (mut rows, query) = left?;
                let next = async {
                    let next = rows.next().await.transpose();
                    next.map_err(|error| statement.locate(error.into()))
                };
                match query.work(next).await {
                    Ok(Some(batch)) => {
                        query.returned(&batch);
                        Some((Ok(batch), Some((rows, query))))
                    }
                    Ok(None) => {
                        query.queries.known().end(query.id, State::Finished, None);
                        None
                    }
                    Err(error) => Some((Err(error.into()), None)),
                }
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, passing))
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        self.queries.known().end(self.id, State::Cancelled, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse;
    use arrow::array::Int64Array;
    use datafusion::error::DataFusionError;
    use futures::TryStreamExt;

    fn caller() -> Caller {
        Caller { who: "somebody".to_string(), via: Via::Sql }
    }

    fn statement(text: &str) -> Located {
        parse("statement", text).unwrap().remove(0)
    }

    fn begin(queries: &Queries) -> Query {
        queries.begin(&caller(), &statement("SELECT 1 AS n"))
    }

    /// Batches of three rows.
    fn batches(count: usize, last: Result<(), &str>) -> SendableRecordBatchStream {
        let column: Arc<dyn Array> = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let schema = batch.schema();
        let mut all: Vec<_> = (0..count).map(|_| Ok(batch.clone())).collect();
        if let Err(reason) = last {
            all.push(Err(DataFusionError::Execution(reason.to_string())));
        }
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(all)))
    }

    #[tokio::test]
    async fn rows_and_the_end_of_a_query_are_counted() {
        let queries = Queries::default();
        let query = begin(&queries);
        let id = query.id();
        assert_eq!(queries.get(id).unwrap().state, State::Planning);
        query.running();
        let mut rows = query.rows(batches(2, Ok(())), statement("SELECT 1"));
        rows.try_next().await.unwrap();
        let info = queries.get(id).unwrap();
        assert_eq!((info.state, info.rows, info.bytes, info.ended), (State::Running, 3, 24, None));
        assert_eq!(rows.try_collect::<Vec<_>>().await.unwrap().len(), 1);
        let info = queries.get(id).unwrap();
        assert_eq!((info.state, info.rows, info.bytes), (State::Finished, 6, 48));
        assert!(info.ended.unwrap() >= info.started && info.error.is_none());

        let query = begin(&queries);
        let id = query.id();
        query.running();
        let rows = query.rows(batches(1, Err("no more")), statement("SELECT 1"));
        assert!(rows.try_collect::<Vec<_>>().await.is_err());
        let info = queries.get(id).unwrap();
        assert_eq!((info.state, info.rows), (State::Failed, 3));
        assert!(info.error.unwrap().contains("no more"));

        let query = begin(&queries);
        query.running();
        query.changed(7);
        let info = &queries.list()[0];
        assert_eq!(
            (info.id, info.state, info.rows_changed),
            (query.id(), State::Finished, Some(7))
        );
    }

    #[tokio::test]
    async fn a_query_is_cancelled_by_its_id_or_by_dropping_its_rows() {
        let queries = Queries::default();
        let query = begin(&queries);
        let id = query.id();
        query.running();
        let endless = batches(1, Ok(()));
        let schema = endless.schema();
        let endless = endless.chain(futures::stream::pending());
        let endless = Box::pin(RecordBatchStreamAdapter::new(schema, endless));
        let mut rows = query.rows(endless, statement("SELECT 1"));
        assert!(rows.try_next().await.unwrap().is_some());
        assert_eq!(queries.cancel(id, &caller()), Cancellation::Requested);
        let error = JobError::from(rows.try_next().await.unwrap_err());
        assert!(error.is_cancellation(), "{error}");
        assert!(rows.try_next().await.unwrap().is_none());
        let info = queries.get(id).unwrap();
        assert_eq!((info.state, info.rows, info.error), (State::Cancelled, 3, None));
        assert_eq!(queries.cancel(id, &caller()), Cancellation::Ended(State::Cancelled));
        assert_eq!(queries.cancel(Uuid::now_v7(), &caller()), Cancellation::Unknown);

        let query = begin(&queries);
        let id = query.id();
        query.running();
        drop(query.rows(batches(1, Ok(())), statement("SELECT 1")));
        assert_eq!(queries.get(id).unwrap().state, State::Cancelled);

        // One that nobody has come for yet has ended at once.
        let query = begin(&queries);
        assert_eq!(queries.cancel(query.id(), &caller()), Cancellation::Requested);
        query.running();
        assert_eq!(queries.get(query.id()).unwrap().state, State::Cancelled);
        let work = query.work(async { Ok(()) }).await.unwrap_err();
        assert!(matches!(work, JobError::Cancelled));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let queries = Queries::default();
        let running = begin(&queries);
        for _ in 0..REMEMBERED + 5 {
            drop(begin(&queries));
        }
        let list = queries.list();
        assert_eq!(list.len(), REMEMBERED + 1);
        assert!(list.is_sorted_by(|a, b| a.id > b.id));
        assert_eq!(list.last().unwrap().id, running.id());

        let long = statement(&format!("SELECT '{}'", "é".repeat(LONGEST)));
        for _ in 0..REMEMBERED_BYTES / LONGEST + 5 {
            drop(queries.begin(&caller(), &long));
        }
        let list = queries.list();
        assert!(list[0].statement.len() <= LONGEST && list[0].statement.ends_with("é…"));
        let ended = list.iter().filter(|info| info.state.has_ended());
        assert!(ended.map(QueryInfo::text_bytes).sum::<usize>() <= REMEMBERED_BYTES);
        assert_eq!(list.last().unwrap().id, running.id());
    }

    #[test]
    fn states_have_names() {
        for state in State::ALL {
            assert_eq!(state.name().parse(), Ok(state));
        }
        assert!("done".parse::<State>().unwrap_err().contains("planning, running"));
    }
}
