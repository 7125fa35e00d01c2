//! Compressed sparse rows: the rows of one block, each a run of (column, value) entries.
//!
//! A block covers consecutive dense row numbers. Entries of a row are sorted by column, so that a
//! kernel adds them up in the same order whatever order they arrived in.

mod digits;

use digits::Digits;
use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;
use thiserror::Error;

/// A value that a block can hold, with a fixed binary form.
pub trait Value: Copy + Default + Send + Sync + 'static {
    /// Bytes that one value takes.
    const BYTES: usize;
    /// Appends the little-endian form.
    fn write(self, out: &mut Vec<u8>);
    /// Reads the little-endian form; `bytes` holds exactly [`Self::BYTES`].
    fn read(bytes: &[u8]) -> Self;
    /// A total order, for sorting.
    fn total_cmp(&self, other: &Self) -> std::cmp::Ordering;
    /// The sum of two values.
    fn plus(self, other: Self) -> Self;
}

/// No value at all, where it only counts which entries there are. They are kept and not added up.
impl Value for () {
    const BYTES: usize = 0;
    fn write(self, _: &mut Vec<u8>) {}
    fn read(_: &[u8]) -> Self {}
    fn total_cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
    fn plus(self, _: Self) -> Self {}
}

macro_rules! float_value {
    ($type:ty) => {
        impl Value for $type {
            const BYTES: usize = size_of::<$type>();
            #[inline]
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                let mut array = [0; Self::BYTES];
                array.copy_from_slice(bytes);
                Self::from_le_bytes(array)
            }
            #[inline]
            fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
                <$type>::total_cmp(self, other)
            }
            #[inline]
            fn plus(self, other: Self) -> Self {
                self + other
            }
        }
    };
}
float_value!(f32);
float_value!(f64);

/// What is wrong with bytes that should be a block.
#[derive(Debug, Error, PartialEq)]
pub enum CsrError {
    /// The bytes do not start with the block header.
    #[error("not a block of {expected}-byte values: the header is missing or of another kind")]
    Header {
        /// Bytes a value of the wanted type takes.
        expected: usize,
    },
    /// The length is not what the header promises.
    #[error("a block of {expected} bytes has {actual}: it was cut off or damaged")]
    Length {
        /// Bytes that the header promises.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
}

/// What to do with several entries of the same row and column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Duplicates {
    /// Add their values up.
    Add,
    /// Keep each as an entry of its own.
    Keep,
}

/// A block of sparse rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Csr<V> {
    /// Dense number of the first row.
    pub first_row: u32,
    /// Entry range of row `i` is `offsets[i]..offsets[i + 1]`; one longer than the rows.
    pub offsets: Vec<u64>,
    /// Dense column number of each entry, ascending within a row.
    pub columns: Vec<u32>,
    /// Value of each entry.
    pub values: Vec<V>,
}

/// Some consecutive rows of a block whose columns are numbered anew, as if there were no others.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<V> {
    /// The rows; its first row is the number in the data, as that of a block.
    pub rows: Csr<V>,
    /// What the columns are in the data, ascending.
    pub columns: Vec<u32>,
}

const MAGIC: &[u8; 4] = b"NSC1";
const HEADER: usize = 24;

impl<V: Value> Csr<V> {
    /// Builds a block of `rows` rows from `(row, column, value)` entries in any order, which are gone through twice.
    /// The result depends on the set of entries only, not on their order. Rows are dense numbers within
    /// `first_row .. first_row + rows`.
    pub fn from_entries(
        first_row: u32,
        rows: usize,
        entries: impl Iterator<Item = (u32, u32, V)> + Clone,
        duplicates: Duplicates,
    ) -> Self {
        // Where the next entry of a row goes is counted one place further on, and so ends as where the row ends.
        let mut offsets = vec![0u64; rows + 2];
        // Entries without values are small enough to be moved once for each digit of their columns; others are sorted row
        // by row, which is faster for them.
        let mut digits = (V::BYTES == 0).then(Digits::new);
        entries.clone().for_each(|(row, column, _)| {
            offsets[(row - first_row) as usize + 2] += 1;
            digits.iter_mut().for_each(|digits| digits.count(column));
        });
        for row in 2..offsets.len() {
            offsets[row] += offsets[row - 1];
        }
        let mut by_row: Vec<(u32, V)> = Vec::new();
        if let Some((_, column, value)) = entries.clone().next() {
            by_row.resize(offsets[rows + 1] as usize, (column, value));
        }
        let mut place = |(row, column, value): (u32, u32, V)| {
            let at = &mut offsets[(row - first_row) as usize + 1];
            by_row[*at as usize] = (column, value);
            *at += 1;
        };
        match digits.as_ref().and_then(|digits| digits.sort(entries.clone())) {
            Some(by_column) => by_column.into_iter().for_each(&mut place),
            None => entries.for_each(&mut place),
        }
        offsets.truncate(rows + 1);
        let mut columns = Vec::with_capacity(by_row.len());
        let mut values: Vec<V> = Vec::with_capacity(by_row.len());
        let mut start = 0;
        for end in &mut offsets[1..] {
            // A row is short beside the block: what is left to be sorted stays in a cache.
            let row_entries = &mut by_row[start..*end as usize];
            start = *end as usize;
            if digits.is_none() {
                row_entries
                    .sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.total_cmp(&b.1)));
            }
            if duplicates == Duplicates::Keep {
                columns.extend(row_entries.iter().map(|entry| entry.0));
                values.extend(row_entries.iter().map(|entry| entry.1));
                continue;
            }
            let first: usize = columns.len();
            for (column, value) in row_entries {
                let same = columns.len() > first && columns.last() == Some(column);
                match values.last_mut() {
                    Some(sum) if same => *sum = sum.plus(*value),
                    _ => {
                        columns.push(*column);
                        values.push(*value);
                    }
                }
            }
            // Entries that were added up leave room before the next row.
            *end = columns.len() as u64;
        }
        Self { first_row, offsets, columns, values }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Columns and values of the `row`-th row of the block.
    pub fn row(&self, row: usize) -> (&[u32], &[V]) {
        let range = self.offsets[row] as usize..self.offsets[row + 1] as usize;
        (&self.columns[range.clone()], &self.values[range])
    }

    /// The columns of as many entries as the `row`-th row has, `distance` entries later; fewer where the block ends.
    #[inline]
    pub fn columns_ahead(&self, row: usize, distance: usize) -> &[u32] {
        let of_entry = |offset: u64| (offset as usize + distance).min(self.columns.len());
        &self.columns[of_entry(self.offsets[row])..of_entry(self.offsets[row + 1])]
    }

    /// Bytes that the block takes in memory.
    pub fn size(&self) -> usize {
        self.offsets.len() * 8 + self.columns.len() * (4 + V::BYTES)
    }

    /// All rows in at most `count` pieces of consecutive rows that cost about the same. `cost` is told a row of the block,
    /// and how many entries it has.
    pub fn pieces(&self, count: u64, cost: impl Fn(usize, u64) -> u64) -> Vec<Range<usize>> {
        let costs =
            || self.offsets.windows(2).enumerate().map(|(row, at)| cost(row, at[1] - at[0]));
        let total: u64 = costs().sum();
        let (mut pieces, mut first, mut done) = (Vec::new(), 0, 0);
        for (row, cost) in costs().enumerate() {
            done += cost;
            if done >= total / count * (pieces.len() as u64 + 1) && pieces.len() as u64 + 1 < count
            {
                pieces.push(first..row + 1);
                first = row + 1;
            }
        }
        if first < self.rows() {
            pieces.push(first..self.rows());
        }
        pieces
    }

    /// As many rows from the `first` on as have no more than `most_columns` different columns, and at least one.
    /// `needs_columns` says of a row, by its number in the data, whether anybody looks at what is in its columns: those
    /// of others don't count, and what they are in the group has no meaning.
    pub fn group(
        &self,
        first: usize,
        most_columns: usize,
        needs_columns: impl Fn(u32) -> bool,
    ) -> Group<V> {
        let needed = |row: usize| match needs_columns(self.first_row + row as u32) {
            true => self.row(row).0,
            false => &[],
        };
        let mut places = HashMap::with_hasher(FixedState::default());
        let mut end = first;
        while end < self.rows() {
            let before = places.len();
            places.extend(needed(end).iter().map(|column| (*column, 0)));
            if end > first && places.len() > most_columns {
                // A row that is left out may have left columns behind; they do no harm but for their room.
                if places.len() > before {
                    places = (first..end).flat_map(needed).map(|column| (*column, 0)).collect();
                }
                break;
            }
            end += 1;
        }
        let mut columns: Vec<u32> = places.keys().copied().collect();
        columns.sort_unstable();
        for (place, column) in columns.iter().enumerate() {
            places.insert(*column, place as u32);
        }
        let start = self.offsets[first];
        let entries = start as usize..self.offsets[end] as usize;
        let place = |column: &u32| places.get(column).copied().unwrap_or_default();
        let rows = Csr {
            first_row: self.first_row + first as u32,
            offsets: self.offsets[first..=end].iter().map(|offset| offset - start).collect(),
            columns: self.columns[entries.clone()].iter().map(place).collect(),
            values: self.values[entries].to_vec(),
        };
        Group { rows, columns }
    }

    /// The binary form: a header, then offsets, columns and values, all little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.size());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(V::BYTES as u32).to_le_bytes());
        out.extend_from_slice(&self.first_row.to_le_bytes());
        out.extend_from_slice(&(self.rows() as u32).to_le_bytes());
        out.extend_from_slice(&(self.columns.len() as u64).to_le_bytes());
        for offset in &self.offsets {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        for column in &self.columns {
            out.extend_from_slice(&column.to_le_bytes());
        }
        for value in &self.values {
            value.write(&mut out);
        }
        out
    }

    /// Reads the form that [`Self::to_bytes`] writes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CsrError> {
        let word = |at: usize| {
            let mut array = [0; 4];
            array.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(array)
        };
        if bytes.len() < HEADER || &bytes[..4] != MAGIC || word(4) as usize != V::BYTES {
            return Err(CsrError::Header { expected: V::BYTES });
        }
        let (first_row, rows) = (word(8), word(12) as usize);
        let entries = (u64::from(word(16)) | u64::from(word(20)) << 32) as usize;
        let columns_at = HEADER + (rows + 1) * 8;
        let values_at = columns_at + entries * 4;
        let expected = values_at + entries * V::BYTES;
        if bytes.len() != expected {
            return Err(CsrError::Length { expected, actual: bytes.len() });
        }
        let offsets = bytes[HEADER..columns_at]
            .chunks_exact(8)
            .map(|chunk| {
                let mut array = [0; 8];
                array.copy_from_slice(chunk);
                u64::from_le_bytes(array)
            })
            .collect();
        let columns = bytes[columns_at..values_at]
            .chunks_exact(4)
            .map(|chunk| {
                let mut array = [0; 4];
                array.copy_from_slice(chunk);
                u32::from_le_bytes(array)
            })
            .collect();
        let value = |entry| V::read(&bytes[values_at + entry * V::BYTES..][..V::BYTES]);
        let values = (0..entries).map(value).collect();
        Ok(Self { first_row, offsets, columns, values })
    }
}

impl Csr<f64> {
    /// The same block with values of single precision.
    pub fn into_single(self) -> Csr<f32> {
        let values = self.values.into_iter().map(|value| value as f32).collect();
        let Self { first_row, offsets, columns, .. } = self;
        Csr { first_row, offsets, columns, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entries() -> impl Strategy<Value = Vec<(u32, u32, f64)>> {
        // Some columns many times, and columns with all of the digits by which they are sorted.
        let column = (0u32..6, prop_oneof![Just(0), Just(9), Just(20), Just(29)]);
        let column = column.prop_map(|(column, shift)| column << shift);
        prop::collection::vec((5u32..12, column, -4i32..4), 0..60).prop_map(|entries| {
            entries.into_iter().map(|(row, column, value)| (row, column, value.into())).collect()
        })
    }

    proptest! {
        #[test]
        fn holds_what_a_map_of_entries_holds(entries in entries()) {
            let block = Csr::from_entries(5, 7, entries.iter().copied(), Duplicates::Add);
            let mut expected = BTreeMap::new();
            for (row, column, value) in entries {
                *expected.entry((row, column)).or_insert(0.0) += value;
            }
            let mut actual = BTreeMap::new();
            for row in 0..block.rows() {
                let (columns, values) = block.row(row);
                prop_assert!(columns.windows(2).all(|pair| pair[0] < pair[1]));
                for (column, value) in columns.iter().zip(values) {
                    actual.insert((5 + row as u32, *column), *value);
                }
            }
            prop_assert_eq!(actual, expected);
        }

        #[test]
        fn is_the_same_for_any_order_of_entries(entries in entries()) {
            let mut reversed = entries.clone();
            reversed.reverse();
            for duplicates in [Duplicates::Add, Duplicates::Keep] {
                prop_assert_eq!(
                    Csr::from_entries(5, 7, entries.iter().copied(), duplicates),
                    Csr::from_entries(5, 7, reversed.iter().copied(), duplicates)
                );
            }
        }

        #[test]
        fn columns_ahead_are_all_but_the_first(entries in entries(), distance in 0usize..70) {
            let block = Csr::from_entries(5, 7, entries.into_iter(), Duplicates::Keep);
            let ahead = (0..block.rows()).flat_map(|row| block.columns_ahead(row, distance));
            let expected = block.columns.get(distance..).unwrap_or_default();
            prop_assert_eq!(ahead.copied().collect::<Vec<_>>(), expected);
        }

        #[test]
        fn survives_its_binary_form(entries in entries()) {
            let block = Csr::from_entries(5, 7, entries.iter().copied(), Duplicates::Keep);
            prop_assert_eq!(Csr::from_bytes(&block.to_bytes()), Ok(block.clone()));
            let entries = entries.iter().map(|(row, column, _)| (*row, *column, ()));
            let without = Csr::from_entries(5, 7, entries, Duplicates::Keep);
            prop_assert_eq!(&without.columns, &block.columns);
            prop_assert_eq!(Csr::from_bytes(&without.to_bytes()), Ok(without));
        }
    }

    #[test]
    fn pieces_have_all_rows_and_cost_about_the_same() {
        let block = |lengths: &[u32]| {
            let rows = lengths.iter().enumerate();
            let entries =
                rows.flat_map(|(row, length)| (0..*length).map(move |at| (row as u32, at, 1.0f32)));
            Csr::from_entries(0, lengths.len(), entries, Duplicates::Keep)
        };
        let entries = |_: usize, entries: u64| entries;
        assert_eq!(block(&[5; 8]).pieces(4, entries), [0..2, 2..4, 4..6, 6..8]);
        assert_eq!(block(&[1, 1, 100, 1, 1]).pieces(2, entries), [0..3, 3..5]);
        // Where a long row costs nothing, the others are cut.
        let others = |row: usize, entries: u64| if row == 2 { 1 } else { entries };
        assert_eq!(block(&[1, 1, 100, 1, 1, 1, 1, 1]).pieces(4, others), [0..2, 2..4, 4..6, 6..8]);
        assert_eq!(block(&[0; 8]).pieces(4, |_, _| 1), [0..2, 2..4, 4..6, 6..8]);
        assert!(block(&[]).pieces(2, entries).is_empty());
        for lengths in [vec![7; 1000], vec![0; 10], (0..500).collect(), vec![1000, 0, 0, 2, 3]] {
            let pieces = block(&lengths).pieces(16, |_, entries| entries + 1);
            assert!(pieces.len() <= 16 && pieces.iter().all(|rows| !rows.is_empty()));
            assert!(pieces.iter().cloned().flatten().eq(0..lengths.len()), "{pieces:?}");
        }
    }

    #[test]
    fn groups_are_the_rows_with_few_columns() {
        let entries =
            vec![(5, 9, 1.0), (5, 2, 2.0), (6, 2, 3.0), (7, 4, 4.0), (7, 9, 5.0), (8, 1, 6.0)];
        let block = Csr::from_entries(5, 5, entries.iter().copied(), Duplicates::Keep);
        for most in 1..6 {
            let (mut first, mut seen) = (0, Vec::new());
            while first < block.rows() {
                let group = block.group(first, most, |_| true);
                assert!(group.rows.rows() == 1 || group.columns.len() <= most);
                let next = first + group.rows.rows();
                // One row more would have been too many.
                if next < block.rows() {
                    let columns = &block.columns[block.offsets[first] as usize..];
                    let count = (block.offsets[next + 1] - block.offsets[first]) as usize;
                    let columns: std::collections::BTreeSet<_> = columns[..count].iter().collect();
                    assert!(columns.len() > most);
                }
                for row in 0..group.rows.rows() {
                    let (places, values) = group.rows.row(row);
                    seen.extend(places.iter().zip(values).map(|(place, value)| {
                        (group.rows.first_row + row as u32, group.columns[*place as usize], *value)
                    }));
                }
                first = next;
            }
            let mut expected = entries.clone();
            expected.sort_by_key(|entry| (entry.0, entry.1));
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn columns_that_nobody_looks_at_are_in_no_group() {
        let entries =
            [(5, 9, 1.0), (6, 1, 2.0), (6, 2, 3.0), (6, 3, 4.0), (7, 9, 5.0), (8, 4, 6.0)];
        let block = Csr::from_entries(5, 4, entries.into_iter(), Duplicates::Keep);
        let group = block.group(0, 1, |row| row != 6);
        assert_eq!((group.rows.rows(), group.columns.as_slice()), (3, [9].as_slice()));
        let rows: Vec<_> = (0..3).map(|row| group.rows.row(row)).collect();
        assert_eq!(
            (rows[0], rows[2]),
            (([0].as_slice(), [1.0].as_slice()), (&[0][..], &[5.0][..]))
        );
        // It still has as many entries.
        assert_eq!(rows[1].1, [2.0, 3.0, 4.0]);
        assert_eq!(block.group(1, 0, |row| row != 6).columns, [] as [u32; 0]);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let entries = [(1, 3, 0.5f32)].into_iter();
        let bytes = Csr::from_entries(0, 2, entries, Duplicates::Add).to_bytes();
        let cut = Csr::<f32>::from_bytes(&bytes[..bytes.len() - 1]);
        assert!(matches!(cut, Err(CsrError::Length { .. })));
        assert_eq!(Csr::<f64>::from_bytes(&bytes), Err(CsrError::Header { expected: 8 }));
        assert_eq!(Csr::<f32>::from_bytes(b"short"), Err(CsrError::Header { expected: 4 }));
    }
}
