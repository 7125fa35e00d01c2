//! Entries by column.

use super::Value;

/// How often each value of each digit is in the columns of entries, which is what sorting by digits begins with (LSD radix
/// sort).
pub(super) struct Digits {
    counts: Vec<[u32; Self::VALUES]>,
}

impl Digits {
    const BITS: u32 = 11;
    const VALUES: usize = 1 << Self::BITS;

    pub(super) fn new() -> Self {
        Self { counts: vec![[0; Self::VALUES]; u32::BITS.div_ceil(Self::BITS) as usize] }
    }

    #[inline]
    fn digit(column: u32, digit: usize) -> usize {
        (column >> (Self::BITS * digit as u32)) as usize % Self::VALUES
    }

    /// Counts those of an entry's column.
    #[inline]
    pub(super) fn count(&mut self, column: u32) {
        for (digit, counts) in self.counts.iter_mut().enumerate() {
            counts[Self::digit(column, digit)] += 1;
        }
    }

    /// The entries by column; those of a column stay in their order. `None` if all have the same column.
    pub(super) fn sort<V: Value>(
        &self,
        entries: impl Iterator<Item = (u32, u32, V)> + Clone,
    ) -> Option<Vec<(u32, u32, V)>> {
        let mut sorted: Option<Vec<(u32, u32, V)>> = None;
        for (digit, counts) in self.counts.iter().enumerate() {
            if counts.iter().filter(|count| **count > 0).count() > 1 {
                sorted = Some(match sorted {
                    None => Self::sort_by(digit, counts, entries.clone()),
                    Some(before) => Self::sort_by(digit, counts, before.iter().copied()),
                });
            }
        }
        sorted
    }

    fn sort_by<V: Value>(
        digit: usize,
        counts: &[u32; Self::VALUES],
        entries: impl Iterator<Item = (u32, u32, V)> + Clone,
    ) -> Vec<(u32, u32, V)> {
        let mut count = 0;
        let mut next = counts.map(|of_value| {
            let start = count;
            count += of_value as usize;
            start
        });
        let mut sorted = Vec::new();
        if let Some(entry) = entries.clone().next() {
            sorted.resize(count, entry);
        }
        for entry in entries {
            let next = &mut next[Self::digit(entry.1, digit)];
            sorted[*next] = entry;
            *next += 1;
        }
        sorted
    }
}
