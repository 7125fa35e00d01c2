//! What the server runs on.

use super::answer::{Error, ExecutorsAnswer, Refusal};
use axum::Json;
use axum::extract::State;
use nightshift_jobs::session::Session;
use serde::Serialize;
use utoipa::ToSchema;

/// List the executors
#[utoipa::path(
    get,
    path = "/api/v1/executors",
    tag = "cluster",
    responses(
        (status = 200, description = "The executors that are registered now", body = ExecutorsAnswer),
        (status = 500, description = "They are not known", body = Error)
    )
)]
pub(super) async fn executors(
    State(session): State<Session>,
) -> Result<Json<ExecutorsAnswer>, Refusal> {
    let executors = match session.cluster() {
        Some(cluster) => cluster.executors().await?,
        None => Vec::new(),
    };
    Ok(Json(ExecutorsAnswer { executors: executors.into_iter().map(Into::into).collect() }))
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`
    #[schema(example = "ok")]
    status: &'static str,
    /// The version of Nightshift
    version: &'static str,
}

/// Ask whether the server is there
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "cluster",
    responses((status = 200, description = "It answers requests", body = Health))
)]
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}
