//! A table as a DataFusion provider, scanned as plain Parquet.
//!
//! delta-rs's own scan node can't travel to executors. A snapshot is a list of Parquet files with
//! statistics, and DataFusion's Parquet scan is one that every executor understands.

use crate::delta::{self, DataFile};
use crate::statistics;
use crate::storage::Storage;
use crate::{CatalogError, Result};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::pruning::PrunableStatistics;
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
}

/// What a plan says about a table: enough for another process to scan it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableScanSpec {
    /// The table's folder.
    pub table: Url,
    /// Which of its files are meant.
    pub files: FileList,
}

impl TableScanSpec {
    /// The files, read through the session's stores.
    pub async fn files(&self, runtime: &RuntimeEnv) -> Result<Vec<DataFile>> {
        let damaged =
            |url: &Url, reason: String| CatalogError::Damaged { url: url.to_string(), reason };
        match &self.files {
            FileList::Version(version) => {
                let table = Storage::of_session(runtime, &self.table)?;
                let snapshot = delta::load(&table, Some(*version)).await?;
                let missing = || damaged(&self.table, format!("version {version} is missing"));
                Ok(snapshot.ok_or_else(missing)?.files)
            }
            FileList::Staged(url) => {
                let (folder, name) = Storage::of_object(runtime, url)?;
                let bytes = folder.get(&name).await?;
                serde_json::from_slice(&bytes).map_err(|error| damaged(url, error.to_string()))
            }
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
        let files = self.spec.files(state.runtime_env()).await?;
        let known: Vec<_> = files
            .iter()
            .map(|file| {
                let stats = file.stats.as_deref();
                Arc::new(statistics::for_planner(&self.schema, file.rows, file.bytes, stats))
            })
            .collect();
        let wanted = match conjunction(filters.to_vec()) {
            None => vec![true; files.len()],
            Some(filter) => {
                let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
                let filter = state.create_physical_expr(filter, &schema)?;
                let predicate = PruningPredicateBuilder::new()
                    .with_file_schema(Arc::clone(&self.schema))
                    .try_build(filter)?;
                predicate
                    .prune(&PrunableStatistics::new(known.clone(), Arc::clone(&self.schema)))?
            }
        };
        let storage = Storage::of_session(state.runtime_env(), &self.spec.table)?;
        let files: Vec<_> = files
            .iter()
            .zip(known)
            .zip(wanted)
            .filter(|(_, wanted)| *wanted)
            .map(|((file, known), _)| {
                PartitionedFile::new(file.location(&storage), file.bytes).with_statistics(known)
            })
            .collect();
        if files.is_empty() {
            let source =
                MemorySourceConfig::try_new(&[vec![]], self.schema(), projection.cloned())?;
            return Ok(DataSourceExec::from_data_source(source));
        }
        let groups = files.len().min(state.config().target_partitions());
        let mut grouped = vec![Vec::new(); groups];
        for (index, file) in files.into_iter().enumerate() {
            grouped[index % groups].push(file);
        }
        let (groups, total) = datafusion_datasource::compute_all_files_statistics(
            grouped.into_iter().map(FileGroup::new).collect(),
            self.schema(),
            true,
            false,
        )?;
        let store = &self.spec.table[..url::Position::BeforePath];
        let source = Arc::new(ParquetSource::new(self.schema()));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(store)?, source)
            .with_file_groups(groups)
            .with_statistics(total)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
