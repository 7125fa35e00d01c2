//! How much of a table a scan has to read.
//!
//! Files are ruled out by the statistics in the log, row groups by those in the files' footers, which
//! are kept in memory: to find out costs a lookup nothing that its scan doesn't need anyway.

use crate::delta::DataFile;
use crate::scan::WarehouseTable;
use crate::storage::Storage;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::physical_plan::ParquetFileMetrics;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetAccessPlan, RowGroupAccessPlanFilter,
};
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use object_store::ObjectMeta;
use parquet::file::metadata::ParquetMetaData;
use std::sync::Arc;

/// More files than this are not looked into.
const MOST_FILES: usize = 64;

impl WarehouseTable {
    /// The bytes, compressed, that a scan with these columns and filters reads at most; `None` if they
    /// are more than `most`, or more files than are worth a look. `fetch` is how many rows are wanted
    /// of a scan without filters.
    pub async fn bytes_to_read(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        fetch: Option<usize>,
        most: u64,
    ) -> Result<Option<u64>> {
        let files = self.matching_files(state, filters).await?;
        let whole: u64 = files.iter().map(|file| file.bytes).sum();
        if whole <= most {
            return Ok(Some(whole));
        }
        let predicate = self.predicate(state, filters)?;
        if files.len() > MOST_FILES || predicate.is_none() && fetch.is_none() {
            return Ok(None);
        }
        let schema = self.schema();
        let wanted = |name: &str| match projection {
            None => true,
            Some(columns) => {
                columns.iter().any(|at| schema.field(*at).name() == name)
                    || filters.iter().any(|filter| {
                        filter.column_refs().iter().any(|column| column.name() == name)
                    })
            }
        };
        let storage = Storage::of_session(state.runtime_env(), &self.spec.table)?;
        let (mut bytes, mut rows) = (0, 0);
        for file in &files {
            let footer = footer(state.runtime_env(), &storage, file).await?;
            for group in self.matching_groups(&footer, predicate.as_ref(), file) {
                let group = footer.row_group(group);
                let columns = group.columns().iter();
                let columns = columns
                    .filter(|c| c.column_path().parts().first().is_some_and(|name| wanted(name)));
                bytes += columns.map(|column| column.compressed_size() as u64).sum::<u64>();
                if bytes > most {
                    return Ok(None);
                }
                rows += group.num_rows() as usize;
                if predicate.is_none() && fetch.is_some_and(|fetch| rows >= fetch) {
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(Some(bytes))
    }

    fn predicate(&self, state: &dyn Session, filters: &[Expr]) -> Result<Option<PruningPredicate>> {
        let Some(filter) = conjunction(filters.to_vec()) else { return Ok(None) };
        let schema = DFSchema::try_from(self.schema())?;
        let filter = state.create_physical_expr(filter, &schema)?;
        let predicate = PruningPredicateBuilder::new().with_file_schema(self.schema());
        predicate.try_build(filter).map(Some)
    }

    /// The row groups of a file that can have rows which pass the predicate.
    fn matching_groups(
        &self,
        footer: &ParquetMetaData,
        predicate: Option<&PruningPredicate>,
        file: &DataFile,
    ) -> Vec<usize> {
        let groups = footer.row_groups();
        let mut access = RowGroupAccessPlanFilter::new(ParquetAccessPlan::new_all(groups.len()));
        if let Some(predicate) = predicate {
            let metrics = ParquetFileMetrics::new(0, &file.path, &ExecutionPlanMetricsSet::new());
            let columns = footer.file_metadata().schema_descr();
            access.prune_by_statistics(&self.schema(), columns, groups, predicate, &metrics);
        }
        access.row_group_indexes().collect()
    }
}

/// What the footer of a file is kept under.
pub(crate) fn object(storage: &Storage, file: &DataFile) -> ObjectMeta {
    ObjectMeta {
        location: file.location(storage),
        // Footers are kept by the path alone, whatever store it is on.
        last_modified: chrono::DateTime::from_timestamp_millis(file.written_at).unwrap_or_default(),
        size: file.bytes,
        e_tag: None,
        version: None,
    }
}

async fn footer(
    runtime: &RuntimeEnv,
    storage: &Storage,
    file: &DataFile,
) -> Result<Arc<ParquetMetaData>> {
    let object = object(storage, file);
    DFParquetMetadata::new(storage.store().as_ref(), &object)
        .with_file_metadata_cache(Some(runtime.cache_manager.get_file_metadata_cache()))
        .fetch_metadata()
        .await
}

/// Reads files whose footers are kept.
pub(crate) fn reader(runtime: &RuntimeEnv, storage: &Storage) -> CachedParquetFileReaderFactory {
    let footers = runtime.cache_manager.get_file_metadata_cache();
    CachedParquetFileReaderFactory::new(Arc::clone(storage.store()), footers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::{self, CommitNote, Contents};
    use crate::scan::FileList;
    use crate::statistics;
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::prelude::{SessionContext, col, lit};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use std::collections::BTreeMap;

    /// A table of one file with the numbers from 0 to 999, in groups of 100 rows.
    async fn numbers(folder: &std::path::Path) -> WarehouseTable {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::clone(&column), true),
            ("other", column, true),
        ])
        .unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
        let file = std::fs::File::create(folder.join("one")).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        let footer = writer.close().unwrap();
        let file = DataFile {
            path: "one".to_string(),
            bytes: folder.join("one").metadata().unwrap().len(),
            rows: Some(1000),
            stats: Some(statistics::from_footer(&batch.schema(), &footer).unwrap()),
            written_at: 1,
            partition: BTreeMap::new(),
        };
        let url = url::Url::from_directory_path(folder).unwrap();
        let contents = Contents::plain(batch.schema(), vec![file]);
        let storage = Storage::open(&url, &Default::default()).unwrap();
        delta::commit(&storage, &contents, &CommitNote::default(), None).await.unwrap();
        WarehouseTable::of(url, FileList::Version(0), &contents)
    }

    #[tokio::test]
    async fn what_a_lookup_reads_is_a_few_groups_of_its_columns() {
        let folder = tempfile::tempdir().unwrap();
        let table = numbers(folder.path()).await;
        let state = SessionContext::new().state();
        let bytes = async |projection: Option<&Vec<usize>>, filters: &[Expr], fetch, most| {
            table.bytes_to_read(&state, projection, filters, fetch, most).await.unwrap()
        };
        let all = bytes(None, &[], None, u64::MAX).await.unwrap();
        let most = all - 1;
        assert_eq!(bytes(None, &[], None, most).await, None);
        let one = bytes(None, &[col("id").eq(lit(250i64))], None, most).await.unwrap();
        assert!(one < all / 8, "{one} of {all}");
        let two = bytes(None, &[col("id").between(lit(250i64), lit(310i64))], None, most).await;
        assert!(two.unwrap() > one && two.unwrap() < all / 4);
        // A column that is only filtered by is read as well.
        let filters = [col("id").eq(lit(250i64))];
        assert_eq!(bytes(Some(&vec![1]), &filters, None, most).await, Some(one));
        assert!(bytes(Some(&vec![0]), &filters, None, most).await.unwrap() < one);
        assert_eq!(bytes(None, &[col("id").gt(lit(5000i64))], None, most).await, Some(0));
        // The first rows are in the first groups.
        let first = bytes(None, &[], Some(10), most).await.unwrap();
        assert!(first < all / 8, "{first} of {all}");
        assert_eq!(bytes(None, &[], Some(10), first - 1).await, None);
    }
}
