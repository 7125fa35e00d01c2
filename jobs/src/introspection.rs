//! The warehouse, and what works on it, described as tables: `information_schema`, `system`, and what the
//! functions `table_columns` and `table_history` say of one table.
//!
//! They are made when a statement that names them is planned, as literal rows, which travel in plans
//! like any others.

use crate::journal;
use crate::notices::Outbox;
use crate::queries::QueryInfo;
use crate::session::Session;
use crate::table_functions::documentation;
use crate::view::View;
use crate::{JobError, Result};
use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{DFSchema, TableReference, UnnestOptions};
use datafusion::logical_expr::{EmptyRelation, LogicalPlan, LogicalPlanBuilder, lit};
use nightshift_catalog::registry::{Entry, Kind, ModelDetails};
use nightshift_catalog::warehouse::Name;
use std::sync::Arc;

/// The names of the tables described here.
const TABLES: &[&str] = &[
    "information_schema.columns",
    "information_schema.schemata",
    "information_schema.tables",
    "information_schema.views",
    "system.executors",
    "system.functions",
    "system.model_versions",
    "system.models",
    "system.notices",
    "system.queries",
    "system.registry",
    "system.run_events",
    "system.run_gates",
    "system.run_steps",
    "system.runs",
    "system.tables",
];

/// The rows of a table of `information_schema` or `system`; `None` if there is no such table.
pub async fn table(session: &Session, view: &View, name: &str) -> Result<Option<LogicalPlan>> {
    let batch = match name {
        "information_schema.schemata" => schemata(view)?,
        "information_schema.tables" => tables(view)?,
        "information_schema.views" => views(view)?,
        "information_schema.columns" => columns(session, view).await?,
        "system.executors" => executors(session).await?,
        "system.functions" => functions(session)?,
        "system.models" => models(view, true)?,
        "system.model_versions" => models(view, false)?,
        "system.notices" => notices(session).await?,
        "system.queries" => queries(session)?,
        "system.runs" => {
            let runs = journal::latest(session.warehouse(), usize::MAX, |_| true).await?;
            journal::tables::runs(&runs)?
        }
        "system.run_steps" => {
            let runs = journal::all(session.warehouse()).await?;
            let states = runs.iter().filter_map(|kept| kept.run.as_ref().ok());
            journal::tables::steps(states.map(|(state, _)| state))?
        }
        "system.run_gates" => {
            let runs = journal::all(session.warehouse()).await?;
            let states = runs.iter().filter_map(|kept| kept.run.as_ref().ok());
            journal::tables::gates(states.map(|(state, _)| state))?
        }
        "system.run_events" => {
            let runs = journal::all(session.warehouse()).await?;
            let events = runs.iter().filter_map(|kept| Some((&kept.id, kept.run.as_ref().ok()?)));
            let events = events
                .flat_map(|(run, (_, events))| events.iter().map(|event| (run.as_str(), event)));
            journal::tables::events(events)?
        }
        "system.tables" => sizes(session, view).await?,
        _ => return Ok(None),
    };
    rows(&batch).map(Some)
}

/// What a table function says of a table; `None` if there is no such table.
pub async fn about(
    session: &Session,
    view: &View,
    function: &str,
    name: &str,
) -> Result<Option<LogicalPlan>> {
    if function == "table_history" {
        if view.registry().current(Kind::Table, name).is_none() {
            return Ok(None);
        }
        return history(session, view, name).await.and_then(|batch| rows(&batch)).map(Some);
    }
    let reference = TableReference::parse_str(name);
    let Some(table) = Box::pin(view.table(session, &reference)).await? else { return Ok(None) };
    let mut described = Columns::default();
    described.add(name, &table.schema());
    rows(&described.batch(false)?).map(Some)
}

/// A batch as a plan that any process can run: one row of literal lists, unnested. As rows of VALUES,
/// thousands of them would be as many expressions to plan as they have values.
pub fn rows(batch: &RecordBatch) -> Result<LogicalPlan> {
    let schema = Arc::new(DFSchema::try_from(batch.schema())?);
    if batch.num_rows() == 0 {
        return Ok(LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema }));
    }
    let list = |(column, field): (&ArrayRef, &Arc<Field>)| {
        let list = SingleRowListArrayBuilder::new(Arc::clone(column)).build_list_scalar();
        lit(list).alias(field.name())
    };
    let lists: Vec<_> = batch.columns().iter().zip(batch.schema_ref().fields()).map(list).collect();
    let lists = LogicalPlanBuilder::empty(true).project(lists)?;
    let columns = lists.schema().columns();
    Ok(lists.unnest_columns_with_options(columns, UnnestOptions::default())?.build()?)
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn numbers(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.map(|value| value.map(|value| value as i64)).collect::<Int64Array>())
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// The name's schema and what is within it.
fn split(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or(("", name))
}

fn schemata(view: &View) -> Result<RecordBatch> {
    let mut names = view.registry().schemas();
    names.extend(["information_schema", "system"].map(String::from));
    batch(vec![
        ("catalog_name", texts(names.iter().map(|_| Some("nightshift")))),
        ("schema_name", texts(names.iter().map(|name| Some(name.as_str())))),
    ])
}

/// Every table that can be read: name and kind.
fn listed(view: &View) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for entry in view.registry().all_current() {
        match entry.kind {
            Kind::Schema => {}
            Kind::Table => found.push((entry.name.clone(), "BASE TABLE")),
            Kind::View => found.push((entry.name.clone(), "VIEW")),
            Kind::Model => {
                let tables = entry.tables.keys().map(|table| format!("{}.{table}", entry.name));
                found.extend(tables.map(|name| (name, "MODEL TABLE")));
            }
        }
    }
    found.extend(view.externals().keys().map(|name| (name.clone(), "EXTERNAL TABLE")));
    found.extend(TABLES.iter().map(|name| (name.to_string(), "SYSTEM TABLE")));
    found.sort();
    found
}

fn tables(view: &View) -> Result<RecordBatch> {
    let found = listed(view);
    batch(vec![
        ("table_catalog", texts(found.iter().map(|_| Some("nightshift")))),
        ("table_schema", texts(found.iter().map(|(name, _)| Some(split(name).0)))),
        ("table_name", texts(found.iter().map(|(name, _)| Some(split(name).1)))),
        ("table_type", texts(found.iter().map(|(_, kind)| Some(*kind)))),
    ])
}

fn views(view: &View) -> Result<RecordBatch> {
    let all = view.registry().all_current();
    let names = all.into_iter().filter(|entry| entry.kind == Kind::View).map(|entry| &entry.name);
    let found: Vec<_> = names.map(|name| (name, view.view(name).unwrap_or_default())).collect();
    batch(vec![
        ("table_catalog", texts(found.iter().map(|_| Some("nightshift")))),
        ("table_schema", texts(found.iter().map(|(name, _)| Some(split(name).0)))),
        ("table_name", texts(found.iter().map(|(name, _)| Some(split(name).1)))),
        ("view_definition", texts(found.iter().map(|(_, query)| Some(query.as_str())))),
    ])
}

/// Columns of tables, being gathered.
#[derive(Default)]
struct Columns {
    tables: Vec<String>,
    names: Vec<String>,
    positions: Vec<u64>,
    types: Vec<String>,
    nullable: Vec<bool>,
    comments: Vec<Option<String>>,
}

impl Columns {
    fn add(&mut self, table: &str, schema: &SchemaRef) {
        for (position, field) in schema.fields().iter().enumerate() {
            self.tables.push(table.to_string());
            self.names.push(field.name().clone());
            self.positions.push(position as u64 + 1);
            self.types.push(sql_type(field.data_type()));
            self.nullable.push(field.is_nullable());
            self.comments.push(field.metadata().get("comment").cloned());
        }
    }

    /// As rows; with the columns' tables if they can be of several.
    fn batch(&self, several: bool) -> Result<RecordBatch> {
        let mut columns = Vec::new();
        if several {
            let part = |of: fn(&str) -> &str| texts(self.tables.iter().map(|name| Some(of(name))));
            columns.push(("table_catalog", texts(self.tables.iter().map(|_| Some("nightshift")))));
            columns.push(("table_schema", part(|name| split(name).0)));
            columns.push(("table_name", part(|name| split(name).1)));
        }
        let nullable = self.nullable.iter().map(|yes| Some(if *yes { "YES" } else { "NO" }));
        columns.extend([
            ("column_name", texts(self.names.iter().map(|name| Some(name.as_str())))),
            ("ordinal_position", numbers(self.positions.iter().map(|at| Some(*at)))),
            ("data_type", texts(self.types.iter().map(|name| Some(name.as_str())))),
            ("is_nullable", texts(nullable)),
            ("comment", texts(self.comments.iter().map(Option::as_deref))),
        ]);
        batch(columns)
    }
}

/// A type as SQL writes it, where SQL has a word for it.
pub fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_string(),
        DataType::Int8 => "TINYINT".to_string(),
        DataType::Int16 => "SMALLINT".to_string(),
        DataType::Int32 => "INTEGER".to_string(),
        DataType::Int64 => "BIGINT".to_string(),
        DataType::Float32 => "REAL".to_string(),
        DataType::Float64 => "DOUBLE".to_string(),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "VARCHAR".to_string(),
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary => "BYTEA".to_string(),
        DataType::Date32 => "DATE".to_string(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE".to_string(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_string(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::List(item) => format!("{}[]", sql_type(item.data_type())),
        DataType::Struct(fields) => {
            let field =
                |field: &Arc<Field>| format!("{} {}", field.name(), sql_type(field.data_type()));
            format!("STRUCT({})", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

async fn columns(session: &Session, view: &View) -> Result<RecordBatch> {
    let mut found = Columns::default();
    for (name, kind) in listed(view) {
        if kind == "SYSTEM TABLE" {
            continue;
        }
        let reference = TableReference::parse_str(&name);
        // A view whose tables are gone has no columns, and hides nobody else's.
        let table = match Box::pin(view.table(session, &reference)).await {
            Ok(table) => table,
            Err(_) if kind == "VIEW" => continue,
            Err(error) => return Err(error),
        };
        if let Some(table) = table {
            found.add(&name, &table.schema());
        }
    }
    found.batch(true)
}

fn functions(session: &Session) -> Result<RecordBatch> {
    let state = session.state();
    let mut found = Vec::new();
    let mut add =
        |name: &str, kind, documentation: Option<&datafusion::logical_expr::Documentation>| {
            let syntax = documentation.map(|text| text.syntax_example.clone());
            let description = documentation.map(|text| text.description.trim().to_string());
            found.push((name.to_string(), kind, syntax, description));
        };
    for (name, function) in state.scalar_functions() {
        add(name, "scalar", function.documentation());
    }
    for (name, function) in state.aggregate_functions() {
        add(name, "aggregate", function.documentation());
    }
    for (name, function) in state.window_functions() {
        add(name, "window", function.documentation());
    }
    for (name, documentation) in &documentation() {
        add(name, "table", Some(documentation));
    }
    found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    batch(vec![
        ("name", texts(found.iter().map(|row| Some(row.0.as_str())))),
        ("kind", texts(found.iter().map(|row| Some(row.1)))),
        ("syntax", texts(found.iter().map(|row| row.2.as_deref()))),
        ("description", texts(found.iter().map(|row| row.3.as_deref()))),
    ])
}

/// What is executed and what was, the latest first.
fn queries(session: &Session) -> Result<RecordBatch> {
    let found = session.queries().list();
    let owned = |of: fn(&QueryInfo) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(found.iter().map(of)))
    };
    batch(vec![
        ("id", owned(|query| query.id.to_string())),
        ("who", texts(found.iter().map(|query| Some(query.caller.who.as_str())))),
        ("via", owned(|query| query.caller.via.to_string())),
        ("statement", texts(found.iter().map(|query| Some(&*query.statement)))),
        ("state", texts(found.iter().map(|query| Some(query.state.name())))),
        ("started_at", times(found.iter().map(|query| Some(query.started)))),
        ("ended_at", times(found.iter().map(|query| query.ended))),
        ("rows", numbers(found.iter().map(|query| Some(query.rows)))),
        ("bytes", numbers(found.iter().map(|query| Some(query.bytes)))),
        ("rows_changed", numbers(found.iter().map(|query| query.rows_changed))),
        ("error", texts(found.iter().map(|query| query.error.as_deref()))),
    ])
}

/// Notices that nobody has taken yet, and those of the last week that nobody takes.
async fn notices(session: &Session) -> Result<RecordBatch> {
    let found = Outbox::of(session.warehouse()).all().await?;
    let of = || found.iter().map(|(_, notice)| notice);
    batch(vec![
        ("pipeline", texts(of().map(|notice| Some(notice.pipeline.as_str())))),
        ("run", texts(of().map(|notice| Some(notice.run.as_str())))),
        ("event", texts(of().map(|notice| Some(notice.about.as_str())))),
        ("receiver", texts(of().map(|notice| Some(notice.receiver.as_str())))),
        ("status", texts(found.iter().map(|(status, _)| Some(*status)))),
        ("attempts", numbers(of().map(|notice| Some(u64::from(notice.attempts))))),
        ("since", times(of().map(|notice| Some(notice.at.timestamp_micros())))),
        ("error", texts(of().map(|notice| notice.error.as_deref()))),
    ])
}

/// The executors that the session's cluster has now.
async fn executors(session: &Session) -> Result<RecordBatch> {
    let unknown = || {
        let reason = "system.executors: a session that is connected with --cluster does not know the \
                      executors; read it over Flight SQL or HTTP";
        JobError::Statement(reason.to_string())
    };
    let mut found = session.cluster().ok_or_else(unknown)?.executors().await?;
    found.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    batch(vec![
        ("id", texts(found.iter().map(|executor| Some(executor.id.as_str())))),
        ("host", texts(found.iter().map(|executor| Some(executor.host.as_str())))),
        ("port", numbers(found.iter().map(|executor| Some(u64::from(executor.port))))),
        ("cores", numbers(found.iter().map(|executor| Some(executor.cores)))),
        ("busy_cores", numbers(found.iter().map(|executor| Some(executor.busy_cores)))),
        ("memory", numbers(found.iter().map(|executor| executor.memory))),
        ("last_heartbeat", times(found.iter().map(|executor| executor.last_heartbeat))),
        ("state", texts(found.iter().map(|executor| Some(executor.state)))),
    ])
}

/// Model versions; only those that are published now if `current`.
fn models(view: &View, current: bool) -> Result<RecordBatch> {
    let registry = view.registry();
    let published = |entry: &Entry| {
        let now = registry.current(Kind::Model, &entry.name);
        now.is_some_and(|now| now.version == entry.version)
    };
    let mut found: Vec<&Entry> = match current {
        true => registry.all_current(),
        false => registry.entries().iter().filter(|entry| !entry.dropped).collect(),
    };
    found.retain(|entry| entry.kind == Kind::Model);
    if !current {
        // A rollback publishes a version again: it is the same version.
        found.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        found.dedup_by(|a, b| a.name == b.name && a.version == b.version);
    }
    // A held version that somebody has published since is held no more.
    let held = |entry: &&Entry| {
        let rows = registry.entries().iter().filter(|row| row.kind == Kind::Model);
        let mut same = rows.filter(|row| row.name == entry.name && row.version == entry.version);
        same.all(|row| row.held || row.dropped)
    };
    let held: BooleanArray = found.iter().map(|entry| Some(held(entry))).collect();
    let details: Vec<ModelDetails> =
        found.iter().map(|entry| entry.model().cloned().unwrap_or_default()).collect();
    fn json<T: serde::Serialize>(value: &T) -> String {
        serde_json::to_string(value).unwrap_or_default()
    }
    let owned = |of: fn(&ModelDetails) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(details.iter().map(of)))
    };
    let shown: BooleanArray = found.iter().map(|entry| Some(published(entry))).collect();
    batch(vec![
        ("model", texts(found.iter().map(|entry| Some(entry.name.as_str())))),
        ("version", numbers(found.iter().map(|entry| Some(entry.version)))),
        ("published", Arc::new(shown)),
        ("held", Arc::new(held)),
        ("published_at", times(found.iter().map(|entry| Some(entry.published_at)))),
        ("model_type", owned(|details| details.model_type.clone())),
        ("options", owned(|details| json(&details.options))),
        ("metrics", owned(|details| json(&details.metrics))),
        ("query", owned(|details| details.query.clone())),
        ("inputs", owned(|details| json(&details.inputs))),
        ("held_by", owned(|details| details.held_by.join("; "))),
        ("run", texts(found.iter().map(|entry| Some(entry.run.as_str())))),
    ])
}

async fn sizes(session: &Session, view: &View) -> Result<RecordBatch> {
    let all = view.registry().all_current();
    let entries: Vec<_> = all.into_iter().filter(|entry| entry.kind == Kind::Table).collect();
    let mut contents = Vec::new();
    for entry in &entries {
        let (schema, table) = split(&entry.name);
        let folder = format!("{schema}/{table}");
        let snapshot = session.warehouse().snapshot(&folder, entry.version).await?;
        contents.push(snapshot);
    }
    let contents: Vec<_> = contents.iter().map(|snapshot| &snapshot.contents).collect();
    let partitions: Vec<_> =
        contents.iter().map(|table| table.partition_columns.join(", ")).collect();
    batch(vec![
        ("table_schema", texts(entries.iter().map(|entry| Some(split(&entry.name).0)))),
        ("table_name", texts(entries.iter().map(|entry| Some(split(&entry.name).1)))),
        ("version", numbers(entries.iter().map(|entry| Some(entry.version)))),
        ("rows", numbers(contents.iter().map(|table| Some(table.rows())))),
        ("bytes", numbers(contents.iter().map(|table| Some(table.bytes())))),
        ("files", numbers(contents.iter().map(|table| Some(table.files.len() as u64)))),
        ("partitioned_by", texts(partitions.iter().map(|columns| Some(columns.as_str())))),
        ("comment", texts(contents.iter().map(|table| table.description.as_deref()))),
        ("written_at", times(entries.iter().map(|entry| Some(entry.published_at)))),
        ("written_by", texts(entries.iter().map(|entry| Some(entry.run.as_str())))),
    ])
}

/// The versions of a table that were published, the latest first.
async fn history(session: &Session, view: &View, name: &str) -> Result<RecordBatch> {
    let (schema, table) = split(name);
    let commits = session.warehouse().history(&Name::new(schema, table)?).await?;
    let registry = view.registry();
    let mut rows = Vec::new();
    for commit in &commits {
        if let Some(entry) = registry.version_of(Kind::Table, name, commit.version) {
            rows.push((commit, entry));
        }
    }
    batch(vec![
        ("version", numbers(rows.iter().map(|(commit, _)| Some(commit.version)))),
        ("published_at", times(rows.iter().map(|(_, entry)| Some(entry.published_at)))),
        ("operation", texts(rows.iter().map(|(commit, _)| commit.operation.as_deref()))),
        ("run", texts(rows.iter().map(|(commit, _)| commit.run.as_deref()))),
        ("engine", texts(rows.iter().map(|(commit, _)| commit.engine.as_deref()))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;

    #[tokio::test]
    async fn literal_rows_are_what_they_were_made_of() {
        let columns = || {
            vec![
                ("id", numbers([Some(1), None, Some(3)].into_iter())),
                ("name", texts([Some("a"), Some("b"), None].into_iter())),
                ("at", times([Some(1), None, Some(2)].into_iter())),
            ]
        };
        let made = batch(columns()).unwrap();
        let context = SessionContext::new();
        let frame = context.execute_logical_plan(rows(&made).unwrap()).await.unwrap();
        assert_eq!(frame.clone().count().await.unwrap(), 3);
        let read = frame.clone().collect().await.unwrap();
        assert_eq!(
            pretty_format_batches(&read).unwrap().to_string(),
            pretty_format_batches(&[made]).unwrap().to_string()
        );
        let one = frame.filter(datafusion::prelude::col("id").eq(lit(3))).unwrap();
        let one = one.select_columns(&["at"]).unwrap().collect().await.unwrap();
        assert_eq!(one.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
        assert_eq!(one[0].num_columns(), 1);
        let empty = batch(columns()).unwrap().slice(0, 0);
        assert_eq!(rows(&empty).unwrap().schema().fields().len(), 3);
    }
}
