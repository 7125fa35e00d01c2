//! Dictionary encoding: the different values of a column in order, and the place of each value among them.

mod encoder;
mod strings;

pub use encoder::StringEncoder;
pub use strings::Strings;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use pulp::{Arch, Simd, WithSimd};
use std::hash::BuildHasher;

/// How many numbers a range may cover for each value in it, for a bit each to be the dictionary.
const SPARSEST: u64 = 16;

/// The different values in order. The place of each value among them is appended to `codes`.
pub fn encode_numbers(values: &[i64], codes: &mut Vec<u32>) -> Vec<i64> {
    match dense(&[values]) {
        Some(dense) => {
            dense.append_places(values, codes);
            dense.numbers()
        }
        None => encode_sparse(values, codes),
    }
}

/// The values of lists as bits, if these are few enough.
fn dense(lists: &[impl AsRef<[i64]>]) -> Option<Dense> {
    let (mut least, mut most, mut count) = (i64::MAX, i64::MIN, 0);
    for list in lists {
        for value in list.as_ref() {
            (least, most) = (least.min(*value), most.max(*value));
        }
        count += list.as_ref().len() as u64;
    }
    let few = count > 0 && most.wrapping_sub(least) as u64 / SPARSEST < count;
    let values = lists.iter().flat_map(|list| list.as_ref());
    few.then(|| Dense::new(least, most, values))
}

/// Different numbers of a range, in which there is a bit for each.
struct Dense {
    least: i64,
    /// Which numbers are there, from the least on.
    present: Vec<u64>,
    /// For each word, how many are there before it.
    before: Vec<u32>,
    /// How many are there.
    count: u32,
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
        Self { least, present, before, count }
    }

    /// All of them in order.
    fn numbers(&self) -> Vec<i64> {
        let mut numbers = Vec::with_capacity(self.count as usize);
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

    /// Appends how many there are before each of some of them.
    fn append_places(&self, numbers: &[i64], places: &mut Vec<u32>) {
        struct Append<'a>(&'a Dense, &'a [i64], &'a mut [u32]);

        impl WithSimd for Append<'_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) {
                for (place, number) in self.2.iter_mut().zip(self.1) {
                    *place = self.0.place(*number);
                }
            }
        }

        let first = places.len();
        places.resize(first + numbers.len(), 0);
        // Where there are wide vectors, there is an instruction that counts bits as well.
        Arch::new().dispatch(Append(self, numbers, &mut places[first..]));
    }

    /// How many there are before one of them.
    #[inline(always)]
    fn place(&self, number: i64) -> u32 {
        let at = number.wrapping_sub(self.least) as usize;
        let (word, bit) = (at / 64, at % 64);
        self.before[word] + (self.present[word] & ((1 << bit) - 1)).count_ones()
    }
}

fn encode_sparse(values: &[i64], codes: &mut Vec<u32>) -> Vec<i64> {
    let hasher = RandomState::default();
    let (mut seen, mut found) = (HashTable::<u32>::new(), Vec::new());
    let first = codes.len();
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
    let order = in_order(&mut codes[first..], found.len(), |code| found[code as usize]);
    order.into_iter().map(|code| found[code as usize]).collect()
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

/// The different numbers of lists that are in order and have none twice, in order, and for each list the places of its
/// numbers among them. Where a list is not in order, `None` if that shows: it makes no difference to dense numbers.
pub fn unite_numbers(lists: &[Vec<i64>]) -> Option<(Vec<i64>, Vec<Vec<u32>>)> {
    if let Some(dense) = dense(lists) {
        let places = |list: &Vec<i64>| {
            let mut places = Vec::new();
            dense.append_places(list, &mut places);
            places
        };
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
            let mut codes = vec![7];
            let dictionary = encode_numbers(&values, &mut codes);
            prop_assert_eq!(&dictionary, &expected);
            prop_assert_eq!(codes[0], 7);
            let decoded: Vec<i64> = codes[1..].iter().map(|code| dictionary[*code as usize]).collect();
            prop_assert_eq!(&decoded, &values);
            let mut sparse = vec![7];
            prop_assert_eq!(encode_sparse(&values, &mut sparse), dictionary);
            prop_assert_eq!(sparse, codes);
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
}
