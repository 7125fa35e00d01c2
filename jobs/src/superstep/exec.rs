//! The superstep operator: runs a kernel on each of its blocks.

use super::als::{AlsInitialize, AlsStep};
use super::export::{FactorsExport, RanksExport};
use super::layout::Folder;
use super::pagerank::{PageRankInitialize, PageRankStep, VectorSums};
use super::prepare::{Gather, IdsExport, Number, Scatter};
use super::resident::{Resident, Reuse};
use super::slices::AlsSlices;
use crate::Result;
use crate::threads::Threads;
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
use nightshift_udfs::csr::{Csr, Value};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::OnceCell;

/// What a superstep returns for each block: the block, the kernel's measures in an order that the
/// kernel's driver knows, the seconds it took, and how many blocks were in memory and how many had to be read.
pub static MEASURES_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let item = Field::new_list_field(DataType::Float64, true);
    Arc::new(Schema::new(vec![
        Field::new("block", DataType::UInt32, false),
        Field::new("measures", DataType::List(Arc::new(item)), false),
        Field::new("seconds", DataType::Float64, false),
        Field::new("kept", DataType::UInt32, false),
        Field::new("read", DataType::UInt32, false),
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
    /// How much of it was wanted.
    pub reuse: &'a Reuse,
    /// The threads of all partitions that work on the step here.
    pub threads: &'a Arc<Threads>,
}

impl Task<'_> {
    /// The task's block in a folder.
    pub async fn csr<V: Value>(&self, folder: &Folder) -> Result<Arc<Csr<V>>> {
        self.resident.block(*self, folder, ("", |_| ())).await
    }
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

    /// Whether that is the rows of a table, and not measures.
    fn makes_rows(&self) -> bool {
        self.schema() != *MEASURES_SCHEMA
    }

    /// Works on one block.
    async fn run(&self, task: Task<'_>) -> Result<RecordBatch>;

    /// How many blocks of another kind it works on too, if it works on several together. They are numbered after the others.
    fn beside(&self) -> u32 {
        0
    }

    /// Works on all blocks of a task together (its `block` means nothing then), in the order of their numbers. It may do
    /// several steps, so that they need not return to the driver for each: if these are all blocks that there are, or if
    /// other tasks do the same. `None` if that can't be done, or is no better.
    async fn run_together(&self, _: Task<'_>, _blocks: &[u32]) -> Result<Option<RecordBatch>> {
        Ok(None)
    }
}

/// The kernels that a plan can ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Superstep {
    /// Ids from all segments, numbered.
    Number(Number),
    /// Numbered ids as rows.
    IdsExport(IdsExport),
    /// Entries of segments sorted by block.
    Scatter(Scatter),
    /// Blocks of what segments have for them.
    Gather(Gather),
    /// Starting factors.
    AlsInitialize(AlsInitialize),
    /// Normal equations of rows that are too long for one task.
    AlsSlices(AlsSlices),
    /// A half step of ALS.
    AlsStep(AlsStep),
    /// Sums over all nodes.
    VectorSums(VectorSums),
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
            Superstep::Number(kernel) => kernel,
            Superstep::IdsExport(kernel) => kernel,
            Superstep::Scatter(kernel) => kernel,
            Superstep::Gather(kernel) => kernel,
            Superstep::AlsInitialize(kernel) => kernel,
            Superstep::AlsSlices(kernel) => kernel,
            Superstep::AlsStep(kernel) => kernel,
            Superstep::VectorSums(kernel) => kernel,
            Superstep::PageRankInitialize(kernel) => kernel,
            Superstep::PageRankStep(kernel) => kernel,
            Superstep::FactorsExport(kernel) => kernel,
            Superstep::RanksExport(kernel) => kernel,
        }
    }
}

/// What was measured in a block.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The block.
    pub block: u32,
    /// What the driver wants to know.
    pub measures: Vec<f64>,
}

/// A row of measurements.
pub fn measures_batch(task: Task<'_>, measures: &[f64], started: Instant) -> Result<RecordBatch> {
    measures_of_all(task, &[Measured { block: task.block, measures: measures.to_vec() }], started)
}

/// Rows of measurements of blocks that were worked on together. The first has the time, and how many blocks were read.
pub fn measures_of_all(
    task: Task<'_>,
    blocks: &[Measured],
    started: Instant,
) -> Result<RecordBatch> {
    let mut list = ListBuilder::new(Float64Builder::new());
    for block in blocks {
        list.append_value(block.measures.iter().map(|measure| Some(*measure)));
    }
    let count = |count: &AtomicU32| {
        let mut counts = vec![0; blocks.len()];
        counts.iter_mut().take(1).for_each(|first| *first = count.load(Ordering::Relaxed));
        UInt32Array::from(counts)
    };
    let mut seconds = vec![0.0; blocks.len()];
    seconds.iter_mut().take(1).for_each(|first| *first = started.elapsed().as_secs_f64());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(blocks.iter().map(|block| block.block))),
        Arc::new(list.finish()),
        Arc::new(Float64Array::from(seconds)),
        Arc::new(count(&task.reuse.kept)),
        Arc::new(count(&task.reuse.read)),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&MEASURES_SCHEMA), columns)?)
}

/// Adds up the measures of all blocks, position by position, in the order of the blocks.
pub fn total(measures: &[Vec<f64>]) -> Vec<f64> {
    let mut totals = vec![0.0; measures.first().map_or(0, Vec::len)];
    for block in measures {
        for (total, value) in totals.iter_mut().zip(block) {
            *total += value;
        }
    }
    totals
}

/// Exchanges of blocks that are looked at, at most. Where there are more, the blocks are small beside what partitions have.
const MOST_EXCHANGES: usize = 1 << 16;

/// The blocks for each of some partitions, in the same order whenever it is asked. Executors wait for the last of them: each
/// block goes to the partition that has least to do, the largest first (Graham, "Bounds on Multiprocessing Timing
/// Anomalies", 1969), and then the partition with most exchanges blocks for smaller ones, as long as that helps.
fn shares(blocks: u32, work: &[u64], partitions: usize) -> Vec<Vec<u32>> {
    let work_of = |block: u32| work.get(block as usize).copied().unwrap_or(1);
    let mut largest_first: Vec<u32> = (0..blocks).collect();
    largest_first.sort_by_key(|block| Reverse(work_of(*block)));
    let mut shares = vec![Vec::new(); partitions];
    let mut heap: BinaryHeap<_> = (0..partitions).map(|at| Reverse((0, at))).collect();
    for block in largest_first {
        let Some(mut least) = heap.peek_mut() else { break };
        let Reverse((load, at)) = &mut *least;
        *load += work_of(block);
        shares[*at].push(block);
    }
    let mut loads = vec![0; partitions];
    heap.into_iter().for_each(|Reverse((load, at))| loads[at] = load);
    // Each exchange brings two loads closer to each other, and blocks stay where they are soon.
    for _ in 0..blocks {
        let most = (0..partitions).max_by_key(|at| (loads[*at], Reverse(*at)));
        let least = (0..partitions).min_by_key(|at| (loads[*at], *at));
        let (Some(most), Some(least)) = (most, least) else { break };
        if shares[most].len() * shares[least].len() > MOST_EXCHANGES {
            break;
        }
        let apart = loads[most] - loads[least];
        let exchanged = |given: usize, taken: Option<usize>| {
            let taken = taken.map_or(0, |at| work_of(shares[least][at]));
            work_of(shares[most][given]).checked_sub(taken).filter(|less| (1..apart).contains(less))
        };
        let given = 0..shares[most].len();
        let taken = (0..shares[least].len()).map(Some).chain([None]);
        let exchanges = given.flat_map(|given| taken.clone().map(move |taken| (given, taken)));
        let helping = exchanges.filter_map(|(given, taken)| {
            let less = exchanged(given, taken)?;
            Some((less.abs_diff(apart - less), less, given, taken))
        });
        let Some((_, less, given, taken)) = helping.min() else { break };
        let given = shares[most].swap_remove(given);
        if let Some(taken) = taken {
            let taken = shares[least].swap_remove(taken);
            shares[most].push(taken);
        }
        shares[least].push(given);
        loads[most] -= less;
        loads[least] += less;
    }
    shares
}

/// What is left of a task.
#[derive(Debug)]
struct Left {
    /// The blocks that are not taken yet.
    blocks: VecDeque<u32>,
    /// What they have come to, if they were worked on together, and nobody has returned it yet.
    together: Option<RecordBatch>,
}

type Queue = Arc<OnceCell<(Mutex<Left>, Arc<Threads>)>>;

/// The blocks that some partitions of a task list. The kernel may work on them together.
async fn listed(
    step: &Superstep,
    resident: &Resident,
    input: Arc<dyn ExecutionPlan>,
    partitions: Range<usize>,
    context: Arc<TaskContext>,
) -> PlanResult<(Mutex<Left>, Arc<Threads>)> {
    let mut blocks = Vec::new();
    for partition in partitions.clone() {
        let mut batches = input.execute(partition, Arc::clone(&context))?;
        while let Some(batch) = batches.try_next().await? {
            blocks.extend_from_slice(batch.column(0).as_primitive::<UInt32Type>().values());
        }
    }
    blocks.sort_unstable();
    let threads = Arc::new(Threads::new(partitions.len()));
    let (runtime, reuse) = (&context.runtime_env(), &Reuse::default());
    let task = Task { block: 0, runtime, resident, reuse, threads: &threads };
    let together = step.kernel().run_together(task, &blocks).await;
    let together = together.map_err(DataFusionError::from)?;
    let one_by_one = if together.is_some() { 0 } else { step.kernel().blocks() };
    blocks.retain(|block| *block < one_by_one);
    let left = Left { blocks: blocks.into(), together };
    Ok((Mutex::new(left), threads))
}

/// Runs a kernel on blocks.
///
/// Its input lists the blocks: a table in memory, whose partitions Ballista can tell apart when it gives a
/// task some of them, which it can't with an operator that it doesn't know. Within a task the partitions
/// take blocks from one queue, so that none waits while another has several left; or one of them works on all blocks
/// with the threads of all partitions ([`Kernel::run_together`]). Partitions whose rows become files of a table take the blocks
/// that they list.
#[derive(Debug)]
pub struct SuperstepExec {
    step: Superstep,
    resident: Resident,
    input: Arc<dyn ExecutionPlan>,
    queue: Queue,
    properties: Arc<PlanProperties>,
}

impl SuperstepExec {
    /// A superstep over all blocks, in so many `partitions`, or in one for each block if that isn't known. `work` says
    /// how much each block is, compared with the others, and then of those beside them.
    pub fn over_all_blocks(
        step: Superstep,
        resident: Resident,
        partitions: Option<usize>,
        work: &[u64],
    ) -> PlanResult<Self> {
        let schema = Arc::new(Schema::new(vec![Field::new("block", DataType::UInt32, false)]));
        let (blocks, beside) = (step.kernel().blocks(), step.kernel().beside());
        let (work, work_beside) = work.split_at(work.len().min(blocks as usize));
        let count = partitions.unwrap_or(usize::MAX).clamp(1, (blocks as usize).max(1));
        let partition = |blocks: Vec<u32>| {
            let column: ArrayRef = Arc::new(UInt32Array::from(blocks));
            Ok(vec![RecordBatch::try_new(Arc::clone(&schema), vec![column])?])
        };
        let mut shares_of_all = shares(blocks, work, count);
        for (share, more) in shares_of_all.iter_mut().zip(shares(beside, work_beside, count)) {
            share.extend(more.into_iter().map(|block| blocks + block));
        }
        let partitions = shares_of_all.into_iter().map(partition);
        let partitions: Vec<_> = partitions.collect::<PlanResult<_>>()?;
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
        Self { step, resident, input, queue: Queue::default(), properties }
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
        let partitions = 0..self.input.output_partitioning().partition_count();
        if !partitions.contains(&partition) {
            return Err(DataFusionError::Internal(format!("there is no partition {partition}")));
        }
        // Which rows are in a file of a table is not left to chance.
        let (partitions, queue) = match self.step.kernel().makes_rows() {
            true => (partition..partition + 1, Queue::default()),
            false => (partitions, Arc::clone(&self.queue)),
        };
        let (step, resident) = (self.step.clone(), self.resident.clone());
        let input = Arc::clone(&self.input);
        let run_next = move |()| {
            let (step, resident) = (step.clone(), resident.clone());
            let (input, queue, context) =
                (Arc::clone(&input), Arc::clone(&queue), Arc::clone(&context));
            let partitions = partitions.clone();
            async move {
                let left = || listed(&step, &resident, input, partitions, Arc::clone(&context));
                let (left, threads) = queue.get_or_try_init(left).await?;
                let block = {
                    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(measured) = left.together.take() {
                        return Ok(Some((measured, ())));
                    }
                    let Some(block) = left.blocks.pop_front() else { return Ok(None) };
                    block
                };
                let runtime = context.runtime_env();
                let reuse = Reuse::default();
                let (runtime, resident, reuse) = (&runtime, &resident, &reuse);
                let task = Task { block, runtime, resident, reuse, threads };
                let measured = step.kernel().run(task).await.map_err(DataFusionError::from)?;
                Ok(Some((measured, ())))
            }
        };
        let batches = futures::stream::try_unfold((), run_next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.step.kernel().schema(), batches)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_have_as_much_work_as_each_other() {
        assert_eq!(shares(5, &[], 2), [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(shares(2, &[], 3), [vec![0], vec![1], vec![]]);
        // The first block is as much as four others.
        assert_eq!(shares(5, &[8, 2, 2, 2, 2], 2), [vec![0], vec![1, 2, 3, 4]]);
        let most_apart = |work: &[u64], partitions: usize| {
            let shares = shares(work.len() as u32, work, partitions);
            let load = |blocks: &Vec<u32>| blocks.iter().map(|block| work[*block as usize]).sum();
            let loads: Vec<u64> = shares.iter().map(load).collect();
            let mut all = shares.concat();
            all.sort_unstable();
            assert_eq!(all, (0..work.len() as u32).collect::<Vec<_>>());
            loads.iter().max().unwrap() - loads.iter().min().unwrap()
        };
        let falling: Vec<u64> = (0..100).map(|block| 1000 / (block + 20)).collect();
        assert!(most_apart(&falling, 7) <= 1);
        // With the largest first alone, these would be 5 and 2.
        assert_eq!(most_apart(&[7, 7, 6, 6, 5], 2), 3);
        assert_eq!(most_apart(&[5, 5, 4, 3, 3], 2), 0);
        // Items by popularity, of which the first 1,500 have a seventh of all interactions: 8,981,862 and 9,549,700 before.
        let popular = [
            2613758, 1200245, 1065157, 995892, 976916, 938006, 931161, 911516, 914148, 911191,
            882728, 908534, 898890, 882914, 880865, 876198, 865614, 877829,
        ];
        assert!(most_apart(&popular, 2) < 10_000);
    }
}
