//! What a run tells about itself while it works.

/// Told of every step; the terminal, or a log, or nobody listens.
pub trait Progress: Send + Sync {
    /// A step begins: the `number`-th of `total`.
    fn step(&self, number: usize, total: usize, name: &str);

    /// A step of that name is done.
    fn done(&self, _name: &str) {}

    /// A training has done `iteration` of at most `total` iterations and measured `value`.
    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64);

    /// Something that the user should know and that is no error.
    fn note(&self, text: &str);
}

/// Nobody is told.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: usize, _: usize, _: &str) {}

    fn iteration(&self, _: &str, _: usize, _: usize, _: &str, _: f64) {}

    fn note(&self, _: &str) {}
}
