//! Rows with so many entries that no task should do all of their work: slices of them, whose sums several tasks make.

use super::exec::{Kernel, Task, measures_batch};
use super::layout::{Folder, Partitioned, numbers_to_bytes};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::execution::memory_pool::MemoryConsumer;
use nightshift_udfs::als::{CHUNK, Fixed, HalfStep, KnownSums, RowSums};
use nightshift_udfs::csr::Csr;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::spawn_blocking;

/// Entries that a row has at most without being cut: as many as a block has on average.
pub const LONGEST_ROW: u64 = 1 << 20;

/// Entries of a slice at most. Sums are made chunk by chunk, and slices begin where chunks do.
const SLICE: u64 = 512 * CHUNK as u64;

/// A row with more entries than [`LONGEST_ROW`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongRow {
    /// Its dense number.
    pub row: u32,
    /// Its entries.
    pub entries: u64,
}

/// Some entries of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The block that the row is in.
    pub block: u32,
    /// The row's dense number.
    pub row: u32,
    /// Which of its entries.
    pub entries: Range<u64>,
}

impl Slice {
    /// The slices of rows of a side that is cut like that.
    pub fn of_rows(cut: Partitioned, rows: &[LongRow]) -> Vec<Self> {
        let of_row = |LongRow { row, entries }: &LongRow| {
            let (row, entries) = (*row, *entries);
            let block = (u64::from(row) / cut.block_rows) as u32;
            (0..entries).step_by(SLICE as usize).map(move |first| {
                let end = (first + SLICE).min(entries);
                Self { block, row, entries: first..end }
            })
        };
        rows.iter().flat_map(of_row).collect()
    }

    fn name(index: usize) -> String {
        format!("slice-{index:06}.bin")
    }
}

/// The sums of a block's rows that are cut into slices, which [`AlsSlices`] has left in a folder.
pub(super) async fn known_sums(
    slices: &[Slice],
    folder: &Folder,
    task: Task<'_>,
    width: usize,
) -> Result<KnownSums> {
    let mut known = KnownSums::new();
    for (index, slice) in slices.iter().enumerate().filter(|(_, slice)| slice.block == task.block) {
        let numbers =
            folder.numbers(task.runtime, &Slice::name(index), RowSums::len_of(width)).await?;
        let sums = RowSums::from_vec(numbers);
        match known.get_mut(&slice.row) {
            Some(known) => known.add(&sums),
            None => drop(known.insert(slice.row, sums)),
        }
    }
    Ok(known)
}

/// Adds up what slices add to the normal equations of their rows. Measures: none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlsSlices {
    /// What the sums are for.
    pub step: HalfStep,
    /// The slices.
    pub slices: Vec<Slice>,
    /// The blocks of the side that is solved.
    pub blocks: Folder,
    /// The factors of the other side.
    pub fixed: Folder,
    /// How the other side is cut.
    pub fixed_cut: Partitioned,
    /// Where the sums go: an object for each slice.
    pub sums: Folder,
}

impl AlsSlices {
    /// The sums of a slice, in parts whose rows of the other side fit into memory.
    async fn add_up(&self, task: Task<'_>, block: Arc<Csr<f32>>, slice: &Slice) -> Result<RowSums> {
        let width = self.step.feedback.width(self.step.factors);
        let row = slice.row.checked_sub(block.first_row).map(|row| row as usize);
        let row = row.filter(|row| {
            *row < block.rows() && block.row(*row).0.len() as u64 >= slice.entries.end
        });
        let row = row.ok_or_else(|| JobError::Damaged {
            what: format!("{}{}", self.blocks.0, Folder::part(slice.block)),
            reason: format!("it has no {} entries of row {}", slice.entries.end, slice.row),
        })?;
        let step = self.step;
        let entries = slice.entries.start as usize..slice.entries.end as usize;
        let mut sums = RowSums::new(width);
        if task.resident.holds(self.fixed_cut.count as usize * width * size_of::<f32>()) {
            let cut = self.fixed_cut;
            let fixed = task.resident.state::<f32>(task, &self.fixed, cut, width).await?;
            let add = move || {
                let (columns, weights) = block.row(row);
                let observations = (&columns[entries.clone()], &weights[entries]);
                step.add_to_row(Fixed::new(&fixed, &[]), observations, &mut sums);
                sums
            };
            return Ok(spawn_blocking(add).await?);
        }
        let most = task.resident.group_bytes() / (width * size_of::<f32>());
        let most = (most / CHUNK).max(1) * CHUNK;
        for first in entries.clone().step_by(most) {
            let part = first..(first + most).min(entries.end);
            let memory = MemoryConsumer::new("slice of a row").register(&task.runtime.memory_pool);
            memory.try_grow(part.len() * (width + 2) * size_of::<f32>())?;
            let mut wanted = block.row(row).0[part.clone()].to_vec();
            wanted.dedup();
            let fixed = self.fixed.rows(task.runtime, self.fixed_cut, width, &wanted).await?;
            let block = Arc::clone(&block);
            let add = move || {
                let (columns, weights) = block.row(row);
                let mut place = 0;
                let places = columns[part.clone()].iter().map(|column| {
                    // Both ascend, and have the same numbers.
                    place += usize::from(wanted[place] != *column);
                    place as u32
                });
                let places: Vec<u32> = places.collect();
                let fixed = Fixed::new(&fixed, &[]);
                step.add_to_row(fixed, (&places, &weights[part]), &mut sums);
                drop(memory);
                sums
            };
            sums = spawn_blocking(add).await?;
        }
        Ok(sums)
    }
}

#[async_trait]
impl Kernel for AlsSlices {
    fn name(&self) -> &'static str {
        "als-slices"
    }

    fn blocks(&self) -> u32 {
        self.slices.len() as u32
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let index = task.block as usize;
        let slice = &self.slices[index];
        let block = Task { block: slice.block, ..task }.csr::<f32>(&self.blocks).await?;
        let sums = self.add_up(task, block, slice).await?;
        let folder = self.sums.open(task.runtime)?;
        folder.put(&Slice::name(index), numbers_to_bytes(sums.into_vec())).await?;
        measures_batch(task, &[], started)
    }
}
