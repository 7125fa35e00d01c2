//! A statement and its answer.

use super::answer::{Error, Refusal, query_header};
use super::encode::{Format, body};
use super::queries::caller;
use crate::statement::error::{LIMIT, NOT_SUPPORTED, PROTOCOL, SqlError};
use crate::statement::parameters::{Text, Values};
use crate::statement::{Log, change, is_query, parse_one};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use datafusion::common::ScalarValue;
use nightshift_jobs::connection::{Connection, Made};
use nightshift_jobs::session::Session;
use nightshift_jobs::statement::Located;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use utoipa::ToSchema;
use uuid::Uuid;

/// A statement to execute.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SqlRequest {
    /// One statement
    #[schema(example = "SELECT * FROM ml_recommend('recs.als', 10) WHERE user_id = $1")]
    sql: String,
    /// Values for `$1`, `$2`, … or `?`: numbers, texts, booleans and null
    #[serde(default)]
    #[schema(example = json!([196]))]
    parameters: Vec<Value>,
}

/// A column of rows.
#[derive(Serialize, ToSchema)]
struct Column {
    /// Its name
    name: String,
    /// Its type
    #[schema(example = "BIGINT")]
    r#type: String,
}

/// The rows of a query.
#[derive(Serialize, ToSchema)]
pub(super) struct RowsAnswer {
    /// The query's id
    #[schema(value_type = String, format = "uuid")]
    query_id: Uuid,
    /// The columns
    columns: Vec<Column>,
    /// An array of values for each row, in the order of the columns
    rows: Vec<Vec<Value>>,
    /// Why rows are missing, if the query has failed after its first rows
    error: Option<Error>,
}

/// What a statement has written.
#[derive(Debug, Serialize, ToSchema)]
struct Written {
    /// The table or model
    name: String,
    /// Rows written
    rows: u64,
    /// Files written
    files: u64,
    /// Bytes written
    bytes: u64,
}

/// What a statement has changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangeAnswer {
    /// The query's id
    #[schema(value_type = String, format = "uuid")]
    query_id: Uuid,
    /// Rows written
    rows_changed: u64,
    /// What was written
    written: Vec<Written>,
    /// The number of the publication, if something was published
    publication: Option<u64>,
}

impl ChangeAnswer {
    fn new(query_id: Uuid, made: &Made) -> Self {
        let written = made.steps.iter().map(|step| Written {
            name: step.name.clone(),
            rows: step.rows,
            files: step.files,
            bytes: step.bytes,
        });
        Self {
            query_id,
            rows_changed: made.rows(),
            written: written.collect(),
            publication: made.published.first().map(|entry| entry.publication),
        }
    }
}

/// Rows of a query, or what a statement has changed.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the document")]
pub(super) enum SqlAnswer {
    /// Rows
    Rows(RowsAnswer),
    /// Changes
    Change(ChangeAnswer),
}

/// Execute a statement
///
/// Rows are sent as they come, in the format that `Accept` names. If a query fails after its first rows, the
/// JSON object has a last member `error`, and lines of JSON have a last line with `query_id` and `error`; an
/// Arrow stream is cut off by closing the connection, and the query's `error` says why. Any other statement is
/// published at once, and answered in JSON. If the client goes away, the statement is cancelled. External
/// tables are known to the request that creates them, and to no other.
#[utoipa::path(
    post,
    path = "/api/v1/sql",
    tag = "sql",
    request_body = SqlRequest,
    responses(
        (
            status = 200,
            description = "Rows, or what was changed",
            headers(("x-query-id" = String, description = "The query's id")),
            content(
                (SqlAnswer = "application/json"),
                (String = "application/x-ndjson"),
                (Vec<u8> = "application/vnd.apache.arrow.stream")
            )
        ),
        (status = 400, description = "The statement is wrong", body = Error),
        (status = 403, description = "The request comes from another site", body = Error),
        (status = 404, description = "There is no such table", body = Error),
        (status = 406, description = "None of the accepted formats is known", body = Error),
        (status = 409, description = "Something exists already, or another writer was first", body = Error),
        (status = 413, description = "The request is too large", body = Error),
        (status = 415, description = "The request is not JSON", body = Error),
        (status = 421, description = "The server has another name", body = Error),
        (status = 499, description = "The statement was cancelled", body = Error),
        (status = 500, description = "Something is wrong with the server", body = Error),
        (status = 503, description = "Memory or storage is not available", body = Error)
    )
)]
pub(super) async fn execute(
    State(session): State<Session>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    request: Result<Json<SqlRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = request.map_err(unreadable)?;
    let format = Format::accepted(&headers).ok_or_else(|| {
        let reason = format!(
            "rows are sent as {}, {} or {}",
            Format::Json.name(),
            Format::JsonLines.name(),
            Format::Arrow.name()
        );
        Refusal::new(StatusCode::NOT_ACCEPTABLE, NOT_SUPPORTED, reason)
    })?;
    // The text as it was written, for the places of errors.
    let written = parse_one(&request.sql)?;
    let text = Text::new(&request.sql)?;
    let values = values(request.parameters)?;
    text.check(&values)?;
    let connection = Connection::new(session, None, Arc::new(Log)).with_caller(caller(from));
    let query = connection.begin(&written);
    let id = query.id();
    let answer = async {
        if !is_query(&written) {
            // It is known by what was sent, not by the values.
            let bound = parse_one(&text.with_literals(&values)?)?;
            let bound = Located { text: written.text, ..bound };
            let (made, _) = change(connection, query, bound).await?;
            return Ok(Json(ChangeAnswer::new(id, &made)).into_response());
        }
        let planned = connection.plan(query, &parse_one(text.sql())?).await?;
        let rows = planned.bind(&[values])?.run().await?;
        let body = body(format, id, rows).map_err(SqlError::internal)?;
        Ok(([(header::CONTENT_TYPE, format.name())], body).into_response())
    };
    let answer: Result<Response, Refusal> = answer.await;
    let mut answer = answer.map_err(|refusal| refusal.of_query(id))?;
    answer.headers_mut().extend(query_header(id));
    Ok(answer)
}

fn unreadable(error: JsonRejection) -> Refusal {
    match error.status() {
        status @ StatusCode::PAYLOAD_TOO_LARGE => {
            let reason = format!("a request has at most {} bytes", super::LARGEST_REQUEST);
            Refusal::new(status, LIMIT, reason)
        }
        StatusCode::UNPROCESSABLE_ENTITY => {
            Refusal::new(StatusCode::BAD_REQUEST, PROTOCOL, error.body_text())
        }
        status => Refusal::new(status, PROTOCOL, error.body_text()),
    }
}

/// Values of JSON as the engine knows them.
fn values(parameters: Vec<Value>) -> Result<Values, SqlError> {
    let value = |(index, value)| match value {
        Value::Null => Ok(ScalarValue::Null),
        Value::Bool(value) => Ok(ScalarValue::from(value)),
        Value::String(text) => Ok(ScalarValue::from(text)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Ok(ScalarValue::from(whole)),
            (None, Some(number)) => Ok(ScalarValue::from(number)),
            (None, None) => Err(SqlError::internal(format!("${}: {number}", index + 1))),
        },
        Value::Array(_) | Value::Object(_) => {
            let reason =
                format!("parameter ${}: a value is a number, a text, a boolean or null", index + 1);
            Err(SqlError::new(NOT_SUPPORTED, reason))
        }
    };
    parameters.into_iter().enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_json_have_types_of_sql() {
        let Value::Array(given) = json!([1, -2.5, "x", true, null]) else { panic!() };
        let expected = [
            ScalarValue::from(1_i64),
            ScalarValue::from(-2.5_f64),
            ScalarValue::from("x"),
            ScalarValue::from(true),
            ScalarValue::Null,
        ];
        assert_eq!(values(given).unwrap(), expected);
        let nested = values(vec![json!(1), json!([2])]).unwrap_err();
        assert!(nested.message.starts_with("parameter $2: "), "{nested}");
    }
}
