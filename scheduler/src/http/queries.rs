//! Listing queries and cancelling them.

use super::answer::{Error, QueriesAnswer, QueryAnswer, Refusal};
use crate::statement::error::{ENDED, PROTOCOL, SqlError, UNKNOWN_HANDLE};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::StatusCode;
use nightshift_jobs::queries::{Caller, Cancellation, State as QueryState, Via};
use nightshift_jobs::session::Session;
use serde::Deserialize;
use std::net::SocketAddr;
use utoipa::IntoParams;
use uuid::Uuid;

/// Queries that are listed unless the request says how many.
const LISTED: usize = 1000;

/// Which queries are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only those in this state: planning, running, finished, failed or cancelled
    state: Option<String>,
    /// At most this many; 1000 unless it is given
    limit: Option<usize>,
}

/// Who has sent a request.
pub(super) fn caller(from: SocketAddr) -> Caller {
    Caller { who: from.ip().to_string(), via: Via::Http }
}

/// List queries, the latest first
///
/// All that run, and up to 10,000 that have ended since the scheduler was started: statements over HTTP
/// and Flight SQL. Statements of `nightshift sql` and `nightshift run` with `--cluster` are planned by the
/// command itself, and are not among them.
#[utoipa::path(
    get,
    path = "/api/v1/queries",
    tag = "queries",
    params(Which),
    responses(
        (status = 200, description = "The queries", body = QueriesAnswer),
        (status = 400, description = "There is no such state", body = Error)
    )
)]
pub(super) async fn list(
    State(session): State<Session>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<QueriesAnswer>, Refusal> {
    let wrong = |reason: String| Refusal::new(StatusCode::BAD_REQUEST, PROTOCOL, reason);
    let Query(which) = which.map_err(|error| wrong(error.body_text()))?;
    let state = which.state.as_deref().map(str::parse::<QueryState>).transpose();
    let state = state.map_err(wrong)?;
    let found = session.queries().list().into_iter();
    let found = found.filter(|query| state.is_none_or(|state| query.state == state));
    let queries = found.take(which.limit.unwrap_or(LISTED)).map(QueryAnswer::from).collect();
    Ok(Json(QueriesAnswer { queries }))
}

fn id(path: Result<Path<Uuid>, PathRejection>) -> Result<Uuid, Refusal> {
    let wrong =
        |error: PathRejection| Refusal::new(StatusCode::BAD_REQUEST, PROTOCOL, error.body_text());
    path.map(|Path(id)| id).map_err(wrong)
}

fn unknown(id: Uuid) -> Refusal {
    let reason = format!("there is no query {id}, or it is not remembered any more");
    SqlError::new(UNKNOWN_HANDLE, reason).into()
}

/// Look at a query
#[utoipa::path(
    get,
    path = "/api/v1/queries/{id}",
    tag = "queries",
    params(("id" = String, Path, format = "uuid", description = "The query's id")),
    responses(
        (status = 200, description = "What is known of it", body = QueryAnswer),
        (status = 404, description = "There is no such query, or no longer", body = Error)
    )
)]
pub(super) async fn get(
    State(session): State<Session>,
    path: Result<Path<Uuid>, PathRejection>,
) -> Result<Json<QueryAnswer>, Refusal> {
    let id = id(path)?;
    let found = session.queries().get(id).ok_or_else(|| unknown(id))?;
    Ok(Json(found.into()))
}

/// Cancel a query
///
/// Its rows end with an error, its executors are freed, and what it would have changed is not published.
/// A change whose publication has begun is finished.
#[utoipa::path(
    delete,
    path = "/api/v1/queries/{id}",
    tag = "queries",
    params(("id" = String, Path, format = "uuid", description = "The query's id")),
    responses(
        (status = 202, description = "It ends now", body = QueryAnswer),
        (status = 404, description = "There is no such query, or no longer", body = Error),
        (status = 409, description = "It had ended before", body = Error)
    )
)]
pub(super) async fn cancel(
    State(session): State<Session>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    path: Result<Path<Uuid>, PathRejection>,
) -> Result<(StatusCode, Json<QueryAnswer>), Refusal> {
    let id = id(path)?;
    match session.queries().cancel(id, &caller(from)) {
        Cancellation::Requested => {
            let found = session.queries().get(id).ok_or_else(|| unknown(id))?;
            Ok((StatusCode::ACCEPTED, Json(found.into())))
        }
        Cancellation::Ended(state) => {
            let reason = format!("the query has ended before: it is {}", state.name());
            Err(Refusal::from(SqlError::new(ENDED, reason)).of_query(id))
        }
        Cancellation::Unknown => Err(unknown(id)),
    }
}
