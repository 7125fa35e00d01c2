//! Small dense linear algebra in single precision, for many small systems: the products of a panel with
//! itself, and the Cholesky decomposition, of one system ([`System`]) or of several at a time ([`Batch`]); rows that become
//! the columns of a panel ([`Columns`]), and rows times a matrix ([`Transform`]).
//!
//! Matrices are symmetric, by columns, and only their lower triangles count. Their order is a multiple of
//! [`LANES`], so that every column is made of whole vectors.

mod batch;
mod columns;
mod system;
mod transform;
mod transpose;

pub use batch::Batch;
pub use columns::Columns;
pub use system::System;
pub use transform::Transform;

use crate::prefetch;
use pulp::{Simd, WithSimd};

/// Every order is a multiple of this: the numbers of the widest vector.
pub const LANES: usize = 16;

/// `order`, or the next multiple of [`LANES`].
pub fn padded(order: usize) -> usize {
    order.next_multiple_of(LANES)
}

/// Rows that are gathered some time after the panel whose products are added up: they come into the cache meanwhile.
/// Gathering is a quarter to a third of solving rows otherwise, because nothing tells the processor which row is next.
#[derive(Debug, Clone, Copy)]
pub struct Ahead<'a> {
    /// All rows, each of `width` numbers.
    pub rows: &'a [f32],
    /// Those to fetch, and others after them.
    pub next: &'a [u32],
    /// Numbers of a row.
    pub width: usize,
}

/// Numbers in a line of the cache.
const LINE: usize = prefetch::LINE / size_of::<f32>();

impl Ahead<'_> {
    /// Nothing comes next.
    pub const NOTHING: Self = Self { rows: &[], next: &[], width: 0 };

    /// Lines of a row.
    #[inline(always)]
    fn lines(&self) -> usize {
        self.width.div_ceil(LINE)
    }
}

/// Adds `ZᵀZ` to the lower triangle of `matrix`, or makes that the sum of it and `base` if there is one; `panel` holds the
/// rows of Z, each of `order` numbers. Fetches as many of the rows `ahead` as the panel has, or all of them if they are fewer,
/// meanwhile.
#[inline(always)]
pub fn add_products<S: Simd>(
    simd: S,
    matrix: &mut [f32],
    base: Option<&[f32]>,
    panel: &[f32],
    order: usize,
    ahead: Ahead<'_>,
) {
    simd.vectorize(AddProducts { matrix, base, panel, order, ahead });
}

/// What [`add_products`] is given: a function of its own, since it is wanted in several places and is long.
struct AddProducts<'a> {
    matrix: &'a mut [f32],
    base: Option<&'a [f32]>,
    panel: &'a [f32],
    order: usize,
    ahead: Ahead<'a>,
}

impl WithSimd for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { matrix, base, panel, order, ahead } = self;
        let numbers = order * (order + S::F32_LANES) / 2;
        let rows = (panel.len() / order).max(1);
        let lines = ahead.next.len().min(rows) * ahead.lines();
        let lines = (lines << FRACTION).div_ceil(numbers * rows);
        let next = Next { row: 0, line: 0, due: 0 };
        let products = Products { simd, matrix, base, panel, order, ahead, lines, next };
        match S::F32_LANES {
            16 => products.add_widest(),
            8 => products.add_wide(),
            4 => products.add_squares::<4>(),
            _ => products.add_squares::<1>(),
        }
    }
}

/// Products of a panel with itself, added up in tiles that fit into registers. A product needs its row and its column
/// loaded; in a square tile of one vector of rows there would be a load for each product.
struct Products<'a, S> {
    simd: S,
    matrix: &'a mut [f32],
    base: Option<&'a [f32]>,
    panel: &'a [f32],
    order: usize,
    ahead: Ahead<'a>,
    /// Lines to fetch for each number of the matrix and row of the panel, times 2 to the power of [`FRACTION`].
    lines: usize,
    next: Next,
}

/// What is to be fetched next. Lines are asked for one at a time, evenly spread over the products: a processor waits for
/// some sixteen of them at once, and asked for more, for nothing else either.
#[derive(Clone, Copy)]
struct Next {
    /// The place of a row among those ahead.
    row: usize,
    /// A line of it.
    line: usize,
    /// How much of a line is due, times 2 to the power of [`FRACTION`].
    due: usize,
}

impl Next {
    /// Fetches a line if one is due when `lines` more are.
    #[inline(always)]
    fn fetch(&mut self, ahead: &Ahead<'_>, lines: usize) {
        self.due += lines;
        if self.due < 1 << FRACTION {
            return;
        }
        self.due -= 1 << FRACTION;
        let Some(row) = ahead.next.get(self.row) else { return };
        let first = *row as usize * ahead.width + self.line * LINE;
        prefetch::line(ahead.rows.as_ptr().wrapping_add(first));
        self.line += 1;
        if self.line == ahead.lines() {
            self.line = 0;
            self.row += 1;
        }
    }
}

/// Binary digits of a fraction: so many that lines are late by next to nothing, and a matrix has fewer numbers than that.
const FRACTION: u32 = 20;

impl<S: Simd> Products<'_, S> {
    /// With 16 lanes and 32 registers: as many vectors of rows as there are below the diagonal, up to four, by as
    /// many columns as the registers hold.
    #[inline(always)]
    fn add_widest(mut self) {
        for diagonal in (0..self.order).step_by(16) {
            let mut row = diagonal;
            while row < self.order {
                let vectors = ((self.order - row) / 16).min(4);
                match vectors {
                    1 => self.tile::<1, 16>(row, diagonal),
                    2 => {
                        self.tile::<2, 8>(row, diagonal);
                        self.tile::<2, 8>(row, diagonal + 8);
                    }
                    3 => {
                        self.tile::<3, 8>(row, diagonal);
                        self.tile::<3, 8>(row, diagonal + 8);
                    }
                    _ => {
                        self.tile::<4, 6>(row, diagonal);
                        self.tile::<4, 6>(row, diagonal + 6);
                        self.tile::<4, 4>(row, diagonal + 12);
                    }
                }
                row += vectors * 16;
            }
        }
    }

    /// With 8 lanes and 16 registers: two vectors of rows by six columns, or by four on the diagonal. A single vector of
    /// rows is for its end alone: it needs more columns loaded than the processor can while it multiplies them.
    #[inline(always)]
    fn add_wide(mut self) {
        for diagonal in (0..self.order).step_by(16) {
            for row in (diagonal + 16..self.order).step_by(16) {
                self.tile::<2, 6>(row, diagonal);
                self.tile::<2, 6>(row, diagonal + 6);
                self.tile::<2, 4>(row, diagonal + 12);
            }
            self.tile::<2, 4>(diagonal, diagonal);
            self.tile::<2, 4>(diagonal, diagonal + 4);
            self.tile::<1, 8>(diagonal + 8, diagonal + 8);
        }
    }

    /// In square tiles as wide as a vector.
    #[inline(always)]
    fn add_squares<const LANES: usize>(mut self) {
        for row in (0..self.order).step_by(LANES) {
            for column in (0..=row).step_by(LANES) {
                self.tile::<1, LANES>(row, column);
            }
        }
    }

    /// Adds some vectors of rows by some columns.
    #[inline(always)]
    fn tile<const VECTORS: usize, const COLUMNS: usize>(&mut self, row: usize, column: usize) {
        let simd = self.simd;
        let sums = self.sums::<VECTORS, COLUMNS>(row, column);
        for (at, sums) in sums.into_iter().enumerate() {
            let start = (column + at) * self.order + row;
            let range = start..start + VECTORS * S::F32_LANES;
            let out = S::as_mut_simd_f32s(&mut self.matrix[range.clone()]).0;
            match self.base {
                Some(base) => {
                    let base = S::as_simd_f32s(&base[range]).0;
                    for (out, (base, sum)) in out.iter_mut().zip(base.iter().zip(sums)) {
                        *out = simd.add_f32s(*base, sum);
                    }
                }
                None => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = simd.add_f32s(*out, sum);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn sums<const VECTORS: usize, const COLUMNS: usize>(
        &mut self,
        row: usize,
        column: usize,
    ) -> [[S::f32s; VECTORS]; COLUMNS] {
        let simd = self.simd;
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; COLUMNS];
        let lines = VECTORS * S::F32_LANES * COLUMNS * self.lines;
        let mut next = self.next;
        for z in self.panel.chunks_exact(self.order) {
            next.fetch(&self.ahead, lines);
            let vectors = S::as_simd_f32s(&z[row..row + VECTORS * S::F32_LANES]).0;
            let columns = &z[column..column + COLUMNS];
            for at in 0..COLUMNS {
                let column = simd.splat_f32s(columns[at]);
                for vector in 0..VECTORS {
                    sums[at][vector] = simd.mul_add_f32s(vectors[vector], column, sums[at][vector]);
                }
            }
        }
        self.next = next;
        sums
    }
}

/// The inner products of some rows with a vector of the same length.
#[inline(always)]
pub fn inner_products<S: Simd, const ROWS: usize>(
    simd: S,
    rows: [&[f32]; ROWS],
    vector: &[f32],
) -> [f32; ROWS] {
    let mut sums = [simd.splat_f32s(0.0); ROWS];
    let (vectors, rest) = S::as_simd_f32s(vector);
    let whole = vector.len() - rest.len();
    let heads = rows.map(|row| S::as_simd_f32s(&row[..whole]).0);
    for (at, vector) in vectors.iter().enumerate() {
        for row in 0..ROWS {
            sums[row] = simd.mul_add_f32s(heads[row][at], *vector, sums[row]);
        }
    }
    let mut products = [0.0; ROWS];
    for row in 0..ROWS {
        let tail: f32 = rows[row][whole..].iter().zip(rest).map(|(a, b)| a * b).sum();
        products[row] = simd.reduce_sum_f32s(sums[row]) + tail;
    }
    products
}

/// Adds some rows to a sum of the same length, each times a factor.
#[inline(always)]
pub fn add_multiples<S: Simd, const ROWS: usize>(
    simd: S,
    rows: [&[f32]; ROWS],
    factors: [f32; ROWS],
    sum: &mut [f32],
) {
    let splat = factors.map(|factor| simd.splat_f32s(factor));
    let length = sum.len();
    let (vectors, rest) = S::as_mut_simd_f32s(sum);
    let whole = length - rest.len();
    let heads = rows.map(|row| S::as_simd_f32s(&row[..whole]).0);
    for (at, vector) in vectors.iter_mut().enumerate() {
        let mut sum = *vector;
        for row in 0..ROWS {
            sum = simd.mul_add_f32s(heads[row][at], splat[row], sum);
        }
        *vector = sum;
    }
    for row in 0..ROWS {
        for (value, other) in rest.iter_mut().zip(&rows[row][whole..]) {
            *value += other * factors[row];
        }
    }
}
