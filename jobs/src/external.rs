//! Files that are read in place under a name.

mod damage;
mod options;
mod pattern;

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
use nightshift_catalog::delta;
use nightshift_catalog::partition::HIVE_NULL;
use nightshift_catalog::scan::{FileList, WarehouseTable};
use nightshift_catalog::storage::{Storage, parse_url};
use object_store::{ObjectMeta, ObjectStoreExt};
pub(crate) use options::{COMPRESSIONS, options_of};

use options::FileOptions;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use url::Url;

/// Files that are read in place, by the names `schema.table`.
pub type Externals = BTreeMap<String, ExternalTable>;

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
        let extension = options.extension();
        let by_extension = |file: &ObjectMeta| file.location.as_ref().ends_with(&extension);
        let in_folder = location.pattern.is_none() && !location.is_one(found);
        let listed = in_folder && (!partitions.is_empty() || found.iter().any(by_extension));
        let (paths, extension) = if listed {
            let all = found.iter().all(|file| !by_extension(file));
            (vec![location.folder()?], if all { String::new() } else { extension })
        } else {
            // Which files are meant is said by a pattern, or by nothing, when the name is created.
            let urls = found.iter().map(|file| location.url_of(file));
            let paths = urls.map(|url| Ok(ListingTableUrl::parse(url?)?));
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
        let read: Vec<_> =
            found.iter().filter(|file| file.location.as_ref().ends_with(&extension)).collect();
        let schema = match declared(command, &partitions) {
            Some(schema) => schema,
            None => inferred(session, &location, format.as_ref(), &read).await?,
        };
        let config = ListingTableConfig::new_with_multi_paths(paths)
            .with_listing_options(listing)
            .with_schema(Arc::clone(&schema));
        let table: Arc<dyn TableProvider> = Arc::new(ListingTable::try_new(config)?);
        let provider = typed(table, &partitions)?;
        Ok(Self { provider, files: Some(Files { location, options, format, schema }) })
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

    /// The table.
    pub fn provider(&self) -> Arc<dyn TableProvider> {
        Arc::clone(&self.provider)
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

/// Where files are: a file, a folder, or those in a folder whose names match a pattern.
#[derive(Debug, Clone)]
struct Location {
    /// The file or folder.
    url: Url,
    /// Such as `2026-*/*.csv`.
    pattern: Option<String>,
}

impl Location {
    /// A location as it is written in a statement.
    fn parse(text: &str, folder: Option<&Path>) -> Result<Self> {
        let is_pattern = |part: &str| part.contains(['*', '?', '[']);
        let parts: Vec<&str> = text.split('/').collect();
        match parts.iter().position(|part| is_pattern(part)) {
            None => Ok(Self { url: located(text, folder)?, pattern: None }),
            Some(at) => {
                let above = parts[..at].join("/");
                let above = match above.as_str() {
                    "" if text.starts_with('/') => "/",
                    "" => ".",
                    other => other,
                };
                Ok(Self { url: located(above, folder)?, pattern: Some(parts[at..].join("/")) })
            }
        }
    }

    /// The location as people write it.
    fn shown(&self) -> String {
        let folder = readable(&self.url);
        match &self.pattern {
            Some(pattern) => format!("{}/{pattern}", folder.trim_end_matches('/')),
            None => folder,
        }
    }

    /// Whether the location is a file, and not a folder with files.
    fn is_one(&self, found: &[ObjectMeta]) -> bool {
        let own = object_store::path::Path::from_url_path(self.url.path());
        matches!((found, own), ([file], Ok(own)) if file.location == own)
    }

    /// The folder for listings.
    fn folder(&self) -> Result<ListingTableUrl> {
        let mut url = self.url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(ListingTableUrl::parse(url)?)
    }

    /// The URL of a file on the same store.
    fn url_of(&self, file: &ObjectMeta) -> Result<Url> {
        let mut url = self.url.clone();
        // A percent sign in a name is itself.
        url.set_path(&file.location.as_ref().replace('%', "%25"));
        Ok(url)
    }

    /// The files: the location itself, or what is in the folder of that name, but not in others within
    /// it unless they are named like partitions or the pattern says so. Names that begin with a dot or an
    /// underscore are those of files that aren't data.
    async fn objects(&self, session: &Session) -> Result<Vec<ObjectMeta>> {
        if let Some(reason) = self.pattern.as_deref().and_then(pattern::wrong) {
            return Err(JobError::Statement(format!("{}: {reason}", self.shown())));
        }
        let folder = Storage::of_session(session.runtime(), &self.url)?;
        let root = folder.path("");
        if self.pattern.is_none() && !self.url.path().ends_with('/') {
            match folder.store().head(&root).await {
                Ok(file) => return Ok(vec![file]),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    return Err(JobError::File { file: self.shown(), reason: error.to_string() });
                }
            }
        }
        let is_partition = |part: &str| part.contains('=');
        let data = |file: &ObjectMeta| {
            let parts = file.location.prefix_match(&root).into_iter().flatten();
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_string()).collect();
            let hidden = |part: &String| part.starts_with(['.', '_']) && !is_partition(part);
            let fits = match &self.pattern {
                Some(pattern) => pattern::matches(pattern, &parts.join("/")),
                None => parts.iter().filter(|part| !is_partition(part)).count() <= 1,
            };
            fits && !parts.iter().any(hidden)
        };
        let mut found: Vec<_> = folder.list().await?.into_iter().filter(data).collect();
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }
}

fn readable(url: &Url) -> String {
    let path = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    path.map_or_else(|| url.to_string(), |path| path.display().to_string())
}

/// The URL of a location in a statement. A relative one is relative to `folder`.
pub(crate) fn located(location: &str, folder: Option<&Path>) -> Result<Url> {
    Ok(match folder {
        Some(folder) if Url::parse(location).is_err() => {
            parse_url(&folder.join(location).to_string_lossy())?
        }
        _ => parse_url(location)?,
    })
}

/// Whether a location is a folder or in it.
pub(crate) fn is_inside(location: &Url, folder: &Url) -> bool {
    let with_slash = |url: &Url| format!("{}/", url.as_str().trim_end_matches('/'));
    with_slash(location).starts_with(&with_slash(folder))
}

/// SQL reaches files in the warehouse and in declared locations, and no others.
pub(crate) fn check_allowed(session: &Session, location: &Url) -> Result<()> {
    let warehouse = session.warehouse().storage().url();
    let inside = |folder: &Url| is_inside(location, folder);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_begin_with_the_first_folder_that_has_one() {
        let folder = Path::new("/data");
        for (text, url, pattern) in [
            ("logs/2026-*/*.csv", "file:///data/logs", Some("2026-*/*.csv")),
            ("*.csv", "file:///data/.", Some("*.csv")),
            ("/x/y/", "file:///x/y/", None),
            ("s3://b/x/a?.json", "s3://b/x", Some("a?.json")),
        ] {
            let location = Location::parse(text, Some(folder)).unwrap();
            let found = location.url.as_str().trim_end_matches('/').trim_end_matches("/.");
            let url = url.trim_end_matches('/').trim_end_matches("/.");
            assert_eq!((found, location.pattern.as_deref()), (url, pattern), "{text}");
        }
    }
}
