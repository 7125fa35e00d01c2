//! Rows gathered as the columns of a panel.

use super::transpose::{Transpose, WithSquares, with_squares};
use pulp::Simd;

/// Rows that become columns.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// All rows, each of `width` numbers.
    pub rows: &'a [f32],
    /// Numbers of a row.
    pub width: usize,
    /// Which of them.
    pub chosen: &'a [u32],
    /// What each of these is multiplied by.
    pub factors: &'a [f32],
    /// What each number of a row is multiplied by.
    pub scales: &'a [f32],
}

impl Columns<'_> {
    /// Writes them into a panel of `width` rows with `order` numbers each, which is [`super::padded`] of how many they are:
    /// those beyond become zeros.
    #[inline(always)]
    pub fn gather<S: Simd>(self, simd: S, panel: &mut [f32], order: usize) {
        with_squares(S::F32_LANES, Gather { columns: self, panel, order });
        let (factors, rest) =
            self.factors.split_at(self.factors.len() / S::F32_LANES * S::F32_LANES);
        let mut last = [0.0; super::LANES];
        last[..rest.len()].copy_from_slice(rest);
        let (factors, last) = (S::as_simd_f32s(factors).0, S::as_simd_f32s(&last).0[0]);
        for (row, scale) in panel.chunks_exact_mut(order).zip(self.scales) {
            let scale = simd.splat_f32s(*scale);
            let (first, rest) = S::as_mut_simd_f32s(row).0.split_at_mut(factors.len());
            for (values, factors) in first.iter_mut().zip(factors) {
                *values = simd.mul_f32s(*values, simd.mul_f32s(*factors, scale));
            }
            if let Some(values) = rest.first_mut() {
                *values = simd.mul_f32s(*values, simd.mul_f32s(last, scale));
            }
        }
    }
}

struct Gather<'a> {
    columns: Columns<'a>,
    panel: &'a mut [f32],
    order: usize,
}

impl WithSquares for Gather<'_> {
    #[inline(always)]
    fn run<const SIDE: usize>(self, squares: impl Transpose<SIDE>) {
        let Self { columns: Columns { rows, width, chosen, .. }, panel, order } = self;
        for first in (0..order).step_by(SIDE) {
            let end = (first + SIDE).min(chosen.len());
            let chosen = chosen.get(first..end).unwrap_or_default();
            for from in (0..width).step_by(SIDE) {
                let numbers = SIDE.min(width - from);
                let mut square = [[0.0; SIDE]; SIDE];
                for (side, row) in square.iter_mut().zip(chosen) {
                    let row = &rows[*row as usize * width + from..][..numbers];
                    // With a length that is known, it is a load.
                    match row.first_chunk::<SIDE>() {
                        Some(row) => *side = *row,
                        None => side[..numbers].copy_from_slice(row),
                    }
                }
                let turned = squares.transpose(square);
                let panel = panel[from * order..].chunks_exact_mut(order);
                for (to, side) in panel.zip(&turned[..numbers]) {
                    to[first..][..SIDE].copy_from_slice(side);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::padded;
    use crate::random::starting_factors;
    use proptest::prelude::*;
    use pulp::{Arch, Scalar, WithSimd};

    struct Gathered<'a>(Columns<'a>);

    impl WithSimd for Gathered<'_> {
        type Output = Vec<f32>;

        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let order = padded(self.0.chosen.len());
            let mut panel = vec![f32::NAN; self.0.width * order];
            self.0.gather(simd, &mut panel, order);
            panel
        }
    }

    proptest! {
        #[test]
        fn rows_become_columns_with_vectors_of_every_width(
            width in 1usize..40,
            chosen in prop::collection::vec(0u32..30, 1..40),
            seed in any::<u64>(),
        ) {
            let rows = starting_factors(seed, 0, 30, width, width);
            let factors = starting_factors(seed, 30, 1, chosen.len(), chosen.len());
            let scales = starting_factors(seed, 31, 1, width, width);
            let (chosen, factors, scales) = (&chosen[..], &factors[..], &scales[..]);
            let columns = Columns { rows: &rows, width, chosen, factors, scales };
            let order = padded(chosen.len());
            let mut expected = vec![0.0; width * order];
            for (at, row) in chosen.iter().enumerate() {
                for number in 0..width {
                    let value = rows[*row as usize * width + number];
                    expected[number * order + at] = value * (factors[at] * scales[number]);
                }
            }
            prop_assert_eq!(&Arch::new().dispatch(Gathered(columns)), &expected);
            prop_assert_eq!(&Gathered(columns).with_simd(Scalar), &expected);
        }
    }
}
