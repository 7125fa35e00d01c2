//! Files that are read in place under a name.

use crate::session::Session;
use crate::{JobError, Result};
use arrow::csv::ReaderBuilder;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use bytes::Buf;
use datafusion::catalog::{TableProvider, TableProviderFactory};
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::sql::parser::{CreateExternalTable, Statement as EngineStatement};
use futures::TryStreamExt;
use nightshift_catalog::delta;
use nightshift_catalog::scan::{FileList, WarehouseTable};
use nightshift_catalog::storage::{Storage, parse_url};
use object_store::ObjectStoreExt;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use url::Url;

/// How text files are to be read.
#[derive(Debug, Clone)]
struct Csv {
    delimiter: u8,
    has_header: bool,
}

/// Files that are read in place, by the names `schema.table`.
pub type Externals = BTreeMap<String, ExternalTable>;

/// A table over files that nobody imported.
#[derive(Debug, Clone)]
pub struct ExternalTable {
    provider: Arc<dyn TableProvider>,
    location: Url,
    csv: Option<Csv>,
}

impl ExternalTable {
    /// Opens what `CREATE EXTERNAL TABLE` describes. A relative location is relative to `folder`.
    pub async fn open(
        session: &Session,
        mut statement: CreateExternalTable,
        folder: Option<&Path>,
    ) -> Result<Self> {
        let [location] = statement.locations.as_slice() else {
            return Err(JobError::Statement("an external table has one location".to_string()));
        };
        let location = match folder {
            Some(folder) if Url::parse(location).is_err() => {
                parse_url(&folder.join(location).to_string_lossy())?
            }
            _ => parse_url(location)?,
        };
        check_allowed(session, &location)?;
        if objects(session, &location).await?.is_empty() {
            let file = readable(&location);
            return Err(JobError::File { file, reason: "there is no such file".to_string() });
        }
        if statement.file_type.eq_ignore_ascii_case("delta") {
            return Self::open_delta(session, location, &statement).await;
        }
        statement.locations = vec![location.to_string()];
        let state = session.state();
        let plan = state.statement_to_plan(EngineStatement::CreateExternalTable(statement)).await?;
        let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(command)) = plan else {
            return Err(JobError::Statement("not an external table".to_string()));
        };
        let csv = command.file_type.eq_ignore_ascii_case("csv").then(|| {
            let option = |name: &str| {
                command.options.get(name).or_else(|| command.options.get(&format!("format.{name}")))
            };
            let delimiter = option("delimiter").and_then(|text| text.bytes().next());
            let has_header =
                option("has_header").is_none_or(|text| text.eq_ignore_ascii_case("true"));
            Csv { delimiter: delimiter.unwrap_or(b','), has_header }
        });
        let provider = ListingTableFactory::new().create(state, &command).await?;
        Ok(Self { provider, location, csv })
    }

    /// Opens a Delta table that somebody else writes, at its latest version.
    async fn open_delta(
        session: &Session,
        location: Url,
        statement: &CreateExternalTable,
    ) -> Result<Self> {
        if !statement.columns.is_empty() || !statement.options.is_empty() {
            return Err(JobError::Statement(
                "a Delta table has its columns and options in its log: leave them out".to_string(),
            ));
        }
        let storage = Storage::of_session(session.runtime(), &location)?;
        let snapshot = delta::load(&storage, None).await?.ok_or_else(|| JobError::File {
            file: readable(&location),
            reason: "there is no Delta table in this folder".to_string(),
        })?;
        let files = FileList::Version(snapshot.version);
        let mut table = WarehouseTable::of(storage.url().clone(), files, &snapshot.contents);
        table.spec.foreign = true;
        Ok(Self { provider: Arc::new(table), location, csv: None })
    }

    /// The table.
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        Arc::clone(&self.provider)
    }

    /// Reads the files once more to find the value that can't be read as its column's type: the
    /// engine's own message does not say which file it is in.
    pub async fn find_wrong_value(&self, session: &Session) -> Result<Option<JobError>> {
        let Some(csv) = &self.csv else { return Ok(None) };
        let schema = self.provider.schema();
        for (store, path) in objects(session, &self.location).await? {
            let read = async { store.get(&path).await?.bytes().await };
            let bytes = read.await.map_err(|error| JobError::File {
                file: path.to_string(),
                reason: error.to_string(),
            })?;
            let reader = ReaderBuilder::new(plain(&schema))
                .with_delimiter(csv.delimiter)
                .with_header(csv.has_header)
                .build(bytes.reader())?;
            for batch in reader {
                if let Err(error) = batch {
                    let reason = name_column(&error, &schema);
                    return Ok(Some(JobError::File { file: format!("/{path}"), reason }));
                }
            }
        }
        Ok(None)
    }
}

/// The CSV reader has no use for views.
fn plain(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        _ => Arc::clone(field),
    });
    Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}

/// Arrow counts columns, and lines from 0; people name columns, and count lines from 1.
fn name_column(error: &ArrowError, schema: &SchemaRef) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("Parser error: ").unwrap_or(&text);
    let text = text.split(". Row data").next().unwrap_or(text);
    let Some((before, after)) = text.split_once(" for column ") else { return text.to_string() };
    let (number, rest) = after.split_once(' ').unwrap_or((after, ""));
    match number.parse::<usize>().ok().and_then(|number| schema.fields().get(number)) {
        Some(field) => {
            let line = rest.strip_prefix("at line ").and_then(|line| line.parse::<u64>().ok());
            let line = line.map_or_else(String::new, |line| format!(" in line {}", line + 1));
            format!("{before} for column {}{line}", field.name())
        }
        None => text.to_string(),
    }
}

fn readable(url: &Url) -> String {
    let path = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    path.map_or_else(|| url.to_string(), |path| path.display().to_string())
}

/// SQL reaches files in the warehouse and in declared locations, and no others.
fn check_allowed(session: &Session, location: &Url) -> Result<()> {
    let warehouse = session.warehouse().storage().url();
    let with_slash = |url: &Url| format!("{}/", url.as_str().trim_end_matches('/'));
    let inside = |folder: &Url| with_slash(location).starts_with(&with_slash(folder));
    if location.path().split('/').any(|part| part == "..") || location.as_str().contains("%2e%2e") {
        return Err(JobError::Statement(format!("{location}: a location can't have .. in it")));
    }
    if inside(warehouse) || session.locations().iter().any(inside) {
        return Ok(());
    }
    Err(JobError::Statement(format!(
        "{} is neither in the warehouse nor in a declared location: add it to `locations` in nightshift.toml",
        readable(location)
    )))
}

type Object = (Arc<dyn object_store::ObjectStore>, object_store::path::Path);

/// The files of a location: itself, or what is in the folder of that name.
async fn objects(session: &Session, location: &Url) -> Result<Vec<Object>> {
    let listing = datafusion::datasource::listing::ListingTableUrl::parse(location.as_str())?;
    let store = Storage::of_session(session.runtime(), location)?.store().clone();
    let listed = listing.list_all_files(session.state(), store.as_ref(), "").await;
    let files = match listed {
        Ok(files) => files.try_collect::<Vec<_>>().await,
        Err(error) => Err(error),
    };
    let files = match files {
        Ok(files) => files,
        Err(error) if error.to_string().contains("not found") => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(files.into_iter().map(|file| (Arc::clone(&store), file.location)).collect())
}
