//! Rows of numbers rounded to bytes, and their products.
//!
//! With v = ṽ + e, where ṽ is the rounded row: u·v = ũ·ṽ + (u − ũ)·ṽ + u·e, so that by the inequality of Cauchy and
//! Schwarz a product is wrong by no more than `|u − ũ| |ṽ| + |u| |e|`.

/// Items of a tile: the bits of a hit.
pub(super) const TILE: usize = 16;

/// Tiles of a group, which share a unit and what is known of their rows.
pub(super) const GROUP: usize = 16;

/// Users whose products with a tile are made together.
pub(super) const USERS: usize = 6;

/// The largest rounded number: the sum of [`CHAIN`] products of [`QUAD`] numbers is made in halves, which have
/// 16 bits. One of the two numbers is made positive by adding this.
const MOST: u8 = 45;

/// Numbers whose products are added up in the 32 bits of a sum.
const QUAD: usize = 4;

/// Quads that are added up in 16 bits.
const CHAIN: usize = 4;

const _: () = assert!(CHAIN * 2 * MOST as usize * 2 * MOST as usize <= i16::MAX as usize);

/// Four numbers of each of a tile's items, with [`MOST`] added.
type Quads = [u8; QUAD * TILE];

/// The length of a row.
pub(super) fn length(row: impl Iterator<Item = f32>) -> f64 {
    row.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// Rounded items in tiles.
#[derive(Debug, Clone)]
pub(super) struct Rounded {
    /// Quads of numbers that a row has: whole chains.
    depth: usize,
    /// Tile by tile, `depth` of each.
    quads: Vec<Quads>,
    groups: Vec<Extent>,
}

/// The largest of the rows of a group.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    /// What 1 of the rounded numbers means.
    unit: f64,
    length: f64,
    /// The length of a rounded row.
    rounded: f64,
    /// The length of what rounding takes from a row.
    error: f64,
    bias: f64,
    /// The largest length and bias of this group and of those behind it.
    behind: (f64, f64),
}

/// Some rounded users.
pub(super) struct Rows {
    /// Four numbers of each user, the first one in the lowest bits.
    pub(super) quads: Vec<[i32; USERS]>,
    /// What 1 means for each.
    units: [f64; USERS],
    /// What [`MOST`] adds to the product of each.
    added: [f64; USERS],
    /// The length of what rounding takes from each.
    errors: [f64; USERS],
}

impl Rounded {
    /// Rounds rows of `width` numbers, each with a bias.
    pub(super) fn new<R: Iterator<Item = f32> + Clone>(
        width: usize,
        order: &[u32],
        row: impl Fn(u32) -> (R, Option<f32>),
    ) -> Self {
        let depth = width.div_ceil(QUAD * CHAIN) * CHAIN;
        let mut rounded = Self { depth, quads: Vec::new(), groups: Vec::new() };
        for group in order.chunks(GROUP * TILE) {
            let finite =
                group.iter().flat_map(|item| row(*item).0).filter(|value| value.is_finite());
            let unit = unit(finite);
            let mut extent = Extent { unit, bias: f64::NEG_INFINITY, ..Extent::default() };
            for tile in group.chunks(TILE) {
                let first = rounded.quads.len();
                rounded.quads.resize(first + depth, [MOST; QUAD * TILE]);
                for (at, item) in tile.iter().enumerate() {
                    let (row, bias) = row(*item);
                    extent.bias = match bias.map_or(0.0, f64::from) {
                        bias if bias.is_nan() => f64::INFINITY,
                        bias => extent.bias.max(bias),
                    };
                    extent.add(row, |number, near| {
                        let quad = &mut rounded.quads[first + number / QUAD];
                        quad[QUAD * at + number % QUAD] = near.wrapping_add_unsigned(MOST) as u8;
                    });
                }
            }
            rounded.groups.push(extent);
        }
        let mut behind = (0.0f64, f64::NEG_INFINITY);
        for group in rounded.groups.iter_mut().rev() {
            behind = (behind.0.max(group.length), behind.1.max(group.bias));
            group.behind = behind;
        }
        rounded
    }

    /// Bytes that they take in memory.
    pub(super) fn size(&self) -> usize {
        self.quads.len() * size_of::<Quads>() + self.groups.len() * size_of::<Extent>()
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The tiles of a group.
    #[inline(always)]
    pub(super) fn tiles(&self, group: usize) -> impl Iterator<Item = &[Quads]> {
        let quads = &self.quads[group * GROUP * self.depth..];
        quads.chunks_exact(self.depth).take(GROUP)
    }

    /// Rounds at most [`USERS`] users.
    pub(super) fn rows<R: Iterator<Item = f32> + Clone>(
        &self,
        users: impl Iterator<Item = R>,
    ) -> Rows {
        let mut rows = Rows {
            quads: vec![[0; USERS]; self.depth],
            units: [0.0; USERS],
            added: [0.0; USERS],
            errors: [0.0; USERS],
        };
        for (at, user) in users.enumerate() {
            let mut extent = Extent { unit: unit(user.clone()), ..Extent::default() };
            extent.add(user, |number, near| {
                let byte = i32::from(near as u8) << (8 * (number % QUAD));
                rows.quads[number / QUAD][at] |= byte;
                rows.added[at] += f64::from(near) * f64::from(MOST);
            });
            (rows.units[at], rows.errors[at]) = (extent.unit, extent.error);
        }
        rows
    }

    /// Whether no item of a group, nor of one behind it, can have this score for a user with rows of a length.
    #[inline(always)]
    pub(super) fn is_out_of_reach(&self, group: usize, length: f64, score: f32) -> bool {
        let (longest, bias) = self.groups[group].behind;
        length * longest * (1.0 + SLACK) + bias < below(score)
    }

    /// What the rounded products of the items of a group exceed for a user if they can have this score.
    #[inline(always)]
    pub(super) fn bound(
        &self,
        group: usize,
        rows: &Rows,
        at: usize,
        length: f64,
        score: f32,
    ) -> i32 {
        let group = &self.groups[group];
        let error = group.error + group.length * SLACK;
        let wrong = (rows.errors[at] * group.rounded + length * error) * (1.0 + SLACK);
        let least = below(score) - group.bias - wrong;
        let least = least / (rows.units[at] * group.unit) + rows.added[at];
        // Not a number where nothing is known.
        (least.max(i32::MIN.into()).ceil() as i32).saturating_sub(1)
    }
}

impl Extent {
    /// Rounds a row: `found` is given the place of each number and what it is rounded to.
    #[inline(always)]
    fn add(&mut self, row: impl Iterator<Item = f32>, mut found: impl FnMut(usize, i8)) {
        let (mut squares, mut rounded, mut errors) = (0.0, 0.0, 0.0);
        for (number, value) in row.enumerate() {
            let value = f64::from(value);
            let near = nearest(value, self.unit);
            found(number, near);
            let near = f64::from(near) * self.unit;
            squares += value * value;
            rounded += near * near;
            errors += (value - near) * (value - near);
        }
        self.length = largest(self.length, squares);
        self.rounded = largest(self.rounded, rounded);
        self.error = largest(self.error, errors);
    }
}

/// What 1 means where the largest of some numbers is rounded to [`MOST`].
fn unit(numbers: impl Iterator<Item = f32>) -> f64 {
    numbers.fold(0.0f64, |most, value| most.max(f64::from(value).abs())) / f64::from(MOST)
}

/// More than what sums in `f64` are wrong by.
const SLACK: f64 = 1e-9;

/// Less than all numbers that are rounded to a score or to a larger one.
#[inline(always)]
fn below(score: f32) -> f64 {
    f64::from(score)
        - f64::from(score).abs() * f64::from(f32::EPSILON)
        - f64::from(f32::MIN_POSITIVE)
}

/// The nearest number of units.
#[inline(always)]
fn nearest(value: f64, unit: f64) -> i8 {
    let most = f64::from(MOST);
    // A value that isn't finite, and none, where the unit is zero.
    match (value / unit).round() {
        units if units.is_finite() => units.clamp(-most, most) as i8,
        _ => 0,
    }
}

/// The larger of a length and the root of a square, which is infinite where it isn't a number.
fn largest(length: f64, square: f64) -> f64 {
    match square.is_nan() {
        true => f64::INFINITY,
        false => length.max(square.sqrt() * (1.0 + SLACK)),
    }
}

/// Products of bytes, with the vectors of a processor.
pub(super) trait Products: Copy {
    /// The items of a tile whose products with users exceed the users' bounds, a bit for each; nothing if there is none.
    fn above(
        self,
        items: &[Quads],
        users: &[[i32; USERS]],
        bounds: &[i32; USERS],
    ) -> Option<[u16; USERS]>;
}

/// What is done with products.
pub(super) trait WithProducts {
    fn run(self, products: impl Products);
}

/// Does it with the widest vectors that the processor has.
pub(super) fn dispatch(work: impl WithProducts) {
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        if let Some(simd) = V4::try_new() {
            return simd.vectorize(wide::Run(work, wide::Wide(simd)));
        }
        if let Some(simd) = V3::try_new() {
            return simd.vectorize(wide::Run(work, wide::Wide(simd)));
        }
    }
    work.run(Plain);
}

/// Without vectors, but for those that the compiler finds.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Products for Plain {
    fn above(
        self,
        items: &[Quads],
        users: &[[i32; USERS]],
        bounds: &[i32; USERS],
    ) -> Option<[u16; USERS]> {
        let mut sums = [[0i32; TILE]; USERS];
        for (items, users) in items.iter().zip(users) {
            for (sums, user) in sums.iter_mut().zip(users) {
                let user = user.to_le_bytes().map(|byte| i32::from(byte as i8));
                for (sum, item) in sums.iter_mut().zip(items.as_chunks::<QUAD>().0) {
                    for at in 0..QUAD {
                        *sum += user[at] * i32::from(item[at]);
                    }
                }
            }
        }
        let above = |at: usize| {
            let bits = sums[at].iter().rev().map(|sum| u16::from(*sum > bounds[at]));
            bits.fold(0, |bits, bit| bits << 1 | bit)
        };
        let hits = std::array::from_fn(above);
        (hits != [0; USERS]).then_some(hits)
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    //! With the vectors of x86.

    use super::{CHAIN, Products, Quads, TILE, USERS, WithProducts};
    use pulp::x86::{V3, V4};
    use pulp::{NullaryFnOnce, cast};
    use std::arch::x86_64::{__m256i, __m512i};

    pub(super) struct Run<W, P>(pub W, pub P);

    impl<W: WithProducts, P: Products> NullaryFnOnce for Run<W, P> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            self.0.run(self.1);
        }
    }

    /// Vectors of integers.
    pub(super) trait Vectors: Copy {
        /// How many vectors hold a quad of each item of a tile.
        const PARTS: usize;
        type Vector: Copy;
        fn splat(self, value: i32) -> Self::Vector;
        /// One of these vectors.
        fn quads(self, items: &Quads, part: usize) -> Self::Vector;
        /// The products of quads, as sums of 16 bits, two for each quad.
        fn products(self, items: Self::Vector, user: Self::Vector) -> Self::Vector;
        /// Adds sums of 16 bits.
        fn add(self, sums: Self::Vector, others: Self::Vector) -> Self::Vector;
        /// Adds sums of 16 bits to those of 32.
        fn add_pairs(self, sums: Self::Vector, pairs: Self::Vector) -> Self::Vector;
        /// Which of the sums exceed the bounds, a bit for each.
        fn above(self, sums: Self::Vector, bounds: Self::Vector) -> u16;
    }

    impl Vectors for V3 {
        const PARTS: usize = 2;
        type Vector = __m256i;

        #[inline(always)]
        fn splat(self, value: i32) -> __m256i {
            self.avx._mm256_set1_epi32(value)
        }

        #[inline(always)]
        fn quads(self, items: &Quads, part: usize) -> __m256i {
            cast(items.as_chunks::<32>().0[part])
        }

        #[inline(always)]
        fn products(self, items: __m256i, user: __m256i) -> __m256i {
            self.avx2._mm256_maddubs_epi16(items, user)
        }

        #[inline(always)]
        fn add(self, sums: __m256i, others: __m256i) -> __m256i {
            self.avx2._mm256_add_epi16(sums, others)
        }

        #[inline(always)]
        fn add_pairs(self, sums: __m256i, pairs: __m256i) -> __m256i {
            let ones = self.avx._mm256_set1_epi16(1);
            self.avx2._mm256_add_epi32(sums, self.avx2._mm256_madd_epi16(pairs, ones))
        }

        #[inline(always)]
        fn above(self, sums: __m256i, bounds: __m256i) -> u16 {
            self.avx._mm256_movemask_ps(cast(self.avx2._mm256_cmpgt_epi32(sums, bounds))) as u16
        }
    }

    impl Vectors for V4 {
        const PARTS: usize = 1;
        type Vector = __m512i;

        #[inline(always)]
        fn splat(self, value: i32) -> __m512i {
            self.avx512f._mm512_set1_epi32(value)
        }

        #[inline(always)]
        fn quads(self, items: &Quads, _: usize) -> __m512i {
            cast(*items)
        }

        #[inline(always)]
        fn products(self, items: __m512i, user: __m512i) -> __m512i {
            self.avx512bw._mm512_maddubs_epi16(items, user)
        }

        #[inline(always)]
        fn add(self, sums: __m512i, others: __m512i) -> __m512i {
            self.avx512bw._mm512_add_epi16(sums, others)
        }

        #[inline(always)]
        fn add_pairs(self, sums: __m512i, pairs: __m512i) -> __m512i {
            let ones = self.avx512f._mm512_set1_epi32(0x0001_0001);
            self.avx512f._mm512_add_epi32(sums, self.avx512bw._mm512_madd_epi16(pairs, ones))
        }

        #[inline(always)]
        fn above(self, sums: __m512i, bounds: __m512i) -> u16 {
            self.avx512f._mm512_cmpgt_epi32_mask(sums, bounds)
        }
    }

    /// Products with vectors: a chain of items stays in registers while all users are multiplied with it, and one sum of
    /// each user.
    #[derive(Clone, Copy)]
    pub(super) struct Wide<V>(pub V);

    impl<V: Vectors> Products for Wide<V> {
        #[inline(always)]
        fn above(
            self,
            items: &[Quads],
            users: &[[i32; USERS]],
            bounds: &[i32; USERS],
        ) -> Option<[u16; USERS]> {
            let Self(simd) = self;
            let zero = simd.splat(0);
            let mut hits = [0; USERS];
            for part in 0..V::PARTS {
                let mut sums = [zero; USERS];
                let chains = items.as_chunks::<CHAIN>().0.iter().zip(users.as_chunks::<CHAIN>().0);
                for (items, users) in chains {
                    let mut vectors = [zero; CHAIN];
                    for quad in 0..CHAIN {
                        vectors[quad] = simd.quads(&items[quad], part);
                    }
                    for at in 0..USERS {
                        let mut products = [zero; CHAIN];
                        for quad in 0..CHAIN {
                            let user = simd.splat(users[quad][at]);
                            products[quad] = simd.products(vectors[quad], user);
                        }
                        // Two and two: no sum waits for the one before.
                        let [a, b, c, d] = products;
                        let pairs = simd.add(simd.add(a, b), simd.add(c, d));
                        sums[at] = simd.add_pairs(sums[at], pairs);
                    }
                }
                for at in 0..USERS {
                    let above = simd.above(sums[at], simd.splat(bounds[at]));
                    hits[at] |= above << (part * TILE / V::PARTS);
                }
            }
            (hits != [0; USERS]).then_some(hits)
        }
    }
}
