//! Tables that clients send: their rows are staged as Parquet files in the warehouse, from where a
//! statement reads them on the cluster.

use super::catalog::{CATALOG, SCHEMA};
use super::clients::Client;
use super::statements::Statements;
use super::status;
use crate::statement::{Gone, supervised};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use datafusion::common::TableReference;
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::registry::Kind;
use nightshift_catalog::storage::Storage;
use nightshift_catalog::warehouse::upload_folder;
use nightshift_jobs::connection::Connection;
use nightshift_jobs::rows::{plain_rows, plain_schema};
use nightshift_jobs::statement::parse;
use nightshift_jobs::view::View;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use std::sync::Arc;
use tonic::Status;
use uuid::Uuid;

/// Bytes of a row group that are gathered before they are written.
const ROW_GROUP: usize = 32 << 20;

/// Bytes after which a new file is begun, so that several tasks can read what one client has sent.
const FILE: usize = 128 << 20;

/// Messages of a client that are read although its rows are refused.
const READ_IN_VAIN: usize = 10_000;

/// What is to be done with the rows.
enum Mode {
    Create { or_replace: bool },
    Append,
}

/// Where the rows are to go.
struct Target {
    schema: String,
    name: String,
    mode: Mode,
    /// The columns of the table that they are appended to.
    columns: Option<SchemaRef>,
}

impl Target {
    async fn find(
        statements: &Statements,
        client: &Client,
        command: &CommandStatementIngest,
    ) -> Result<Self, Status> {
        let unsupported = |what: &str| {
            Err(status::of(status::NOT_SUPPORTED, format!("{what} is not supported in ingestion")))
        };
        if command.temporary {
            return unsupported("a temporary table");
        }
        if command.transaction_id.is_some() {
            return unsupported("a transaction");
        }
        if let Some(catalog) = &command.catalog
            && catalog != CATALOG
        {
            let reason = format!("there is no catalog {catalog}: the only one is {CATALOG}");
            return Err(status::of(status::STATEMENT, reason));
        }
        let schema = command.schema.clone().unwrap_or_else(|| SCHEMA.to_string());
        let name = command.table.clone();
        let whole = format!("{schema}.{name}");
        let view = View::now(statements.session(), client.externals()).await;
        let view = view.map_err(status::of_error)?;
        let exists = view.registry().current(Kind::Table, &whole).is_some();
        let Some(options) = &command.table_definition_options else {
            return Err(status::of(
                status::STATEMENT,
                "the command has no table definition options",
            ));
        };
        let mode = match (exists, options.if_exists(), options.if_not_exist()) {
            (true, TableExistsOption::Append, _) => Mode::Append,
            (true, TableExistsOption::Replace, _) => Mode::Create { or_replace: true },
            (true, TableExistsOption::Fail, _) => {
                return Err(status::of(status::TABLE_EXISTS, format!("{whole} exists already")));
            }
            (false, _, TableNotExistOption::Create) => Mode::Create { or_replace: false },
            (false, _, TableNotExistOption::Fail) => {
                return Err(status::of(
                    status::UNKNOWN_TABLE,
                    format!("there is no table {whole}"),
                ));
            }
            (true, TableExistsOption::Unspecified, _)
            | (false, _, TableNotExistOption::Unspecified) => {
                let reason = "the command doesn't say what to do with the table";
                return Err(status::of(status::STATEMENT, reason));
            }
        };
        let columns = match mode {
            Mode::Append => {
                let reference = TableReference::full(CATALOG, schema.as_str(), name.as_str());
                let table = view.table(statements.session(), &reference).await;
                table.map_err(status::of_error)?.map(|table| table.schema())
            }
            Mode::Create { .. } => None,
        };
        Ok(Self { schema, name, mode, columns })
    }

    /// The statement that writes the rows of `source`, which have the columns `sent`.
    fn statement(&self, source: &str, sent: &SchemaRef) -> Result<String, Status> {
        let target = format!("{}.{}", quoted(&self.schema), quoted(&self.name));
        match self.mode {
            Mode::Create { or_replace } => {
                let create = if or_replace { "CREATE OR REPLACE TABLE" } else { "CREATE TABLE" };
                Ok(format!("{create} {target} AS SELECT * FROM {source}"))
            }
            Mode::Append => {
                let Some(columns) = &self.columns else {
                    return Ok(format!("INSERT INTO {target} SELECT * FROM {source}"));
                };
                for field in sent.fields() {
                    if columns.column_with_name(field.name()).is_none() {
                        let reason =
                            format!("{}.{} has no column {}", self.schema, self.name, field.name());
                        return Err(status::of(status::UNKNOWN_COLUMN, reason));
                    }
                }
                // Columns are matched by their names, and those that were not sent are NULL.
                let columns = columns.fields().iter().map(|field| {
                    let name = quoted(field.name());
                    match sent.column_with_name(field.name()) {
                        Some(_) => name,
                        None => format!("NULL AS {name}"),
                    }
                });
                let columns = columns.collect::<Vec<_>>().join(", ");
                Ok(format!("INSERT INTO {target} SELECT {columns} FROM {source}"))
            }
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Writes what a client sends into a table and returns the number of rows.
pub(super) async fn ingest(
    statements: &Statements,
    client: &Client,
    command: CommandStatementIngest,
    data: PeekableFlightDataStream,
) -> Result<i64, Status> {
    let target = match Target::find(statements, client, &command).await {
        Ok(target) => target,
        Err(refused) => {
            // Clients that find the stream closed while they send don't look why it was.
            data.take(READ_IN_VAIN).for_each(|_| std::future::ready(())).await;
            return Err(refused);
        }
    };
    let warehouse = statements.session().warehouse().clone();
    let connection = statements.connection(client, Default::default());
    supervised(move |gone| async move {
        let id = Uuid::now_v7().simple().to_string();
        let folder = upload_folder(&id);
        let storage = warehouse.storage().folder(&folder);
        let done = write(connection, &target, &storage, &id, data, gone).await;
        // What is written stands, whether or not the staging files can be deleted.
        if let Err(error) = warehouse.forget(&folder).await {
            tracing::warn!(%error, folder, "staging files could not be deleted");
        }
        done
    })
    .await
}

/// Stages rows and makes a table of them.
async fn write(
    connection: Connection,
    target: &Target,
    storage: &Storage,
    id: &str,
    data: PeekableFlightDataStream,
    gone: Gone,
) -> Result<i64, Status> {
    let (schema, rows) = tokio::select! {
        staged = stage(storage, data) => staged?,
        () = gone.clone() => return Err(status::of(status::CANCELLED, "the client is gone")),
    };
    load(connection, target, storage, id, &schema, gone).await?;
    Ok(i64::try_from(rows).unwrap_or(i64::MAX))
}

type Writer = AsyncArrowWriter<BufWriter>;

/// Writes rows as Parquet files, of which a row group at a time is in memory. Returns their columns and
/// how many there are.
async fn stage(
    storage: &Storage,
    data: PeekableFlightDataStream,
) -> Result<(SchemaRef, usize), Status> {
    let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
    let mut batches = FlightRecordBatchStream::new_from_flight_data(data);
    let mut files = Files { storage, number: 0, open: None };
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.map_err(Status::from)? {
        rows += batch.num_rows();
        let schema = plain_schema(batch.schema_ref());
        let batch = plain_rows(&batch, &schema).map_err(status::internal)?;
        files.write(&batch).await?;
    }
    let Some(schema) = batches.schema().map(|schema| plain_schema(schema)) else {
        return Err(status::of(status::DATA, "the client has sent no columns"));
    };
    if files.number == 0 {
        files.write(&RecordBatch::new_empty(Arc::clone(&schema))).await?;
    }
    files.close().await?;
    Ok((schema, rows))
}

/// Files that are written one after another.
struct Files<'a> {
    storage: &'a Storage,
    number: usize,
    open: Option<Writer>,
}

impl Files<'_> {
    async fn write(&mut self, batch: &RecordBatch) -> Result<(), Status> {
        let mut file = match self.open.take() {
            Some(file) => file,
            None => {
                let path = self.storage.path(&format!("part-{:05}.parquet", self.number));
                self.number += 1;
                let object = BufWriter::new(Arc::clone(self.storage.store()), path);
                AsyncArrowWriter::try_new(object, batch.schema(), None).map_err(unwritable)?
            }
        };
        file.write(batch).await.map_err(unwritable)?;
        if file.in_progress_size() > ROW_GROUP {
            file.flush().await.map_err(unwritable)?;
        }
        let full = file.bytes_written() > FILE;
        self.open = Some(file);
        if full { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Result<(), Status> {
        match self.open.take() {
            Some(file) => file.close().await.map(drop).map_err(unwritable),
            None => Ok(()),
        }
    }
}

fn unwritable(error: parquet::errors::ParquetError) -> Status {
    status::internal(format!("the rows can't be staged in the warehouse: {error}"))
}

/// Makes a table of the staged files.
async fn load(
    mut connection: Connection,
    target: &Target,
    storage: &Storage,
    id: &str,
    sent: &SchemaRef,
    gone: Gone,
) -> Result<(), Status> {
    // A name that no table has, since it is made of a new id.
    let source = format!("ingest.upload_{id}");
    let location = storage.url().as_str().replace('\'', "''");
    let external =
        format!("CREATE EXTERNAL TABLE {source} STORED AS PARQUET LOCATION '{location}'");
    for sql in [external, target.statement(&source, sent)?] {
        for statement in parse("ingest", &sql).map_err(status::of_error)? {
            let executed = connection.execute(&statement, gone.clone()).await;
            executed.map_err(status::of_error)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};

    fn columns(names: &[&str]) -> SchemaRef {
        let field = |name: &&str| Field::new(*name, DataType::Int64, true);
        Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()))
    }

    #[test]
    fn appended_columns_are_matched_by_name() {
        let mut target = Target {
            schema: "a".into(),
            name: "T".into(),
            mode: Mode::Append,
            columns: Some(columns(&["x", "y", "z"])),
        };
        assert_eq!(
            target.statement("s", &columns(&["z", "x"])).unwrap(),
            "INSERT INTO \"a\".\"T\" SELECT \"x\", NULL AS \"y\", \"z\" FROM s"
        );
        let extra = target.statement("s", &columns(&["w"])).unwrap_err();
        assert!(extra.message().starts_with("a.T has no column w"), "{}", extra.message());
        target.mode = Mode::Create { or_replace: true };
        assert_eq!(
            target.statement("s", &columns(&["z"])).unwrap(),
            "CREATE OR REPLACE TABLE \"a\".\"T\" AS SELECT * FROM s"
        );
    }
}
