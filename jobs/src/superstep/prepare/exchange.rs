//! Entries on their way from segments to blocks.

use super::encode::Segment;
use super::{Axis, Entries, damaged, words};
use crate::superstep::blocks::{BlockWrite, Content};
use crate::superstep::exec::{Kernel, Task, measures_batch};
use crate::superstep::layout::{Folder, Partitioned};
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::storage::Storage;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// Objects that are read at the same time.
const AT_ONCE: usize = 16;

/// Bytes of an entry at most: row, column and weight.
const ENTRY_BYTES: usize = 16;

/// How many times entries are in memory while they become a block: as they come, sorted by row, and as the block
/// with its binary form.
const COPIES: usize = 3;

/// One way to cut the entries into blocks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Destination {
    /// Where each segment leaves its entries, an object for each.
    pub folder: Folder,
    /// The axis whose numbers become rows of the blocks.
    pub by: Axis,
    /// How these are cut.
    pub cut: Partitioned,
    /// What the blocks will hold.
    pub content: Content,
}

/// Sorts the entries of each segment by block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scatter {
    /// Where the segments are.
    pub folder: Folder,
    /// The segments.
    pub segments: Vec<Segment>,
    /// The ways in which their entries are cut into blocks.
    pub to: Vec<Destination>,
}

/// A segment with numbers in the place of its own.
struct Numbered {
    entries: Bytes,
    count: usize,
    name: String,
    rows: Vec<u32>,
    columns: Vec<u32>,
}

impl Numbered {
    async fn read(folder: &Storage, segment: &Segment) -> Result<Self> {
        let (rows, columns) = (segment.numbers(Axis::Row), segment.numbers(Axis::Column));
        let name = segment.entries();
        let (entries, rows, columns) =
            tokio::try_join!(folder.get(&name), folder.get(&rows), folder.get(&columns))?;
        let (rows, columns) = (words(&rows).collect(), words(&columns).collect());
        Ok(Self { entries, count: segment.entries, name, rows, columns })
    }

    /// The object for a destination: the bytes of a weight, where the entries of each block begin and end, and
    /// then the entries, block by block.
    fn scatter(&self, to: &Destination) -> Result<Vec<u8>> {
        let wrong = || damaged(self.name.clone());
        let entries = Entries::read(&self.entries, self.count, &self.name)?;
        let (codes, other_codes, numbers, other_numbers) = match to.by {
            Axis::Row => (entries.rows, entries.columns, &self.rows, &self.columns),
            Axis::Column => (entries.columns, entries.rows, &self.columns, &self.rows),
        };
        let blocks: Vec<u32> =
            numbers.iter().map(|number| (u64::from(*number) / to.cut.block_rows) as u32).collect();
        let mut starts = vec![0; to.cut.blocks() as usize + 1];
        for code in words(codes) {
            let block = *blocks.get(code as usize).ok_or_else(wrong)?;
            *starts.get_mut(block as usize + 1).ok_or_else(wrong)? += 1;
        }
        for block in 1..starts.len() {
            starts[block] += starts[block - 1];
        }
        let weight_width = entries.weights.width();
        let width = 8 + weight_width;
        let mut out = vec![0; header(starts.len()) + self.count * width];
        let (head, body) = out.split_at_mut(header(starts.len()));
        let heads = std::iter::once(&weight_width).chain(&starts);
        for (out, number) in head.chunks_exact_mut(8).zip(heads) {
            out.copy_from_slice(&(*number as u64).to_le_bytes());
        }
        // Sums of rows need no columns, and without them there is less to sort.
        let summed = to.content == Content::RowSums;
        let mut next = starts.clone();
        let codes = words(codes).zip(words(other_codes));
        for (entry, (code, other)) in codes.enumerate() {
            let block = blocks[code as usize] as usize;
            let (start, count) = (starts[block], starts[block + 1] - starts[block]);
            let at = next[block] - start;
            next[block] += 1;
            let column = match summed {
                true => 0,
                false => *other_numbers.get(other as usize).ok_or_else(wrong)?,
            };
            let block = &mut body[start * width..][..count * width];
            block[at * 4..][..4].copy_from_slice(&numbers[code as usize].to_le_bytes());
            block[(count + at) * 4..][..4].copy_from_slice(&column.to_le_bytes());
            let weight = &mut block[count * 8 + at * weight_width..][..weight_width];
            weight.copy_from_slice(entries.weights.bytes(entry));
        }
        Ok(out)
    }
}

/// Bytes before the entries in an object of so many starts.
fn header(starts: usize) -> usize {
    8 + starts * 8
}

#[async_trait]
impl Kernel for Scatter {
    fn name(&self) -> &'static str {
        "scatter"
    }

    fn blocks(&self) -> u32 {
        self.segments.len() as u32
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let segment = &self.segments[task.block as usize];
        let reservation = MemoryConsumer::new("Scatter").register(&task.runtime.memory_pool);
        // What is read, and what is written, of one destination after the other.
        reservation.try_grow(segment.entries * 2 * ENTRY_BYTES)?;
        let numbered = Numbered::read(&self.folder.open(task.runtime)?, segment).await?;
        let numbered = Arc::new(numbered);
        for to in &self.to {
            let (numbered, way) = (Arc::clone(&numbered), to.clone());
            let object = tokio::task::spawn_blocking(move || numbered.scatter(&way)).await??;
            to.folder.open(task.runtime)?.put(&segment.entries(), object).await?;
        }
        measures_batch(task, &[segment.entries as f64], started)
    }
}

/// Makes blocks of what segments have for them. Measures: the entries of the block, the sum of their values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gather {
    /// Where the segments have left their entries.
    pub folder: Folder,
    /// The segments.
    pub segments: Vec<Segment>,
    /// What becomes of them.
    pub write: BlockWrite,
}

impl Gather {
    /// What a segment has for a block.
    async fn part(
        folder: &Storage,
        segment: &Segment,
        cut: Partitioned,
        block: u32,
        reservation: &MemoryReservation,
    ) -> Result<Vec<(u32, u32, f64)>> {
        let name = segment.entries();
        let wrong = || damaged(name.clone());
        let starts = header(cut.blocks() as usize + 1) as u64;
        let at = header(block as usize) as u64;
        let head = folder.get_ranges(&name, &[0..8, at..at + 16]).await?;
        let numbers: Vec<u64> = head
            .iter()
            .flat_map(|bytes| bytes.as_chunks().0)
            .map(|number| u64::from_le_bytes(*number))
            .collect();
        let [weight_width, first, end] = numbers[..] else { return Err(wrong()) };
        let count = end.checked_sub(first).ok_or_else(wrong)? as usize;
        if count == 0 {
            return Ok(Vec::new());
        }
        reservation.try_grow(count * COPIES * ENTRY_BYTES)?;
        let width = 8 + weight_width;
        let range = starts + first * width..starts + end * width;
        let bytes = folder.get_ranges(&name, &[range]).await?.pop().ok_or_else(wrong)?;
        let entries = Entries::read(&bytes, count, &name)?;
        let (rows, columns) = (words(entries.rows), words(entries.columns));
        let of_block = cut.range(block);
        let numbered = rows.zip(columns).enumerate().map(|(entry, (row, column))| {
            let here = of_block.contains(&u64::from(row));
            here.then(|| (row, column, entries.weights.get(entry)))
        });
        numbered.collect::<Option<_>>().ok_or_else(wrong)
    }
}

#[async_trait]
impl Kernel for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn blocks(&self) -> u32 {
        self.write.cut.blocks()
    }

    async fn run(&self, task: Task<'_>) -> Result<RecordBatch> {
        let started = Instant::now();
        let reservation = &MemoryConsumer::new("Gather").register(&task.runtime.memory_pool);
        let folder = &self.folder.open(task.runtime)?;
        let (cut, content) = (self.write.cut, self.write.content);
        let read = |segment: Segment| async move {
            Self::part(folder, &segment, cut, task.block, reservation).await
        };
        let segments = futures::stream::iter(self.segments.clone());
        let mut parts = segments.map(read).buffered(AT_ONCE);
        let mut entries = Vec::new();
        while let Some(part) = parts.try_next().await? {
            entries.extend(part);
        }
        let first_row = cut.range(task.block).start as u32;
        let rows = cut.rows(task.block);
        let encode = move || content.encode(first_row, rows, entries);
        let (bytes, count, sum) =
            tokio::task::spawn_blocking(encode).await.map_err(JobError::from)?;
        let blocks = self.write.folder.open(task.runtime)?;
        blocks.put(&Folder::part(task.block), bytes).await?;
        measures_batch(task, &[count as f64, sum], started)
    }
}
