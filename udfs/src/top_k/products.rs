//! Products of bytes.

/// Items of a tile: the bits of a hit.
pub(super) const TILE: usize = 32;

/// Users whose products with a tile are made together.
pub(super) const USERS: usize = 6;

/// Numbers whose products are added up in the 32 bits of a sum.
pub(super) const QUAD: usize = 4;

/// Quads that are added up in 16 bits, where the processor can't add products up in 32.
pub(super) const CHAIN: usize = 4;

/// The largest number where a sum of products has 16 bits: half of those of a chain, of a positive number and one that
/// was made positive.
const MOST_IN_PAIRS: u8 = 45;

const _: () =
    assert!(CHAIN * 2 * MOST_IN_PAIRS as usize * 2 * MOST_IN_PAIRS as usize <= i16::MAX as usize);

/// Four numbers of each of a tile's items, made positive by adding the largest.
pub(super) type Quads = [u8; QUAD * TILE];

/// What makes products.
pub(super) trait Products: Copy {
    /// The items of a tile whose products with users exceed the users' bounds, a bit for each; nothing if there is none.
    fn above(
        self,
        items: &[Quads],
        users: &[[i32; USERS]],
        bounds: &[i32; USERS],
    ) -> Option<[u32; USERS]>;
}

/// What is done with products.
pub(super) trait WithProducts {
    fn run(self, products: impl Products);
}

/// Which vectors there are to make products with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Processor {
    /// None, but for those that the compiler finds.
    Plain,
    /// Those of 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    /// Those of 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    /// Those of 512 bits, with an instruction for the sums of four products.
    #[cfg(target_arch = "x86_64")]
    Vnni(vnni::Vnni),
}

impl Processor {
    /// All that this processor is, the fastest last.
    pub(super) fn all() -> impl DoubleEndedIterator<Item = Self> {
        let plain = std::iter::once(Self::Plain);
        #[cfg(target_arch = "x86_64")]
        let plain = plain
            .chain(pulp::x86::V3::try_new().map(Self::Avx2))
            .chain(pulp::x86::V4::try_new().map(Self::Avx512))
            .chain(vnni::Vnni::try_new().map(Self::Vnni));
        plain
    }

    /// The fastest that this processor is.
    pub(super) fn new() -> Self {
        Self::all().next_back().unwrap_or(Self::Plain)
    }

    /// The largest number that it can multiply, and the least is as far below zero.
    pub(super) fn most(self) -> u8 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) | Self::Avx512(_) => MOST_IN_PAIRS,
            _ => i8::MAX as u8,
        }
    }

    /// Does something with its products.
    pub(super) fn run(self, work: impl WithProducts) {
        match self {
            Self::Plain => work.run(Plain),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.vectorize(Run(work, pairs::Pairs(simd))),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.vectorize(Run(work, pairs::Pairs(simd))),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(simd) => simd.vectorize(Run(work, simd)),
        }
    }
}

/// What is done with products, compiled for the vectors that make them.
#[cfg(target_arch = "x86_64")]
struct Run<W, P>(W, P);

#[cfg(target_arch = "x86_64")]
impl<W: WithProducts, P: Products> pulp::NullaryFnOnce for Run<W, P> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.run(self.1);
    }
}

/// Without vectors, but for those that the compiler finds.
#[derive(Clone, Copy)]
struct Plain;

impl Products for Plain {
    fn above(
        self,
        items: &[Quads],
        users: &[[i32; USERS]],
        bounds: &[i32; USERS],
    ) -> Option<[u32; USERS]> {
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
            let bits = sums[at].iter().rev().map(|sum| u32::from(*sum > bounds[at]));
            bits.fold(0, |bits, bit| bits << 1 | bit)
        };
        let hits = std::array::from_fn(above);
        (hits != [0; USERS]).then_some(hits)
    }
}

#[cfg(target_arch = "x86_64")]
mod pairs {
    //! With vectors of x86 that add products up by pairs, in 16 bits.

    use super::{CHAIN, Products, Quads, TILE, USERS};
    use pulp::cast;
    use pulp::x86::{V3, V4};
    use std::arch::x86_64::{__m256i, __m512i};

    /// Vectors of integers.
    pub(super) trait Vectors: Copy {
        /// Items of a vector.
        const LANES: usize;
        type Vector: Copy;
        fn splat(self, value: i32) -> Self::Vector;
        /// A quad of each item of a part of a tile.
        fn quads(self, items: &Quads, part: usize) -> Self::Vector;
        /// The products of quads, as sums of 16 bits, two for each quad.
        fn products(self, items: Self::Vector, user: Self::Vector) -> Self::Vector;
        /// Adds sums of 16 bits.
        fn add(self, sums: Self::Vector, others: Self::Vector) -> Self::Vector;
        /// Adds sums of 16 bits to those of 32.
        fn add_pairs(self, sums: Self::Vector, pairs: Self::Vector) -> Self::Vector;
        /// Which of the sums exceed the bounds, a bit for each.
        fn above(self, sums: Self::Vector, bounds: Self::Vector) -> u32;
    }

    impl Vectors for V3 {
        const LANES: usize = 8;
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
        fn above(self, sums: __m256i, bounds: __m256i) -> u32 {
            self.avx._mm256_movemask_ps(cast(self.avx2._mm256_cmpgt_epi32(sums, bounds))) as u32
        }
    }

    impl Vectors for V4 {
        const LANES: usize = 16;
        type Vector = __m512i;

        #[inline(always)]
        fn splat(self, value: i32) -> __m512i {
            self.avx512f._mm512_set1_epi32(value)
        }

        #[inline(always)]
        fn quads(self, items: &Quads, part: usize) -> __m512i {
            cast(items.as_chunks::<64>().0[part])
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
        fn above(self, sums: __m512i, bounds: __m512i) -> u32 {
            self.avx512f._mm512_cmpgt_epi32_mask(sums, bounds).into()
        }
    }

    /// A chain of items stays in registers while all users are multiplied with it, and one sum of each user.
    #[derive(Clone, Copy)]
    pub(super) struct Pairs<V>(pub V);

    impl<V: Vectors> Products for Pairs<V> {
        #[inline(always)]
        fn above(
            self,
            items: &[Quads],
            users: &[[i32; USERS]],
            bounds: &[i32; USERS],
        ) -> Option<[u32; USERS]> {
            let Self(simd) = self;
            let zero = simd.splat(0);
            let mut hits = [0; USERS];
            for part in 0..TILE / V::LANES {
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
                    hits[at] |= above << (part * V::LANES);
                }
            }
            (hits != [0; USERS]).then_some(hits)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    //! With the instruction of x86 that adds four products to a sum of 32 bits.

    use super::{Products, Quads, TILE, USERS};
    use pulp::cast;
    use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32};

    pulp::simd_type!({
        /// Vectors of 512 bits, with that instruction.
        pub struct Vnni {
            avx512f: f!("avx512f"),
            avx512bw: f!("avx512bw"),
            avx512vl: f!("avx512vl"),
            avx512vnni: f!("avx512vnni"),
        }
    });

    /// Items of a vector.
    const LANES: usize = 16;

    impl Vnni {
        /// Adds the sums of the products of quads.
        #[expect(unsafe_code, reason = "there is no value of this type without the instruction")]
        #[inline(always)]
        fn add_products(self, sums: __m512i, items: __m512i, user: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sums, items, user) }
        }
    }

    impl Products for Vnni {
        #[expect(
            clippy::needless_range_loop,
            reason = "with iterators, the sums leave their registers"
        )]
        #[inline(always)]
        fn above(
            self,
            items: &[Quads],
            users: &[[i32; USERS]],
            bounds: &[i32; USERS],
        ) -> Option<[u32; USERS]> {
            // All vectors of the tile: an instruction takes five cycles, and two begin in each.
            let mut sums = [[self.avx512f._mm512_set1_epi32(0); TILE / LANES]; USERS];
            for (items, users) in items.iter().zip(users) {
                let items = items.as_chunks::<64>().0;
                for at in 0..USERS {
                    let user = self.avx512f._mm512_set1_epi32(users[at]);
                    for part in 0..TILE / LANES {
                        sums[at][part] = self.add_products(sums[at][part], cast(items[part]), user);
                    }
                }
            }
            let mut hits = [0; USERS];
            for at in 0..USERS {
                let bound = self.avx512f._mm512_set1_epi32(bounds[at]);
                for part in 0..TILE / LANES {
                    let above = self.avx512f._mm512_cmpgt_epi32_mask(sums[at][part], bound);
                    hits[at] |= u32::from(above) << (part * LANES);
                }
            }
            (hits != [0; USERS]).then_some(hits)
        }
    }
}
