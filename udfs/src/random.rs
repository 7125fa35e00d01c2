//! Starting factors: a function of seed, row and column, and of nothing else.
//!
//! A generator with a running state would tie the values to the order in which blocks are
//! initialised. Hashing the position makes them the same for any partitioning.

/// The increment of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
/// Generators", OOPSLA 2014): 2^64 divided by the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number uniform in `[-1, 1)` for a position of a matrix.
///
/// The value is `mix(mix(seed + γ) + γ·(row·width + column + 1))`, its top 24 bits scaled: exact in
/// `f32`, and easy to reproduce in another language.
pub fn uniform(seed: u64, row: u64, column: u64, width: u64) -> f32 {
    let position = row.wrapping_mul(width).wrapping_add(column).wrapping_add(1);
    let stream = mix(seed.wrapping_add(GOLDEN_GAMMA));
    let bits = mix(stream.wrapping_add(GOLDEN_GAMMA.wrapping_mul(position))) >> 40;
    (bits as f32) / (1u64 << 23) as f32 - 1.0
}

/// Starting factors for `rows` consecutive rows beginning at `first_row`, row-major.
///
/// Entries are uniform with the standard deviation `0.1 / sqrt(factors)` that "Revisiting the
/// Performance of iALS on Item Recommendation Benchmarks" (arXiv 2110.14037) recommends. Columns
/// from `factors` to `width` (the bias) start at zero.
pub fn starting_factors(
    seed: u64,
    first_row: usize,
    rows: usize,
    factors: usize,
    width: usize,
) -> Vec<f32> {
    // A uniform number on [-a, a] has the standard deviation a / sqrt(3).
    let scale = (0.1 * 3f64.sqrt() / (factors as f64).sqrt()) as f32;
    let mut values = vec![0.0; rows * width];
    for (offset, row) in values.chunks_exact_mut(width).enumerate() {
        for (column, value) in row[..factors].iter_mut().enumerate() {
            let position = (first_row + offset) as u64;
            *value = scale * uniform(seed, position, column as u64, factors as u64);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_sequence() {
        // First outputs for seed 1234567, from the reference implementation at prng.di.unimi.it.
        let mut state = 1234567u64;
        let mut next = || {
            state = state.wrapping_add(GOLDEN_GAMMA);
            mix(state)
        };
        assert_eq!(next(), 6457827717110365317);
        assert_eq!(next(), 3203168211198807973);
    }

    #[test]
    fn factors_do_not_depend_on_the_partitioning() {
        let whole = starting_factors(7, 0, 10, 4, 5);
        let tail = starting_factors(7, 6, 4, 4, 5);
        assert_eq!(whole[6 * 5..], tail[..]);
        assert!(whole.chunks(5).all(|row| row[4] == 0.0));
    }

    #[test]
    fn factors_have_the_stated_spread() {
        let values = starting_factors(3, 0, 2000, 16, 16);
        let mean = values.iter().map(|v| *v as f64).sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 1e-3, "{mean}");
        assert!((variance.sqrt() / (0.1 / 4.0) - 1.0).abs() < 0.02);
    }
}
