//! What a run tells about itself while it works.

/// Told of every step; the terminal, or a log, or nobody listens.
pub trait Progress: Send + Sync {
    /// A step begins: the `number`-th of `total`.
    fn step(&self, number: usize, total: usize, name: &str);

    /// A training has done `iteration` of at most `total` iterations and measured `value`.
    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64);

    /// Something that the user should know and that is no error.
    fn note(&self, text: &str);
}
