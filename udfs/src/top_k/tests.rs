use super::products::Quads;
use super::rounded::length;
use super::*;
use crate::random::starting_factors;
use proptest::prelude::*;

/// The best unseen items by sorting all of them, with scores added up in `f64`.
fn sorted(items: &Items, user: &[f32], seen: &[u32], k: usize) -> Vec<Scored> {
    let rows = items.factors.chunks_exact(items.width).enumerate();
    let mut all: Vec<Scored> = rows
        .filter(|(item, _)| !seen.contains(&(*item as u32)))
        .map(|(item, row)| {
            let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
            let bias = items.biases.get(item).copied().map_or(0.0, f64::from);
            let score = row.iter().zip(user).map(product).sum::<f64>() + bias;
            Scored { item: item as u32, score: score as f32 + 0.0 }
        })
        .collect();
    all.sort_by(better);
    all.truncate(k);
    all
}

/// Rows of numbers that are not whole, each of its own size.
fn rows(seed: u64, count: usize, width: usize) -> Vec<f32> {
    let mut rows = starting_factors(seed, 0, count, width, width);
    for (at, row) in rows.chunks_exact_mut(width).enumerate() {
        let size = 10f32.powi((seed.wrapping_mul(at as u64 + 1) >> 60) as i32 % 7 - 3);
        row.iter_mut().for_each(|value| *value *= size);
    }
    rows
}

/// What a processor finds above users' bounds.
struct Above<'a>(&'a [Quads], &'a Rows, [i32; USERS], &'a mut Option<[u32; USERS]>);

impl WithProducts for Above<'_> {
    fn run(self, products: impl Products) {
        *self.3 = products.above(self.0, &self.1.quads, &self.2);
    }
}

fn above(
    processor: Processor,
    tile: &[Quads],
    users: &Rows,
    bounds: [i32; USERS],
) -> Option<[u32; USERS]> {
    let mut above = None;
    processor.run(Above(tile, users, bounds, &mut above));
    above
}

proptest! {
    #[test]
    fn agrees_with_sorting_everything(
        count in 1usize..700,
        width in 1usize..20,
        biased: bool,
        seed: u64,
        users in 1usize..15,
        seen in prop::collection::btree_set(0u32..900, 0..300),
        k in 1usize..60,
    ) {
        // Small whole numbers: no sum is rounded, and many are equal.
        let whole = |seed, count, width| -> Vec<f32> {
            let rows = starting_factors(seed, 0, count, width, width);
            rows.iter().map(|value| (value * 1e4) as i32 as f32 % 4.0).collect()
        };
        let factors = whole(seed, count, width);
        let biases = if biased { whole(!seed, count, 1) } else { Vec::new() };
        let of_users = whole(seed ^ 1, users, width);
        let seen: Vec<u32> = seen.into_iter().collect();
        let items = Items { factors, biases, width };
        for processor in Processor::all() {
            let found = Catalogue::of(processor, items.clone())
                .best_unseen(&of_users, &vec![&seen[..]; users], k);
            for (user, found) in of_users.chunks_exact(width).zip(found) {
                prop_assert_eq!(found, sorted(&items, user, &seen, k));
            }
        }
    }

    #[test]
    fn finds_the_best_of_items_of_every_size(
        count in 1usize..1500,
        width in 1usize..70,
        biased: bool,
        seed: u64,
        k in 1usize..20,
    ) {
        let biases = if biased { rows(!seed, count, 1) } else { Vec::new() };
        let items = Items { factors: rows(seed, count, width), biases, width };
        let users = rows(seed ^ 1, 9, width);
        let found = Catalogue::new(items.clone()).best_unseen(&users, &[&[][..]; 9], k);
        for (user, found) in users.chunks_exact(width).zip(found) {
            let expected = sorted(&items, user, &[], k);
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                // Sums of products that cancel each other are as wrong as the products are large.
                let size = length(user.iter().copied()) * length(items.factors.iter().copied());
                let most = (f64::from(expected.score).abs() + size * 1e-9) * 1e-6;
                prop_assert!((f64::from(found.score) - f64::from(expected.score)).abs() <= most);
            }
        }
    }

    #[test]
    fn rounding_hides_no_item_that_is_good_enough(
        count in 1usize..300,
        width in 1usize..70,
        biased: bool,
        seed: u64,
    ) {
        let items = rows(seed, count, width);
        let biases = rows(!seed, count, 1);
        let row = |item: u32| items[item as usize * width..][..width].iter().copied();
        let bias = |item: u32| biased.then_some(biases[item as usize]);
        // In whatever order they come.
        let order: Vec<u32> = (0..count as u32).collect();
        let users = rows(seed ^ 1, USERS, width);
        let users: Vec<&[f32]> = users.chunks_exact(width).collect();
        for processor in Processor::all() {
            let rounded = Rounded::new(processor, width, &order, |item| (row(item), bias(item)));
            let of_users = rounded.rows(users.iter().map(|user| user.iter().copied()));
            for (place, item) in order.iter().enumerate() {
                let (group, at) = (place / (GROUP * TILE), place % TILE);
                let Some(tile) = rounded.tiles(group).nth(place / TILE % GROUP) else { continue };
                let bounds = std::array::from_fn(|user| {
                    let product = |(a, b): (f32, &f32)| f64::from(a) * f64::from(*b);
                    let score = row(*item).zip(users[user]).map(product).sum::<f64>();
                    let score = (score + bias(*item).map_or(0.0, f64::from)) as f32;
                    let length = length(users[user].iter().copied());
                    assert!(!rounded.is_out_of_reach(group, length, score));
                    rounded.bound(group, &of_users, user, length, score)
                });
                let hits = above(processor, tile, &of_users, bounds);
                prop_assert!(hits.is_some_and(|hits| hits.iter().all(|hits| hits >> at & 1 == 1)));
            }
        }
    }

    #[test]
    fn processors_agree(width in 1usize..70, seed: u64, quantile in 0usize..TILE) {
        let items = starting_factors(seed, 0, TILE, width, width);
        let order: Vec<u32> = (0..TILE as u32).collect();
        let of_users = starting_factors(seed ^ 1, 0, USERS, width, width);
        for processor in Processor::all() {
            let rounded = Rounded::new(processor, width, &order, |item| {
                (items[item as usize * width..][..width].iter().copied(), None)
            });
            let users = of_users.chunks_exact(width).map(|user| user.iter().copied());
            let users = rounded.rows(users);
            let Some(tile) = rounded.tiles(0).next() else { continue };
            // Bounds that are products of the items: as many are above as the quantile says.
            let lowest = |at: usize| {
                let (mut from, mut to) = (i64::from(i32::MIN), i64::from(i32::MAX));
                while from < to {
                    let middle = (from + to).div_euclid(2);
                    let mut bounds = [i32::MAX; USERS];
                    bounds[at] = middle as i32;
                    let hits = above(Processor::Plain, tile, &users, bounds);
                    match hits.is_some_and(|hits| hits[at].count_ones() as usize > quantile) {
                        true => from = middle + 1,
                        false => to = middle,
                    }
                }
                from as i32
            };
            let bounds: [i32; USERS] = std::array::from_fn(lowest);
            for less in [0, 1] {
                let bounds = bounds.map(|bound| bound - less);
                let plain = above(Processor::Plain, tile, &users, bounds);
                prop_assert_eq!(plain, above(processor, tile, &users, bounds));
                prop_assert!(less == 0 || plain.is_some());
            }
        }
    }
}

#[test]
fn a_user_without_factors_gets_the_first_items() {
    let items = Items { factors: rows(7, 1000, 3), biases: vec![], width: 3 };
    let best = Catalogue::new(items).best_unseen(&[0.0; 3], &[&[1]], 3);
    assert_eq!(best[0].iter().map(|scored| scored.item).collect::<Vec<_>>(), [0, 2, 3]);
    assert!(best[0].iter().all(|scored| scored.score == 0.0 && scored.score.is_sign_positive()));
}

#[test]
fn numbers_that_are_not_finite_change_nothing_for_other_items() {
    let mut factors = rows(7, 1000, 2);
    let finite = Items { factors: factors.clone(), biases: vec![], width: 2 };
    factors[2 * 500] = f32::NAN;
    factors[2 * 501] = f32::INFINITY;
    let items = Items { factors, biases: vec![], width: 2 };
    let user = [1.0, -0.5];
    let expected = sorted(&finite, &user, &[500, 501], 4);
    let best = Catalogue::new(items).best_unseen(&user, &[&[]], 5);
    assert_eq!(best[0][0], Scored { item: 501, score: f32::INFINITY });
    assert_eq!(best[0][1..], expected);
}
