//! Where blocks and states are, and how a side of the data is cut into blocks.

use crate::{JobError, Result};
use arrow::datatypes::{ArrowNativeType, ToByteSlice};
use bytes::Bytes;
use datafusion::execution::runtime_env::RuntimeEnv;
use nightshift_catalog::storage::Storage;
use nightshift_udfs::csr::Value;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use url::Url;

/// Entries that a block holds at most, on average, once there are enough of them. To launch a task takes some
/// milliseconds, which is little beside what a task of a million entries takes.
const BLOCK_ENTRIES: u64 = 1 << 20;

/// Fewer blocks than this would leave cores of a small cluster idle.
const FEWEST_BLOCKS: u64 = 8;

/// Dense numbers `0 .. count` cut into blocks of consecutive numbers.
///
/// The cut depends on the data alone and never on the cluster, because sums are made block by
/// block: the same data gives the same bits wherever it is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partitioned {
    /// How many numbers there are.
    pub count: u64,
    /// How many of them a block covers; the last may cover fewer.
    pub block_rows: u64,
}

impl Partitioned {
    /// The cut for `count` numbers with `entries` entries among them.
    pub fn new(count: u64, entries: u64) -> Self {
        let wanted = entries.div_ceil(BLOCK_ENTRIES).max(FEWEST_BLOCKS);
        Self { count, block_rows: count.div_ceil(wanted.min(count.max(1))).max(1) }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        self.count.div_ceil(self.block_rows) as u32
    }

    /// The numbers that a block covers.
    pub fn range(&self, block: u32) -> Range<u64> {
        let first = u64::from(block) * self.block_rows;
        first..(first + self.block_rows).min(self.count)
    }

    /// How many numbers a block covers.
    pub fn rows(&self, block: u32) -> usize {
        let range = self.range(block);
        (range.end - range.start) as usize
    }
}

/// A folder of a training run: blocks, or parts of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder(pub Url);

impl Folder {
    /// The name of a block's object.
    pub fn part(block: u32) -> String {
        format!("{block:06}.bin")
    }

    /// The folder on the session's store.
    pub fn open(&self, runtime: &RuntimeEnv) -> Result<Storage> {
        Ok(Storage::of_session(runtime, &self.0)?)
    }

    /// An object that is nothing but numbers; there must be `count` of them.
    pub async fn numbers<V: Value>(
        &self,
        runtime: &RuntimeEnv,
        name: &str,
        count: usize,
    ) -> Result<Vec<V>> {
        let bytes = self.open(runtime)?.get(name).await?;
        let mut values = Vec::with_capacity(count);
        append_numbers(&bytes, count, self.0.as_str(), &mut values)?;
        Ok(values)
    }
}

/// Wanted rows that are further apart than this many bytes are read separately.
const GAP: u64 = 16 << 10;

impl Folder {
    /// Some rows of a state whose rows have `width` numbers: those with the `wanted` numbers, which ascend.
    pub async fn rows<V: Value>(
        &self,
        runtime: &RuntimeEnv,
        cut: Partitioned,
        width: usize,
        wanted: &[u32],
    ) -> Result<Vec<V>> {
        let storage = self.open(runtime)?;
        let bytes = (width * V::BYTES) as u64;
        let mut rows = Vec::with_capacity(wanted.len() * width);
        let mut rest = wanted;
        while let Some(first) = rest.first() {
            let block = (u64::from(*first) / cut.block_rows) as u32;
            let of_block = cut.range(block);
            let count = rest.partition_point(|number| u64::from(*number) < of_block.end);
            let (here, others) = rest.split_at(count);
            rest = others;
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for number in here {
                let start = (u64::from(*number) - of_block.start) * bytes;
                match ranges.last_mut().filter(|range| start <= range.end + GAP) {
                    Some(range) => range.end = start + bytes,
                    None => ranges.push(start..start + bytes),
                }
            }
            let name = Self::part(block);
            let read = storage.get_ranges(&name, &ranges).await?;
            let mut parts = ranges.iter().zip(&read).peekable();
            for number in here {
                let start = (u64::from(*number) - of_block.start) * bytes;
                while parts.next_if(|(range, _)| range.end <= start).is_some() {}
                let row = parts.peek().and_then(|(range, part)| {
                    let start = (start - range.start) as usize;
                    part.get(start..start + bytes as usize)
                });
                let row = row.unwrap_or_default();
                append_numbers(row, width, &format!("{}{name}", self.0), &mut rows)?;
            }
        }
        Ok(rows)
    }
}

/// The binary form of numbers: little-endian, as Arrow has them in memory, and nothing else.
pub fn numbers_to_bytes<V: Value + ArrowNativeType>(values: &[V]) -> Bytes {
    Bytes::copy_from_slice(values.to_byte_slice())
}

/// Appends the numbers that `bytes` hold to `out`; there must be `expected` of them.
pub fn append_numbers<V: Value>(
    bytes: &[u8],
    expected: usize,
    name: &str,
    out: &mut Vec<V>,
) -> Result<()> {
    if bytes.len() != expected * V::BYTES {
        return Err(JobError::Damaged {
            what: name.to_string(),
            reason: format!("{} bytes instead of {}", bytes.len(), expected * V::BYTES),
        });
    }
    out.extend(bytes.chunks_exact(V::BYTES).map(V::read));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_every_number_once() {
        for (count, entries) in [(1, 1), (7, 7), (8, 9), (943, 80_000), (1_000_003, 50_000_000)] {
            let cut = Partitioned::new(count, entries);
            let ranges: Vec<_> = (0..cut.blocks()).map(|block| cut.range(block)).collect();
            assert_eq!(ranges[0].start, 0);
            assert_eq!(ranges[ranges.len() - 1].end, count);
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(ranges.iter().all(|range| !range.is_empty()));
            assert!(u64::from(cut.blocks()) <= count);
        }
        assert_eq!(Partitioned::new(943, 80_000).blocks(), 8);
        assert_eq!(Partitioned::new(0, 0).blocks(), 0);
    }
}
