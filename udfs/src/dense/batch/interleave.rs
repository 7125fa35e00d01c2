//! Numbers of several systems brought side by side.

use super::start;
use crate::dense::transpose::{Transpose, WithSquares};
use crate::dense::{LANES, System};

/// Brings the matrices of systems side by side, as a triangle by rows.
pub(super) struct Interleave<'a> {
    pub(super) lower: &'a mut [f32],
    /// Rows of the triangle.
    pub(super) count: usize,
    pub(super) systems: &'a [System],
    pub(super) lanes: usize,
}

impl WithSquares for Interleave<'_> {
    #[inline(always)]
    fn run<const SIDE: usize>(self, squares: impl Transpose<SIDE>) {
        let Self { lower, count, systems, lanes } = self;
        for (group, systems) in systems.chunks(SIDE).enumerate() {
            let order = systems[0].unknowns.len();
            // In the lanes of systems that aren't there is the first.
            let mut matrices = [systems[0].matrix.as_slice(); SIDE];
            for (matrix, system) in matrices.iter_mut().zip(systems) {
                *matrix = &system.matrix;
            }
            // A vector may be half a line of the cache. Whole lines are read of each column, and rows come first, because
            // the other half of what is written is the next column's.
            for line in (0..count).step_by(LANES) {
                for column in 0..(line + LANES).min(count) {
                    for first in (line..line + LANES).step_by(SIDE) {
                        let mut square = [[0.0; SIDE]; SIDE];
                        for (numbers, matrix) in square.iter_mut().zip(matrices) {
                            let from = column * order + first;
                            numbers.copy_from_slice(&matrix[from..][..SIDE]);
                        }
                        let vectors = squares.transpose(square);
                        for (at, vector) in vectors.iter().enumerate() {
                            let row = first + at;
                            if (column..count).contains(&row) {
                                let to = (start(row) + column) * lanes + group * SIDE;
                                lower[to..][..SIDE].copy_from_slice(vector);
                            }
                        }
                    }
                }
            }
        }
    }
}
