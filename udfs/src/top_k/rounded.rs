//! Rows of numbers rounded to bytes, and what their products say.
//!
//! With v = ṽ + e, where ṽ is the rounded row: u·v = ũ·ṽ + (u − ũ)·ṽ + u·e, so that by the inequality of Cauchy and
//! Schwarz a product is wrong by no more than `|u − ũ| |ṽ| + |u| |e|`.

use super::products::{CHAIN, Processor, QUAD, Quads, TILE, USERS};

/// Tiles of a group, which share a unit and what is known of their rows.
pub(super) const GROUP: usize = 8;

/// The length of a row.
pub(super) fn length(row: impl Iterator<Item = f32>) -> f64 {
    row.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// How numbers are rounded.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// What 1 of the rounded numbers means.
    unit: f64,
    /// The largest of them.
    most: u8,
}

impl Scale {
    /// Rounds the largest of some numbers to `most`.
    fn new(numbers: impl Iterator<Item = f32>, most: u8) -> Self {
        let largest = numbers.fold(0.0f64, |largest, value| largest.max(f64::from(value).abs()));
        Self { unit: largest / f64::from(most), most }
    }

    /// The nearest number of units.
    #[inline(always)]
    fn nearest(&self, value: f64) -> i8 {
        let most = f64::from(self.most);
        // A value that isn't finite, and none, where the unit is zero.
        match (value / self.unit).round() {
            units if units.is_finite() => units.clamp(-most, most) as i8,
            _ => 0,
        }
    }
}

/// Rounded items in tiles.
#[derive(Debug, Clone)]
pub(super) struct Rounded {
    processor: Processor,
    /// Quads of numbers that a row has: whole chains.
    depth: usize,
    /// Tile by tile, `depth` of each.
    quads: Vec<Quads>,
    groups: Vec<Extent>,
}

/// The largest of the rows of a group.
#[derive(Debug, Clone, Copy)]
struct Extent {
    scale: Scale,
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
    /// What is added to products because items' numbers are made positive.
    added: [f64; USERS],
    /// The length of what rounding takes from each.
    errors: [f64; USERS],
}

impl Rounded {
    /// Rounds rows of `width` numbers, each with a bias, so that the processor can multiply them.
    pub(super) fn new<R: Iterator<Item = f32> + Clone>(
        processor: Processor,
        width: usize,
        order: &[u32],
        row: impl Fn(u32) -> (R, Option<f32>),
    ) -> Self {
        let depth = width.div_ceil(QUAD * CHAIN) * CHAIN;
        let most = processor.most();
        let mut rounded = Self { processor, depth, quads: Vec::new(), groups: Vec::new() };
        for group in order.chunks(GROUP * TILE) {
            let finite =
                group.iter().flat_map(|item| row(*item).0).filter(|value| value.is_finite());
            let mut extent = Extent::new(Scale::new(finite, most));
            for tile in group.chunks(TILE) {
                let first = rounded.quads.len();
                rounded.quads.resize(first + depth, [most; QUAD * TILE]);
                for (at, item) in tile.iter().enumerate() {
                    let (row, bias) = row(*item);
                    extent.bias = match bias.map_or(0.0, f64::from) {
                        bias if bias.is_nan() => f64::INFINITY,
                        bias => extent.bias.max(bias),
                    };
                    extent.add(row, |number, near| {
                        let quad = &mut rounded.quads[first + number / QUAD];
                        quad[QUAD * at + number % QUAD] = near.wrapping_add_unsigned(most) as u8;
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

    pub(super) fn processor(&self) -> Processor {
        self.processor
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
        let most = self.processor.most();
        let mut rows = Rows {
            quads: vec![[0; USERS]; self.depth],
            units: [0.0; USERS],
            added: [0.0; USERS],
            errors: [0.0; USERS],
        };
        for (at, user) in users.enumerate() {
            let mut extent = Extent::new(Scale::new(user.clone(), most));
            extent.add(user, |number, near| {
                let byte = i32::from(near as u8) << (8 * (number % QUAD));
                rows.quads[number / QUAD][at] |= byte;
                rows.added[at] += f64::from(near) * f64::from(most);
            });
            (rows.units[at], rows.errors[at]) = (extent.scale.unit, extent.error);
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
        let least = least / (rows.units[at] * group.scale.unit) + rows.added[at];
        // Not a number where nothing is known.
        (least.max(i32::MIN.into()).ceil() as i32).saturating_sub(1)
    }
}

impl Extent {
    /// That of no rows.
    fn new(scale: Scale) -> Self {
        let bias = f64::NEG_INFINITY;
        Self { scale, length: 0.0, rounded: 0.0, error: 0.0, bias, behind: (0.0, bias) }
    }

    /// Rounds a row: `found` is given the place of each number and what it is rounded to.
    #[inline(always)]
    fn add(&mut self, row: impl Iterator<Item = f32>, mut found: impl FnMut(usize, i8)) {
        let (mut squares, mut rounded, mut errors) = (0.0, 0.0, 0.0);
        for (number, value) in row.enumerate() {
            let value = f64::from(value);
            let near = self.scale.nearest(value);
            found(number, near);
            let near = f64::from(near) * self.scale.unit;
            squares += value * value;
            rounded += near * near;
            errors += (value - near) * (value - near);
        }
        self.length = largest(self.length, squares);
        self.rounded = largest(self.rounded, rounded);
        self.error = largest(self.error, errors);
    }
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

/// The larger of a length and the root of a square, which is infinite where it isn't a number.
fn largest(length: f64, square: f64) -> f64 {
    match square.is_nan() {
        true => f64::INFINITY,
        false => length.max(square.sqrt() * (1.0 + SLACK)),
    }
}
