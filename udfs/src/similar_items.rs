//! The items most similar to an item: the largest cosines between factor vectors.

use crate::top_k::{Catalogue, Items, Scored};

/// Item factors scaled to the length 1, whose inner products are cosines.
#[derive(Debug, Clone)]
pub struct Directions {
    items: Catalogue,
    /// Items whose factors are all 0, ascending: they have no direction.
    without: Vec<u32>,
}

impl Directions {
    /// The directions of a model's items. Biases have no part in them.
    pub fn of(items: Items) -> Self {
        let Items { mut factors, width, .. } = items;
        let mut without = Vec::new();
        for (item, row) in factors.chunks_exact_mut(width).enumerate() {
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if length == 0.0 {
                without.push(item as u32);
            } else {
                row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
        }
        let items = Items { factors, biases: Vec::new(), width };
        Self { items: Catalogue::new(items), without }
    }

    /// Bytes that the directions take in memory.
    pub fn size(&self) -> usize {
        self.items.size() + self.without.len() * 4
    }
}

/// The `k` items most similar to each of the items in `of`, best first, by the cosine of their
/// factors. An item is not similar to itself. An item whose factors are all 0 has no similar items,
/// and is similar to none.
pub fn most_similar(directions: &Directions, of: &[u32], k: usize) -> Vec<Vec<Scored>> {
    let Directions { items, without } = directions;
    let rows: Vec<f32> = of.iter().flat_map(|item| items.row(*item)).copied().collect();
    let left_out = |item: &u32| {
        let mut left_out = without.clone();
        if let Err(position) = without.binary_search(item) {
            left_out.insert(position, *item);
        }
        left_out
    };
    let left_out: Vec<Vec<u32>> = of.iter().map(left_out).collect();
    let left_out: Vec<&[u32]> = left_out.iter().map(Vec::as_slice).collect();
    let mut found = items.best_unseen(&rows, &left_out, k);
    for (item, found) in of.iter().zip(&mut found) {
        if without.binary_search(item).is_ok() {
            found.clear();
        }
        for scored in found {
            // Lengths are rounded.
            scored.score = scored.score.clamp(-1.0, 1.0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ITEMS: usize = 30;

    /// The cosine by its definition; `None` if a vector has no direction.
    fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
        let inner = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let lengths = inner(a, a).sqrt() * inner(b, b).sqrt();
        (lengths > 0.0).then(|| inner(a, b) / lengths)
    }

    proptest! {
        #[test]
        fn agrees_with_the_cosine_of_every_pair(
            factors in prop::collection::vec(-2i8..3, 3 * ITEMS),
            biases in prop::option::of(prop::collection::vec(-2i8..3, ITEMS)),
            k in 1usize..40,
        ) {
            let factors: Vec<f32> = factors.into_iter().map(f32::from).collect();
            let biases = biases.unwrap_or_default().into_iter().map(f32::from).collect();
            let items = Items { factors: factors.clone(), biases, width: 3 };
            let of: Vec<u32> = (0..ITEMS as u32).rev().collect();
            let actual = most_similar(&Directions::of(items), &of, k);
            let row = |item: u32| &factors[item as usize * 3..][..3];
            for (item, actual) in of.iter().zip(actual) {
                let others = (0..ITEMS as u32).filter(|other| other != item);
                let mut expected: Vec<f64> =
                    others.filter_map(|other| cosine(row(*item), row(other))).collect();
                expected.sort_by(|a, b| b.total_cmp(a));
                expected.truncate(k);
                prop_assert_eq!(actual.len(), expected.len());
                for (scored, expected) in actual.iter().zip(expected) {
                    prop_assert!(scored.item != *item);
                    let own = cosine(row(*item), row(scored.item)).unwrap();
                    prop_assert!((f64::from(scored.score) - own).abs() < 1e-6);
                    prop_assert!((f64::from(scored.score) - expected).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn lengths_do_not_matter() {
        let factors = vec![1.0, 0.0, 30.0, 40.0, 0.0, 0.1, 0.0, 0.0];
        let items = Items { factors, biases: vec![9.0; 4], width: 2 };
        let found = most_similar(&Directions::of(items), &[0, 3], 9);
        assert_eq!(found[0], [Scored { item: 1, score: 0.6 }, Scored { item: 2, score: 0.0 }]);
        assert!(found[1].is_empty());
    }
}
