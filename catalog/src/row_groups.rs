//! Which task reads which row groups of Parquet files.
//!
//! The engine cuts files into ranges of equally many bytes, and the task in whose range a row group begins
//! reads all of it: of four row groups, one task reads three and the other one.

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::parquet::metadata::CachedParquetMetaData;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::ExecutionPlan;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use std::sync::Arc;

/// The plan with its files cut between their row groups, so that tasks read equally many bytes. This is so for
/// scans that have been cut into ranges already, of files whose footers are among these.
pub fn with_whole_row_groups(
    plan: Arc<dyn ExecutionPlan>,
    footers: &FileMetadataCache,
) -> Result<Arc<dyn ExecutionPlan>> {
    let cut = plan.transform_up(|plan| {
        let scan = plan
            .downcast_ref::<DataSourceExec>()
            .and_then(|exec| exec.downcast_to_file_source::<ParquetSource>());
        Ok(match scan.and_then(|(scan, _)| balanced(scan, footers)) {
            Some(scan) => Transformed::yes(DataSourceExec::from_data_source(scan) as _),
            None => Transformed::no(plan),
        })
    });
    cut.data()
}

/// The scan with its row groups spread evenly, if that is better than it is.
fn balanced(scan: &FileScanConfig, footers: &FileMetadataCache) -> Option<FileScanConfig> {
    let ordered = !scan.output_ordering.is_empty() || scan.preserve_order;
    if ordered || scan.output_partitioning.is_some() {
        return None;
    }
    let tasks = scan.file_groups.len();
    let pieces = pieces(scan, footers)?;
    let total: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let (mut before, mut groups) = (0, vec![Vec::new(); tasks]);
    let (mut now, mut then) = (vec![0; tasks], vec![0; tasks]);
    for piece in pieces {
        // The task whose share of all bytes the middle of the row group falls into.
        let middle = u128::from(2 * before + piece.bytes) * tasks as u128;
        let task = (middle / u128::from(2 * total).max(1)) as usize;
        before += piece.bytes;
        now[piece.task] += piece.bytes;
        *then.get_mut(task)? += piece.bytes;
        piece.append_to(&mut groups[task]);
    }
    let better = then.iter().max() < now.iter().max();
    better.then(|| {
        FileScanConfigBuilder::from(scan.clone())
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .build()
    })
}

/// The row groups of a scan in the order in which its tasks read them.
fn pieces<'a>(scan: &'a FileScanConfig, footers: &FileMetadataCache) -> Option<Vec<Piece<'a>>> {
    let mut pieces = Vec::new();
    for (task, group) in scan.file_groups.iter().enumerate() {
        for file in group.iter() {
            let (footer, range) = (footer(file, footers)?, file.range.as_ref()?);
            let size = i64::try_from(file.object_meta.size).ok()?;
            let starts: Vec<i64> = footer.row_groups().iter().map(start).collect::<Option<_>>()?;
            // Other programs may write them in any order, or say that they begin at 0.
            if !starts.iter().chain([&size]).is_sorted_by(|one, next| one < next) {
                return None;
            }
            let ends = starts.iter().skip(1).copied().chain([size]);
            for ((start, end), row_group) in starts.iter().zip(ends).zip(footer.row_groups()) {
                if range.contains(*start) {
                    let range = FileRange { start: *start, end };
                    let bytes = u64::try_from(row_group.compressed_size()).ok()?;
                    pieces.push(Piece { file, range, bytes, task });
                }
            }
        }
    }
    Some(pieces)
}

fn footer(file: &PartitionedFile, footers: &FileMetadataCache) -> Option<Arc<ParquetMetaData>> {
    let cached = footers.get(&file.object_meta.location)?;
    let footer = cached.file_metadata.as_any().downcast_ref::<CachedParquetMetaData>()?;
    cached.is_valid_for(&file.object_meta).then(|| Arc::clone(footer.parquet_metadata()))
}

/// Where the engine takes a row group to begin.
fn start(row_group: &RowGroupMetaData) -> Option<i64> {
    let first = row_group.columns().first()?;
    Some(first.dictionary_page_offset().unwrap_or_else(|| first.data_page_offset()))
}

/// A row group.
struct Piece<'a> {
    file: &'a PartitionedFile,
    /// A range of the file in which it begins, and no other.
    range: FileRange,
    bytes: u64,
    /// The task that reads it now.
    task: usize,
}

impl Piece<'_> {
    fn append_to(self, group: &mut Vec<PartitionedFile>) {
        if let Some(last) = group.last_mut()
            && last.object_meta.location == self.file.object_meta.location
            && let Some(range) = &mut last.range
            && range.end == self.range.start
        {
            range.end = self.range.end;
            return;
        }
        let mut file = self.file.clone();
        file.range = Some(self.range);
        group.push(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch};
    use datafusion::physical_plan::{collect_partitioned, displayable};
    use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use std::fs::File;
    use std::path::Path;

    /// A file of row groups of 1000 rows, the last one of what is left.
    fn write(path: &Path, rows: i64) {
        let numbers = Arc::new(Int64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_from_iter([("i", numbers as _)]).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(1000))
            .set_dictionary_enabled(false)
            .build();
        let mut writer =
            ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties))
                .unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    /// The rows that each of some tasks reads of files with so many rows, before and after.
    async fn rows(tasks: usize, files: &[i64], sorted: bool) -> [Vec<usize>; 2] {
        let folder = tempfile::tempdir().unwrap();
        for (file, rows) in files.iter().enumerate() {
            write(&folder.path().join(format!("{file}.parquet")), *rows);
        }
        // Files of fewer rows than a batch has are not cut, and tasks of one process take each other's files.
        let config = SessionConfig::new()
            .with_target_partitions(tasks)
            .with_batch_size(100)
            .set_u64("datafusion.optimizer.repartition_file_min_size", 0)
            .set_bool("datafusion.execution.enable_file_stream_work_stealing", false);
        let context = SessionContext::new_with_config(config);
        let mut options = ParquetReadOptions::default();
        if sorted {
            options = options
                .file_sort_order(vec![vec![datafusion::prelude::col("i").sort(true, false)]]);
        }
        let path = folder.path().to_str().unwrap();
        context.register_parquet("t", path, options).await.unwrap();
        let plan =
            async || context.sql("SELECT i FROM t").await.unwrap().create_physical_plan().await;
        let before = plan().await.unwrap();
        let footers = context.runtime_env().cache_manager.get_file_metadata_cache();
        let after = with_whole_row_groups(plan().await.unwrap(), footers.as_ref()).unwrap();
        let read = async |plan: &Arc<dyn ExecutionPlan>| {
            let shown = displayable(plan.as_ref()).indent(false).to_string();
            assert!(shown.starts_with("DataSourceExec"), "{shown}");
            let read = collect_partitioned(Arc::clone(plan), context.task_ctx()).await.unwrap();
            read.iter().map(|task| task.iter().map(RecordBatch::num_rows).sum()).collect()
        };
        [read(&before).await, read(&after).await]
    }

    #[tokio::test]
    async fn tasks_read_equally_many_row_groups() {
        assert_eq!(rows(2, &[4000], false).await, [[3000, 1000], [2000, 2000]]);
        assert_eq!(rows(2, &[2000], false).await[1], [1000, 1000]);
        assert_eq!(rows(3, &[7000, 2000], false).await[1], [3000, 3000, 3000]);
        assert_eq!(rows(2, &[5000], false).await[1].iter().max(), Some(&3000));
    }

    #[tokio::test]
    async fn nothing_is_lost_where_there_are_fewer_row_groups_than_tasks() {
        for files in [&[1500][..], &[500], &[500, 1500]] {
            let [before, after] = rows(6, files, false).await;
            let all = files.iter().sum::<i64>() as usize;
            assert_eq!([before.iter().sum::<usize>(), after.iter().sum()], [all, all]);
            assert!(after.iter().max() <= before.iter().max(), "{before:?} {after:?}");
        }
    }

    #[tokio::test]
    async fn what_is_in_order_stays_where_it_is() {
        let [before, after] = rows(2, &[4000], true).await;
        assert_eq!(before, after);
    }
}
