//! Data as blocks: partitioned, sorted, in compressed sparse rows.

use super::layout::{Folder, Partitioned, numbers_to_bytes};
use super::slices::{LONGEST_ROW, LongRow};
use crate::{JobError, Result};
use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::error::Result as PlanResult;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use futures::StreamExt;
use nightshift_udfs::csr::{Csr, Duplicates, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// What is returned for each block: its number, its entries, and the sum of their values.
pub static BLOCKS_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("block", DataType::Int64, false),
        Field::new("entries", DataType::Int64, false),
        Field::new("sum", DataType::Float64, false),
    ]))
});

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Entries with `f32` values.
    Single(Duplicates),
    /// Entries with `f64` values.
    Double(Duplicates),
    /// Entries without values, each of them kept: all values are 1.
    Ones,
    /// For each row the sum of its values, as `f64`.
    RowSums,
}

/// A block as it is written.
pub struct EncodedBlock {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its entries.
    pub entries: usize,
    /// The sum of their values.
    pub sum: f64,
    /// The rows that are too long for one task.
    pub long_rows: Vec<LongRow>,
}

impl EncodedBlock {
    fn new<V: Value>(block: &Csr<V>, sum: f64) -> Self {
        let rows = block.offsets.windows(2).zip(block.first_row..);
        let rows = rows.map(|(ends, row)| LongRow { row, entries: ends[1] - ends[0] });
        let long_rows = rows.filter(|row| row.entries > LONGEST_ROW).collect();
        let (bytes, entries) = (block.to_bytes().into(), block.columns.len());
        Self { bytes, entries, sum, long_rows }
    }
}

impl Content {
    /// A block of some entries.
    ///
    /// Everything is added up in the order of rows, columns and values, so the same entries give the
    /// same bits in whatever order they come.
    pub fn encode(
        self,
        first_row: u32,
        rows: usize,
        entries: impl Iterator<Item = (u32, u32, f64)> + Clone,
    ) -> EncodedBlock {
        fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
            // `Iterator::sum` of nothing is -0.
            values.into_iter().fold(0.0, |total, value| total + value)
        }
        match self {
            Content::Single(duplicates) => {
                let block = Csr::from_entries(first_row, rows, entries, duplicates).into_single();
                let total = sum(block.values.iter().map(|value| f64::from(*value)));
                EncodedBlock::new(&block, total)
            }
            Content::Double(duplicates) => {
                let block = Csr::from_entries(first_row, rows, entries, duplicates);
                let total = sum(block.values.iter().copied());
                EncodedBlock::new(&block, total)
            }
            Content::Ones => {
                let entries = entries.map(|(row, column, _)| (row, column, ()));
                let block = Csr::from_entries(first_row, rows, entries, Duplicates::Keep);
                let total = block.columns.len() as f64;
                EncodedBlock::new(&block, total)
            }
            Content::RowSums => {
                let (count, sums) = match whole_sums(first_row, rows, entries.clone()) {
                    Some(summed) => summed,
                    None => {
                        let block = Csr::from_entries(first_row, rows, entries, Duplicates::Keep);
                        let sums = (0..rows).map(|row| sum(block.row(row).1.iter().copied()));
                        (block.columns.len(), sums.collect())
                    }
                };
                let total = sum(sums.iter().copied());
                let bytes = numbers_to_bytes(sums);
                EncodedBlock { bytes, entries: count, sum: total, long_rows: Vec::new() }
            }
        }
    }
}

/// How many entries there are, and for each row the sum of its values. `None` if these are not all whole numbers, or so large
/// that the order in which they are added up could show.
fn whole_sums(
    first_row: u32,
    rows: usize,
    entries: impl Iterator<Item = (u32, u32, f64)>,
) -> Option<(usize, Vec<f64>)> {
    /// Up to here, `f64` has all whole numbers.
    const MOST: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;
    let (mut sums, mut count, mut total) = (vec![0.0; rows], 0, 0.0);
    for (row, _, value) in entries {
        if value.trunc() != value {
            return None;
        }
        sums[(row - first_row) as usize] += value;
        count += 1;
        total += value.abs();
    }
    (total <= MOST).then_some((count, sums))
}

/// Where blocks go, and what they hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockWrite {
    /// The folder for the blocks.
    pub folder: Folder,
    /// How the rows are cut.
    pub cut: Partitioned,
    /// What a block holds.
    pub content: Content,
}

type Entries = BTreeMap<i64, Vec<(u32, u32, f64)>>;

/// Gathers a partition's entries by block, then writes one object for each block. The input's columns are the
/// block's number, then the dense numbers of row and column as `BIGINT`, then the value as `DOUBLE`; all rows of
/// a block are in one partition.
pub(super) async fn write_blocks(
    write: &BlockWrite,
    mut input: SendableRecordBatchStream,
    context: &TaskContext,
) -> PlanResult<RecordBatch> {
    let reservation = MemoryConsumer::new("BlockWrite").register(context.memory_pool());
    let mut gathered = Entries::new();
    while let Some(batch) = input.next().await {
        let batch = batch?;
        // An entry takes 16 bytes; vectors that grow hold up to twice as much.
        reservation.try_grow(batch.num_rows() * 32)?;
        let column = |index: usize| batch.column(index).as_primitive::<Int64Type>().values();
        let (blocks, rows, columns) = (column(0), column(1), column(2));
        let values = batch.column(3).as_primitive::<Float64Type>().values();
        for index in 0..batch.num_rows() {
            let entry = (rows[index] as u32, columns[index] as u32, values[index]);
            gathered.entry(blocks[index]).or_default().push(entry);
        }
    }
    let folder = write.folder.open(&context.runtime_env())?;
    let (mut numbers, mut counts, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for (block, entries) in gathered {
        let range = write.cut.range(block as u32);
        let (content, first_row) = (write.content, range.start as u32);
        let rows = write.cut.rows(block as u32);
        let encode = move || content.encode(first_row, rows, entries.iter().copied());
        let encoded = tokio::task::spawn_blocking(encode).await.map_err(JobError::from)?;
        folder.put(&Folder::part(block as u32), encoded.bytes).await?;
        numbers.push(block);
        counts.push(encoded.entries as i64);
        sums.push(encoded.sum);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(numbers)),
        Arc::new(Int64Array::from(counts)),
        Arc::new(Float64Array::from(sums)),
    ];
    Ok(RecordBatch::try_new(Arc::clone(&BLOCKS_SCHEMA), columns)?)
}

/// A block that was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WrittenBlock {
    /// Its entries.
    pub entries: u64,
    /// The sum of their values.
    pub sum: f64,
}

/// Reads the rows that say which blocks were written, by block.
pub fn written_blocks(batches: &[RecordBatch]) -> Result<BTreeMap<u32, WrittenBlock>> {
    let mut written = BTreeMap::new();
    for batch in batches {
        let column = |index: usize| batch.column(index).as_primitive::<Int64Type>();
        let sums = batch.column(2).as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let block = WrittenBlock { entries: column(1).value(row) as u64, sum: sums.value(row) };
            written.insert(column(0).value(row) as u32, block);
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_added_up_in_any_order() {
        let most = (1u64 << 53) as f64;
        let entries = [(7, 0, 3.0), (5, 0, -1.0), (7, 0, 2.0), (5, 0, 1e6)];
        let whole = |entries: &[(u32, u32, f64)]| whole_sums(5, 3, entries.iter().copied());
        assert_eq!(whole(&entries), Some((4, vec![999_999.0, 0.0, 5.0])));
        assert_eq!(whole(&[(6, 0, most)]), Some((1, vec![0.0, most, 0.0])));
        // Where the order could show.
        for value in [0.5, most, -most, f64::INFINITY, f64::NAN] {
            assert_eq!(whole(&[&entries[..], &[(6, 0, value)]].concat()), None, "{value}");
        }
    }

    #[test]
    fn sums_of_rows_are_the_same_whether_their_values_are_whole() {
        let halves = [(7, 0, 1.5), (5, 0, 2.0), (7, 0, 2.5)];
        let sums = |scale: f64| {
            let entries = halves.map(|(row, column, value)| (row, column, value * scale));
            let encoded = Content::RowSums.encode(5, 3, entries.into_iter());
            (encoded.bytes, encoded.entries, encoded.sum)
        };
        assert_eq!(sums(1.0), (numbers_to_bytes(vec![2.0, 0.0, 4.0]), 3, 6.0));
        assert_eq!(sums(2.0), (numbers_to_bytes(vec![4.0, 0.0, 8.0]), 3, 12.0));
    }
}
