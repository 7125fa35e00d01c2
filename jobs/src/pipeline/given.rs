//! What a run is given: the interval that it is for, and values of parameters.

use super::parameters::{Type, Value, built_in};
use super::settings::{NoValue, Settings, Trigger};
use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use std::collections::BTreeMap;

/// The interval that a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The day on which it begins, by the clocks of the schedule's time zone.
    pub date: NaiveDate,
    /// Its first moment.
    pub start: DateTime<Utc>,
    /// The first moment after it.
    pub end: DateTime<Utc>,
}

/// What a run is for, and with which values.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// What somebody says: a day, or today if it is none, and values of parameters by name.
    Day(Option<NaiveDate>, BTreeMap<String, String>),
    /// The interval that ends when the run is due.
    Due(DateTime<Utc>),
    /// What another process has been given.
    Recorded(BTreeMap<String, Value>),
}

impl Default for Given {
    fn default() -> Self {
        Self::Day(None, BTreeMap::new())
    }
}

impl Given {
    /// All values, built-in ones among them.
    ///
    /// # Errors
    /// All that can't be read, that aren't known, and that are missing.
    pub(super) fn values(
        &self,
        settings: &Settings,
    ) -> Result<BTreeMap<String, Value>, Vec<NoValue>> {
        let (interval, given) = match self {
            Self::Recorded(values) => return Ok(values.clone()),
            Self::Day(day, given) => {
                let day = day.unwrap_or_else(|| settings.date(Utc::now()));
                (settings.day(day), given)
            }
            Self::Due(due) => (settings.interval(*due), &BTreeMap::new()),
        };
        let Interval { date, start, end } = interval;
        let mut values = settings.values(given)?;
        values.extend(built_in(date, start, end));
        Ok(values)
    }
}

impl Settings {
    /// Values of all parameters, whatever is missing: what can be checked is checked with them.
    pub(super) fn stand_ins(&self) -> BTreeMap<String, Value> {
        let day = self.day(self.date(Utc::now()));
        let mut values = built_in(day.date, day.start, day.end);
        let values_of = |kind: Type| match kind {
            Type::Text => Value::Text(String::new()),
            Type::Integer => Value::Integer(1),
            Type::Float => Value::Float(1.0),
            Type::Boolean => Value::Boolean(true),
            Type::Date => Value::Date(day.date),
            Type::Timestamp => Value::Timestamp(day.start),
        };
        values.extend(self.parameters.iter().map(|(name, parameter)| {
            let value = parameter.default.clone().unwrap_or_else(|| values_of(parameter.kind));
            (name.clone(), value)
        }));
        values
    }

    fn cron(&self) -> Option<&super::Cron> {
        match self.schedule.as_ref().map(|schedule| &schedule.trigger) {
            Some(Trigger::Cron(cron)) => Some(cron),
            _ => None,
        }
    }

    /// The day that it is by the schedule's clocks, or in UTC.
    pub(super) fn date(&self, time: DateTime<Utc>) -> NaiveDate {
        self.cron().map_or(time.date_naive(), |cron| cron.date(time))
    }

    /// A day from its first moment to its last.
    fn day(&self, date: NaiveDate) -> Interval {
        let begins = |date: NaiveDate| {
            let midnight = date.and_time(NaiveTime::MIN);
            let utc = midnight.and_utc();
            self.cron().and_then(|cron| cron.first_moment(midnight)).unwrap_or(utc)
        };
        let end = date.checked_add_days(Days::new(1)).map_or(DateTime::<Utc>::MAX_UTC, begins);
        Interval { date, start: begins(date), end }
    }

    /// The interval of a run that is due at a time: since the time before.
    fn interval(&self, due: DateTime<Utc>) -> Interval {
        let second = chrono::TimeDelta::seconds(1);
        let before = |cron: &super::Cron| cron.latest(DateTime::<Utc>::MIN_UTC, due - second);
        let start = self.cron().and_then(before).unwrap_or(due);
        Interval { date: self.date(start), start, end: due }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let (settings, mistakes) = Settings::parse("p.toml", text);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        settings
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_run_at_night_is_for_the_day_before() {
        let settings = settings(
            "parameters = { least = 3 }\nschedule = { cron = '0 3 * * *', time_zone = 'Europe/Berlin' }",
        );
        // The clocks were set back in between.
        let due = utc("2026-10-25T02:00:00Z");
        let values = Given::Due(due).values(&settings).unwrap();
        assert_eq!(values["run_date"].to_string(), "2026-10-24");
        assert_eq!(values["interval_start"], Value::Timestamp(utc("2026-10-24T01:00:00Z")));
        assert_eq!(values["interval_end"], Value::Timestamp(due));
        assert_eq!(values["least"], Value::Integer(3));
        assert_eq!(Given::Recorded(values.clone()).values(&settings).unwrap(), values);

        let day = "2026-10-25".parse().unwrap();
        let given = BTreeMap::from([("least".to_string(), "5".to_string())]);
        let values = Given::Day(Some(day), given).values(&settings).unwrap();
        assert_eq!(values["interval_start"], Value::Timestamp(utc("2026-10-24T22:00:00Z")));
        assert_eq!(values["interval_end"], Value::Timestamp(utc("2026-10-25T23:00:00Z")));
        assert_eq!(values["least"], Value::Integer(5));
    }

    #[test]
    fn what_is_missing_or_unknown_is_said() {
        let settings = settings("parameters = { least = { type = 'integer' } }");
        assert_eq!(Given::default().values(&settings).unwrap_err().len(), 1);
        let given = [("least", "x"), ("other", "1")].map(|(n, v)| (n.to_string(), v.to_string()));
        let wrong = Given::Day(None, given.into()).values(&settings).unwrap_err();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }
}
