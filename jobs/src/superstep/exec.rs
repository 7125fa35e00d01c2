//! The superstep operator: runs a kernel on each of its blocks.

use super::als::{AlsInitialize, AlsStep};
use super::export::{FactorsExport, RanksExport};
use super::pagerank::{PageRankInitialize, PageRankStep};
use super::resident::Resident;
use crate::Result;
use arrow::array::AsArray;
use arrow::array::{ArrayRef, Float64Array, Float64Builder, ListBuilder, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use async_trait::async_trait;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
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
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// What a superstep returns for each block: the block, the kernel's measures in an order that the
/// kernel's driver knows, and the seconds it took.
pub static MEASURES_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let item = Field::new_list_field(DataType::Float64, true);
    Arc::new(Schema::new(vec![
        Field::new("block", DataType::UInt32, false),
        Field::new("measures", DataType::List(Arc::new(item)), false),
        Field::new("seconds", DataType::Float64, false),
    ]))
});

/// What a kernel works with: the stores of the session and what the executor keeps in memory.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The block to work on.
    pub block: u32,
    /// Memory limits and object stores of the task.
    pub runtime: &'a RuntimeEnv,
    /// What the executor keeps in memory.
    pub resident: &'a Resident,
}

/// One step of an algorithm, on one block.
#[async_trait]
pub trait Kernel: Send + Sync {
    /// Name of the step in plans.
    fn name(&self) -> &'static str;

    /// How many blocks it works on.
    fn blocks(&self) -> u32;

    /// What it returns.
    fn schema(&self) -> SchemaRef {
        Arc::clone(&MEASURES_SCHEMA)
    }

    /// Works on one block.
    async fn run(&self, task: Task<'_>) -> Result<RecordBatch>;
}

/// The kernels that a plan can ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Superstep {
    /// Starting factors.
    AlsInitialize(AlsInitialize),
    /// A half step of ALS.
    AlsStep(AlsStep),
    /// Starting ranks.
    PageRankInitialize(PageRankInitialize),
    /// A step of PageRank.
    PageRankStep(PageRankStep),
    /// A side of an ALS model as rows.
    FactorsExport(FactorsExport),
    /// Ranks as rows.
    RanksExport(RanksExport),
}

impl Superstep {
    /// The kernel that does it.
    pub fn kernel(&self) -> &dyn Kernel {
        match self {
            Superstep::AlsInitialize(kernel) => kernel,
            Superstep::AlsStep(kernel) => kernel,
            Superstep::PageRankInitialize(kernel) => kernel,
            Superstep::PageRankStep(kernel) => kernel,
            Superstep::FactorsExport(kernel) => kernel,
            Superstep::RanksExport(kernel) => kernel,
        }
    }
}

/// A row of measurements.
pub fn measures_batch(block: u32, measures: &[f64], started: Instant) -> Result<RecordBatch> {
    let mut list = ListBuilder::new(Float64Builder::new());
    list.append_value(measures.iter().map(|measure| Some(*measure)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from(vec![block])),
        Arc::new(list.finish()),
        Arc::new(Float64Array::from(vec![started.elapsed().as_secs_f64()])),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&MEASURES_SCHEMA), columns)?)
}

/// Runs a kernel, one partition per block.
///
/// Its input says which block a partition is: a table in memory with one partition per block and one
/// row in each. Ballista cuts such a table when it gives a task some of the partitions, which it
/// can't do with an operator that it doesn't know.
#[derive(Debug)]
pub struct SuperstepExec {
    step: Superstep,
    resident: Resident,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SuperstepExec {
    /// A superstep over all blocks.
    pub fn over_all_blocks(step: Superstep, resident: Resident) -> PlanResult<Self> {
        let schema = Arc::new(Schema::new(vec![Field::new("block", DataType::UInt32, false)]));
        let partition = |block| {
            let column: ArrayRef = Arc::new(UInt32Array::from(vec![block]));
            Ok(vec![RecordBatch::try_new(Arc::clone(&schema), vec![column])?])
        };
        let partitions: Vec<_> =
            (0..step.kernel().blocks()).map(partition).collect::<PlanResult<_>>()?;
        let source = MemorySourceConfig::try_new(&partitions, Arc::clone(&schema), None)?;
        Ok(Self::new(step, resident, DataSourceExec::from_data_source(source)))
    }

    /// A superstep over the blocks that `input` lists.
    pub fn new(step: Superstep, resident: Resident, input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(step.kernel().schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { step, resident, input, properties }
    }

    /// What is done on each block.
    pub fn step(&self) -> &Superstep {
        &self.step
    }
}

impl DisplayAs for SuperstepExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = self.step.kernel();
        write!(f, "SuperstepExec: {}, blocks={}", kernel.name(), kernel.blocks())
    }
}

impl ExecutionPlan for SuperstepExec {
    fn name(&self) -> &str {
        "SuperstepExec"
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
        let resident = self.resident.clone();
        Ok(Arc::new(Self::new(self.step.clone(), resident, children.swap_remove(0))))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let blocks = self.input.execute(partition, Arc::clone(&context))?;
        let (step, resident) = (Arc::new(self.step.clone()), self.resident.clone());
        let runtime = context.runtime_env();
        let batches = blocks.and_then(move |batch| {
            let (step, resident, runtime) =
                (Arc::clone(&step), resident.clone(), Arc::clone(&runtime));
            async move {
                let mut results = Vec::new();
                for block in batch.column(0).as_primitive::<UInt32Type>().values() {
                    let task = Task { block: *block, runtime: &runtime, resident: &resident };
                    results.push(step.kernel().run(task).await.map_err(DataFusionError::from)?);
                }
                Ok(arrow::compute::concat_batches(&step.kernel().schema(), &results)?)
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.step.kernel().schema(), batches)))
    }
}
