//! The operator that works on rows with a model's item factors, which the executor keeps in memory:
//! recommends, finds similar items, folds in.

mod fold_in;
mod ranked;

pub use fold_in::{FoldIn, INTERACTION_ITEM, INTERACTION_WEIGHT};

use crate::Result;
use crate::superstep::{FixedItems, ItemFiles, Resident};
use crate::threads::Threads;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
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
use nightshift_udfs::similar_items::Directions;
use nightshift_udfs::top_k::Catalogue;
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What is done, and with whose items.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WithItems {
    /// The model's table of item factors.
    pub items: TableScanSpec,
    /// What is done with each row.
    pub work: Work,
}

/// What is done with each row. The columns of the input are taken by position.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    /// Users (id, factors, bias, seen items): their best unseen items.
    Recommend {
        /// How many items a user gets.
        k: usize,
    },
    /// Items (id, dense number): the items most similar to them.
    Similar {
        /// How many items an item gets.
        k: usize,
    },
    /// Users (id, list of interactions): their factors.
    FoldIn(FoldIn),
}

impl WithItems {
    /// The files of the item factors.
    pub async fn item_files(&self, runtime: &RuntimeEnv) -> Result<ItemFiles> {
        let files = self.items.files(runtime).await?;
        let files = files.into_iter().map(|file| file.path).collect();
        Ok(ItemFiles { table: self.items.table.clone(), files })
    }
}

impl Work {
    /// The columns of the result, when `id` is the first of the input. All of them are nullable, as
    /// columns of a table are: some plans of outer joins keep the nullability of their inputs.
    pub fn schema(&self, id: &Field) -> SchemaRef {
        match self {
            Work::Recommend { .. } | Work::Similar { .. } => ranked::schema(id),
            Work::FoldIn(_) => fold_in::schema(id),
        }
    }
}

/// Work with the items that it needs.
enum Ready {
    Recommend(Arc<Catalogue>, usize),
    Similar(Arc<Directions>, usize),
    FoldIn(Arc<FixedItems>, FoldIn),
}

impl Ready {
    async fn new(
        work: &Work,
        files: &ItemFiles,
        resident: &Resident,
        runtime: &RuntimeEnv,
    ) -> Result<Self> {
        Ok(match work {
            Work::Recommend { k } => Self::Recommend(files.catalogue(resident, runtime).await?, *k),
            Work::Similar { k } => Self::Similar(files.directions(resident, runtime).await?, *k),
            Work::FoldIn(fold) => {
                let fixed = files.fixed(resident, runtime, fold.feedback).await?;
                Self::FoldIn(fixed, fold.clone())
            }
        })
    }

    fn compute(
        &self,
        pool: &ThreadPool,
        rows: &RecordBatch,
        schema: SchemaRef,
    ) -> Result<RecordBatch> {
        match self {
            Ready::Recommend(items, k) => ranked::recommend(pool, items, rows, *k, schema),
            Ready::Similar(directions, k) => ranked::similar(pool, directions, rows, *k, schema),
            Ready::FoldIn(items, fold) => fold.solve(items, rows, schema),
        }
    }
}

/// Does the work on its input, batch by batch. Those of all partitions of a task are the work of the same threads: a
/// partition may have more rows than the others, or more items that its users have seen, and a task ends with its last.
#[derive(Debug)]
pub struct WithItemsExec {
    work: Work,
    files: ItemFiles,
    resident: Resident,
    input: Arc<dyn ExecutionPlan>,
    threads: Arc<Threads>,
    properties: Arc<PlanProperties>,
}

impl WithItemsExec {
    /// Works on the rows of `input` with the item factors in `files`.
    pub fn new(
        work: Work,
        files: ItemFiles,
        resident: Resident,
        input: Arc<dyn ExecutionPlan>,
    ) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(work.schema(input.schema().field(0))),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        let threads = Arc::new(Threads::new(partitions));
        Self { work, files, resident, input, threads, properties }
    }

    /// What is done with each row.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// The files of the item factors.
    pub fn files(&self) -> &ItemFiles {
        &self.files
    }
}

impl DisplayAs for WithItemsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WithItemsExec: {:?}, items={}", self.work, self.files.table)
    }
}

impl ExecutionPlan for WithItemsExec {
    fn name(&self) -> &str {
        "WithItemsExec"
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
        let (work, files) = (self.work.clone(), self.files.clone());
        let resident = self.resident.clone();
        Ok(Arc::new(Self::new(work, files, resident, children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, Arc::clone(&context))?;
        let (work, files, resident) =
            (self.work.clone(), self.files.clone(), self.resident.clone());
        let (threads, schema) = (Arc::clone(&self.threads), self.schema());
        let out = Arc::clone(&schema);
        let runtime = context.runtime_env();
        let start = async move {
            let ready = Arc::new(Ready::new(&work, &files, &resident, &runtime).await?);
            Ok::<_, DataFusionError>(rows.and_then(move |rows| {
                let (ready, schema) = (Arc::clone(&ready), Arc::clone(&schema));
                let threads = Arc::clone(&threads);
                async move {
                    let work = move |pool: &ThreadPool| ready.compute(pool, &rows, schema);
                    threads.run(work).await?.map_err(DataFusionError::from)
                }
            }))
        };
        let stream = futures::stream::once(start).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(out, stream)))
    }
}
