//! When a pipeline runs by itself.

use super::super::schedule::{CatchUp, Cron, pattern, zone};
use super::keys::Keys;
use chrono::NaiveTime;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use std::fmt;

/// When a pipeline runs by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// What makes it run.
    pub trigger: Trigger,
    /// What becomes of times that have passed while nobody looked; of other triggers, only the
    /// latest counts.
    pub catch_up: CatchUp,
    /// What becomes of a run that is due while another one is going on.
    pub concurrency: Concurrency,
    /// When a run has to be published, by the clocks of the trigger's time zone.
    pub deadline: Option<NaiveTime>,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trigger {
            Trigger::Cron(cron) => write!(f, "{} {}", cron.expression(), cron.zone()),
            Trigger::After(pipeline) => write!(f, "after {pipeline}"),
            Trigger::When(table) => write!(f, "when {table} has a new version"),
        }
    }
}

/// What makes a pipeline run.
#[derive(Debug, Clone, PartialEq)]
pub enum Trigger {
    /// A time.
    Cron(Cron),
    /// Another pipeline that has published a run.
    After(String),
    /// A table or model that has a new version.
    When(String),
}

/// What becomes of a run that is due while another one of its pipeline is going on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Concurrency {
    /// It doesn't run.
    #[default]
    Skip,
    /// It runs after the other.
    Queue,
    /// The other is cancelled.
    Replace,
}

impl Schedule {
    /// Reads `[schedule]`. There is none without a trigger that can be read.
    pub(super) fn of(keys: &mut Keys<'_, '_>) -> Option<Self> {
        let kind = keys.one_of(&["cron", "after", "when"]);
        let by_time = keys.place("cron").is_some();
        let of_times = ["time_zone", "catch_up", "deadline"];
        for key in of_times.into_iter().filter(|_| !by_time) {
            if let Some(at) = keys.place(key) {
                keys.wrong(at, format!("{key} has a meaning only together with cron"));
            }
        }
        let cron = keys.text("cron", |text| Ok((text.to_string(), pattern(text)?)));
        let after = keys.text("after", |name| match name.trim().is_empty() {
            false => Ok(name.to_string()),
            true => Err("the name of a pipeline is not empty".to_string()),
        });
        let when = keys.name("when");
        let zoned = keys.place("time_zone").is_some();
        let zone = keys.text("time_zone", zone);
        let catch_up = keys.take("catch_up").unwrap_or_default();
        let concurrency = keys.take("concurrency").unwrap_or_default();
        let deadline = keys.text("deadline", |text| {
            let read = |form| NaiveTime::parse_from_str(text, form).ok();
            let time = ["%H:%M", "%H:%M:%S"].into_iter().find_map(read);
            time.ok_or_else(|| format!("'{text}' is no time of the day: write one like '06:00'"))
        });
        let trigger = match kind? {
            "cron" => {
                let (expression, pattern) = cron?;
                let zone = if zoned { zone? } else { Tz::UTC };
                Trigger::Cron(Cron::of(&expression, pattern, zone))
            }
            "after" => Trigger::After(after?),
            _ => Trigger::When(when?),
        };
        Some(Self { trigger, catch_up, concurrency, deadline })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::tests::check;
    use super::*;

    fn schedule(text: &str) -> Option<Schedule> {
        Settings::parse("p.toml", &format!("[schedule]\n{text}")).0.schedule
    }

    #[test]
    fn what_makes_a_pipeline_run_is_read() {
        let found = schedule(
            "cron = '30 2 * * *'\ntime_zone = 'Europe/Berlin'\ncatch_up = 'all'\n\
             concurrency = 'queue'\ndeadline = '06:00'",
        );
        let cron = Cron::new("30 2 * * *", "Europe/Berlin").unwrap();
        let expected = Schedule {
            trigger: Trigger::Cron(cron),
            catch_up: CatchUp::All,
            concurrency: Concurrency::Queue,
            deadline: NaiveTime::from_hms_opt(6, 0, 0),
        };
        assert_eq!(found, Some(expected));
        let found = schedule("cron = '@daily'").unwrap();
        assert_eq!(found.trigger, Trigger::Cron(Cron::new("@daily", "UTC").unwrap()));
        assert_eq!((found.catch_up, found.concurrency), (CatchUp::Latest, Concurrency::Skip));
        let found = schedule("when = 'features.ratings'").unwrap();
        assert_eq!(found.trigger, Trigger::When("features.ratings".to_string()));
        let found = schedule("cron = '@daily'\ndeadline = 06:30:00").unwrap();
        assert_eq!(found.deadline, NaiveTime::from_hms_opt(6, 30, 0));
    }

    #[test]
    fn mistakes_are_said_one_by_one() {
        let text = "[schedule]\ncron = '0 3 * *'\ntime_zone = 'Europe/Berln'\nafter = 'q'\n\
                    catch_up = 'some'\ndeadline = 'noon'\nconcurency = 'skip'";
        let expected = [
            "2:8: '0 3 * *' is no cron expression, 5 fields are needed, not 4",
            "3:13: 'Europe/Berln' is no time zone: write one like 'Europe/Berlin'; did you mean",
            "4:1: after and cron exclude each other: give one of cron, after, when",
            "5:12: unknown variant `some`, expected one of `none`, `latest`, `all`",
            "6:12: 'noon' is no time of the day",
            "7:1: unknown field `concurency`",
        ];
        check(text, &expected);
        check("[schedule]", &["1:2: one of cron, after, when is needed"]);
        let text = "[schedule]\nafter = ''\ndeadline = '06:00'\ncatch_up = 'all'";
        let expected = [
            "2:9: the name of a pipeline is not empty",
            "3:1: deadline has a meaning only together with cron",
            "4:1: catch_up has a meaning only together with cron",
        ];
        check(text, &expected);
        check("schedule.when = 'x'", &["1:17: x: a name looks like schema.table"]);
        check("schedule.cron = '0 0 30 2 *'", &["1:17: '0 0 30 2 *' is never due"]);
    }
}
