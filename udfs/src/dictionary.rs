//! Dictionary encoding: the different values of a column in order, and the place of each value among them.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::ops::Range;

/// How many numbers a range may cover for each value in it, for a bit each to be the dictionary.
const SPARSEST: u64 = 16;

/// The different values in order, and for each value its place among them.
pub fn encode_numbers(values: &[i64]) -> (Vec<i64>, Vec<u32>) {
    match dense(&[values]) {
        Some(dense) => (dense.numbers(), values.iter().map(|value| dense.place(*value)).collect()),
        None => encode_sparse(values),
    }
}

/// The values of lists as bits, if these are few enough.
fn dense(lists: &[impl AsRef<[i64]>]) -> Option<Dense> {
    let values = || lists.iter().flat_map(|list| list.as_ref());
    let (least, most) = (values().min()?, values().max()?);
    let count: usize = lists.iter().map(|list| list.as_ref().len()).sum();
    let range = most.wrapping_sub(*least) as u64;
    (range / SPARSEST < count as u64).then(|| Dense::new(*least, *most, values()))
}

/// Different numbers of a range, in which there is a bit for each.
struct Dense {
    least: i64,
    /// Which numbers are there, from the least on.
    present: Vec<u64>,
    /// For each word, how many are there before it.
    before: Vec<u32>,
}

impl Dense {
    /// The numbers, all of which are in the range from `least` to `most`.
    fn new<'a>(least: i64, most: i64, numbers: impl Iterator<Item = &'a i64>) -> Self {
        let range = most.wrapping_sub(least) as usize + 1;
        let mut present = vec![0u64; range.div_ceil(64)];
        for number in numbers {
            let at = number.wrapping_sub(least) as usize;
            present[at / 64] |= 1 << (at % 64);
        }
        let mut count = 0;
        let before = |bits: &u64| {
            let before = count;
            count += bits.count_ones();
            before
        };
        let before = present.iter().map(before).collect();
        Self { least, present, before }
    }

    /// All of them in order.
    fn numbers(&self) -> Vec<i64> {
        let mut numbers = Vec::new();
        for (word, bits) in self.present.iter().enumerate() {
            let mut left = *bits;
            while left != 0 {
                let at = word * 64 + left.trailing_zeros() as usize;
                numbers.push(self.least.wrapping_add(at as i64));
                left &= left - 1;
            }
        }
        numbers
    }

    /// How many there are before one of them.
    fn place(&self, number: i64) -> u32 {
        let at = number.wrapping_sub(self.least) as usize;
        let (word, bit) = (at / 64, at % 64);
        self.before[word] + (self.present[word] & ((1 << bit) - 1)).count_ones()
    }
}

fn encode_sparse(values: &[i64]) -> (Vec<i64>, Vec<u32>) {
    let hasher = RandomState::default();
    let (mut seen, mut found) = (HashTable::<u32>::new(), Vec::new());
    let mut codes = Vec::with_capacity(values.len());
    for value in values {
        let same = |code: &u32| found[*code as usize] == *value;
        let hash = hasher.hash_one(value);
        let code = match seen.find(hash, same) {
            Some(code) => *code,
            None => {
                let code = found.len() as u32;
                found.push(*value);
                seen.insert_unique(hash, code, |code| hasher.hash_one(found[*code as usize]));
                code
            }
        };
        codes.push(code);
    }
    let order = in_order(&mut codes, found.len(), |code| found[code as usize]);
    (order.into_iter().map(|code| found[code as usize]).collect(), codes)
}

/// Gives values numbers in their order instead of in that of their arrival. Returns the old numbers in the
/// new order.
fn in_order<K: Ord>(codes: &mut [u32], values: usize, value: impl Fn(u32) -> K) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values as u32).collect();
    order.sort_unstable_by_key(|code| value(*code));
    let mut places = vec![0; values];
    for (place, code) in order.iter().enumerate() {
        places[*code as usize] = place as u32;
    }
    codes.iter_mut().for_each(|code| *code = places[*code as usize]);
    order
}

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

/// Encodes strings of bytes as they come.
#[derive(Debug, Default)]
pub struct StringEncoder {
    hasher: RandomState,
    seen: HashTable<u32>,
    found: Strings,
    codes: Vec<u32>,
}

impl StringEncoder {
    /// Appends a value.
    pub fn push(&mut self, value: &[u8]) {
        let Self { hasher, seen, found, codes } = self;
        let hash = hasher.hash_one(value);
        let code = match seen.find(hash, |code| found.get(*code as usize) == value) {
            Some(code) => *code,
            None => {
                let code = found.len() as u32;
                found.push(value);
                seen.insert_unique(hash, code, |code| hasher.hash_one(found.get(*code as usize)));
                code
            }
        };
        codes.push(code);
    }

    /// Bytes that it takes in memory.
    pub fn size(&self) -> usize {
        self.found.size() + self.seen.capacity() * 5 + self.codes.len() * 4
    }

    /// The different values in order, and for each value its place among them.
    pub fn finish(mut self) -> (Strings, Vec<u32>) {
        let found = &self.found;
        let order = in_order(&mut self.codes, found.len(), |code| found.get(code as usize));
        (order.into_iter().map(|code| found.get(code as usize)).collect(), self.codes)
    }
}

/// The different numbers of lists that are in order and have none twice, in order, and for each list the places of its
/// numbers among them. Where a list is not in order, `None` if that shows: it makes no difference to dense numbers.
pub fn unite_numbers(lists: &[Vec<i64>]) -> Option<(Vec<i64>, Vec<Vec<u32>>)> {
    if let Some(dense) = dense(lists) {
        let places = |list: &Vec<i64>| list.iter().map(|number| dense.place(*number)).collect();
        return Some((dense.numbers(), lists.iter().map(places).collect()));
    }
    let all = union(lists.to_vec());
    let found =
        lists.iter().map(|list| places(list.iter().copied(), &all)).collect::<Option<_>>()?;
    Some((all, found))
}

/// The different values of lists that are in order and have none twice, in order.
pub fn union<T: Ord + Copy>(mut lists: Vec<Vec<T>>) -> Vec<T> {
    while lists.len() > 1 {
        let mut pairs = lists.into_iter();
        let mut merged = Vec::new();
        while let Some(first) = pairs.next() {
            merged.push(match pairs.next() {
                Some(second) => merge(&first, &second),
                None => first,
            });
        }
        lists = merged;
    }
    lists.pop().unwrap_or_default()
}

fn merge<T: Ord + Copy>(mut first: &[T], mut second: &[T]) -> Vec<T> {
    let mut merged = Vec::with_capacity(first.len().max(second.len()));
    while let ([one, others @ ..], [another, rest @ ..]) = (first, second) {
        merged.push(*one.min(another));
        if one <= another {
            first = others;
        }
        if another <= one {
            second = rest;
        }
    }
    merged.extend_from_slice(first);
    merged.extend_from_slice(second);
    merged
}

/// The places of the values of a list among `all`, both in order; `None` if one of them isn't there.
pub fn places<T: Ord>(list: impl IntoIterator<Item = T>, all: &[T]) -> Option<Vec<u32>> {
    let mut place = 0;
    let find = |value: T| {
        while *all.get(place)? < value {
            place += 1;
        }
        (*all.get(place)? == value).then_some(place as u32)
    };
    list.into_iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn numbers() -> impl Strategy<Value = Vec<i64>> {
        prop_oneof![
            prop::collection::vec(-40i64..40, 0..200),
            prop::collection::vec(any::<i64>(), 0..50),
            prop::collection::vec(prop_oneof![Just(i64::MIN), Just(i64::MAX), -3i64..3], 0..50),
        ]
    }

    proptest! {
        #[test]
        fn numbers_are_encoded(values in numbers()) {
            let expected: Vec<i64> = BTreeSet::from_iter(values.iter().copied()).into_iter().collect();
            let (dictionary, codes) = encode_numbers(&values);
            prop_assert_eq!(&dictionary, &expected);
            let decoded: Vec<i64> = codes.iter().map(|code| dictionary[*code as usize]).collect();
            prop_assert_eq!(&decoded, &values);
            prop_assert_eq!(encode_sparse(&values), (dictionary, codes));
        }

        #[test]
        fn strings_are_encoded(values in prop::collection::vec("[a-c]{0,3}", 0..100)) {
            let mut encoder = StringEncoder::default();
            values.iter().for_each(|value| encoder.push(value.as_bytes()));
            let (dictionary, codes) = encoder.finish();
            let expected = BTreeSet::from_iter(values.iter().map(|value| value.as_bytes()));
            prop_assert!(dictionary.iter().eq(expected));
            prop_assert_eq!(codes.len(), values.len());
            for (code, value) in codes.iter().zip(&values) {
                prop_assert_eq!(dictionary.get(*code as usize), value.as_bytes());
            }
            let bytes = dictionary.to_bytes();
            prop_assert_eq!(Strings::from_bytes(&bytes), Some(dictionary.clone()));
            let within = |range: Range<u64>| &bytes[range.start as usize..range.end as usize];
            for first in 0..=dictionary.len() as u64 {
                for end in first..=dictionary.len() as u64 {
                    let head = Strings::head(first..end).map(within);
                    let (ends, bytes) = Strings::ends(first..end, &head).unwrap();
                    let part = Strings::from_parts(ends, within(bytes)).unwrap();
                    let expected = dictionary.iter().skip(first as usize).take((end - first) as usize);
                    prop_assert!(part.iter().eq(expected));
                }
            }
        }

        #[test]
        fn lists_are_united(lists in prop::collection::vec(prop::collection::btree_set(0i32..60, 0..30), 0..7)) {
            let expected: BTreeSet<i32> = lists.iter().flatten().copied().collect();
            let lists: Vec<Vec<i32>> = lists.into_iter().map(|list| list.into_iter().collect()).collect();
            let all = union(lists.clone());
            prop_assert!(all.iter().eq(&expected));
            for list in lists {
                let found = places(list.clone(), &all).unwrap();
                let values: Vec<i32> = found.into_iter().map(|place| all[place as usize]).collect();
                prop_assert_eq!(values, list);
            }
            prop_assert_eq!(places([60], &all), None);
        }

        #[test]
        fn numbers_of_lists_are_united(lists in prop::collection::vec(numbers(), 0..7)) {
            let lists: Vec<BTreeSet<i64>> = lists.into_iter().map(BTreeSet::from_iter).collect();
            let expected: BTreeSet<i64> = lists.iter().flatten().copied().collect();
            let lists: Vec<Vec<i64>> = lists.into_iter().map(|list| list.into_iter().collect()).collect();
            let (all, found) = unite_numbers(&lists).unwrap();
            prop_assert!(all.iter().eq(&expected));
            for (list, found) in lists.iter().zip(found) {
                let values: Vec<i64> = found.into_iter().map(|place| all[place as usize]).collect();
                prop_assert_eq!(&values, list);
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
