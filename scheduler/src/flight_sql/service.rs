//! The requests of the protocol.

use super::clients::{Client, Clients};
use super::statements::Statements;
use super::{capabilities, catalog, ingest, status, wire};
use crate::statement::parameters::{self, Text, Values};
use crate::statement::parse_one;
use arrow::datatypes::SchemaRef;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::{GetCatalogsBuilder, SqlInfoData, XdbcTypeInfoData};
use arrow_flight::sql::server::{DoPutError, FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest,
    ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
    CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes,
    CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery,
    CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo,
    TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus,
    FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, Ticket,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use nightshift_jobs::session::Session;
use prost::Message;
use prost::bytes::Bytes;
use std::pin::Pin;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

/// Cells of values that can be bound to a query at the same time; a statement that changes something
/// takes any number of them, one batch after another.
const MOST_VALUES: usize = 1 << 20;

const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";

/// Answers requests.
pub(super) struct Service {
    statements: Statements,
    clients: Clients,
    info: SqlInfoData,
    types: XdbcTypeInfoData,
}

type Info = Result<Response<FlightInfo>, Status>;
type Data = Result<Response<wire::Data>, Status>;

impl Service {
    /// Statements run in `session`.
    pub(super) fn new(session: Session) -> Result<Self, crate::SchedulerError> {
        let built = |status: Status| {
            datafusion::error::DataFusionError::Internal(status.message().to_string())
        };
        Ok(Self {
            statements: Statements::new(session),
            clients: Clients::new(),
            info: capabilities::sql_info().map_err(built)?,
            types: capabilities::types().map_err(built)?,
        })
    }

    /// Cancels what the tickets of a `FlightInfo` stand for.
    async fn cancel(&self, client: &Client, info: &FlightInfo) -> Result<(), Status> {
        let mut found = false;
        for endpoint in &info.endpoint {
            let Some(ticket) = &endpoint.ticket else { continue };
            let ticket = Any::decode(&*ticket.ticket).ok();
            let ticket = ticket.and_then(|any| any.unpack::<TicketStatementQuery>().ok().flatten());
            if let Some(ticket) = ticket {
                found |= self.statements.cancel(client, &ticket.statement_handle).await?;
            }
        }
        if found {
            return Ok(());
        }
        Err(status::of(status::UNKNOWN_HANDLE, "there is no such statement, or no longer"))
    }
}

/// Where to get what a command asks for: under the command itself.
fn find(
    schema: SchemaRef,
    command: &impl ProstMessageExt,
    request: Request<FlightDescriptor>,
) -> Info {
    wire::flight_info(&schema, command, request.into_inner(), None)
}

fn none(schema: SchemaRef) -> Data {
    Ok(wire::send(schema, futures::stream::empty()))
}

/// Reads a request to its end, so that its client doesn't see it break off.
async fn drain(mut data: PeekableFlightDataStream) {
    while let Some(Ok(_)) = data.next().await {}
}

/// The batches of values that a client sends.
fn values(
    data: PeekableFlightDataStream,
) -> impl Stream<Item = Result<Vec<Values>, Status>> + Send {
    let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
    FlightRecordBatchStream::new_from_flight_data(data)
        .map_err(Status::from)
        .and_then(|batch| std::future::ready(parameters::rows(&batch).map_err(Status::from)))
}

#[tonic::async_trait]
impl FlightSqlService for Service {
    type FlightService = Self;

    /// Anybody is welcome: that nobody else can connect is seen to where the server listens. The token
    /// is what the client is recognized by.
    async fn do_handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>,
        Status,
    > {
        let token = self.clients.greet().await;
        let header = MetadataValue::try_from(token.as_str()).map_err(status::internal)?;
        let payload = Bytes::from(token.trim_start_matches("Bearer ").to_string());
        let answer = HandshakeResponse { protocol_version: 0, payload };
        let answer: BoxStream<'static, _> = futures::stream::iter([Ok(answer)]).boxed();
        let mut response: Response<Pin<Box<dyn Stream<Item = _> + Send>>> = Response::new(answer);
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let client = self.clients.of(&request).await;
        let (handle, pending) = self.statements.begin(&client, &query.query).await?;
        let ticket = TicketStatementQuery { statement_handle: handle.into() };
        wire::flight_info(&pending.schema, &ticket, request.into_inner(), pending.changed)
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let client = self.clients.of(&request).await;
        let prepared = self.statements.prepared(&query.prepared_statement_handle).await?;
        let (handle, pending) = self.statements.begin_prepared(&client, &prepared).await?;
        let ticket = TicketStatementQuery { statement_handle: handle.into() };
        wire::flight_info(&pending.schema, &ticket, request.into_inner(), pending.changed)
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        _request: Request<Ticket>,
    ) -> Data {
        let (schema, rows) = self.statements.fetch(&ticket.statement_handle).await?;
        Ok(wire::send(schema, rows))
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let client = self.clients.of(&request).await;
        drain(request.into_inner()).await;
        parse_one(&command.query)?;
        let text = Text::new(&command.query)?;
        self.statements.finish(&client, &text, &[Values::new()]).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let client = self.clients.of(&request).await;
        let (handle, description) = self.statements.prepare(&client, &query.query).await?;
        // Clients take a statement without columns for one that is not a query.
        let dataset_schema = match &description.result {
            Some(schema) => wire::schema_bytes(schema)?,
            None => Bytes::new(),
        };
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.into(),
            dataset_schema,
            parameter_schema: wire::schema_bytes(&description.parameters)?,
        })
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let prepared = self.statements.prepared(&query.prepared_statement_handle).await?;
        let mut rows = Vec::new();
        let mut batches = std::pin::pin!(values(request.into_inner()));
        while let Some(batch) = batches.try_next().await? {
            rows.extend(batch);
            if rows.len() * prepared.text.count() > MOST_VALUES {
                let reason = format!("more than {MOST_VALUES} values are bound at the same time");
                return Err(status::of(status::LIMIT, reason));
            }
        }
        for row in &rows {
            prepared.text.check(row)?;
        }
        prepared.bind(rows);
        let handle = query.prepared_statement_handle;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) })
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let client = self.clients.of(&request).await;
        let prepared = self.statements.prepared(&query.prepared_statement_handle).await?;
        let text = &prepared.text;
        if text.count() == 0 {
            drain(request.into_inner()).await;
            return self.statements.finish(&client, text, &[Values::new()]).await;
        }
        let mut changed = 0;
        let mut batches = std::pin::pin!(values(request.into_inner()));
        while let Some(rows) = batches.try_next().await? {
            changed += self.statements.finish(&client, text, &rows).await?;
        }
        Ok(changed)
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        self.statements.close(&query.prepared_statement_handle).await
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let client = self.clients.of(&request).await;
        ingest::ingest(&self.statements, &client, command, request.into_inner()).await
    }

    async fn do_put_error_callback(
        &self,
        _request: Request<PeekableFlightDataStream>,
        error: DoPutError,
    ) -> Result<Response<<Self as FlightService>::DoPutStream>, Status> {
        Err(Status::invalid_argument(error.to_string()))
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        let reason = "there are no transactions: each statement is published by itself";
        Err(status::of(status::NOT_SUPPORTED, reason))
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let client = self.clients.of(&request).await;
        let info = FlightInfo::decode(&*query.info);
        let info = info.map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.cancel(&client, &info).await?;
        // The values of this result are those of `CancelStatus`.
        Ok(ActionCancelQueryResult { result: CancelStatus::Cancelled as i32 })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let client = self.clients.of(&request).await;
        let action = request.into_inner();
        if action.r#type != CANCEL_FLIGHT_INFO {
            let reason = format!("there is no action {}", action.r#type);
            return Err(status::of(status::NOT_SUPPORTED, reason));
        }
        let request = CancelFlightInfoRequest::decode(&*action.body);
        let request = request.map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.cancel(&client, &request.info.unwrap_or_default()).await?;
        let result = CancelFlightInfoResult::new(CancelStatus::Cancelled);
        let result = arrow_flight::Result::new(result.encode_to_vec());
        Ok(Response::new(futures::stream::iter([Ok(result)]).boxed()))
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        Some(vec![Ok(ActionType {
            r#type: CANCEL_FLIGHT_INFO.to_string(),
            description: "Cancels a statement. Request: CancelFlightInfoRequest. Response: \
                          CancelFlightInfoResult"
                .to_string(),
        })])
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(GetCatalogsBuilder::new().schema(), &query, request)
    }

    async fn do_get_catalogs(&self, _query: CommandGetCatalogs, _request: Request<Ticket>) -> Data {
        Ok(wire::send_one(catalog::catalogs()?))
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(query.clone().into_builder().schema(), &query, request)
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, request: Request<Ticket>) -> Data {
        let client = self.clients.of(&request).await;
        let schemas = catalog::schemas(self.statements.session(), &client, query).await?;
        Ok(wire::send_one(schemas))
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(query.clone().into_builder().schema(), &query, request)
    }

    async fn do_get_tables(&self, query: CommandGetTables, request: Request<Ticket>) -> Data {
        let client = self.clients.of(&request).await;
        let tables = catalog::find_tables(self.statements.session(), &client, query).await?;
        Ok(wire::send_one(tables))
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(query.into_builder().schema(), &query, request)
    }

    async fn do_get_table_types(
        &self,
        _query: CommandGetTableTypes,
        _request: Request<Ticket>,
    ) -> Data {
        Ok(wire::send_one(catalog::table_types()?))
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(query.clone().into_builder(&self.info).schema(), &query, request)
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, _request: Request<Ticket>) -> Data {
        let rows = query.into_builder(&self.info).build().map_err(status::internal)?;
        Ok(wire::send_one(rows))
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(query.into_builder(&self.types).schema(), &query, request)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        _request: Request<Ticket>,
    ) -> Data {
        let rows = query.into_builder(&self.types).build().map_err(status::internal)?;
        Ok(wire::send_one(rows))
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(capabilities::primary_keys(), &query, request)
    }

    async fn do_get_primary_keys(
        &self,
        _query: CommandGetPrimaryKeys,
        _request: Request<Ticket>,
    ) -> Data {
        none(capabilities::primary_keys())
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(capabilities::foreign_keys(), &query, request)
    }

    async fn do_get_exported_keys(
        &self,
        _query: CommandGetExportedKeys,
        _request: Request<Ticket>,
    ) -> Data {
        none(capabilities::foreign_keys())
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(capabilities::foreign_keys(), &query, request)
    }

    async fn do_get_imported_keys(
        &self,
        _query: CommandGetImportedKeys,
        _request: Request<Ticket>,
    ) -> Data {
        none(capabilities::foreign_keys())
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Info {
        find(capabilities::foreign_keys(), &query, request)
    }

    async fn do_get_cross_reference(
        &self,
        _query: CommandGetCrossReference,
        _request: Request<Ticket>,
    ) -> Data {
        none(capabilities::foreign_keys())
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}
