//! What there is to query: catalogs, schemas and tables.
//!
//! There is one catalog. A model's tables are in a schema of their own, `schema.model`, since clients
//! know names of three parts; quoted as one part, it is understood in queries.

use super::clients::Client;
use super::status;
use arrow::array::{AsArray, RecordBatch};
use arrow_flight::sql::metadata::GetCatalogsBuilder;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use datafusion::common::TableReference;
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::registry::Kind;
use nightshift_jobs::rows::plain_schema;
use nightshift_jobs::session::Session;
use nightshift_jobs::view::View;
use tonic::Status;

/// The only catalog.
pub(super) const CATALOG: &str = "nightshift";

/// The schema of names that have one part.
pub(super) const SCHEMA: &str = "default";

const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";
const SYSTEM_TABLE: &str = "SYSTEM TABLE";
const EXTERNAL_TABLE: &str = "EXTERNAL TABLE";

/// Tables whose columns are looked up at the same time.
const AT_ONCE: usize = 16;

/// A table that a client can read.
struct Listed {
    schema: String,
    name: String,
    kind: &'static str,
}

async fn view(session: &Session, client: &Client) -> Result<View, Status> {
    View::now(session, client.externals()).await.map_err(status::of_error)
}

/// All tables in the order of their names.
fn tables(view: &View) -> Vec<Listed> {
    let mut tables = Vec::new();
    let mut add = |name: &str, kind| {
        if let Some((schema, name)) = name.rsplit_once('.') {
            tables.push(Listed { schema: schema.to_string(), name: name.to_string(), kind });
        }
    };
    for entry in view.registry().all_current() {
        match entry.kind {
            Kind::Table => add(&entry.name, TABLE),
            Kind::View => add(&entry.name, VIEW),
            Kind::Schema => {}
            Kind::Model => {
                for table in entry.tables.keys() {
                    add(&format!("{}.{table}", entry.name), TABLE);
                }
            }
        }
    }
    if view.registry().version().is_some() {
        add("system.registry", SYSTEM_TABLE);
    }
    for name in view.externals().keys() {
        add(name, EXTERNAL_TABLE);
    }
    tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    tables.dedup_by(|a, b| (&a.schema, &a.name) == (&b.schema, &b.name));
    tables
}

/// The only catalog, as a table.
pub(super) fn catalogs() -> Result<RecordBatch, Status> {
    let mut builder = GetCatalogsBuilder::new();
    builder.append(CATALOG);
    builder.build().map_err(status::internal)
}

/// The kinds of tables.
pub(super) fn table_types() -> Result<RecordBatch, Status> {
    let mut builder = CommandGetTableTypes {}.into_builder();
    for kind in [TABLE, VIEW, SYSTEM_TABLE, EXTERNAL_TABLE] {
        builder.append(kind);
    }
    builder.build().map_err(status::internal)
}

/// The schemas that a command asks for.
pub(super) async fn schemas(
    session: &Session,
    client: &Client,
    command: CommandGetDbSchemas,
) -> Result<RecordBatch, Status> {
    let view = view(session, client).await?;
    let mut builder = command.into_builder();
    // The schema of short names is there before anything is in it.
    let mut schemas = view.registry().schemas();
    schemas.insert(SCHEMA.to_string());
    schemas.extend(tables(&view).into_iter().map(|table| table.schema));
    for schema in schemas {
        builder.append(CATALOG, schema);
    }
    builder.build().map_err(status::internal)
}

/// The tables that a command asks for, with their columns if it asks for them.
pub(super) async fn find_tables(
    session: &Session,
    client: &Client,
    command: CommandGetTables,
) -> Result<RecordBatch, Status> {
    let view = view(session, client).await?;
    let none = arrow::datatypes::Schema::empty();
    let mut found = CommandGetTables { include_schema: false, ..command.clone() }.into_builder();
    for Listed { schema, name, kind } in tables(&view) {
        let added = found.append(CATALOG, schema, name, kind, &none);
        added.map_err(status::internal)?;
    }
    let found = found.build().map_err(status::internal)?;
    if !command.include_schema {
        return Ok(found);
    }
    // Only the tables that are asked for are opened: each is a request to the object store.
    let text = |row: usize, column: usize| found.column(column).as_string::<i32>().value(row);
    let opened = (0..found.num_rows()).map(|row| {
        let (schema, name, kind) = (text(row, 1), text(row, 2), text(row, 3));
        let reference = TableReference::full(CATALOG, schema, name);
        let view = &view;
        async move {
            let table = view.table(session, &reference).await.map_err(status::of_error)?;
            Ok::<_, Status>(table.map(|table| (schema, name, kind, table.schema())))
        }
    });
    let opened: Vec<_> = futures::stream::iter(opened).buffered(AT_ONCE).try_collect().await?;
    let mut builder = command.into_builder();
    for (schema, name, kind, columns) in opened.into_iter().flatten() {
        let columns = plain_schema(&columns);
        builder.append(CATALOG, schema, name, kind, &columns).map_err(status::internal)?;
    }
    builder.build().map_err(status::internal)
}
