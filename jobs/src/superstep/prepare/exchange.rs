//! Entries on their way from segments to blocks.

use super::encode::Segment;
use super::{Axis, Entries, Weights, damaged, halves, words};
use crate::superstep::blocks::{BlockWrite, Content};
use crate::superstep::exec::{Kernel, Task, measures_batch};
use crate::superstep::layout::{Folder, Partitioned, numbers_to_bytes};
use crate::superstep::slices::LongRow;
use crate::{JobError, Result};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::storage::Storage;
use nightshift_udfs::dictionary::Numbers;
use serde::{Deserialize, Serialize};
use std::ops::Range;
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

/// Sorts the entries of each segment by block. A segment's own entries are forgotten then, so that they are never all
/// there twice.
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
        let numbers = |bytes: &[u8], axis: Axis| {
            let numbers = Numbers::from_bytes(bytes).and_then(|numbers| {
                numbers.to_vec().into_iter().map(|number| number.try_into().ok()).collect()
            });
            numbers.ok_or_else(|| damaged(segment.numbers(axis)))
        };
        let (rows, columns) = (numbers(&rows, Axis::Row)?, numbers(&columns, Axis::Column)?);
        Ok(Self { entries, count: segment.entries, name, rows, columns })
    }

    /// The object for a destination: the bytes of a weight, where the entries of each block begin and end, and
    /// then the entries, block by block. In words of 32 bits. `ones` says that no segment has weights but 1.
    fn scatter(&self, to: &Destination, ones: bool) -> Result<Vec<u32>> {
        let wrong = || damaged(self.name.clone());
        let entries = Entries::read(&self.entries, self.count, &self.name)?;
        let (codes, other_codes, numbers, other_numbers) = match to.by {
            Axis::Row => (entries.rows, entries.columns, &self.rows, &self.columns),
            Axis::Column => (entries.columns, entries.rows, &self.columns, &self.rows),
        };
        // Sums of rows need no columns, and where all weights are 1, no more than how many there are: a sum that is
        // exact in any order, if all segments have nothing else.
        let summed = to.content == Content::RowSums;
        if let (true, true, Weights::Ones) = (summed, ones, entries.weights) {
            return count_rows(codes, numbers, to.cut).ok_or_else(wrong);
        }
        let blocks = BlocksOfCodes::new(numbers, to.cut);
        let mut starts = vec![0; to.cut.blocks() as usize + 1];
        for code in words(codes) {
            starts[blocks.get(code).ok_or_else(wrong)? + 1] += 1;
        }
        for block in 1..starts.len() {
            starts[block] += starts[block - 1];
        }
        let weight_words = entries.weights.width() / 4;
        let words_each = 2 + weight_words;
        let mut out = head(entries.weights.width(), &starts);
        let body = out.len();
        out.resize(body + self.count * words_each, 0);
        // Where the row, the column and the weight of the next entry of each block go.
        let places = |ends: &[usize]| {
            let (start, count) = (body + ends[0] * words_each, ends[1] - ends[0]);
            [start, start + count, start + 2 * count]
        };
        let of_blocks: Vec<[usize; 3]> = starts.windows(2).map(places).collect();
        let mut next = of_blocks.clone();
        let codes = words(codes).zip(words(other_codes));
        for (entry, (code, other)) in codes.enumerate() {
            let [row, column, weight] =
                blocks.get(code).and_then(|block| next.get_mut(block)).ok_or_else(wrong)?;
            out[*row] = code;
            out[*column] = if summed { 0 } else { other };
            *row += 1;
            *column += 1;
            match entries.weights {
                Weights::Ones => {}
                Weights::Singles(singles) => out[*weight] = u32::from_le_bytes(singles[entry]),
                Weights::Doubles(doubles) => {
                    let halves = halves(u64::from_le_bytes(doubles[entry]));
                    out[*weight..*weight + 2].copy_from_slice(&halves);
                }
            }
            *weight += weight_words;
        }
        // Numbers come last: those of a block's rows are next to each other, and stay in a cache.
        for [rows, columns, weights] in of_blocks {
            for row in &mut out[rows..columns] {
                *row = numbers[*row as usize];
            }
            if !summed {
                for column in &mut out[columns..weights] {
                    *column = *other_numbers.get(*column as usize).ok_or_else(wrong)?;
                }
            }
        }
        Ok(out)
    }
}

/// In which block the number of a code is. Numbers ascend with codes, so the codes of a block are next to each other: it is
/// where they end that is looked up, in less memory than a block for each code would take.
struct BlocksOfCodes {
    /// The first code that is in none of the blocks up to each.
    ends: Vec<u32>,
    /// The block of the first of so many codes each.
    first: Vec<u32>,
    codes: u32,
}

/// Codes whose search begins at the same block, as a power of two.
const CODES_TOGETHER: u32 = 8;

impl BlocksOfCodes {
    fn new(numbers: &[u32], cut: Partitioned) -> Self {
        let end = |block: u32| {
            let next = (u64::from(block) + 1) * cut.block_rows;
            numbers.partition_point(|number| u64::from(*number) < next) as u32
        };
        let ends: Vec<u32> = (0..cut.blocks()).map(end).collect();
        let codes = numbers.len() as u32;
        let first = (0..codes).step_by(1 << CODES_TOGETHER);
        let first = first.map(|code| ends.partition_point(|end| *end <= code) as u32).collect();
        Self { ends, first, codes }
    }

    /// `None` if a code has no number, or one that is beyond all blocks.
    #[inline(always)]
    fn get(&self, code: u32) -> Option<usize> {
        if code >= self.codes {
            return None;
        }
        let mut block = self.first[(code >> CODES_TOGETHER) as usize] as usize;
        while *self.ends.get(block)? <= code {
            block += 1;
        }
        Some(block)
    }
}

/// What comes before the entries: the bytes of a weight, and where the entries of each block begin and end.
fn head(weight_width: usize, starts: &[usize]) -> Vec<u32> {
    let numbers = std::iter::once(&weight_width).chain(starts);
    numbers.flat_map(|number| halves(*number as u64)).collect()
}

/// How often each number is among the codes, as entries whose weights are these counts. `None` if a code has no number.
fn count_rows(codes: &[u8], numbers: &[u32], cut: Partitioned) -> Option<Vec<u32>> {
    let mut counts = vec![0u32; numbers.len()];
    for code in words(codes) {
        *counts.get_mut(code as usize)? += 1;
    }
    // Numbers ascend with codes, so those of a block are next to each other.
    let counted: Vec<(u32, u32)> =
        numbers.iter().copied().zip(counts).filter(|(_, count)| *count > 0).collect();
    let start = |block: u32| {
        counted
            .partition_point(|(number, _)| u64::from(*number) < u64::from(block) * cut.block_rows)
    };
    let starts: Vec<usize> = (0..=cut.blocks()).map(start).collect();
    let mut out = head(size_of::<f64>(), &starts);
    for range in starts.windows(2) {
        let of_block = &counted[range[0]..range[1]];
        out.extend(of_block.iter().map(|(number, _)| *number));
        out.extend(of_block.iter().map(|_| 0));
        out.extend(of_block.iter().flat_map(|(_, count)| halves(f64::from(*count).to_bits())));
    }
    (counted.len() == *starts.last()?).then_some(out)
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
        let folder = self.folder.open(task.runtime)?;
        let numbered = match Numbered::read(&folder, segment).await {
            Ok(numbered) => Arc::new(numbered),
            Err(error) => {
                // A task that was lost afterwards may have done it.
                for to in &self.to {
                    if !to.folder.open(task.runtime)?.exists(&segment.entries()).await? {
                        return Err(error);
                    }
                }
                return measures_batch(task, &[segment.entries as f64], started);
            }
        };
        let ones = self.to.iter().any(|to| to.content == Content::Ones);
        for to in &self.to {
            let (numbered, way) = (Arc::clone(&numbered), to.clone());
            let object =
                tokio::task::spawn_blocking(move || numbered.scatter(&way, ones)).await??;
            let object = numbers_to_bytes(object);
            to.folder.open(task.runtime)?.put(&segment.entries(), object).await?;
        }
        folder.delete(&segment.entries()).await?;
        measures_batch(task, &[segment.entries as f64], started)
    }
}

/// Makes blocks of what segments have for them. Measures: the entries of the block, the sum of their values, and for
/// each row that is too long for one task its number and its entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gather {
    /// Where the segments have left their entries.
    pub folder: Folder,
    /// The segments.
    pub segments: Vec<Segment>,
    /// What becomes of them.
    pub write: BlockWrite,
}

/// What a segment has for a block.
struct Part {
    bytes: Bytes,
    count: usize,
    name: String,
}

impl Part {
    async fn read(
        folder: &Storage,
        segment: &Segment,
        cut: Partitioned,
        block: u32,
        reservation: &MemoryReservation,
    ) -> Result<Self> {
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
        reservation.try_grow(count * COPIES * ENTRY_BYTES)?;
        let width = 8 + weight_width;
        let range = starts + first * width..starts + end * width;
        let bytes = folder.get_ranges(&name, &[range]).await?.pop().ok_or_else(wrong)?;
        Ok(Self { bytes, count, name })
    }

    /// The entries, which must be in some rows.
    fn entries(&self, rows: &Range<u64>) -> Result<Entries<'_>> {
        let entries = match self.count {
            0 => Entries { rows: &[], columns: &[], weights: Weights::Ones },
            count => Entries::read(&self.bytes, count, &self.name)?,
        };
        match words(entries.rows).all(|row| rows.contains(&u64::from(row))) {
            true => Ok(entries),
            false => Err(damaged(self.name.clone())),
        }
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
            Part::read(folder, &segment, cut, task.block, reservation).await
        };
        let segments = futures::stream::iter(self.segments.clone());
        let parts: Vec<Part> = segments.map(read).buffered(AT_ONCE).try_collect().await?;
        let range = cut.range(task.block);
        let encode = move || {
            let parts = parts.iter().map(|part| part.entries(&range));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let (first_row, rows) = (range.start as u32, (range.end - range.start) as usize);
            let entries = parts.iter().flat_map(Entries::iter);
            Ok::<_, JobError>(content.encode(first_row, rows, entries))
        };
        let encoded = tokio::task::spawn_blocking(encode).await??;
        let blocks = self.write.folder.open(task.runtime)?;
        blocks.put(&Folder::part(task.block), encoded.bytes).await?;
        let mut measures = vec![encoded.entries as f64, encoded.sum];
        for LongRow { row, entries } in encoded.long_rows {
            measures.extend([f64::from(row), entries as f64]);
        }
        measures_batch(task, &measures, started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superstep::{Resident, Reuse};
    use crate::threads::Threads;
    use arrow::datatypes::ToByteSlice;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use url::Url;

    #[test]
    fn the_block_of_a_code_is_that_of_its_number() {
        // Dense at first, then with blocks that have none, and a block that has more than one search begins at.
        let numbers: Vec<u32> = (0..3_000u32).map(|code| code + (code / 1_000) * 5_000).collect();
        for block_rows in [1, 7, 700, 2_500, 20_000] {
            let cut = Partitioned { count: 14_000, block_rows };
            let blocks = BlocksOfCodes::new(&numbers, cut);
            for (code, number) in numbers.iter().enumerate() {
                let expected = (u64::from(*number) / block_rows) as usize;
                assert_eq!(blocks.get(code as u32), Some(expected));
            }
            assert_eq!(blocks.get(3_000), None);
        }
        // A number beyond the last block.
        let cut = Partitioned { count: 2_000, block_rows: 1_000 };
        assert_eq!(BlocksOfCodes::new(&numbers, cut).get(2_999), None);
        assert_eq!(BlocksOfCodes::new(&[], cut).get(0), None);
    }

    /// The sums of rows, by way of segments of (row, weight), whose weights are only written where one isn't 1.
    async fn row_sums(segments: &[&[(u32, f64)]], ones: bool) -> Vec<f64> {
        let dir = tempfile::tempdir().unwrap();
        let place = |name| Folder(Url::from_directory_path(dir.path().join(name)).unwrap());
        let cut = Partitioned { count: 7, block_rows: 3 };
        let content = Content::RowSums;
        let to = Destination { folder: place("to"), by: Axis::Row, cut, content };
        let runtime = RuntimeEnv::default();
        let mut written = Vec::new();
        for (number, of_segment) in segments.iter().enumerate() {
            let mut rows: Vec<u32> = of_segment.iter().map(|entry| entry.0).collect();
            let codes = |rows: &[u32], all: &[u32]| -> Vec<u32> {
                all.iter().map(|row| rows.binary_search(row).unwrap() as u32).collect()
            };
            let all = rows.clone();
            rows.sort_unstable();
            rows.dedup();
            let mut bytes = codes(&rows, &all).to_byte_slice().to_vec();
            bytes.extend_from_slice(vec![0u32; all.len()].to_byte_slice());
            if of_segment.iter().any(|entry| entry.1 != 1.0) {
                let weights: Vec<f64> = of_segment.iter().map(|entry| entry.1).collect();
                bytes.extend_from_slice(weights.to_byte_slice());
            }
            let segment = Segment { name: number.to_string(), entries: all.len() };
            let (entries, name) = (bytes.into(), segment.entries());
            let count = segment.entries;
            let numbered = Numbered { entries, count, name, rows, columns: vec![0] };
            let object = numbers_to_bytes(numbered.scatter(&to, ones).unwrap());
            to.folder.open(&runtime).unwrap().put(&segment.entries(), object).await.unwrap();
            written.push(segment);
        }
        let write = BlockWrite { folder: place("blocks"), cut, content };
        let gather = Gather { folder: to.folder, segments: written, write };
        let (resident, reuse) = (Resident::default(), Reuse::default());
        let mut sums = Vec::new();
        for block in 0..cut.blocks() {
            let (runtime, resident, reuse) = (&runtime, &resident, &reuse);
            let threads = &Arc::new(Threads::new(1));
            let task = Task { block, runtime, resident, reuse, threads };
            gather.run(task).await.unwrap();
            let (folder, name) = (&gather.write.folder, Folder::part(block));
            let found = folder.numbers::<f64>(runtime, &name, cut.rows(block)).await;
            sums.extend(found.unwrap());
        }
        sums
    }

    #[tokio::test]
    async fn edges_without_weights_are_counted() {
        let segments: [&[(u32, f64)]; 3] =
            [&[(5, 1.0), (0, 1.0), (5, 1.0), (2, 1.0)], &[(6, 1.0)], &[(2, 1.0), (5, 1.0)]];
        for ones in [true, false] {
            let sums = row_sums(&segments, ones).await;
            assert_eq!(sums, [1.0, 0.0, 2.0, 0.0, 0.0, 3.0, 1.0]);
        }
    }

    /// A segment whose weights happen to be 1 is added up weight by weight, as if they were elsewhere.
    #[tokio::test]
    async fn how_weights_are_spread_does_not_show_in_their_sums() {
        // Each 1 that is added is lost, for it is half of the distance to the next number; three at once are not.
        let large = -(2f64.powi(54));
        assert!(large + 1.0 == large && large + 3.0 != large);
        let ones = [(4, 1.0), (4, 1.0), (4, 1.0)];
        let together = [(4, 1.0), (4, large), (4, 1.0), (4, 1.0)];
        for segments in [&[&[(4, large)][..], &ones][..], &[&together]] {
            assert_eq!(row_sums(segments, false).await[4], large);
        }
    }
}
