//! `pipeline.toml`.

mod durations;
mod gates;
mod keys;
mod measures;
mod notify;
mod parameters;
mod retries;
mod schedule;

pub use gates::{Bounds, Gate};
pub use measures::{ColumnMeasure, Gated};
pub use notify::{Channel, Event, Notify};
pub use parameters::{NoValue, Parameter};
pub use retries::Retries;
pub use schedule::{Concurrency, Schedule, Trigger};

use super::parameters::Value;
use super::source::{SETTINGS, Source};
use crate::JobError;
use keys::{Keys, Mistakes};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeTable;

/// What is said of a pipeline besides its statements.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The pipeline's name; that of its folder if it is missing.
    pub name: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Files that must be there before it runs, relative to the folder.
    pub inputs: Vec<PathBuf>,
    /// A program in the folder that provides the inputs, run when one of them is missing.
    pub fetch: Option<PathBuf>,
    /// When it runs by itself.
    pub schedule: Option<Schedule>,
    /// How long a run may take.
    pub timeout: Option<Duration>,
    /// How often a step is tried, and when.
    pub retries: Retries,
    /// How many steps are executed at the same time, at most.
    pub parallel: usize,
    /// Values that its statements use, by name.
    pub parameters: BTreeMap<String, Parameter>,
    /// What must hold before a run is published.
    pub gates: Vec<Gate>,
    /// Who is told of what.
    pub notify: Vec<Notify>,
}

impl Default for Settings {
    fn default() -> Self {
        Self::of(DeTable::new(), &mut Mistakes::default())
    }
}

/// How many steps are executed at the same time, if nothing is said.
const PARALLEL: usize = 4;

fn parallel(keys: &mut Keys<'_, '_>) -> usize {
    match keys.located::<usize>("parallel") {
        None => PARALLEL,
        Some((at, 0)) => {
            keys.wrong(at, "parallel is at least 1: then steps are executed one after another");
            PARALLEL
        }
        Some((_, parallel)) => parallel,
    }
}

impl Settings {
    /// Those of a text, as far as they can be read.
    pub fn of_source(source: &Source) -> Self {
        source.settings().map(|text| Self::parse(SETTINGS, text).0).unwrap_or_default()
    }

    /// Reads the text of a file, and says everything that is wrong in it; `file` is its name in
    /// errors. What is good counts all the same.
    pub(super) fn parse(file: &str, text: &str) -> (Self, Vec<JobError>) {
        let (whole, errors) = DeTable::parse_recoverable(text);
        let mut mistakes = Mistakes::default();
        let settings = Self::of(whole.into_inner(), &mut mistakes);
        if !errors.is_empty() {
            // What is broken off can't be read either.
            mistakes = Mistakes::default();
        }
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            mistakes.add(at, error.message());
        }
        let located = mistakes.into_iter().map(|(at, reason)| {
            let (line, column) = position(text, at);
            JobError::Syntax { file: file.to_string(), line, column, reason }
        });
        (settings, located.collect())
    }

    /// The values that a run's statements use: those that are `given` with the run, by name, and
    /// defaults. What is built in is added to them.
    ///
    /// # Errors
    /// All that can't be read, that aren't known, and that are missing.
    pub fn values(
        &self,
        given: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, Value>, Vec<NoValue>> {
        parameters::values(&self.parameters, given)
    }

    fn of(whole: DeTable<'_>, mistakes: &mut Mistakes) -> Self {
        let mut keys = Keys::new(0, whole, mistakes);
        let settings = Self {
            name: keys.take("name"),
            owner: keys.take("owner"),
            inputs: keys.take("inputs").unwrap_or_default(),
            fetch: keys.take("fetch"),
            schedule: keys.table("schedule", Schedule::of).flatten(),
            timeout: keys.text("timeout", durations::duration),
            retries: keys.table("retries", Retries::of).unwrap_or_default(),
            parallel: parallel(&mut keys),
            parameters: keys.table("parameters", parameters::of).unwrap_or_default(),
            gates: keys.tables("gate", Gate::of),
            notify: keys.tables("notify", Notify::of),
        };
        keys.end();
        settings
    }
}

/// Line and column, from 1, of a byte of a text.
pub(super) fn position(text: &str, at: usize) -> (u64, u64) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) as u64 + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        Settings::parse("p.toml", text).1.iter().map(ToString::to_string).collect()
    }

    /// Fails unless these are the mistakes of a text, each said to the end or at least begun.
    pub(super) fn check(text: &str, expected: &[&str]) {
        let said = said(text);
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(&format!("p.toml:{expected}")), "{said}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said() {
        let (settings, mistakes) =
            Settings::parse("p.toml", "name = 'p'\ninputs = ['a.csv']\nfetch = 'get'\n");
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let inputs = vec![PathBuf::from("a.csv")];
        let (name, fetch) = (Some("p".to_string()), Some(PathBuf::from("get")));
        assert_eq!(settings, Settings { name, inputs, fetch, ..Settings::default() });

        let text = "nam = 'p'\n\nfetch = true\n  inputs = ['a', 2]\nname = 'q'";
        let good = Settings { name: Some("q".to_string()), ..Settings::default() };
        assert_eq!(Settings::parse("p.toml", text).0, good);
        let wrong = [
            "1:1: unknown field `nam`, expected one of `name`, `owner`, `inputs`",
            "3:9: invalid type: boolean `true`",
            "4:18: invalid type: integer `2`",
        ];
        check(text, &wrong);
        assert!(said(text)[0].ends_with("; did you mean name?"));
        let wrong = said("name = 'p\nfetch = 'é' x\n");
        assert!(wrong.iter().any(|mistake| mistake.starts_with("p.toml:1:")), "{wrong:?}");
        assert!(wrong.iter().any(|mistake| mistake.starts_with("p.toml:2:13")), "{wrong:?}");
    }

    #[test]
    fn everything_that_can_be_said_is_read() {
        let text = "owner = 'data@example.com'\ntimeout = '2h'\nretries = { attempts = 5 }\n\
                    parameters = { top = 20 }\nschedule = { after = 'other' }\n\
                    gate = [{ model = 'a.b', measure = 'loss', max = 1 }]\n\
                    [[notify]]\nemail = 'a@b'\n[[notify]]\ncommand = ['page']\n";
        let (settings, mistakes) = Settings::parse("p.toml", text);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(settings.owner.as_deref(), Some("data@example.com"));
        assert_eq!(settings.timeout, Some(Duration::from_secs(7200)));
        assert_eq!(settings.retries.attempts, 5);
        assert_eq!(
            settings.schedule.map(|found| found.trigger),
            Some(Trigger::After("other".to_string()))
        );
        let found = (settings.parameters.len(), settings.gates.len(), settings.notify.len());
        assert_eq!(found, (1, 1, 2));
    }

    #[test]
    fn mistakes_of_all_tables_are_said_in_the_order_of_the_file() {
        let text = "timeout = '2 fortnights'\n[schedule]\ncron = 'x'\ntime_zone = 'Berlin'\n\
                    [[gate]]\nmodel = 'a.b'\nmeasure = 'x'\nmax = 1\n[[gate]]\ntable = 'a.b'\n\
                    measure = 'x'\nmax = 1\n[retries]\nattempts = 0\nmore = 1\n[gates]\n";
        let expected = [
            "1:11: '2 fortnights' is no duration",
            "3:8: 'x' is no cron expression",
            "4:13: 'Berlin' is no time zone",
            "7:11: there is no measure 'x' of a model",
            "11:11: there is no measure 'x' of a table",
            "14:12: attempts is 0",
            "15:1: unknown field `more`, expected one of `attempts`, `delay`, `max_delay`",
            "16:2: unknown field `gates`",
        ];
        check(text, &expected);
        check("gate = [1]\nschedule = 3", &["1:9: this is a list", "2:12: this is a table"]);
        check("[gate]\nmin = 1", &["1:2: this is a list of tables: begin each with [[gate]]"]);
    }
}
