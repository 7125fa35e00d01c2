//! Different numbers in order, in little memory.

/// Different numbers in order: a bit for each number of the range that they are in, or a list, whichever takes less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Numbers {
    /// A bit for each number of a range.
    Bits(Bits),
    /// One after another.
    List(Vec<i64>),
}

/// Which numbers of a range are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits {
    /// The first of them.
    pub(super) least: i64,
    /// 64 numbers of the range each, up to the word with the last of them.
    pub(super) present: Vec<u64>,
}

/// How the binary form begins.
const LIST: u64 = 0;
const OFFSETS: u64 = 1;
const BITS: u64 = 2;

impl Bits {
    /// The numbers, all of which are in the range from `least` to `most`.
    pub(super) fn new<'a>(least: i64, most: i64, numbers: impl Iterator<Item = &'a i64>) -> Self {
        let range = most.wrapping_sub(least) as usize + 1;
        let mut bits = Self { least, present: vec![0; range.div_ceil(64)] };
        numbers.for_each(|number| bits.set(*number));
        bits
    }

    #[inline(always)]
    fn set(&mut self, number: i64) {
        let at = number.wrapping_sub(self.least) as usize;
        self.present[at / 64] |= 1 << (at % 64);
    }

    /// Adds numbers, all of which are in the range.
    pub(super) fn add(&mut self, numbers: &Numbers) {
        match numbers {
            Numbers::Bits(bits) => {
                let at = bits.least.wrapping_sub(self.least) as usize;
                let (first, shift) = (at / 64, at % 64);
                for (word, bits) in (first..).zip(&bits.present) {
                    self.present[word] |= bits << shift;
                    // Where the range ends, nothing goes over.
                    let over = bits.unbounded_shr(64 - shift as u32);
                    if over != 0 {
                        self.present[word + 1] |= over;
                    }
                }
            }
            Numbers::List(list) => list.iter().for_each(|number| self.set(*number)),
        }
    }

    fn len(&self) -> usize {
        self.present.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = i64> {
        let of_word = |(word, bits): (usize, &u64)| {
            let first = self.least.wrapping_add(word as i64 * 64);
            let bits = std::iter::successors(Some(*bits), |left| Some(left & left.wrapping_sub(1)));
            let bits = bits.take_while(|left| *left != 0);
            bits.map(move |left| first.wrapping_add(i64::from(left.trailing_zeros())))
        };
        self.present.iter().enumerate().flat_map(of_word)
    }
}

impl From<Vec<i64>> for Numbers {
    /// Takes numbers that are in order, each once.
    fn from(list: Vec<i64>) -> Self {
        match (list.first(), list.last()) {
            (Some(least), Some(most)) if is_dense(*least, *most, list.len()) => {
                Numbers::Bits(Bits::new(*least, *most, list.iter()))
            }
            _ => Numbers::List(list),
        }
    }
}

impl From<Bits> for Numbers {
    fn from(bits: Bits) -> Self {
        let length = bits.len();
        match bits.present.len() <= length {
            true => Numbers::Bits(bits),
            false => {
                let mut list = Vec::with_capacity(length);
                list.extend(bits.iter());
                Numbers::List(list)
            }
        }
    }
}

/// Whether bits take no more than a list of so many numbers.
fn is_dense(least: i64, most: i64, count: usize) -> bool {
    (most.wrapping_sub(least) as u64 / 64) < count as u64
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Numbers::Bits(bits) => bits.len(),
            Numbers::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes places in a list, in order, each once.
    pub fn of_places(places: Vec<u32>) -> Self {
        let list: Vec<i64> = places.into_iter().map(i64::from).collect();
        list.into()
    }

    /// All of them, in order.
    pub fn to_vec(&self) -> Vec<i64> {
        let mut list = Vec::with_capacity(self.len());
        match self {
            Numbers::Bits(bits) => list.extend(bits.iter()),
            Numbers::List(numbers) => list.extend_from_slice(numbers),
        }
        list
    }

    /// The least and the largest.
    pub(super) fn range(&self) -> Option<(i64, i64)> {
        match self {
            Numbers::Bits(Bits { least, present }) => {
                let beyond = present.len() as u64 * 64 - u64::from(present.last()?.leading_zeros());
                Some((*least, least.wrapping_add_unsigned(beyond - 1)))
            }
            Numbers::List(list) => Some((*list.first()?, *list.last()?)),
        }
    }

    /// A binary form. Lists whose numbers are close enough to their first have half as many bytes there.
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = |head: [u64; 2], words: usize| {
            let mut out = Vec::with_capacity((2 + words) * 8);
            out.extend(head.into_iter().flat_map(u64::to_le_bytes));
            out
        };
        match self {
            Numbers::Bits(Bits { least, present }) => {
                let mut out = words([BITS, *least as u64], present.len());
                out.extend(present.iter().flat_map(|bits| bits.to_le_bytes()));
                out
            }
            Numbers::List(list) => {
                let (least, most) = self.range().unwrap_or_default();
                let offset = |number: &i64| number.wrapping_sub(least) as u64;
                if u32::try_from(offset(&most)).is_ok() {
                    let mut out = words([OFFSETS, least as u64], list.len().div_ceil(2));
                    out.extend(list.iter().flat_map(|one| (offset(one) as u32).to_le_bytes()));
                    return out;
                }
                let mut out = words([LIST, 0], list.len());
                out.extend(list.iter().flat_map(|number| number.to_le_bytes()));
                out
            }
        }
    }

    /// Reads the binary form. `None` if it isn't one, or its numbers are not in order.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(16)?;
        let [kind, least] = head.as_chunks().0 else { return None };
        let (kind, least) = (u64::from_le_bytes(*kind), i64::from_le_bytes(*least));
        let list = match kind {
            BITS => {
                let (present, rest) = body.as_chunks();
                let present: Vec<u64> =
                    present.iter().map(|bits| u64::from_le_bytes(*bits)).collect();
                let (first, last) = (present.first()?, present.last()?);
                let beyond = present.len() as u64 * 64 - u64::from(last.leading_zeros());
                // The ends are there, and none is beyond the largest number that there is.
                let fits = first & 1 == 1 && *last != 0;
                let fits = fits && beyond - 1 <= i64::MAX.wrapping_sub(least) as u64;
                return (rest.is_empty() && fits).then_some(Numbers::Bits(Bits { least, present }));
            }
            OFFSETS => {
                let (offsets, rest) = body.as_chunks();
                let number =
                    |offset: &[u8; 4]| least.checked_add(i64::from(u32::from_le_bytes(*offset)));
                let list = offsets.iter().map(number).collect::<Option<Vec<_>>>()?;
                rest.is_empty().then_some(list)?
            }
            LIST => {
                let (numbers, rest) = body.as_chunks();
                let list = numbers.iter().map(|number| i64::from_le_bytes(*number)).collect();
                rest.is_empty().then_some(list)?
            }
            _ => return None,
        };
        list.is_sorted_by(|one: &i64, next| one < next).then_some(Numbers::List(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn sets() -> impl Strategy<Value = BTreeSet<i64>> {
        prop_oneof![
            prop::collection::btree_set(-300i64..300, 0..200),
            prop::collection::btree_set(-100_000i64..100_000, 0..50),
            prop::collection::btree_set(any::<i64>(), 0..50),
            prop::collection::btree_set(i64::MAX - 200..=i64::MAX, 1..150),
            prop::collection::btree_set(i64::MIN..i64::MIN + 200, 1..150),
        ]
    }

    proptest! {
        #[test]
        fn numbers_come_back(set in sets()) {
            let list: Vec<i64> = set.into_iter().collect();
            let numbers = Numbers::from(list.clone());
            prop_assert_eq!(numbers.to_vec(), list.clone());
            prop_assert_eq!(numbers.len(), list.len());
            prop_assert_eq!(numbers.range(), list.first().map(|first| (*first, list[list.len() - 1])));
            let bytes = numbers.to_bytes();
            prop_assert!(bytes.len() <= 16 + 8 * list.len(), "{} bytes", bytes.len());
            prop_assert_eq!(Numbers::from_bytes(&bytes), Some(numbers));
            for length in 0..bytes.len().min(24) {
                let cut = Numbers::from_bytes(&bytes[..length]);
                prop_assert!(cut.is_none_or(|cut| cut.len() < list.len()));
            }
        }

        #[test]
        fn bits_are_added_wherever_they_begin(sets in prop::collection::vec(prop::collection::btree_set(-200i64..200, 1..150), 1..5)) {
            let all: BTreeSet<i64> = sets.iter().flatten().copied().collect();
            let none = std::iter::empty();
            let mut bits = Bits::new(*all.first().unwrap(), *all.last().unwrap(), none);
            for set in sets {
                bits.add(&Numbers::from(Vec::from_iter(set)));
            }
            prop_assert_eq!(bits.len(), all.len());
            prop_assert!(bits.iter().eq(all));
        }
    }

    #[test]
    fn what_is_not_in_order_is_refused() {
        let list = |numbers: &[i64]| {
            let head = [LIST, 0].into_iter().flat_map(u64::to_le_bytes);
            let bytes: Vec<u8> =
                head.chain(numbers.iter().flat_map(|number| number.to_le_bytes())).collect();
            Numbers::from_bytes(&bytes)
        };
        assert_eq!(list(&[3, 9]).unwrap().to_vec(), [3, 9]);
        assert!(list(&[9, 3]).is_none() && list(&[3, 3]).is_none());
        let beyond: Vec<u8> = [BITS, i64::MAX as u64, 1, 1].map(u64::to_le_bytes).concat();
        assert!(Numbers::from_bytes(&beyond).is_none());
        assert!(Numbers::from_bytes(&beyond[..24]).is_some());
        let without_first: Vec<u8> = [BITS, 0, 2].map(u64::to_le_bytes).concat();
        assert!(Numbers::from_bytes(&without_first).is_none());
        assert!(Numbers::from_bytes(&[7; 24]).is_none());
    }
}
