//! The best unseen items of a batch of users: a matrix product and a selection.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};
use std::cmp::Ordering;

/// Items scored at a time; with a batch of users, small enough for the second-level cache.
const ITEM_TILE: usize = 512;

/// The item side of a model, ready for scoring.
#[derive(Debug, Clone)]
pub struct Items {
    /// Factors of every item, row-major.
    pub factors: Vec<f32>,
    /// What every score of an item starts from: its bias; empty if the model has none.
    pub biases: Vec<f32>,
    /// Factors a row.
    pub width: usize,
}

/// An item and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Dense number of the item.
    pub item: u32,
    /// Inner product of the factors, plus the item's bias.
    pub score: f32,
}

/// Better first: by score, then by the smaller item number.
fn better(a: &Scored, b: &Scored) -> Ordering {
    b.score.total_cmp(&a.score).then(a.item.cmp(&b.item))
}

/// The `k` best items for each user, best first, without those that `seen` names (sorted ascending).
/// `users` holds the factors of the users row-major. A user who has seen nearly everything gets
/// fewer than `k`.
pub fn best_unseen(items: &Items, users: &[f32], seen: &[&[u32]], k: usize) -> Vec<Vec<Scored>> {
    let width = items.width;
    let count = items.factors.len() / width;
    let k = k.min(count);
    if k == 0 {
        return vec![Vec::new(); seen.len()];
    }
    let arch = Arch::new();
    let mut best: Vec<Best> = seen.iter().map(|_| Best::new(k)).collect();
    let mut scores = vec![0.0f32; ITEM_TILE * seen.len()];
    let users = MatRef::from_column_major_slice(users, width, seen.len());
    for first in (0..count).step_by(ITEM_TILE) {
        let tile = ITEM_TILE.min(count - first);
        let factors = &items.factors[first * width..(first + tile) * width];
        matmul(
            MatMut::from_column_major_slice_mut(&mut scores[..tile * seen.len()], tile, seen.len()),
            Accum::Replace,
            MatRef::from_row_major_slice(factors, tile, width),
            users,
            1.0f32,
            Par::Seq,
        );
        let biases = items.biases.get(first..first + tile);
        let tiles = scores[..tile * seen.len()].chunks_exact_mut(tile);
        for ((best, scores), seen) in best.iter_mut().zip(tiles).zip(seen) {
            arch.dispatch(Tile { best, first: first as u32, scores, biases, seen });
        }
    }
    best.into_iter().map(Best::sorted).collect()
}

/// The best items of a user so far.
struct Best {
    k: usize,
    /// The `k` best, and some more.
    candidates: Vec<Scored>,
    /// What an item must exceed to be among the `k` best. Of two items with the same score the smaller
    /// one is better, which comes first.
    floor: f32,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, candidates: Vec::with_capacity(2 * k), floor: f32::NEG_INFINITY }
    }

    fn add(&mut self, item: u32, score: f32) {
        self.candidates.push(Scored { item, score });
        if self.candidates.len() == 2 * self.k {
            let (_, last, _) = self.candidates.select_nth_unstable_by(self.k - 1, better);
            self.floor = last.score;
            self.candidates.truncate(self.k);
        }
    }

    fn sorted(mut self) -> Vec<Scored> {
        self.candidates.sort_unstable_by(better);
        self.candidates.truncate(self.k);
        self.candidates
    }
}

/// Scores that are looked at together: most of a tile's are all below the floor.
const GROUP: usize = 64;

/// A user's scores of a tile of items.
struct Tile<'a> {
    best: &'a mut Best,
    first: u32,
    scores: &'a mut [f32],
    biases: Option<&'a [f32]>,
    seen: &'a [u32],
}

impl WithSimd for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Tile { best, first, scores, biases, seen } = self;
        match biases {
            Some(biases) => scores.iter_mut().zip(biases).for_each(|(score, bias)| *score += bias),
            // There is one zero: the negative one would come after it.
            None => scores.iter_mut().for_each(|score| *score += 0.0),
        }
        for (group, scores) in scores.chunks(GROUP).enumerate() {
            let floor = best.floor;
            if !scores.iter().fold(false, |any, score| any | (*score > floor)) {
                continue;
            }
            for (offset, score) in scores.iter().enumerate() {
                let item = first + (group * GROUP + offset) as u32;
                if *score > best.floor && seen.binary_search(&item).is_err() {
                    best.add(item, *score);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_sorting_everything(
            factors in prop::collection::vec(-3i8..4, 2 * 40),
            biases in prop::option::of(prop::collection::vec(-2i8..3, 40)),
            users in prop::collection::vec((-3i8..4, -3i8..4), 1..5),
            seen in prop::collection::btree_set(0u32..40, 0..40),
            k in 1usize..60,
        ) {
            let factors: Vec<f32> = factors.into_iter().map(f32::from).collect();
            let biases: Vec<f32> = biases.unwrap_or_default().into_iter().map(f32::from).collect();
            let seen: Vec<u32> = seen.into_iter().collect();
            let flat: Vec<f32> = users.iter().flat_map(|u| [f32::from(u.0), f32::from(u.1)]).collect();
            let items = Items { factors: factors.clone(), biases: biases.clone(), width: 2 };
            let actual = best_unseen(&items, &flat, &vec![&seen[..]; users.len()], k);
            for (user, actual) in flat.chunks(2).zip(actual) {
                let mut expected: Vec<Scored> = (0..40u32)
                    .filter(|item| !seen.contains(item))
                    .map(|item| {
                        let row = &factors[item as usize * 2..][..2];
                        let bias = biases.get(item as usize).copied().unwrap_or(0.0);
                        Scored { item, score: row[0] * user[0] + row[1] * user[1] + bias }
                    })
                    .collect();
                expected.sort_by(better);
                expected.truncate(k);
                prop_assert_eq!(actual, expected);
            }
        }
    }

    #[test]
    fn items_beyond_the_first_tile_count() {
        let count = 2 * ITEM_TILE + 5;
        let items =
            Items { factors: (0..count).map(|i| i as f32).collect(), biases: vec![], width: 1 };
        let last = count as u32 - 1;
        let best = best_unseen(&items, &[1.0], &[&[last]], 2);
        assert_eq!(best[0].iter().map(|s| s.item).collect::<Vec<_>>(), [last - 1, last - 2]);
    }
}
