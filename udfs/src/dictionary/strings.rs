//! Lists of strings, in memory and in files.

use std::ops::Range;

/// Strings of bytes one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<u64>,
}

impl Strings {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them.
    pub fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Appends one.
    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len() as u64);
    }

    /// Bytes that they take in memory.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.ends.len() * 8
    }

    /// The binary form: how many there are, where they end, and their bytes, numbers little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.size());
        out.extend_from_slice(&(self.ends.len() as u64).to_le_bytes());
        self.ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
        out.extend_from_slice(&self.bytes);
        out
    }

    /// The ranges of the binary form that say where the strings of a range are: how many there are at all, and
    /// where the one before and each of them ends.
    pub fn head(range: Range<u64>) -> [Range<u64>; 2] {
        [0..8, range.start * 8..8 + range.end * 8]
    }

    /// From what is in these ranges, where the strings of a range end among themselves, and the range of the
    /// binary form in which they are. `None` if there is something else.
    pub fn ends(range: Range<u64>, head: &[impl AsRef<[u8]>]) -> Option<(Vec<u64>, Range<u64>)> {
        let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let [count, ends] = head else { return None };
        let count = count.as_ref().first_chunk().map(number)?;
        let (ends, rest) = ends.as_ref().as_chunks();
        if !rest.is_empty() || ends.len() as u64 != range.end - range.start + 1 {
            return None;
        }
        let mut ends = ends.iter().map(number);
        // Before the first end is how many there are.
        let first = ends.next()?;
        let start = if range.start == 0 { 0 } else { first };
        let ends: Option<Vec<u64>> = ends.map(|end| end.checked_sub(start)).collect();
        let ends = ends?;
        let bytes = 8 + count.checked_mul(8)?;
        let from = bytes.checked_add(start)?;
        let to = from.checked_add(ends.last().copied().unwrap_or(0))?;
        Some((ends, from..to))
    }

    /// Strings whose bytes are one after another and end there; `None` if they can't.
    pub fn from_parts(ends: Vec<u64>, bytes: &[u8]) -> Option<Self> {
        let fits = ends.is_sorted() && ends.last().copied().unwrap_or(0) == bytes.len() as u64;
        fits.then(|| Self { bytes: bytes.to_vec(), ends })
    }

    /// Reads the form that [`Self::to_bytes`] writes; `None` if it is another.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        let (ends, bytes) = rest.split_at_checked(count.checked_mul(8)?)?;
        let ends = ends.as_chunks().0.iter().map(|end| u64::from_le_bytes(*end));
        Self::from_parts(ends.collect(), bytes)
    }
}

impl<'a> FromIterator<&'a [u8]> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(strings: I) -> Self {
        let mut all = Self::default();
        strings.into_iter().for_each(|string| all.push(string));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_are_read_as_they_were_written(values in prop::collection::vec("[a-c]{0,3}", 0..30)) {
            let all = Strings::from_iter(values.iter().map(|value| value.as_bytes()));
            prop_assert!(all.iter().eq(values.iter().map(|value| value.as_bytes())));
            let bytes = all.to_bytes();
            prop_assert_eq!(Strings::from_bytes(&bytes), Some(all.clone()));
            let within = |range: Range<u64>| &bytes[range.start as usize..range.end as usize];
            for first in 0..=all.len() as u64 {
                for end in first..=all.len() as u64 {
                    let head = Strings::head(first..end).map(within);
                    let (ends, bytes) = Strings::ends(first..end, &head).unwrap();
                    let part = Strings::from_parts(ends, within(bytes)).unwrap();
                    let expected = all.iter().skip(first as usize).take((end - first) as usize);
                    prop_assert!(part.iter().eq(expected));
                }
            }
        }
    }

    #[test]
    fn damaged_strings_are_refused() {
        let bytes = Strings::from_iter([&b"one"[..], b"", b"three"]).to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(Strings::from_bytes(&bytes[..length]), None);
        }
        let mut falling = bytes.clone();
        falling[8] = 9;
        assert_eq!(Strings::from_bytes(&falling), None);
    }
}
