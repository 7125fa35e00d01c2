//! Where blocks and states are, and how a side of the data is cut into blocks.

use crate::{JobError, Result};
use arrow::datatypes::{ArrowNativeType, ToByteSlice};
use bytes::Bytes;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt};
use nightshift_catalog::storage::Storage;
use nightshift_udfs::csr::Value;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
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

    /// Whether the parts of all blocks are there.
    pub async fn has_all_parts(&self, runtime: &RuntimeEnv, cut: Partitioned) -> Result<bool> {
        let storage = self.open(runtime)?;
        let listed = storage.list().await?;
        let listed: HashSet<_> = listed.into_iter().map(|object| object.location).collect();
        Ok((0..cut.blocks()).all(|block| listed.contains(&storage.path(&Self::part(block)))))
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

/// Wanted rows that are further apart than this many bytes are read separately: to read what is between them takes about
/// as long as to begin again.
const GAP: u64 = 4 << 10;

/// Parts of which rows are read at the same time.
const READS: usize = 4;

impl Folder {
    /// Some rows of a state whose rows have `width` numbers: those with the `wanted` numbers, which ascend.
    pub async fn rows<V: Value>(
        &self,
        runtime: &RuntimeEnv,
        cut: Partitioned,
        width: usize,
        wanted: &[u32],
    ) -> Result<Vec<V>> {
        let storage = &self.open(runtime)?;
        let mut of_blocks = Vec::new();
        let mut next = 0;
        while let Some(first) = wanted.get(next) {
            let block = (u64::from(*first) / cut.block_rows) as u32;
            let end = cut.range(block).end;
            let count = wanted[next..].partition_point(|number| u64::from(*number) < end);
            if count == 0 {
                let reason = format!("row {first} is wanted, and there are {}", cut.count);
                return Err(JobError::Damaged { what: self.0.to_string(), reason });
            }
            of_blocks.push((block, next..next + count));
            next += count;
        }
        let bytes = (width * V::BYTES) as u64;
        let parts = futures::stream::iter(of_blocks).map(|(block, here)| async move {
            let here = &wanted[here];
            let first = cut.range(block).start;
            let start = |number: &u32| (u64::from(*number) - first) * bytes;
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for number in here {
                let start = start(number);
                match ranges.last_mut().filter(|range| start <= range.end + GAP) {
                    Some(range) => range.end = start + bytes,
                    None => ranges.push(start..start + bytes),
                }
            }
            let name = Self::part(block);
            let read = storage.get_ranges(&name, &ranges).await?;
            let mut parts = ranges.iter().zip(&read).peekable();
            let mut rows: Vec<V> = Vec::with_capacity(here.len() * width);
            for start in here.iter().map(start) {
                while parts.next_if(|(range, _)| range.end <= start).is_some() {}
                let row = parts.peek().and_then(|(range, part)| {
                    let start = (start - range.start) as usize;
                    part.get(start..start + bytes as usize)
                });
                let what = format!("{}{name}", self.0);
                append_numbers(row.unwrap_or_default(), width, &what, &mut rows)?;
            }
            Ok::<_, JobError>(rows)
        });
        let mut rows = Vec::with_capacity(wanted.len() * width);
        let mut parts = parts.buffered(READS);
        while let Some(part) = parts.try_next().await? {
            rows.extend(part);
        }
        Ok(rows)
    }
}

/// The binary form of numbers: little-endian, as Arrow has them in memory, and nothing else. They are not copied.
pub fn numbers_to_bytes<V: ArrowNativeType>(values: Vec<V>) -> Bytes {
    shared_numbers_to_bytes(Arc::new(values))
}

/// The same of numbers that others need too.
pub fn shared_numbers_to_bytes<V: ArrowNativeType>(values: Arc<Vec<V>>) -> Bytes {
    struct Numbers<V>(Arc<Vec<V>>);
    impl<V: ArrowNativeType> AsRef<[u8]> for Numbers<V> {
        fn as_ref(&self) -> &[u8] {
            self.0.to_byte_slice()
        }
    }
    Bytes::from_owner(Numbers(values))
}

/// Appends the numbers that `bytes` hold to `out`; there must be `expected` of them.
pub fn append_numbers<V: Value>(
    bytes: &[u8],
    expected: usize,
    name: &str,
    out: &mut Vec<V>,
) -> Result<()> {
    check_numbers::<V>(bytes, expected, name)?;
    out.extend(bytes.chunks_exact(V::BYTES).map(V::read));
    Ok(())
}

/// Reads the numbers that `bytes` hold into `out`; there must be as many.
pub fn read_numbers<V: Value>(bytes: &[u8], name: &str, out: &mut [V]) -> Result<()> {
    check_numbers::<V>(bytes, out.len(), name)?;
    out.iter_mut().zip(bytes.chunks_exact(V::BYTES)).for_each(|(out, bytes)| *out = V::read(bytes));
    Ok(())
}

fn check_numbers<V: Value>(bytes: &[u8], expected: usize, name: &str) -> Result<()> {
    match bytes.len() == expected * V::BYTES {
        true => Ok(()),
        false => Err(JobError::Damaged {
            what: name.to_string(),
            reason: format!("{} bytes instead of {}", bytes.len(), expected * V::BYTES),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wanted_rows_are_read_from_their_parts() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder(Url::from_directory_path(dir.path()).unwrap());
        let runtime = RuntimeEnv::default();
        // Four parts of 700 rows of 3 numbers, the last with 1: gaps are shorter and longer than what is read over.
        let (cut, width) = (Partitioned { count: 2101, block_rows: 700 }, 3);
        let number = |row: u64, at: u64| (row * 10 + at) as f32;
        for block in 0..cut.blocks() {
            let rows = cut.range(block).flat_map(|row| (0..3).map(move |at| number(row, at)));
            let bytes = numbers_to_bytes(rows.collect());
            folder.open(&runtime).unwrap().put(&Folder::part(block), bytes).await.unwrap();
        }
        for wanted in [
            vec![],
            vec![0],
            vec![2100],
            vec![0, 1, 500, 699, 700, 1399, 1400, 2099, 2100],
            (0..2101).collect(),
            (0..2101).step_by(7).collect(),
            (0..2101).step_by(400).collect(),
        ] {
            let rows: Vec<f32> = folder.rows(&runtime, cut, width, &wanted).await.unwrap();
            let expected =
                wanted.iter().flat_map(|row| (0..3).map(|at| number(u64::from(*row), at)));
            assert_eq!(rows, expected.collect::<Vec<_>>(), "{wanted:?}");
        }
        let beyond = folder.rows::<f32>(&runtime, cut, width, &[2099, 2101]).await.unwrap_err();
        assert!(beyond.to_string().contains("row 2101 is wanted"), "{beyond}");
    }

    #[tokio::test]
    async fn a_state_is_whole_when_all_parts_are_in_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder(Url::from_directory_path(dir.path().join("state")).unwrap());
        let (runtime, cut) = (RuntimeEnv::default(), Partitioned { count: 5, block_rows: 2 });
        let storage = folder.open(&runtime).unwrap();
        for (name, whole) in [("000000.bin", false), ("within/000001.bin", false)] {
            storage.put(name, vec![0]).await.unwrap();
            assert_eq!(folder.has_all_parts(&runtime, cut).await.unwrap(), whole);
        }
        for (name, whole) in [("000002.bin", false), ("000001.bin", true)] {
            storage.put(name, vec![0]).await.unwrap();
            assert_eq!(folder.has_all_parts(&runtime, cut).await.unwrap(), whole);
        }
    }

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
