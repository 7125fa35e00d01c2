//! What runs tell while nobody watches: lines of the log.

use nightshift_jobs::progress::Progress;

/// Writes to the log.
pub struct ToLog {
    /// The run.
    pub run: String,
}

impl Progress for ToLog {
    fn step(&self, number: usize, total: usize, name: &str) {
        tracing::info!(run = self.run, number, total, name, "step");
    }

    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64) {
        tracing::debug!(run = self.run, model, iteration, total, measure, value, "iteration");
    }

    fn note(&self, text: &str) {
        tracing::warn!(run = self.run, "{text}");
    }
}
