//! The best unseen items of a batch of users.
//!
//! Nearly all items are far from being among the best of a user, and products of bytes are enough to say so: they take
//! less than half the time of those of `f32`, and it is known how much they can be wrong by. What they leave is scored
//! exactly. Items come by their biases, and by the length of their rows where there are none, largest first: so those of a
//! group are alike, and a user is done when no item that is left is long enough (Teflioudi, Gemulla and Mykytiuk, "LEMP: Fast Retrieval of Large
//! Entries in a Matrix Product", SIGMOD 2015).

mod products;
mod rounded;

use products::{Processor, Products, TILE, USERS, WithProducts};
use rounded::{GROUP, Rounded, Rows};
use std::cmp::Ordering;

/// The item side of a model.
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

/// Items that are arranged for finding the best of them, each in a place.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// The items' factors and biases, by place.
    items: Items,
    rounded: Rounded,
    /// The items' dense numbers, by place.
    order: Vec<u32>,
    /// The places, by dense number.
    places: Vec<u32>,
}

impl Catalogue {
    /// Arranges items.
    pub fn new(items: Items) -> Self {
        Self::of(Processor::new(), items)
    }

    /// Arranges items for products that a processor makes.
    fn of(processor: Processor, items: Items) -> Self {
        let Items { factors, biases, width } = items;
        let count = factors.len() / width;
        let row = |item: u32| &factors[item as usize * width..][..width];
        let bias = |item: u32| biases.get(item as usize).copied();
        let size = |item: u32| match bias(item) {
            Some(bias) => f64::from(bias),
            None => rounded::length(row(item).iter().copied()),
        };
        let sizes: Vec<f64> = (0..count as u32).map(size).collect();
        let mut order: Vec<u32> = (0..count as u32).collect();
        let size = |item: &u32| sizes[*item as usize];
        order.sort_by(|a, b| size(b).total_cmp(&size(a)));
        let mut places = vec![0; count];
        for (place, item) in order.iter().enumerate() {
            places[*item as usize] = place as u32;
        }
        let row_and_bias = |item| (row(item).iter().copied(), bias(item));
        let rounded = Rounded::new(processor, width, &order, row_and_bias);
        let items = Items {
            factors: order.iter().flat_map(|item| row(*item)).copied().collect(),
            biases: order.iter().filter_map(|item| bias(*item)).collect(),
            width,
        };
        Self { items, rounded, order, places }
    }

    /// Factors of an item.
    pub fn width(&self) -> usize {
        self.items.width
    }

    /// The factors of an item, by its dense number.
    pub fn row(&self, item: u32) -> &[f32] {
        &self.items.factors[self.places[item as usize] as usize * self.items.width..]
            [..self.items.width]
    }

    /// Bytes that it takes in memory.
    pub fn size(&self) -> usize {
        let numbers = self.items.factors.len() + self.items.biases.len();
        (numbers + self.places.len() + self.order.len()) * 4 + self.rounded.size()
    }

    /// The `k` best items for each user, best first, without those that `seen` names. `users` holds the factors of the
    /// users row-major. A user who has seen nearly everything gets fewer than `k`.
    ///
    /// A score is added up in `f64`, in the same order on every machine.
    pub fn best_unseen(&self, users: &[f32], seen: &[&[u32]], k: usize) -> Vec<Vec<Scored>> {
        let k = k.min(self.order.len());
        if k == 0 {
            return vec![Vec::new(); seen.len()];
        }
        let users = users.chunks_exact(self.items.width).zip(seen);
        let mut searches: Vec<Search<'_>> =
            users.map(|(factors, seen)| Search::new(self, factors, seen, k)).collect();
        self.rounded.processor().run(All { catalogue: self, searches: &mut searches });
        searches.into_iter().map(|search| search.best.sorted()).collect()
    }

    /// The score of the item in a place for a user.
    #[inline(always)]
    fn score(&self, place: usize, user: &[f32]) -> f32 {
        let factors = &self.items.factors[place * self.items.width..][..user.len()];
        let mut sums = [0.0f64; 8];
        let (users, factors) = (user.chunks_exact(8), factors.chunks_exact(8));
        let rest = users.remainder().iter().zip(factors.remainder());
        let rest: f64 = rest.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        for (users, factors) in users.zip(factors) {
            for ((sum, a), b) in sums.iter_mut().zip(users).zip(factors) {
                *sum += f64::from(*a) * f64::from(*b);
            }
        }
        let bias = self.items.biases.get(place).map_or(0.0, |bias| f64::from(*bias));
        // There is one zero: the negative one would come after it.
        (sums.iter().sum::<f64>() + rest + bias) as f32 + 0.0
    }
}

/// What is looked for: the best items of a user.
struct Search<'a> {
    factors: &'a [f32],
    length: f64,
    /// Places of seen items that are still to come, the next one last.
    seen: Vec<u32>,
    best: Best,
    /// No item that is left is good enough.
    done: bool,
}

impl<'a> Search<'a> {
    fn new(catalogue: &Catalogue, factors: &'a [f32], seen: &[u32], k: usize) -> Self {
        let places = seen.iter().filter_map(|item| catalogue.places.get(*item as usize));
        let mut seen: Vec<u32> = places.copied().collect();
        seen.sort_unstable_by(|a, b| b.cmp(a));
        let length = rounded::length(factors.iter().copied());
        Self { factors, length, seen, best: Best::new(k), done: false }
    }

    /// The items of a group that may be recommended, a bit for each of a tile's.
    #[inline(always)]
    fn unseen(&mut self, first: usize, count: usize) -> [u32; GROUP] {
        let mut unseen = [u32::MAX; GROUP];
        if count < first + GROUP * TILE {
            for (tile, unseen) in unseen.iter_mut().enumerate() {
                let items = count.saturating_sub(first + tile * TILE);
                if items < TILE {
                    *unseen = (1 << items) - 1;
                }
            }
        }
        while let Some(place) = self.seen.pop_if(|place| (*place as usize) < first + GROUP * TILE) {
            let at = place as usize - first;
            unseen[at / TILE] &= !(1 << (at % TILE));
        }
        unseen
    }
}

/// The best items of a user so far.
struct Best {
    k: usize,
    /// The `k` best, and some more.
    candidates: Vec<Scored>,
    /// The worst of the `k` best: what an item must be better than.
    floor: Option<Scored>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, candidates: Vec::with_capacity(2 * k), floor: None }
    }

    /// Adds an item if it may be among the best. True if more is asked from now on.
    #[inline(always)]
    fn add(&mut self, scored: Scored) -> bool {
        if self.floor.is_some_and(|floor| better(&scored, &floor).is_ge()) || scored.score.is_nan()
        {
            return false;
        }
        self.candidates.push(scored);
        if self.candidates.len() < 2 * self.k {
            return false;
        }
        let (_, last, _) = self.candidates.select_nth_unstable_by(self.k - 1, better);
        self.floor = Some(*last);
        self.candidates.truncate(self.k);
        true
    }

    fn sorted(mut self) -> Vec<Scored> {
        self.candidates.sort_unstable_by(better);
        self.candidates.truncate(self.k);
        self.candidates
    }
}

/// The searches of a batch of users.
struct All<'a, 'b> {
    catalogue: &'a Catalogue,
    searches: &'a mut [Search<'b>],
}

impl WithProducts for All<'_, '_> {
    #[inline(always)]
    fn run(self, products: impl Products) {
        let Self { catalogue, searches } = self;
        let rounded = &catalogue.rounded;
        let rows: Vec<Rows> = searches
            .chunks(USERS)
            .map(|users| rounded.rows(users.iter().map(|user| user.factors.iter().copied())))
            .collect();
        for group in 0..rounded.groups() {
            let mut active = false;
            for (users, rows) in searches.chunks_mut(USERS).zip(&rows) {
                active |= search(products, catalogue, group, users, rows);
            }
            if !active {
                break;
            }
        }
    }
}

/// Looks for the best items of some users in a group. False if the users are done.
#[inline(always)]
fn search(
    products: impl Products,
    catalogue: &Catalogue,
    group: usize,
    users: &mut [Search<'_>],
    rows: &Rows,
) -> bool {
    let rounded = &catalogue.rounded;
    let first = group * GROUP * TILE;
    let bound = |search: &Search<'_>, at: usize| match search.best.floor {
        None => i32::MIN,
        Some(floor) => rounded.bound(group, rows, at, search.length, floor.score),
    };
    let mut bounds = [i32::MAX; USERS];
    let mut unseen = [[0; GROUP]; USERS];
    let mut active = false;
    for (at, search) in users.iter_mut().enumerate() {
        let floor = search.best.floor.map(|floor| floor.score);
        search.done |=
            floor.is_some_and(|floor| rounded.is_out_of_reach(group, search.length, floor));
        if !search.done {
            active = true;
            bounds[at] = bound(search, at);
            unseen[at] = search.unseen(first, catalogue.order.len());
        }
    }
    if !active {
        return false;
    }
    for (tile, items) in rounded.tiles(group).enumerate() {
        let Some(hits) = products.above(items, &rows.quads, &bounds) else { continue };
        for (at, search) in users.iter_mut().enumerate() {
            let mut hits = hits[at] & unseen[at][tile];
            while hits != 0 {
                let place = first + tile * TILE + hits.trailing_zeros() as usize;
                hits &= hits - 1;
                let item = catalogue.order[place];
                let score = catalogue.score(place, search.factors);
                if search.best.add(Scored { item, score }) {
                    bounds[at] = bound(search, at);
                }
            }
        }
    }
    true
}

#[cfg(test)]
mod tests;
