//! The principal axes of a side's factors, along which its Gram matrix is a diagonal.
//!
//! A model is the same when both sides' factors are turned, so a half step can turn the fixed side's, solve, and turn back
//! what it found. Along the axes, what the equations of all rows have in common is a number for each unknown: the rest of
//! them has no more dimensions than the row has observations ([`super::dual`]), and solvers that go step by step know what
//! the unknowns do to each other without the observations, which is most of why they needed steps.

use crate::dense::Transform;
use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};

/// Principal axes, and the way to them and back.
#[derive(Debug, Clone, PartialEq)]
pub struct Axes {
    /// The Gram matrix of factors along the axes: a diagonal matrix, `factors × factors`.
    pub gram: Vec<f64>,
    factors: usize,
    along: Transform,
    back: Transform,
}

impl Axes {
    /// The axes of factors with this Gram matrix: its eigenvectors. None if it has numbers that are not finite.
    pub fn new(gram: &[f64], factors: usize) -> Option<Self> {
        if !gram.iter().all(|value| value.is_finite()) {
            return None;
        }
        let (mut squares, mut vectors) = (vec![0.0; factors], vec![0.0; factors * factors]);
        let (params, yes) = (Default::default(), ComputeEigenvectors::Yes);
        let scratch = self_adjoint_evd_scratch::<f64>(factors, yes, Par::Seq, params);
        self_adjoint_evd(
            MatRef::from_column_major_slice(gram, factors, factors),
            DiagMut::from_slice_mut(&mut squares),
            Some(MatMut::from_column_major_slice_mut(&mut vectors, factors, factors)),
            Par::Seq,
            MemStack::new(&mut MemBuffer::new(scratch)),
            Default::default(),
        )
        .ok()?;
        // What is less than a rounding of a factor, squared, is one of the eigenvalue, which may be negative: there is nothing
        // along these axes, and nothing of a row either.
        let most = squares.iter().fold(0.0f64, |most, square| most.max(*square));
        let least = f64::from(f32::EPSILON).powi(2) * most;
        let mut gram = vec![0.0; factors * factors];
        for (at, square) in squares.iter().enumerate().filter(|(_, square)| **square > least) {
            gram[at * (factors + 1)] = *square;
        }
        let number = |at: usize| {
            let (row, axis) = (at / factors, at % factors);
            if squares[axis] > least { vectors[axis * factors + row] } else { 0.0 }
        };
        let by_rows = (0..factors * factors).map(number);
        let along = Transform::new(factors, by_rows.map(|value| value as f32));
        let back = Transform::new(factors, vectors.iter().map(|value| *value as f32));
        Some(Self { gram, factors, along, back })
    }

    /// Turns rows of factors to the axes. What becomes of a row doesn't depend on the others.
    pub fn turn(&self, rows: &mut [f32]) {
        debug_assert!(rows.len().is_multiple_of(self.factors));
        Arch::new().dispatch(Turn { transform: &self.along, rows });
    }

    /// Turns rows back that are along the axes.
    pub(super) fn turn_back(&self, rows: &mut [f32]) {
        Arch::new().dispatch(Turn { transform: &self.back, rows });
    }
}

struct Turn<'a> {
    transform: &'a Transform,
    rows: &'a mut [f32],
}

impl WithSimd for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.transform.apply(simd, self.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::als::gram;
    use crate::random::starting_factors;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn factors_have_a_diagonal_gram_matrix_along_their_axes(
            factors in 1usize..150,
            // Fewer than factors too, where some axes have nothing.
            count in 0usize..200,
            seed in any::<u64>(),
        ) {
            let rows: Vec<f32> = starting_factors(seed, 0, count, factors, factors)
                .iter().map(|value| value * 100.0).collect();
            let axes = Axes::new(&gram(&rows, factors, factors), factors).unwrap();
            let mut turned = rows.clone();
            axes.turn(&mut turned);
            // Each of a row's inner products with the axes is rounded as often as there are factors, and so are the axes: of
            // products of two of them, that is as many times EPSILON, which is two roundings, of what rows are long.
            let most = f64::from(f32::EPSILON) * (factors + 1) as f64;
            let trace: f64 = axes.gram.iter().sum();
            for (value, expected) in gram(&turned, factors, factors).iter().zip(&axes.gram) {
                prop_assert!((value - expected).abs() <= most * trace, "{value} {expected}");
            }
            axes.turn_back(&mut turned);
            for (turned, row) in turned.chunks_exact(factors).zip(rows.chunks_exact(factors)) {
                let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
                for (value, expected) in turned.iter().zip(row) {
                    let distance = f64::from(value - expected).abs();
                    prop_assert!(distance <= most * length, "{value} {expected}");
                }
            }
        }
    }

    /// Fewer rows than factors, and some factors that are those of others.
    #[test]
    fn there_is_nothing_along_axes_without_rows() {
        let mut rows = starting_factors(7, 0, 9, 24, 24);
        for row in rows.chunks_exact_mut(24) {
            row[23] = row[0];
        }
        let axes = Axes::new(&gram(&rows, 24, 24), 24).unwrap();
        axes.turn(&mut rows);
        let empty = (0..24).filter(|at| axes.gram[at * 25] == 0.0);
        let empty: Vec<usize> = empty.collect();
        assert_eq!(empty.len(), 15);
        assert!(rows.chunks_exact(24).all(|row| empty.iter().all(|at| row[*at] == 0.0)));
    }

    #[test]
    fn there_are_none_without_numbers() {
        assert_eq!(Axes::new(&[1.0, f64::NAN, f64::NAN, 1.0], 2), None);
        assert_eq!(Axes::new(&[f64::INFINITY], 1), None);
    }
}
