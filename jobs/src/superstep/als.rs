//! ALS on blocks: starting factors, and a half step that solves one side against the other.

use super::exec::{Kernel, Task, measures_batch};
use super::groups::Groups;
use super::items::ItemFiles;
use super::layout::{Folder, Partitioned, numbers_to_bytes};
use super::slices::{Slice, known_sums};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use nightshift_udfs::als::{self, AlsError, Fixed, HalfStep, KnownSums, Measures, Sums};
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

/// Solves all rows of one side. Measures: observed loss, penalty, then the Gram matrix of the new
/// factors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlsStep {
    /// What is computed.
    pub step: HalfStep,
    /// The blocks of the side that is solved.
    pub blocks: Folder,
    /// How that side is cut.
    pub cut: Partitioned,
    /// Slices of rows whose sums are in the folder of the new factors.
    pub slices: Vec<Slice>,
    /// What rows start from if they are solved in steps; they start from zeros without it.
    pub earlier: Option<Folder>,
    /// The factors of the other side.
    pub fixed: Folder,
    /// How the other side is cut.
    pub fixed_cut: Partitioned,
    /// Where the new factors go.
    pub state: Folder,
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

    /// Solves a block against the whole state of the other side.
    async fn solve(
        &self,
        task: Task<'_>,
        block: Arc<Csr<f32>>,
        gram: Arc<Vec<f64>>,
        known: KnownSums,
        mut part: Vec<f32>,
    ) -> Result<(Vec<f32>, Measures)> {
        let width = self.step.feedback.width(self.step.factors);
        let fixed = task.resident.state::<f32>(task, &self.fixed, self.fixed_cut, width).await?;
        let (step, mut sums) = (self.step, Sums::default());
        let solve = move |pool: &ThreadPool| {
            let fixed = Fixed { rows: &fixed, gram: &gram };
            step.solve_together(pool, (fixed, &block, &known), &mut part, &mut sums)?;
            let measures = step.measure(&gram, &part, &sums);
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
        let width = self.step.feedback.width(self.step.factors);
        let (step, mut sums) = (self.step, Sums::default());
        let mut groups = Groups::new(task, block, width * size_of::<f32>(), without);
        while let Some(reserved) = groups.next(task).await? {
            let columns = &reserved.group.columns;
            let fixed = self.fixed.rows(task.runtime, self.fixed_cut, width, columns).await?;
            let (gram, known) = (Arc::clone(&gram), Arc::clone(&known));
            let solve = move || {
                let rows = &reserved.group.rows;
                let fixed = Fixed { rows: &fixed, gram: &gram };
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
        self.cut.blocks()
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let width = self.step.feedback.width(self.step.factors);
        let block = task.csr::<f32>(&self.blocks).await?;
        let squares = self.step.factors * self.step.factors;
        let gram = task.resident.numbers::<f64>(task.runtime, &self.fixed, GRAM, squares).await?;
        let length = block.rows() * width;
        let start = match &self.earlier {
            Some(earlier) => {
                earlier.numbers(task.runtime, &Folder::part(task.block), length).await?
            }
            None => vec![0.0; length],
        };
        let known = known_sums(&self.slices, &self.state, task, width).await?;
        let (part, measures) = match task.resident.holds(self.fixed_cut.count as usize * width * 4)
        {
            true => self.solve(task, block, gram, known, start).await?,
            false => self.solve_in_groups(task, block, gram, known, start).await?,
        };
        task.resident.write_part(task, &self.state, self.cut, part).await?;
        let mut row = vec![measures.observed_loss, measures.penalty];
        row.extend(measures.gram);
        measures_batch(task, &row, started)
    }
}
