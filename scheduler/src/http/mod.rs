//! The HTTP server: SQL for programs without a driver, and what runs, for people and their tools.
//!
//! | module | what it holds |
//! |---|---|
//! | `sql` | a statement and its answer |
//! | `encode` | rows as they are sent |
//! | `queries` | listing and cancelling |
//! | `cluster` | executors, health |
//! | `answer` | errors, and what is answered about queries and executors |
//! | `guard` | requests that a web page may have made |
//! | `standby` | what is answered while another scheduler leads |
//!
//! The functions that answer requests describe themselves; `docs/openapi.json` is made of that.

mod answer;
mod cluster;
mod encode;
mod guard;
mod queries;
mod sql;
mod standby;

use crate::SchedulerError;
use crate::server::listener;
use crate::statement::error::{PROTOCOL, UNKNOWN_HANDLE};
use answer::Refusal;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use futures::future::BoxFuture;
use nightshift_jobs::session::Session;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The largest request.
const LARGEST_REQUEST: usize = 4 << 20;

/// What the document says of the whole.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nightshift",
        description = "SQL on a Nightshift cluster, and what runs on it. Errors are JSON objects with an \
                       SQLSTATE. Requests are at most 4 MB."
    ),
    tags(
        (name = "sql", description = "Statements"),
        (name = "queries", description = "What runs and what has run since the scheduler was started"),
        (name = "cluster", description = "What it runs on")
    )
)]
struct Document;

/// Every route, with its part of the document.
fn routes() -> OpenApiRouter<Session> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(sql::execute))
        .routes(routes!(queries::list))
        .routes(routes!(queries::get, queries::cancel))
        .routes(routes!(cluster::executors))
        .routes(routes!(cluster::health))
}

/// Everything that answers, for requests to one of `names` besides this machine's addresses.
fn router(session: Session, names: Vec<String>) -> Result<Router, serde_json::Error> {
    let (router, document) = routes().split_for_parts();
    let document: Arc<str> = document.to_pretty_json()?.into();
    let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
    let document = move || std::future::ready((json, document.to_string()));
    Ok(router
        .route("/api/v1/openapi.json", get(document))
        .fallback(async || {
            let reason = "there is nothing here: /api/v1/openapi.json says what there is";
            Refusal::new(StatusCode::NOT_FOUND, UNKNOWN_HANDLE, reason)
        })
        .method_not_allowed_fallback(async || {
            let reason = "this is not a method of this path: see /api/v1/openapi.json";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, PROTOCOL, reason)
        })
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .layer(from_fn_with_state(Arc::new(names), guard::check))
        .with_state(session))
}

/// An HTTP server that listens and does not serve yet.
pub struct Http {
    address: SocketAddr,
    listener: TcpListener,
}

impl Http {
    /// Binds the address; port 0 takes any that is free. To be called within a runtime.
    pub fn bind(address: SocketAddr) -> Result<Self, SchedulerError> {
        let listen = |source| SchedulerError::Listen { address: address.to_string(), source };
        let listener = listener(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { address, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the process ends. Statements run in `session`. `names` are the host names that
    /// clients use, besides addresses and `localhost`.
    pub fn serve(
        self,
        session: Session,
        names: Vec<String>,
    ) -> BoxFuture<'static, Result<(), SchedulerError>> {
        Box::pin(async move {
            let address = self.address.to_string();
            let failed = |source| SchedulerError::Http { address: address.clone(), source };
            let router = router(session, names).map_err(|error| failed(error.into()))?;
            tracing::info!(%address, "HTTP server listens");
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(self.listener, service).await.map_err(failed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE=1 cargo nextest run --release --workspace -E 'test(openapi_document)'` writes it again.
    #[test]
    fn the_openapi_document_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let document = format!("{}\n", routes().into_openapi().to_pretty_json().unwrap());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &document).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == document,
            "docs/openapi.json is stale, write it again: \
             UPDATE=1 cargo nextest run --release --workspace -E 'test(openapi_document)'"
        );
    }
}
