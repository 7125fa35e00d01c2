//! What is logged, and where to.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::io::IsTerminal;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Logs to standard error what `NIGHTSHIFT_LOG` says, or else what `default` says.
pub fn start(default: &str) {
    let filter =
        EnvFilter::try_from_env("NIGHTSHIFT_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let no_color = std::env::var_os("NO_COLOR");
    let coloured = is_coloured(std::io::stderr().is_terminal(), no_color.as_deref());
    let lines = tracing_subscriber::fmt::layer().with_ansi(coloured).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(News)).with(filter).init();
}

/// Whether lines have colours: files and other programs have no use for their codes. `no_color` is the variable by
/// which people say that they want none, in any program.
fn is_coloured(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Leaves out warnings about what is as it should be: a scheduler has each executor delete the results of a job,
/// and one that shares its folder with others can find that they have done so.
struct News;

impl<S: Subscriber> Filter<S> for News {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        if *event.metadata().level() != Level::WARN {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        let gone = GONE.iter().any(|gone| message.0.contains(gone));
        !message.0.contains("remove_job_data") || !gone
    }
}

/// What Ballista says of a folder that was there a moment ago, and the system of one that isn't there.
const GONE: [&str; 3] = ["is not a directory", "is not a subdirectory of", "(os error 2)"];

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // A string takes whatever is written.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn only_terminals_are_sent_colours() {
        assert!(is_coloured(true, None) && is_coloured(true, Some(OsStr::new(""))));
        assert!(!is_coloured(true, Some(OsStr::new("1"))) && !is_coloured(false, None));
    }

    #[test]
    fn what_others_have_deleted_is_no_news() {
        let lines = Lines::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(News));
        tracing::subscriber::with_default(subscriber, || {
            let gone = std::fs::read("/does/not/exist").unwrap_err();
            tracing::warn!("Failed to call remove_job_data on Executor 1 due to {gone}");
            tracing::warn!("Failed to call remove_job_data on Executor 2 due to no connection");
            tracing::warn!("Failed to read due to {gone}");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("Executor 1"), "{text}");
        assert!(text.contains("Executor 2") && text.contains("Failed to read"), "{text}");
    }
}
