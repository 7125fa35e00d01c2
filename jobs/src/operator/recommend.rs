//! The operator behind `ml_recommend`: the best unseen items for a stream of users.

use crate::superstep::Resident;
use crate::{JobError, Result};
use arrow::array::{
    ArrayRef, AsArray, Float32Array, Int32Array, Int64Array, ListArray, RecordBatch, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};
use futures::TryStreamExt;
use nightshift_catalog::scan::TableScanSpec;
use nightshift_catalog::storage::Storage;
use nightshift_udfs::top_k::{Items, best_unseen};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Users that are scored at a time.
const USERS: usize = 64;

/// What to recommend from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recommend {
    /// The model's table of item factors.
    pub items: TableScanSpec,
    /// How many items a user gets.
    pub k: usize,
}

impl Recommend {
    /// The user's column as it comes, then the rank from 1, the item's dense number and the score.
    /// All of them are nullable, as columns of a table are: some plans of outer joins keep the
    /// nullability of their inputs.
    pub fn schema(&self, user: &Field) -> SchemaRef {
        Arc::new(Schema::new(vec![
            user.clone().with_nullable(true),
            Field::new("rank", DataType::Int32, true),
            Field::new("item_index", DataType::Int64, true),
            Field::new("score", DataType::Float32, true),
        ]))
    }

    /// The files of the item factors.
    pub async fn item_files(&self, runtime: &RuntimeEnv) -> Result<Vec<String>> {
        let files = self.items.files(runtime).await?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }
}

/// Reads users (id, factors, bias, seen items) and returns a row for each recommendation.
#[derive(Debug)]
pub struct RecommendExec {
    recommend: Recommend,
    files: Vec<String>,
    resident: Resident,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl RecommendExec {
    /// Recommends to the users in `input`, from the item factors in `files`.
    pub fn new(
        recommend: Recommend,
        files: Vec<String>,
        resident: Resident,
        input: Arc<dyn ExecutionPlan>,
    ) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let schema = recommend.schema(input.schema().field(0));
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { recommend, files, resident, input, properties }
    }

    /// What to recommend from.
    pub fn recommend(&self) -> &Recommend {
        &self.recommend
    }

    /// The files of the item factors.
    pub fn files(&self) -> &[String] {
        &self.files
    }
}

impl DisplayAs for RecommendExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecommendExec: k={}, items={}", self.recommend.k, self.recommend.items.table)
    }
}

impl ExecutionPlan for RecommendExec {
    fn name(&self) -> &str {
        "RecommendExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
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
        let (recommend, files) = (self.recommend.clone(), self.files.clone());
        let resident = self.resident.clone();
        Ok(Arc::new(Self::new(recommend, files, resident, children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let users = self.input.execute(partition, Arc::clone(&context))?;
        let (recommend, resident) = (self.recommend.clone(), self.resident.clone());
        let (files, schema) = (self.files.clone(), self.schema());
        let out = Arc::clone(&schema);
        let runtime = context.runtime_env();
        let start = async move {
            let items = load_items(&resident, &runtime, &recommend.items, &files).await?;
            let k = recommend.k;
            Ok::<_, DataFusionError>(users.and_then(move |users| {
                let (items, schema) = (Arc::clone(&items), Arc::clone(&schema));
                async move {
                    let batch = tokio::task::spawn_blocking(move || {
                        recommend_to(&items, &users, k, schema)
                    });
                    batch.await.map_err(JobError::from)?.map_err(DataFusionError::from)
                }
            }))
        };
        let stream = futures::stream::once(start).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(out, stream)))
    }
}

/// The item factors in the order of the items' dense numbers, from the executor's memory.
async fn load_items(
    resident: &Resident,
    runtime: &RuntimeEnv,
    spec: &TableScanSpec,
    files: &[String],
) -> Result<Arc<Items>> {
    let name = format!("items:{}:{}", spec.table, files.join(","));
    let read = async {
        let table = Storage::of_session(runtime, &spec.table)?;
        let mut rows: Vec<(i64, Vec<f32>, f32)> = Vec::new();
        for file in files {
            let bytes = table.get(file).await?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes);
            let damaged = |reason: String| JobError::Damaged {
                what: format!("{}{file}", table.url()),
                reason,
            };
            let reader = reader.and_then(|builder| builder.build());
            for batch in reader.map_err(|error| damaged(error.to_string()))? {
                let batch = batch?;
                let column = |name: &str| {
                    batch.column_by_name(name).ok_or_else(|| damaged(format!("no column {name}")))
                };
                let indexes = column("item_index")?.as_primitive::<Int64Type>();
                let factors = column("factors")?.as_list::<i32>();
                let biases = column("bias")?.as_primitive::<Float32Type>();
                for row in 0..batch.num_rows() {
                    let values = factors.value(row).as_primitive::<Float32Type>().values().to_vec();
                    rows.push((indexes.value(row), values, biases.value(row)));
                }
            }
        }
        rows.sort_unstable_by_key(|row| row.0);
        let width = rows.first().map_or(1, |row| row.1.len());
        let factors: Vec<f32> = rows.iter().flat_map(|row| row.1.iter().copied()).collect();
        let biased = rows.iter().any(|row| row.2 != 0.0);
        let biases = if biased { rows.iter().map(|row| row.2).collect() } else { Vec::new() };
        let bytes = (factors.len() + rows.len()) * 4;
        Ok((Items { factors, biases, width }, bytes))
    };
    resident.get(name, read).await
}

fn recommend_to(
    items: &Items,
    users: &RecordBatch,
    k: usize,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    let factors = users.column(1).as_list::<i32>();
    let biases = users.column(2).as_primitive::<Float32Type>();
    let seen = users.column(3).as_list::<i32>();
    let (mut rows, mut ranks) = (Vec::new(), Vec::new());
    let (mut indexes, mut scores) = (Vec::new(), Vec::new());
    for first in (0..users.num_rows()).step_by(USERS) {
        let range = first..(first + USERS).min(users.num_rows());
        let batch: Vec<f32> = range.clone().flat_map(|row| floats(factors, row)).collect();
        let seen: Vec<Vec<u32>> = range.clone().map(|row| numbers(seen, row)).collect();
        let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        for (row, best) in range.zip(best_unseen(items, &batch, &seen, k)) {
            for (position, scored) in best.iter().enumerate() {
                rows.push(row as u32);
                ranks.push(position as i32 + 1);
                indexes.push(i64::from(scored.item));
                scores.push(scored.score + biases.value(row));
            }
        }
    }
    let columns: Vec<ArrayRef> = vec![
        take(users.column(0), &UInt32Array::from(rows), None)?,
        Arc::new(Int32Array::from(ranks)),
        Arc::new(Int64Array::from(indexes)),
        Arc::new(Float32Array::from(scores)),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

fn floats(lists: &ListArray, row: usize) -> Vec<f32> {
    lists.value(row).as_primitive::<Float32Type>().values().to_vec()
}

fn numbers(lists: &ListArray, row: usize) -> Vec<u32> {
    let values = lists.value(row);
    values.as_primitive::<Int32Type>().values().iter().map(|value| *value as u32).collect()
}
