//! Progress: bars on a terminal, plain lines in a pipe.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nightshift_jobs::progress::Progress;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Progress that is shown somewhere.
pub trait Shown: Progress {
    /// What was under way is done: leaves room for what is printed next.
    fn clear(&self) {}
}

/// What fits standard error.
pub fn to_standard_error() -> Arc<dyn Shown> {
    if std::io::stderr().is_terminal() { Arc::new(Bars::new()) } else { Arc::new(Lines) }
}

/// One line for each thing that happens.
struct Lines;

impl Shown for Lines {}

impl Progress for Lines {
    fn step(&self, number: usize, total: usize, name: &str) {
        eprintln!("[{number}/{total}] {name}");
    }

    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64) {
        eprintln!("  {model}: iteration {iteration}/{total}, {measure} {value:.6e}");
    }

    fn note(&self, text: &str) {
        eprintln!("note: {text}");
    }
}

/// A bar for the steps, and one for the iterations of each training that is under way.
struct Bars {
    all: MultiProgress,
    steps: Mutex<Option<ProgressBar>>,
    trainings: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Bars {
    fn new() -> Self {
        let steps = Mutex::new(None);
        Self { all: MultiProgress::new(), steps, trainings: Mutex::default() }
    }
}

impl Shown for Bars {
    fn clear(&self) {
        let mut trainings = self.trainings.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, bar) in std::mem::take(&mut *trainings) {
            bar.finish_and_clear();
        }
        if let Some(bar) = self.steps.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bars {
    fn step(&self, number: usize, total: usize, name: &str) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = steps.get_or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(total as u64));
            bar.set_style(style("{spinner} [{bar:30}] {pos}/{len} {msg} {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_length(total as u64);
        bar.set_position(number as u64 - 1);
        bar.set_message(name.to_string());
    }

    fn done(&self, name: &str) {
        let mut trainings = self.trainings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = trainings.remove(name) {
            bar.finish_and_clear();
        }
    }

    fn iteration(&self, model: &str, iteration: usize, total: usize, measure: &str, value: f64) {
        let mut trainings = self.trainings.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = trainings.entry(model.to_string()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(total as u64));
            bar.set_style(style("  [{bar:30}] superstep {pos}/{len} {msg}"));
            bar
        });
        bar.set_position(iteration as u64);
        bar.set_message(format!("{model} {measure} {value:.6e}"));
    }

    fn note(&self, text: &str) {
        self.all.suspend(|| eprintln!("note: {text}"));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}
