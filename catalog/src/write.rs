//! The operator that writes files: each task its own.
//!
//! DataFusion's sink gathers its input in one partition. Here every input partition becomes files
//! of its own, written straight to object storage; what comes out is a row for each file. The driver
//! makes one commit of those of a table; those for other programs stay where they are.

use crate::delta::DataFile;
use crate::encode::{Encoder, Encoding, Finished};
use crate::partition::{Partition, Splitter, hive_folders};
use crate::storage::Storage;
use crate::{CatalogError, Result, statistics};
use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use futures::StreamExt;
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, LazyLock};
use url::Url;
use uuid::Uuid;

/// A file is closed and the next begun when it has grown to about this many bytes.
const FILE_BYTES: usize = 256 << 20;

/// A task that has rows for more partitions than this closes its files and begins others.
const MOST_OPEN_FILES: usize = 64;

/// The columns of a row that describes a written file.
pub static FILES_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("bytes", DataType::Int64, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("stats", DataType::Utf8, true),
        Field::new("written_at", DataType::Int64, false),
        Field::new("partition", DataType::Utf8, false),
    ]))
});

/// Where files go, and how they are recognised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriteTarget {
    /// The folder.
    pub table: Url,
    /// The run that writes. It is part of the files' names, so that all that a run has written can be
    /// found when it fails, even what nobody was told of.
    pub run: String,
    /// An object that is there for as long as the run is.
    pub mark: Url,
    /// Columns by whose values rows go to different files, which don't hold them.
    #[serde(default)]
    pub partition_columns: Vec<String>,
    /// How files for other programs are written; those of a table if it is not given.
    #[serde(default)]
    pub export: Option<Export>,
    /// Whether rows are written in the order in which they come.
    #[serde(default)]
    pub ordered: bool,
    /// About how many bytes a file has; 256 MB if it is not given.
    #[serde(default)]
    pub file_bytes: Option<u64>,
}

/// How files for other programs are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// How rows become bytes.
    pub encoding: Encoding,
    /// Whether all rows go to one file, which is there even if there are none.
    pub single: bool,
}

/// How the names of the files begin that a run writes.
pub fn file_prefix(run: &str) -> String {
    format!("part-{run}-")
}

/// The run that wrote a file, from the file's name.
pub fn run_of_file(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("part-")?;
    let run = rest.get(..36)?;
    (Uuid::try_parse(run).is_ok() && rest.as_bytes().get(36) == Some(&b'-')).then_some(run)
}

/// Writes its input into a folder: a table's as [`crate::schema::stored`] has typed it.
#[derive(Debug)]
pub struct TableWriteExec {
    target: WriteTarget,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl TableWriteExec {
    /// Writes the rows of `input`.
    pub fn new(target: WriteTarget, input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&FILES_SCHEMA)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Self { target, input, properties }
    }

    /// Where files go.
    pub fn target(&self) -> &WriteTarget {
        &self.target
    }
}

impl DisplayAs for TableWriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TableWriteExec: table={}", self.target.table)
    }
}

impl ExecutionPlan for TableWriteExec {
    fn name(&self) -> &str {
        "TableWriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![self.target.ordered]
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        match &self.target.export {
            Some(Export { single: true, .. }) => vec![Distribution::SinglePartition],
            _ => vec![Distribution::UnspecifiedDistribution],
        }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> PlanResult<TreeNodeRecursion>,
    ) -> PlanResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.target.clone(), children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let folder = Folder::of(&context.runtime_env(), &self.target)?;
        let write = async move { Ok(files_batch(&write_files(&folder, input).await?)?) };
        let stream = futures::stream::once(write);
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&FILES_SCHEMA), stream)))
    }
}

/// A folder, as a run writes to it.
#[derive(Clone)]
struct Folder {
    table: Storage,
    /// How the names of files begin.
    prefix: String,
    /// The run's mark: its folder and name.
    mark: (Storage, String),
    partition_columns: Vec<String>,
    export: Option<Export>,
    file_bytes: usize,
}

impl Folder {
    fn of(runtime: &RuntimeEnv, target: &WriteTarget) -> Result<Self> {
        let table = Storage::of_session(runtime, &target.table)?;
        let mark = Storage::of_object(runtime, &target.mark)?;
        // The run's own folder is deleted as a whole, and has the run in its name already: names are
        // kept short for stores that can't have long ones.
        let within = table.url().path().strip_prefix(mark.0.url().path());
        let own = within.is_some_and(|within| !within.is_empty());
        Ok(Self {
            table,
            prefix: if own { "part-".to_string() } else { file_prefix(&target.run) },
            mark,
            partition_columns: target.partition_columns.clone(),
            export: target.export.clone(),
            file_bytes: target.file_bytes.map_or(FILE_BYTES, |bytes| bytes as usize),
        })
    }
}

/// Writes rows that this process has, which no task could make.
pub async fn write_rows(
    runtime: &RuntimeEnv,
    target: &WriteTarget,
    rows: SendableRecordBatchStream,
) -> PlanResult<Vec<DataFile>> {
    write_files(&Folder::of(runtime, target)?, rows).await
}

/// A file that rows are added to.
struct OpenFile {
    path: String,
    partition: BTreeMap<String, Option<String>>,
    encoder: Encoder,
}

/// Writes a stream into as many files as its size and its partitions ask for; none if it is empty,
/// unless all rows are to be in one file.
async fn write_files(
    folder: &Folder,
    mut input: SendableRecordBatchStream,
) -> PlanResult<Vec<DataFile>> {
    let splitter = Splitter::new(&input.schema(), &folder.partition_columns);
    let single = folder.export.as_ref().is_some_and(|export| export.single);
    let mut files = Vec::new();
    let mut open: BTreeMap<Partition, OpenFile> = BTreeMap::new();
    if single {
        let file = start_file(folder, &splitter.schema, BTreeMap::new())?;
        open.insert(Partition::new(), file);
    }
    while let Some(batch) = input.next().await {
        for (partition, batch) in splitter.split(&batch?)? {
            if open.len() >= MOST_OPEN_FILES && !open.contains_key(&partition) {
                for (_, file) in std::mem::take(&mut open) {
                    files.push(close_file(folder, &splitter.schema, file).await?);
                }
            }
            let file = match open.entry(partition) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let partition = splitter.named(entry.key());
                    entry.insert(start_file(folder, &splitter.schema, partition)?)
                }
            };
            file.encoder.write(&batch).await?;
        }
        let large = |file: &OpenFile| !single && file.encoder.bytes() >= folder.file_bytes;
        let full: Vec<_> =
            open.iter().filter(|(_, file)| large(file)).map(|(key, _)| key.clone()).collect();
        for partition in full {
            if let Some(file) = open.remove(&partition) {
                files.push(close_file(folder, &splitter.schema, file).await?);
            }
        }
    }
    for (_, file) in open {
        files.push(close_file(folder, &splitter.schema, file).await?);
    }
    Ok(files)
}

fn start_file(
    folder: &Folder,
    schema: &SchemaRef,
    partition: BTreeMap<String, Option<String>>,
) -> Result<OpenFile> {
    let extension = match &folder.export {
        Some(export) => export.encoding.extension()?,
        None => "parquet".to_string(),
    };
    let name = format!("{}{}.{extension}", folder.prefix, Uuid::now_v7().simple());
    let path = match &folder.export {
        Some(_) => {
            let values = |column: &String| partition.get(column).cloned().flatten();
            let columns = folder.partition_columns.iter();
            format!("{}{name}", hive_folders(columns.map(|column| (column, values(column)))))
        }
        None => name,
    };
    let file = DataFile::located(&path, &folder.table);
    let object = BufWriter::new(Arc::clone(folder.table.store()), file);
    let encoder = match &folder.export {
        Some(export) => Encoder::new(object, schema, &export.encoding)?,
        None => Encoder::of_table(object, schema)?,
    };
    Ok(OpenFile { path, partition, encoder })
}

/// Finishes a file. This is a task of its own because a cancelled query drops its futures anywhere:
/// between the file's appearance and the look at the run's mark, for instance.
async fn close_file(folder: &Folder, schema: &SchemaRef, file: OpenFile) -> PlanResult<DataFile> {
    let finish = finish_file(folder.clone(), Arc::clone(schema), file);
    let finished = tokio::spawn(finish).await;
    Ok(finished.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??)
}

/// Finishes a file, and deletes it if its run has ended meanwhile: nobody else knows of it.
async fn finish_file(folder: Folder, schema: SchemaRef, file: OpenFile) -> Result<DataFile> {
    let OpenFile { path, partition, encoder } = file;
    let Finished { rows, bytes, footer } = encoder.finish().await?;
    let location = DataFile::located(&path, &folder.table);
    let (store, (marks, mark)) = (folder.table.store(), &folder.mark);
    let failed = |source| CatalogError::Store { url: format!("/{location}"), source };
    if !marks.exists(mark).await? {
        store.delete(&location).await.map_err(failed)?;
        return Err(CatalogError::RunEnded { file: path });
    }
    let stats = match (&folder.export, &footer) {
        (None, Some(footer)) => Some(statistics::from_footer(&schema, footer)?),
        _ => None,
    };
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => store.head(&location).await.map_err(failed)?.size,
    };
    Ok(DataFile {
        path,
        bytes,
        rows: Some(rows),
        stats,
        written_at: chrono::Utc::now().timestamp_millis(),
        partition,
    })
}

fn files_batch(files: &[DataFile]) -> Result<RecordBatch> {
    let integers = |value: fn(&DataFile) -> i64| {
        Arc::new(files.iter().map(value).collect::<Vec<_>>().into_iter().collect::<Int64Array>())
    };
    let partition = |file: &DataFile| serde_json::to_string(&file.partition).unwrap_or_default();
    Ok(RecordBatch::try_new(
        Arc::clone(&FILES_SCHEMA),
        vec![
            Arc::new(StringArray::from_iter_values(files.iter().map(|file| &file.path))),
            integers(|file| file.bytes as i64),
            integers(|file| file.rows.unwrap_or(0) as i64),
            Arc::new(files.iter().map(|file| file.stats.as_deref()).collect::<StringArray>()),
            integers(|file| file.written_at),
            Arc::new(StringArray::from_iter_values(files.iter().map(partition))),
        ],
    )?)
}

/// Reads the rows that [`TableWriteExec`] returns.
pub fn files_of(batches: &[RecordBatch]) -> Result<Vec<DataFile>> {
    let damaged = || CatalogError::Damaged {
        url: "the answer of a writing job".to_string(),
        reason: "its columns are not those of written files".to_string(),
    };
    let mut files = Vec::new();
    for batch in batches {
        let text = |index| batch.column(index).as_any().downcast_ref::<StringArray>();
        let number = |index| batch.column(index).as_any().downcast_ref::<Int64Array>();
        let columns = (text(0), number(1), number(2), text(3), number(4), text(5));
        let (Some(path), Some(bytes), Some(rows), Some(stats), Some(written_at), Some(partition)) =
            columns
        else {
            return Err(damaged());
        };
        for row in 0..batch.num_rows() {
            files.push(DataFile {
                path: path.value(row).to_string(),
                bytes: bytes.value(row) as u64,
                rows: Some(rows.value(row) as u64),
                stats: stats.is_valid(row).then(|| stats.value(row).to_string()),
                written_at: written_at.value(row),
                partition: serde_json::from_str(partition.value(row)).map_err(|_| damaged())?,
            });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::{self, CommitNote, Contents};
    use crate::scan::{FileList, WarehouseTable};
    use datafusion::assert_batches_sorted_eq;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::SessionContext;
    use futures::TryStreamExt;

    #[tokio::test]
    async fn every_partition_writes_a_file_and_the_table_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(folder.path()).unwrap();
        let context = SessionContext::new();
        let query = "SELECT 1 AS id, 'a' AS name UNION ALL SELECT 2, NULL UNION ALL SELECT 30, 'c'";
        let input = context.sql(query).await.unwrap().create_physical_plan().await.unwrap();
        let schema = crate::schema::stored(&input.schema()).unwrap();
        let partitions = input.output_partitioning().partition_count();
        assert!(partitions > 1);
        let mark = Url::from_file_path(folder.path().join("mark")).unwrap();
        let target = WriteTarget {
            table: url.clone(),
            run: "r1".to_string(),
            mark,
            partition_columns: Vec::new(),
            export: None,
            ordered: false,
            file_bytes: None,
        };
        let write: Arc<dyn ExecutionPlan> = Arc::new(TableWriteExec::new(target, input));
        // One after the other: when one of several fails, the others' ends aren't waited for.
        for partition in 0..partitions {
            let stream = write.execute(partition, context.task_ctx()).unwrap();
            let ended = stream.try_collect::<Vec<_>>().await.unwrap_err();
            assert!(ended.to_string().contains("has ended"), "{ended}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(folder.path().join("mark"), "").unwrap();
        let files = files_of(&collect(write, context.task_ctx()).await.unwrap()).unwrap();
        assert_eq!(files.iter().filter_map(|file| file.rows).sum::<u64>(), 3);
        assert!(files.iter().all(|file| file.path.starts_with("part-r1-")));

        let storage = Storage::open(&url, &Default::default()).unwrap();
        let contents = Contents::plain(Arc::new(schema), files);
        delta::commit(&storage, &contents, &CommitNote::default(), None).await.unwrap();
        let table = WarehouseTable::of(url, FileList::Version(0), &contents);
        context.register_table("t", Arc::new(table)).unwrap();
        let all = context.sql("SELECT * FROM t").await.unwrap().collect().await.unwrap();
        let expected = [
            "+----+------+",
            "| id | name |",
            "+----+------+",
            "| 1  | a    |",
            "| 2  |      |",
            "| 30 | c    |",
            "+----+------+",
        ];
        assert_batches_sorted_eq!(expected, &all);

        // Files are skipped by their statistics.
        let plan = context.sql("SELECT * FROM t WHERE id > 20").await.unwrap();
        let plan = plan.create_physical_plan().await.unwrap();
        let text = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
        assert_eq!(text.matches(".parquet").count(), 1, "{text}");
        assert_eq!(collect(plan, context.task_ctx()).await.unwrap()[0].num_rows(), 1);
    }
}
