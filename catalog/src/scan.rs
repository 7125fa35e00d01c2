//! A table as a DataFusion provider, scanned as plain Parquet.
//!
//! delta-rs's own scan node can't travel to executors. A snapshot is a list of Parquet files with
//! statistics, and DataFusion's Parquet scan is one that every executor understands.

use crate::delta::{Contents, DataFile};
use crate::statistics;
use crate::storage::Storage;
use crate::{CatalogError, Result};
use crate::{cache, lookup};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::{DFSchema, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_datasource::TableSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use url::Url;

/// Where the list of a table's files is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileList {
    /// In the table's log, at this version.
    Version(u64),
    /// In an object of its own: files that a run has written and not yet published.
    Staged(Url),
    /// Nowhere: the table is planned, and has no files yet.
    Planned,
}

/// What a plan says about a table: enough for another process to scan it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableScanSpec {
    /// The table's folder.
    pub table: Url,
    /// Which of its files are meant.
    pub files: FileList,
    /// Columns that are not in the files but recorded with them.
    #[serde(default)]
    pub partition_columns: Vec<String>,
    /// Whether other programs write the table.
    #[serde(default)]
    pub foreign: bool,
    /// How many partitions the scan is to have; as many as the session wants if it isn't given.
    #[serde(default)]
    pub groups: Option<usize>,
}

impl TableScanSpec {
    /// The files, read through the session's stores.
    pub async fn files(&self, runtime: &RuntimeEnv) -> Result<Vec<DataFile>> {
        let damaged =
            |url: &Url, reason: String| CatalogError::Damaged { url: url.to_string(), reason };
        match &self.files {
            FileList::Version(version) => {
                let table = Storage::of_session(runtime, &self.table)?;
                let snapshot = cache::snapshot(&table, *version).await?;
                let missing = || damaged(&self.table, format!("version {version} is missing"));
                Ok(snapshot.ok_or_else(missing)?.contents.files.clone())
            }
            FileList::Staged(url) => {
                let (folder, name) = Storage::of_object(runtime, url)?;
                let bytes = folder.get(&name).await?;
                serde_json::from_slice(&bytes).map_err(|error| damaged(url, error.to_string()))
            }
            FileList::Planned => Ok(Vec::new()),
        }
    }
}

/// One table, pinned to the files it had when the query was planned.
#[derive(Debug, Clone)]
pub struct WarehouseTable {
    /// What is scanned.
    pub spec: TableScanSpec,
    schema: SchemaRef,
}

impl WarehouseTable {
    /// A table's contents, whose list of files is at `files`.
    pub fn of(table: Url, files: FileList, contents: &Contents) -> Self {
        let partition_columns = contents.partition_columns.clone();
        let spec = TableScanSpec { table, files, partition_columns, foreign: false, groups: None };
        Self::new(spec, Arc::clone(&contents.schema))
    }

    /// A table with these columns.
    pub fn new(spec: TableScanSpec, schema: SchemaRef) -> Self {
        Self { spec, schema }
    }
}

#[async_trait]
impl TableProvider for WarehouseTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::error::Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let files = self.matching_files(state, filters).await?;
        let layout = Layout::new(&self.schema, &self.spec.partition_columns);
        let projection: Option<Vec<usize>> = match projection {
            None if layout.partitions.is_empty() => None,
            None => Some((0..self.schema.fields().len()).map(|at| layout.position(at)).collect()),
            Some(columns) => Some(columns.iter().map(|at| layout.position(*at)).collect()),
        };
        let schema = layout.table_schema();
        let storage = Storage::of_session(state.runtime_env(), &self.spec.table)?;
        let files =
            files.iter().map(|file| layout.partitioned_file(file, self.statistics(file), &storage));
        let files: Vec<_> = files.collect::<Result<_>>()?;
        if files.is_empty() {
            let empty = Arc::clone(schema.table_schema());
            let source = MemorySourceConfig::try_new(&[vec![]], empty, projection)?;
            return Ok(DataSourceExec::from_data_source(source));
        }
        let wanted = self.spec.groups.unwrap_or(state.config().target_partitions());
        let groups = files.len().min(wanted);
        let mut grouped = vec![Vec::new(); groups];
        for (index, file) in files.into_iter().enumerate() {
            grouped[index % groups].push(file);
        }
        let (groups, total) = datafusion_datasource::compute_all_files_statistics(
            grouped.into_iter().map(FileGroup::new).collect(),
            Arc::clone(schema.table_schema()),
            true,
            false,
        )?;
        let store = &self.spec.table[..url::Position::BeforePath];
        let reader = Arc::new(lookup::reader(state.runtime_env(), &storage));
        let source = Arc::new(ParquetSource::new(schema).with_parquet_file_reader_factory(reader));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(store)?, source)
            .with_file_groups(groups)
            .with_statistics(total)
            .with_projection_indices(projection)?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

impl WarehouseTable {
    fn statistics(&self, file: &DataFile) -> Statistics {
        statistics::for_planner(&self.schema, file, self.spec.foreign)
    }

    /// The files that can have rows which pass all of `filters`, by their statistics and partition
    /// values.
    pub async fn matching_files(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> datafusion::error::Result<Vec<DataFile>> {
        let files = self.spec.files(state.runtime_env()).await?;
        // Of no files at all, the engine warns that it can't make a column of their statistics.
        let filter = conjunction(filters.to_vec()).filter(|_| !files.is_empty());
        let Some(filter) = filter else { return Ok(files) };
        let known: Vec<_> = files.iter().map(|file| Arc::new(self.statistics(file))).collect();
        let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
        let filter = state.create_physical_expr(filter, &schema)?;
        let predicate = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(&self.schema))
            .try_build(filter)?;
        let wanted = predicate.prune(&PrunableStatistics::new(known, Arc::clone(&self.schema)))?;
        let matching = files.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
        Ok(matching.map(|(file, _)| file).collect())
    }
}

/// Where a table's columns are for DataFusion's scan: those in the files first, then those that are
/// recorded with the files.
struct Layout<'a> {
    schema: &'a SchemaRef,
    /// Positions in the table of the columns in the files.
    in_files: Vec<usize>,
    /// Positions in the table of the partition columns.
    partitions: Vec<usize>,
}

impl<'a> Layout<'a> {
    fn new(schema: &'a SchemaRef, partition_columns: &[String]) -> Self {
        let columns = 0..schema.fields().len();
        let (partitions, in_files) =
            columns.partition(|at| partition_columns.contains(schema.field(*at).name()));
        Self { schema, in_files, partitions }
    }

    /// The scan's position of a column of the table.
    fn position(&self, column: usize) -> usize {
        let mut order = self.in_files.iter().chain(&self.partitions);
        order.position(|at| *at == column).unwrap_or(column)
    }

    fn table_schema(&self) -> TableSchema {
        let fields = |columns: &[usize]| -> Vec<FieldRef> {
            columns.iter().map(|at| Arc::clone(&self.schema.fields()[*at])).collect()
        };
        TableSchema::builder(Arc::new(Schema::new(fields(&self.in_files))))
            .with_table_partition_cols(fields(&self.partitions))
            .build()
    }

    fn partitioned_file(
        &self,
        file: &DataFile,
        mut known: Statistics,
        storage: &Storage,
    ) -> Result<PartitionedFile> {
        let order = self.in_files.iter().chain(&self.partitions);
        known.column_statistics = order.map(|at| known.column_statistics[*at].clone()).collect();
        let mut scanned = PartitionedFile::new_from_meta(lookup::object(storage, file));
        for column in &self.partitions {
            let field = self.schema.field(*column);
            scanned.partition_values.push(partition_value(file, field)?);
        }
        // Its own method would say that a partition's value is never NULL.
        scanned.statistics = Some(Arc::new(known));
        Ok(scanned)
    }
}

/// The value of a partition column in all rows of a file.
pub fn partition_value(file: &DataFile, field: &Field) -> Result<ScalarValue> {
    let damaged = |reason: String| CatalogError::Damaged { url: file.path.clone(), reason };
    match file.partition.get(field.name()) {
        None => return Err(damaged(format!("partition column {} has no value", field.name()))),
        // Delta's text form of NULL is the empty text, or none.
        Some(None) => ScalarValue::try_from(field.data_type()),
        Some(Some(text)) if text.is_empty() => ScalarValue::try_from(field.data_type()),
        Some(Some(text)) => ScalarValue::try_from_string(text.clone(), field.data_type()),
    }
    .map_err(|error| damaged(format!("partition column {}: {error}", field.name())))
}
