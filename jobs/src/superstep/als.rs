//! ALS on blocks: starting factors, and a half step that solves one side against the other, or several of them.

mod several;

use super::exec::{Kernel, Measured, Task, measures_batch, measures_of_all};
use super::groups::Groups;
use super::items::ItemFiles;
use super::layout::{Folder, Partitioned, numbers_to_bytes};
use super::slices::{Slice, known_sums};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use nightshift_udfs::als::{
    self, AlsError, Axes, Enough, Fixed, HalfStep, KnownSums, Measures, Sums,
};
use nightshift_udfs::csr::Csr;
use nightshift_udfs::random;
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::spawn_blocking;

/// The object in a state's folder that holds the Gram matrix of its factors.
const GRAM: &str = "gram.bin";

/// Where items are in a version of the model that was published before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishedItems {
    /// Blocks of items with at most one entry a row, whose column is the item's number in that version.
    pub rows: Folder,
    /// That version's factors.
    pub factors: ItemFiles,
}

impl PublishedItems {
    /// Puts the published factors, and biases, in the place of those that start a block.
    async fn copy(&self, task: Task<'_>, width: usize, part: &mut [f32]) -> Result<()> {
        let rows = task.csr::<f32>(&self.rows).await?;
        let items = self.factors.items(task.resident, task.runtime).await?;
        for (row, start) in part.chunks_exact_mut(width).enumerate() {
            let [old] = rows.row(row).0 else { continue };
            let old = *old as usize;
            let (factors, rest) = start.split_at_mut(items.width.min(width));
            let published = items.factors.get(old * items.width..(old + 1) * items.width);
            let published = published.filter(|published| published.len() == factors.len());
            factors.copy_from_slice(published.ok_or_else(|| JobError::Damaged {
                what: format!("{}", self.factors.table),
                reason: format!("it has no {} factors of the item number {old}", factors.len()),
            })?);
            if let [bias] = rest {
                *bias = items.biases.get(old).copied().unwrap_or(0.0);
            }
        }
        Ok(())
    }
}

/// Writes starting factors. Measures: the Gram matrix.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlsInitialize {
    /// How the side is cut.
    pub cut: Partitioned,
    /// Where the factors go.
    pub state: Folder,
    /// Decides the random numbers.
    pub seed: u64,
    /// Factors of a row.
    pub factors: usize,
    /// Numbers of a row: the factors, and the bias if there is one.
    pub width: usize,
    /// Whether no factor may be negative.
    pub nonnegative: bool,
    /// Factors to start from instead, as far as there are any.
    pub published: Option<PublishedItems>,
}

#[async_trait]
impl Kernel for AlsInitialize {
    fn name(&self) -> &'static str {
        "als-initialize"
    }

    fn blocks(&self) -> u32 {
        self.cut.blocks()
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let first = self.cut.range(task.block).start as usize;
        let rows = self.cut.rows(task.block);
        let mut part = random::starting_factors(self.seed, first, rows, self.factors, self.width);
        if let Some(published) = &self.published {
            published.copy(task, self.width, &mut part).await?;
        }
        if self.nonnegative {
            // Those of a version without the constraint too. To make them zero instead would not do: a factor that
            // starts at zero for all items stays there.
            for row in part.chunks_exact_mut(self.width) {
                row[..self.factors].iter_mut().for_each(|value| *value = value.abs());
            }
        }
        let gram = als::gram(&part, self.width, self.factors);
        task.resident.write_part(task, &self.state, self.cut, part).await?;
        measures_batch(task, &gram, started)
    }
}

/// A side of the matrix.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlsSide {
    /// How it is solved.
    pub step: HalfStep,
    /// How it is cut.
    pub cut: Partitioned,
    /// Its blocks.
    pub blocks: Folder,
    /// How many entries they have.
    pub entries: u64,
    /// Slices of rows whose sums are in the folder of the new factors.
    pub slices: Vec<Slice>,
}

impl AlsSide {
    /// Numbers of a row.
    fn width(&self) -> usize {
        self.step.feedback.width(self.step.factors)
    }

    /// Whether it is solved along the axes of the other side. Sums of slices are made by several executors, whose axes differ
    /// if their processors do: they are never turned.
    fn turns(&self) -> bool {
        self.slices.is_empty() && self.step.turns(self.cut.count, self.entries)
    }

    /// Bytes of all its factors.
    pub fn state_bytes(&self) -> usize {
        self.cut.count as usize * self.width() * size_of::<f32>()
    }

    /// Bytes of its blocks in memory.
    fn block_bytes(&self) -> usize {
        let entry = size_of::<u32>() + size_of::<f32>();
        self.entries as usize * entry + self.cut.count as usize * size_of::<u64>()
    }
}

/// Solves all rows of one side, or of both sides in turn. Measures of a block: how many half steps its task knows to be done
/// on all blocks, and what these come to on all of them, which only one block of each task tells; or zero, and what one half
/// step comes to on this block ([`AlsStep::totals`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlsStep {
    /// The side that is solved first.
    pub side: AlsSide,
    /// The other one.
    pub other: AlsSide,
    /// What rows of the first start from if they are solved in steps; they start from zeros without it.
    pub earlier: Option<Folder>,
    /// The factors of the other side.
    pub fixed: Folder,
    /// Where the new factors go after one half step, after two, and so on. As many are done if a task has all blocks and
    /// memory for those of both sides, and the last ones of each side are written; tasks that have memory for the factors
    /// do some of them together, and all that they do is written. Otherwise it is one.
    pub to: Vec<Folder>,
    /// After which iterations no other is done.
    pub enough: Option<Enough>,
    /// Seconds after which no other iteration is begun.
    pub seconds: f64,
}

impl AlsStep {
    /// Writes the Gram matrix of a whole state into its folder: the state is complete with it.
    pub async fn complete_state(
        state: &Folder,
        runtime: &datafusion::execution::runtime_env::RuntimeEnv,
        gram: &[f64],
    ) -> Result<()> {
        Ok(state.open(runtime)?.put(GRAM, numbers_to_bytes(gram.to_vec())).await?)
    }

    fn next(&self) -> Result<&Folder> {
        self.to.first().ok_or_else(|| JobError::Damaged {
            what: "a half step of ALS".to_string(),
            reason: "it doesn't say where factors go".to_string(),
        })
    }

    async fn gram(&self, task: Task<'_>) -> Result<Arc<Vec<f64>>> {
        let squares = self.side.step.factors * self.side.step.factors;
        task.resident.numbers(task.runtime, &self.fixed, GRAM, squares).await
    }

    /// The axes of the other side that rows are solved along, if they are. They are found once for all tasks of an executor.
    async fn axes(&self, task: Task<'_>, gram: &Arc<Vec<f64>>) -> Result<Arc<Option<Axes>>> {
        if !self.side.turns() {
            return Ok(Arc::new(None));
        }
        let (gram, factors) = (Arc::clone(gram), self.side.step.factors);
        let find = async {
            let axes = task.threads.run(move |_| Axes::new(&gram, factors)).await?;
            // Two matrices in single precision, and one in double.
            Ok((axes, factors * factors * 2 * size_of::<f64>()))
        };
        task.resident.of_state(&self.fixed, "axes", find).await
    }

    /// The whole state of the other side, along its axes if there are any.
    async fn fixed(&self, task: Task<'_>, axes: &Arc<Option<Axes>>) -> Result<Arc<Vec<f32>>> {
        let (cut, width) = (self.other.cut, self.side.width());
        if axes.is_none() {
            return task.resident.state(task, &self.fixed, cut, width).await;
        }
        let axes = Arc::clone(axes);
        let turn = move |rows: &mut [f32]| axes.iter().for_each(|axes| axes.turn(rows));
        task.resident.changed_state(task, &self.fixed, (cut, width), ("turned", turn)).await
    }

    /// Does one half step on a block: solves it, and writes its part of the new factors.
    async fn solve_block(&self, task: Task<'_>) -> Result<Measures> {
        let (side, width, state) = (&self.side, self.side.width(), self.next()?);
        let (block, gram) = (task.csr::<f32>(&side.blocks).await?, self.gram(task).await?);
        let length = block.rows() * width;
        let start = match &self.earlier {
            Some(earlier) => {
                earlier.numbers(task.runtime, &Folder::part(task.block), length).await?
            }
            None => vec![0.0; length],
        };
        let known = known_sums(&side.slices, state, task, width).await?;
        let (part, measures) = match task.resident.holds(self.other.state_bytes()) {
            true => self.solve(task, block, gram, known, start).await?,
            false => self.solve_in_groups(task, block, gram, known, start).await?,
        };
        task.resident.write_part(task, state, side.cut, part).await?;
        Ok(measures)
    }

    /// Solves a block against the whole state of the other side.
    async fn solve(
        &self,
        task: Task<'_>,
        block: Arc<Csr<f32>>,
        gram: Arc<Vec<f64>>,
        known: KnownSums,
        mut part: Vec<f32>,
    ) -> Result<(Vec<f32>, Measures)> {
        let axes = self.axes(task, &gram).await?;
        let fixed = self.fixed(task, &axes).await?;
        let (step, mut sums) = (self.side.step, [Sums::default()]);
        let solve = move |pool: &ThreadPool| {
            let fixed = Fixed { rows: &fixed, gram: &gram, axes: Option::as_ref(&axes) };
            step.solve_together(pool, fixed, &[(&block, &known)], &mut [&mut part], &mut sums)?;
            let measures = step.measure(&gram, &part, &sums[0]);
            Ok::<_, AlsError>((part, measures))
        };
        Ok(task.threads.run(solve).await??)
    }

    /// Solves a block in groups of rows, each against the rows of the other side's state that it needs: the way when
    /// the state is too large for the executor. It comes to the same.
    async fn solve_in_groups(
        &self,
        task: Task<'_>,
        block: Arc<Csr<f32>>,
        gram: Arc<Vec<f64>>,
        known: KnownSums,
        mut part: Vec<f32>,
    ) -> Result<(Vec<f32>, Measures)> {
        // What these have is in their sums.
        let without = known.keys().copied().collect();
        let known = Arc::new(known);
        let (step, width, mut sums) = (self.side.step, self.side.width(), Sums::default());
        let axes = self.axes(task, &gram).await?;
        let mut groups = Groups::new(task, block, width * size_of::<f32>(), without);
        while let Some(reserved) = groups.next(task).await? {
            let columns = &reserved.group.columns;
            let state = self.fixed.rows(task.runtime, self.other.cut, width, columns);
            let mut fixed = state.await?;
            let (gram, known, axes) = (Arc::clone(&gram), Arc::clone(&known), Arc::clone(&axes));
            let solve = move || {
                axes.iter().for_each(|axes| axes.turn(&mut fixed));
                let rows = &reserved.group.rows;
                let fixed = Fixed { rows: &fixed, gram: &gram, axes: Option::as_ref(&axes) };
                let solution = &mut part[reserved.first * width..][..rows.rows() * width];
                let solved = step.solve(fixed, rows, &known, solution, &mut sums);
                solved.map(|()| (part, sums))
            };
            (part, sums) = spawn_blocking(solve).await??;
        }
        let measures = step.measure(&gram, &part, &sums);
        Ok((part, measures))
    }
}

#[async_trait]
impl Kernel for AlsStep {
    fn name(&self) -> &'static str {
        "als-half-step"
    }

    fn blocks(&self) -> u32 {
        self.side.cut.blocks()
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let measures = self.solve_block(task).await?.to_vec();
        let answer = several::of_one_block(Measured { block: task.block, measures });
        measures_of_all(task, &[answer], started)
    }

    fn beside(&self) -> u32 {
        if self.to.len() > 1 { self.other.cut.blocks() } else { 0 }
    }

    async fn run_together(&self, task: Task<'_>, blocks: &[u32]) -> Result<Option<RecordBatch>> {
        let (side, other) = (&self.side, &self.other);
        let at = blocks.partition_point(|block| *block < self.blocks());
        let (own, beside) = blocks.split_at(at);
        // What steps begin with is there besides what they come to, and a side that is turned.
        let (own_bytes, other_bytes) = (side.state_bytes(), other.state_bytes());
        let turned = [(side, other_bytes), (other, own_bytes)];
        let turned = turned.into_iter().filter_map(|(side, fixed)| side.turns().then_some(fixed));
        let states = 2 * (own_bytes + other_bytes) + turned.max().unwrap_or(0);
        let whole_rows = side.slices.is_empty() && other.slices.is_empty();
        if self.to.len() < 2 || !whole_rows || !task.resident.holds(states) {
            return Ok(None);
        }
        let beside: Vec<u32> = beside.iter().map(|block| block - self.blocks()).collect();
        let share = |blocks: &[u32], side: &AlsSide| {
            side.block_bytes() / side.cut.blocks().max(1) as usize * blocks.len()
        };
        match task.resident.holds(share(own, side) + share(&beside, other)) {
            true => self.solve_several(task, [own, &beside]).await.map(Some),
            false => Ok(None),
        }
    }
}
