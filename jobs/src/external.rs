//! Files that are read in place under a name.

mod damage;
mod examine;
mod location;
mod options;
mod pattern;
mod quarantine;
mod records;
mod sort;

use crate::session::Session;
use crate::{JobError, Result};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::{
    CreateExternalTable as Command, DdlStatement, LogicalPlan, LogicalPlanBuilder, cast, ident, lit,
};
use datafusion::sql::parser::{CreateExternalTable, Statement as EngineStatement};
pub(crate) use location::{check_allowed, is_inside, located};
use nightshift_catalog::delta;
use nightshift_catalog::partition::HIVE_NULL;
use nightshift_catalog::scan::{FileList, WarehouseTable};
use nightshift_catalog::storage::Storage;
use object_store::ObjectMeta;
pub(crate) use options::{COMPRESSIONS, options_of};
pub(crate) use quarantine::{Quarantine, Sorted, rows};

use location::Location;
use options::FileOptions;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use url::Url;

/// Files that are read in place, by the names `schema.table`.
pub type Externals = BTreeMap<String, ExternalTable>;

/// Copies without the bad records, as names within the warehouse, by where their files are on their store.
pub type Copies = BTreeMap<String, String>;

/// A table over files that nobody imported.
#[derive(Debug, Clone)]
pub struct ExternalTable {
    provider: Arc<dyn TableProvider>,
    /// What is known about the files; nothing if they are those of a Delta table.
    files: Option<Files>,
}

/// Files of one format.
#[derive(Debug, Clone)]
struct Files {
    location: Location,
    options: FileOptions,
    format: Arc<dyn FileFormat>,
    /// The columns that are in the files.
    schema: SchemaRef,
    /// Which files are read, if that is decided once: because they have a quarantine.
    chosen: Vec<ObjectMeta>,
}

/// What files are now: their names, sizes and dates.
pub struct FilesIdentity {
    /// A text that is another one when a file is.
    pub text: String,
    /// Bytes of all files.
    pub bytes: u64,
}

impl ExternalTable {
    /// What the files are that `CREATE EXTERNAL TABLE` describes, without opening them.
    pub async fn identity(
        session: &Session,
        statement: &CreateExternalTable,
        folder: Option<&Path>,
    ) -> Result<FilesIdentity> {
        let location = Location::parse(one_location(statement)?, folder)?;
        check_allowed(session, &location.url)?;
        let mut identity = FilesIdentity { text: location.shown(), bytes: 0 };
        if statement.file_type.eq_ignore_ascii_case("delta") {
            let storage = Storage::of_session(session.runtime(), &location.url)?;
            if let Some(snapshot) = delta::load(&storage, None).await? {
                identity.bytes = snapshot.contents.bytes();
            }
            // Another table in the same folder can have the same version.
            for file in storage.folder("_delta_log").list().await? {
                let ObjectMeta { location, last_modified, size, .. } = file;
                identity.text.push_str(&format!("\n{location} {size} {last_modified}"));
            }
            return Ok(identity);
        }
        for file in location.objects(session).await? {
            let ObjectMeta { location, last_modified, size, e_tag, .. } = file;
            identity.text.push_str(&format!("\n{location} {size} {last_modified} {e_tag:?}"));
            identity.bytes += size;
        }
        Ok(identity)
    }

    /// Opens what `CREATE EXTERNAL TABLE` describes. A relative location is relative to `folder`.
    pub async fn open(
        session: &Session,
        mut statement: CreateExternalTable,
        folder: Option<&Path>,
    ) -> Result<Self> {
        let location = Location::parse(one_location(&statement)?, folder)?;
        check_allowed(session, &location.url)?;
        if statement.file_type.eq_ignore_ascii_case("delta") {
            return Self::open_delta(session, location, &statement).await;
        }
        let mut options = FileOptions::of(&statement.file_type, &statement.options)?;
        let found = location.objects(session).await?;
        if found.is_empty() {
            let file = location.shown();
            return Err(JobError::File { file, reason: "there is no such file".to_string() });
        }
        options.compressed_like(&found)?;
        // They are checked and understood; the engine's own parser of statements knows fewer.
        statement.options = Vec::new();
        statement.locations = vec![location.url.to_string()];
        let state = session.state();
        let plan = state.statement_to_plan(EngineStatement::CreateExternalTable(statement)).await?;
        let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(command)) = plan else {
            return Err(JobError::Statement("not an external table".to_string()));
        };
        Self::open_files(session, location, options, &command, &found).await
    }

    /// Opens files that are there.
    async fn open_files(
        session: &Session,
        location: Location,
        options: FileOptions,
        command: &Command,
        found: &[ObjectMeta],
    ) -> Result<Self> {
        let state = session.state();
        let unknown = || JobError::Statement(format!("{} can't be read", command.file_type));
        let factory = state.get_file_format_factory(options.format).ok_or_else(unknown)?;
        let format = factory.create(state, &options.of_engine())?;
        let partitions = partition_columns(command);
        if !partitions.is_empty() && (location.pattern.is_some() || location.is_one(found)) {
            return Err(JobError::Statement(format!(
                "{}: files that are PARTITIONED BY are in a folder with folders such as {}=…",
                location.shown(),
                partitions[0].0
            )));
        }
        let quarantined = options.quarantine.is_some();
        if quarantined && !partitions.is_empty() {
            return Err(JobError::Statement(
                "option quarantine: files that are PARTITIONED BY can't have one, for a copy without the bad \
                 records would be in none of their folders"
                    .to_string(),
            ));
        }
        let extension = options.extension();
        let by_extension = |file: &ObjectMeta| file.location.as_ref().ends_with(&extension);
        let in_folder = location.pattern.is_none() && !location.is_one(found);
        let listed = in_folder && (!partitions.is_empty() || found.iter().any(by_extension));
        let extension = match listed && found.iter().any(by_extension) {
            true => extension,
            false => String::new(),
        };
        let read: Vec<_> =
            found.iter().filter(|file| file.location.as_ref().ends_with(&extension)).collect();
        let (paths, extension) = if listed && !quarantined {
            (vec![location.folder()?], extension)
        } else {
            // Which files are meant is said by a pattern, or by nothing, when the name is created. What has been looked
            // for bad records must be what is read.
            let paths = read.iter().map(|file| location.listed(file));
            (paths.collect::<Result<Vec<_>>>()?, String::new())
        };
        let listing = ListingOptions::new(Arc::clone(&format))
            .with_file_extension(&extension)
            .with_table_partition_cols(
                partitions.iter().map(|(name, _)| (name.clone(), DataType::Utf8)).collect(),
            )
            .with_file_sort_order(command.order_exprs.clone());
        for path in &paths {
            listing.validate_partitions(state, path).await?;
        }
        let schema = match declared(command, &partitions) {
            Some(schema) => schema,
            None => inferred(session, &location, format.as_ref(), &read).await?,
        };
        let config = ListingTableConfig::new_with_multi_paths(paths)
            .with_listing_options(listing)
            .with_schema(Arc::clone(&schema));
        let table: Arc<dyn TableProvider> = Arc::new(ListingTable::try_new(config)?);
        let provider = typed(table, &partitions)?;
        let chosen = match quarantined {
            true => read.into_iter().cloned().collect(),
            false => Vec::new(),
        };
        Ok(Self { provider, files: Some(Files { location, options, format, schema, chosen }) })
    }

    /// Opens a Delta table that somebody else writes, at its latest version.
    async fn open_delta(
        session: &Session,
        location: Location,
        statement: &CreateExternalTable,
    ) -> Result<Self> {
        if !statement.columns.is_empty()
            || !statement.options.is_empty()
            || !statement.table_partition_cols.is_empty()
        {
            return Err(JobError::Statement(
                "a Delta table has its columns, partitions and options in its log: leave them out"
                    .to_string(),
            ));
        }
        let storage = Storage::of_session(session.runtime(), &location.url)?;
        let snapshot = delta::load(&storage, None).await?.ok_or_else(|| JobError::File {
            file: location.shown(),
            reason: "there is no Delta table in this folder".to_string(),
        })?;
        let files = FileList::Version(snapshot.version);
        let mut table = WarehouseTable::of(storage.url().clone(), files, &snapshot.contents);
        table.spec.foreign = true;
        Ok(Self { provider: Arc::new(table), files: None })
    }

    /// The same table with copies in the places of some files. What is wrong in those isn't looked for any more.
    pub(crate) fn with_copies(self, warehouse: &Storage, copies: &Copies) -> Result<Self> {
        let Some(files) = self.files.as_ref().filter(|_| !copies.is_empty()) else {
            return Ok(self);
        };
        let stays = |file: &&ObjectMeta| !copies.contains_key(file.location.as_ref());
        let in_place = files.chosen.iter().filter(stays).map(|file| files.location.listed(file));
        let copied = copies.values().map(|name| listed_in(warehouse, name));
        // They can be on another store, and all files of one listing are on one.
        let mut plans = Vec::new();
        for paths in [in_place.collect::<Result<Vec<_>>>()?, copied.collect::<Result<Vec<_>>>()?] {
            if !paths.is_empty() {
                let table = provider_as_source(files.listing(paths)?);
                plans.push(LogicalPlanBuilder::scan("files", table, None)?.build()?);
            }
        }
        let mut plans = plans.into_iter();
        let Some(first) = plans.next() else { return Ok(self) };
        let all = plans.try_fold(LogicalPlanBuilder::from(first), |all, plan| all.union(plan))?;
        let provider = Arc::new(ViewTable::new(all.build()?, None));
        Ok(Self { provider, files: None })
    }

    /// The table.
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        Arc::clone(&self.provider)
    }

    /// Where its files are, as a URL, with a pattern at its end if there is one.
    pub fn location(&self) -> Option<String> {
        let shown =
            |url: &Url| url.as_str().trim_end_matches('/').trim_end_matches("/.").to_string();
        let Some(Files { location: Location { url, pattern }, .. }) = &self.files else {
            let table = self.provider.downcast_ref::<WarehouseTable>()?;
            return Some(shown(&table.spec.table));
        };
        Some(match pattern {
            Some(pattern) => format!("{}/{pattern}", shown(url)),
            None => shown(url),
        })
    }

    /// Reads the files once more to find what can't be read: the engine's own message says neither
    /// in which file it is nor, when several tasks read one file, in which line.
    pub async fn find_damage(&self, session: &Session) -> Result<Option<JobError>> {
        match &self.files {
            Some(files) => files.find_damage(session).await,
            None => Ok(None),
        }
    }
}

impl Files {
    /// Files in the form of these.
    fn listing(&self, paths: Vec<ListingTableUrl>) -> Result<Arc<dyn TableProvider>> {
        let listing = ListingOptions::new(Arc::clone(&self.format)).with_file_extension("");
        let config = ListingTableConfig::new_with_multi_paths(paths)
            .with_listing_options(listing)
            .with_schema(Arc::clone(&self.schema));
        Ok(Arc::new(ListingTable::try_new(config)?))
    }
}

/// An object of the warehouse, for listings.
fn listed_in(warehouse: &Storage, name: &str) -> Result<ListingTableUrl> {
    let url = warehouse.url().join(name).map_err(|error| {
        JobError::Statement(format!("{name} is no name of an object in the warehouse: {error}"))
    })?;
    Ok(ListingTableUrl::parse(url)?)
}

fn one_location(statement: &CreateExternalTable) -> Result<&str> {
    match statement.locations.as_slice() {
        [location] => Ok(location),
        _ => Err(JobError::Statement("an external table has one location".to_string())),
    }
}

/// The columns that are in the names of folders, and their types.
fn partition_columns(command: &Command) -> Vec<(String, DataType)> {
    let declared = command.schema.as_arrow();
    let data_type = |name: &String| {
        let field = declared.field_with_name(name);
        field.map_or(DataType::Utf8, |field| field.data_type().clone())
    };
    let names = command.table_partition_cols.iter();
    names.map(|name| (name.clone(), data_type(name))).collect()
}

/// The columns in the files, if they are declared.
fn declared(command: &Command, partitions: &[(String, DataType)]) -> Option<SchemaRef> {
    let fields = command.schema.as_arrow().fields().iter();
    let in_files = fields.filter(|field| partitions.iter().all(|(name, _)| name != field.name()));
    let in_files: Vec<_> = in_files.cloned().collect();
    (!in_files.is_empty()).then(|| Arc::new(Schema::new(in_files)))
}

/// The columns that the files have. If a file can't be read, the error names it.
async fn inferred(
    session: &Session,
    location: &Location,
    format: &dyn FileFormat,
    files: &[&ObjectMeta],
) -> Result<SchemaRef> {
    let store = Storage::of_session(session.runtime(), &location.url)?.store().clone();
    let files: Vec<ObjectMeta> =
        files.iter().filter(|file| file.size > 0).map(|file| (*file).clone()).collect();
    let state = session.state();
    let error = match format.infer_schema(state, &store, &files).await {
        Ok(schema) => return Ok(schema),
        Err(error) => error,
    };
    for file in &files {
        if let Err(error) = format.infer_schema(state, &store, std::slice::from_ref(file)).await {
            let file = format!("/{}", file.location);
            return Err(JobError::File { file, reason: JobError::Engine(error).to_string() });
        }
    }
    Err(error.into())
}

/// The table with its partition columns as they are declared. They are read as text: it can be Hive's
/// name for NULL.
fn typed(
    table: Arc<dyn TableProvider>,
    partitions: &[(String, DataType)],
) -> Result<Arc<dyn TableProvider>> {
    if partitions.is_empty() {
        return Ok(table);
    }
    let schema = table.schema();
    let column = |field: &Arc<Field>| {
        let found = partitions.iter().find(|(name, _)| name == field.name());
        match found {
            None => ident(field.name()),
            Some((name, data_type)) => {
                cast(nullif(ident(name), lit(HIVE_NULL)), data_type.clone()).alias(name)
            }
        }
    };
    let columns: Vec<_> = schema.fields().iter().map(column).collect();
    let plan = LogicalPlanBuilder::scan("files", provider_as_source(table), None)?;
    Ok(Arc::new(ViewTable::new(plan.project(columns)?.build()?, None)))
}
