//! What requests are answered with: errors, and what is told about queries and executors.

use crate::statement::error::*;
use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat};
use nightshift_jobs::JobError;
use nightshift_jobs::cluster::ExecutorInfo;
use nightshift_jobs::queries::QueryInfo;
use serde::Serialize;
use std::fmt::Display;
use utoipa::ToSchema;
use uuid::Uuid;

/// The header that says which query an answer belongs to.
pub(super) const QUERY_ID: HeaderName = HeaderName::from_static("x-query-id");

/// The status of what was cancelled before there was an answer, for which there is no official one.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What went wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Error {
    /// The SQLSTATE
    #[schema(example = "42703")]
    code: &'static str,
    /// What is wrong, and what to do
    message: String,
    /// The line of the statement, from 1
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// The column, from 1
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
    /// The query, if it had begun
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    query_id: Option<Uuid>,
}

impl From<SqlError> for Error {
    fn from(error: SqlError) -> Self {
        let place = error.place.as_ref();
        Self {
            code: error.kind.sqlstate(),
            line: place.map(|place| place.line),
            column: place.and_then(|place| place.column),
            message: error.message,
            query_id: None,
        }
    }
}

/// An answer that says why there is no other.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: Box<Error>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, kind: Kind, message: impl Display) -> Self {
        let error = Box::new(SqlError::new(kind, message).into());
        Self { status, error }
    }

    /// The same, which belongs to a query.
    pub(super) fn of_query(mut self, id: Uuid) -> Self {
        self.error.query_id = Some(id);
        self
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        UNKNOWN_TABLE | UNKNOWN_HANDLE => StatusCode::NOT_FOUND,
        TABLE_EXISTS | CONFLICT | CHECK | ENDED => StatusCode::CONFLICT,
        LIMIT => StatusCode::PAYLOAD_TOO_LARGE,
        FORBIDDEN => StatusCode::FORBIDDEN,
        CANCELLED => StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::CONFLICT),
        MEMORY | FILE => StatusCode::SERVICE_UNAVAILABLE,
        INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl From<SqlError> for Refusal {
    fn from(error: SqlError) -> Self {
        Self { status: status(error.kind), error: Box::new(error.into()) }
    }
}

impl From<JobError> for Refusal {
    fn from(error: JobError) -> Self {
        SqlError::from(error).into()
    }
}

/// The header that names a query.
pub(super) fn query_header(id: Uuid) -> Option<(HeaderName, HeaderValue)> {
    Some((QUERY_ID, HeaderValue::from_str(&id.to_string()).ok()?))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let header = self.error.query_id.and_then(query_header);
        let mut response = (self.status, Json(self.error)).into_response();
        response.headers_mut().extend(header);
        response
    }
}

/// A time in UTC.
fn time(microseconds: i64) -> String {
    let time = DateTime::from_timestamp_micros(microseconds).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A query that runs or has run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueryAnswer {
    /// Ids are in the order in which queries began
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// The user, or the client's address where nobody has to say who they are
    who: String,
    /// How it has come in
    #[schema(example = "flight-sql")]
    via: String,
    /// Its text, cut off after 8 KB; values that may be secrets are masked
    statement: String,
    /// planning, running, finished, failed or cancelled
    #[schema(example = "running")]
    state: &'static str,
    /// When it began
    #[schema(format = "date-time")]
    started_at: String,
    /// When it ended
    #[schema(format = "date-time")]
    ended_at: Option<String>,
    /// Rows that were returned so far
    rows: u64,
    /// Bytes of these rows in memory
    bytes: u64,
    /// Rows that it has changed, if it is a statement that changes something
    rows_changed: Option<u64>,
    /// Why it has failed
    error: Option<String>,
}

impl From<QueryInfo> for QueryAnswer {
    fn from(info: QueryInfo) -> Self {
        Self {
            id: info.id,
            who: info.caller.who,
            via: info.caller.via.to_string(),
            statement: info.statement.to_string(),
            state: info.state.name(),
            started_at: time(info.started),
            ended_at: info.ended.map(time),
            rows: info.rows,
            bytes: info.bytes,
            rows_changed: info.rows_changed,
            error: info.error.map(|error| error.to_string()),
        }
    }
}

/// Queries, the latest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueriesAnswer {
    /// The queries
    pub(super) queries: Vec<QueryAnswer>,
}

/// An executor.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExecutorAnswer {
    /// Its id, which it has until it ends
    id: String,
    /// Where others fetch its results
    host: String,
    /// The port there
    port: u16,
    /// Tasks that it can run at the same time
    cores: u64,
    /// How many of these are taken
    busy_cores: u64,
    /// Bytes of memory that its process has
    memory: Option<u64>,
    /// When it was heard of last
    #[schema(format = "date-time")]
    last_heartbeat: Option<String>,
    /// active, terminating, dead or unknown
    state: &'static str,
}

impl From<ExecutorInfo> for ExecutorAnswer {
    fn from(info: ExecutorInfo) -> Self {
        Self {
            id: info.id,
            host: info.host,
            port: info.port,
            cores: info.cores,
            busy_cores: info.busy_cores,
            memory: info.memory,
            last_heartbeat: info.last_heartbeat.map(time),
            state: info.state,
        }
    }
}

/// The executors that are registered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExecutorsAnswer {
    /// The executors
    pub(super) executors: Vec<ExecutorAnswer>,
}
