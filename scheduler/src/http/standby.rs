//! What a scheduler answers that stands by for another.

use super::Http;
use crate::SchedulerError;
use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use futures::future::BoxFuture;
use nightshift_catalog::lease;
use nightshift_catalog::warehouse::Warehouse;
use serde_json::{Value, json};

impl Http {
    /// Answers that this process is not ready, and who is, until something has happened.
    pub fn stand_by(
        self,
        warehouse: Warehouse,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> BoxFuture<'static, Result<(), SchedulerError>> {
        Box::pin(async move {
            let address = self.address.to_string();
            tracing::info!(address, "this scheduler stands by for another");
            let router = Router::new().fallback(move || not_ready(warehouse.clone()));
            let served = axum::serve(self.listener, router).with_graceful_shutdown(until).await;
            served.map_err(|source| SchedulerError::Http { address, source })
        })
    }
}

async fn not_ready(warehouse: Warehouse) -> (StatusCode, Json<Value>) {
    // Who asks wants to know whether this process is ready, whatever the store says.
    let leader = lease::leader(&warehouse).await.ok().flatten().map(|leader| leader.address);
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "standing by", "leader": leader })))
}
