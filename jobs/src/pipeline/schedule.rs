//! When a pipeline is due: a cron expression in a time zone.
//!
//! Clocks that are set forward leave times out, and clocks that are set back show some of them
//! twice. What becomes of these depends on the expression:
//!
//! - One that names every hour, such as `*/5 * * * *`, goes by the time that passes. It is due
//!   whenever the clocks show one of its minutes, in each pass of an hour that comes twice.
//! - One that names some hours, such as `30 2 * * *`, is due once for each of its times. One that
//!   is left out is due at the moment at which the clocks jump, several of them once together; one
//!   that comes twice, at its first coming.

use crate::suggestion::did_you_mean;
use chrono::{DateTime, Days, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta};
use chrono::{SubsecRound, TimeZone, Utc};
use chrono_tz::{GapInfo, TZ_VARIANTS, Tz};
use croner::parser::{CronParser, Seconds, Year};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How late a run may start that is not to be caught up: who looks what is due can be busy for a
/// while.
const TOLERANCE: TimeDelta = TimeDelta::minutes(2);

/// How many runs are due at once at most. Those after them are due once these have been started.
const MOST_DUE: usize = 1000;

/// Clocks never jump further than this, and go on for longer until they jump again.
const DAY: Days = Days::new(1);

/// What becomes of runs whose time has passed while nobody looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// They don't run.
    None,
    /// The latest of them runs.
    #[default]
    Latest,
    /// All of them run, the oldest first.
    All,
}

/// A cron expression, and the zone whose clocks it means.
#[derive(Clone, PartialEq)]
pub struct Cron {
    expression: String,
    pattern: Arc<croner::Cron>,
    zone: Tz,
    every_hour: bool,
}

/// When clocks of the zone show a time, as far as the schedule cares.
struct Moments {
    times: Vec<DateTime<Utc>>,
    /// Neither the moments of this time nor those of later ones are before.
    first: DateTime<Utc>,
    /// Neither the moments of this time nor those of earlier ones are after.
    last: DateTime<Utc>,
}

/// Reads a cron expression: minute, hour, day of the month, month, day of the week; or `@hourly`,
/// `@daily`, `@weekly`, `@monthly`, `@yearly`. As in other crons, a day counts that either of the
/// two fields for days names, if none of them is `*`.
///
/// # Errors
/// If it isn't one, or if it names no day that there is.
pub(super) fn pattern(expression: &str) -> Result<croner::Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let wrong = |reason: &str| {
        format!(
            "'{expression}' is no cron expression, {reason}: write minute, hour, day of the month, \
             month and day of the week, as in '0 3 * * 1-5', or @hourly, @daily, @weekly, \
             @monthly, @yearly"
        )
    };
    let fields = expression.split_whitespace().count();
    let named = expression.trim().starts_with('@');
    let known = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually"];
    if named && !known.contains(&expression.trim()) {
        return Err(wrong("there is no such name"));
    }
    if !named && fields != 5 {
        return Err(wrong(&format!("5 fields are needed, not {fields}")));
    }
    let empty = |field: &str| field.split(',').any(str::is_empty);
    if expression.split_whitespace().any(empty) {
        return Err(wrong("there is nothing before or after a comma"));
    }
    let pattern = parser.parse(expression).map_err(|error| {
        let reason = error.to_string().replace("CronPattern contains", "it has the");
        let (_, reason) = reason.split_once(": ").unwrap_or(("", &reason));
        wrong(reason.trim_end_matches('.'))
    })?;
    match pattern.find_next_occurrence(&DateTime::UNIX_EPOCH, true) {
        Ok(_) => Ok(pattern),
        Err(_) => Err(format!("'{expression}' is never due: there is no such day")),
    }
}

/// The time zone of a name, such as `Europe/Berlin`.
///
/// # Errors
/// If there is none of this name.
pub(super) fn zone(name: &str) -> Result<Tz, String> {
    Tz::from_str(name).map_err(|_| {
        let meant = did_you_mean(name, TZ_VARIANTS.iter().map(|zone| zone.name()));
        format!("'{name}' is no time zone: write one like 'Europe/Berlin'{meant}")
    })
}

/// Without the thousands of bits that the expression stands for.
impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?} in {})", self.expression, self.zone)
    }
}

impl Cron {
    /// Reads an expression and the name of a time zone.
    ///
    /// # Errors
    /// If one of them can't be read.
    pub fn new(expression: &str, zone_name: &str) -> Result<Self, String> {
        Ok(Self::of(expression, pattern(expression)?, zone(zone_name)?))
    }

    /// Puts together what was read one by one.
    pub(super) fn of(expression: &str, pattern: croner::Cron, zone: Tz) -> Self {
        let every_hour = (0..24).all(|hour| pattern.pattern.hour_match(hour).unwrap_or(false));
        let (expression, pattern) = (expression.to_string(), Arc::new(pattern));
        Self { expression, pattern, zone, every_hour }
    }

    /// The expression as it was written.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The name of the time zone.
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// The day that it is in the zone.
    pub fn date(&self, time: DateTime<Utc>) -> NaiveDate {
        self.local(time).unwrap_or(time.naive_utc()).date()
    }

    /// The first time at which it is due after another.
    pub fn after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let time = time.trunc_subsecs(0);
        // Before clocks are set back, what they show twice can come before what they haven't shown
        // yet.
        let tomorrow = time.checked_add_days(DAY).unwrap_or(time);
        let again = (self.offset(time) - self.offset(tomorrow)).max(TimeDelta::zero());
        let mut at = self.local(time)?.checked_sub_signed(again)?;
        let mut first: Option<DateTime<Utc>> = None;
        while let Ok(next) = self.pattern.find_next_occurrence(&at.and_utc(), false) {
            at = next.naive_utc();
            let Some(moments) = self.moments(at) else { continue };
            if first.is_some_and(|first| first <= moments.first) {
                break;
            }
            first = moments.times.into_iter().filter(|at| *at > time).chain(first).min();
        }
        first
    }

    /// The latest time at which it was due after `since`, until `now`. It is looked for from `now`
    /// on, so it doesn't matter how long ago `since` is.
    pub fn latest(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let until = now.trunc_subsecs(0);
        // After clocks were set back, what they will show again has been due before.
        let yesterday = until.checked_sub_days(DAY).unwrap_or(until);
        let again = (self.offset(yesterday) - self.offset(until)).max(TimeDelta::zero());
        let from = self.local(until)?.checked_add_signed(again)?;
        let mut last: Option<DateTime<Utc>> = None;
        let (mut at, mut inclusive) = (from, true);
        while let Ok(before) = self.pattern.find_previous_occurrence(&at.and_utc(), inclusive) {
            (at, inclusive) = (before.naive_utc(), false);
            let Some(moments) = self.moments(at) else { continue };
            if last.is_some_and(|last| last >= moments.last) {
                break;
            }
            last = moments.times.into_iter().filter(|at| *at <= until).chain(last).max();
        }
        last.filter(|last| *last > since)
    }

    /// The runs that are due now, if the last one that was thought of was due at `since`: the
    /// oldest first, 1000 at most. Where nothing is caught up, a run is due for two minutes.
    pub fn due(
        &self,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
        catch_up: CatchUp,
    ) -> Vec<DateTime<Utc>> {
        let latest = || self.latest(since, now);
        match catch_up {
            CatchUp::None => latest().filter(|at| now - at <= TOLERANCE).into_iter().collect(),
            CatchUp::Latest => latest().into_iter().collect(),
            CatchUp::All => {
                let next = |at: &DateTime<Utc>| self.after(*at).filter(|next| *next <= now);
                std::iter::successors(next(&since), next).take(MOST_DUE).collect()
            }
        }
    }

    /// When what was due at a time has to be there: the first moment after it at which clocks of
    /// the zone show `at`.
    pub fn deadline(&self, due: DateTime<Utc>, at: NaiveTime) -> Option<DateTime<Utc>> {
        let today = self.date(due);
        let days = today.iter_days().take(3);
        let shown = days.filter_map(|day| self.shown(day.and_time(at)));
        shown.map(|(first, _)| first).find(|moment| *moment > due)
    }

    /// The first moment at which clocks of the zone show a time, or have left it out.
    pub(super) fn first_moment(&self, time: NaiveDateTime) -> Option<DateTime<Utc>> {
        self.shown(time).map(|(first, _)| first)
    }

    /// What clocks of the zone show.
    fn local(&self, time: DateTime<Utc>) -> Option<NaiveDateTime> {
        time.naive_utc().checked_add_signed(self.offset(time))
    }

    /// How far clocks of the zone are before UTC.
    fn offset(&self, time: DateTime<Utc>) -> TimeDelta {
        let offset = self.zone.offset_from_utc_datetime(&time.naive_utc()).fix();
        TimeDelta::seconds(offset.local_minus_utc().into())
    }

    /// The moment at which clocks show a time or jump over it, and the second one if there is.
    fn shown(&self, local: NaiveDateTime) -> Option<(DateTime<Utc>, Option<DateTime<Utc>>)> {
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(time) => Some((time.to_utc(), None)),
            LocalResult::Ambiguous(first, second) => Some((first.to_utc(), Some(second.to_utc()))),
            LocalResult::None => Some((GapInfo::new(&local, &self.zone)?.end?.to_utc(), None)),
        }
    }

    fn moments(&self, local: NaiveDateTime) -> Option<Moments> {
        let (first, second) = self.shown(local)?;
        let second = second.filter(|_| self.every_hour);
        let left_out = self.every_hour && self.local(first) != Some(local);
        let times = Some(first).filter(|_| !left_out).into_iter().chain(second).collect();
        Some(Moments { times, first, last: second.unwrap_or(first) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Datelike;

    const ZONES: [&str; 5] =
        ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"];

    /// Days in 2026 after whose start clocks jump within a day in one of the zones, and others.
    const STARTS: [&str; 8] = [
        "2026-03-08T00:00Z",
        "2026-03-28T20:00Z",
        "2026-04-04T06:00Z",
        "2026-10-03T06:00Z",
        "2026-10-24T20:00Z",
        "2026-11-01T00:00Z",
        "2026-12-31T10:00Z",
        "2028-02-28T10:00Z",
    ];

    fn cron(expression: &str, zone: &str) -> Cron {
        Cron::new(expression, zone).unwrap()
    }

    fn time(text: &str) -> DateTime<Utc> {
        let text = if text.len() == 17 { text.replace('Z', ":00Z") } else { text.to_string() };
        text.parse().unwrap()
    }

    /// The times of a day in the zone, and a few hours after it.
    fn times(cron: &Cron, from: &str, to: &str) -> Vec<String> {
        let all = cron.due(time(from), time(to), CatchUp::All);
        all.into_iter().map(|at| at.format("%d %H:%M").to_string()).collect()
    }

    #[test]
    fn a_schedule_goes_by_the_clocks_of_its_zone() {
        let berlin = cron("30 2 * * *", "Europe/Berlin");
        assert_eq!(berlin.after(time("2026-01-10T01:29Z")), Some(time("2026-01-10T01:30Z")));
        assert_eq!(berlin.after(time("2026-01-10T01:30Z")), Some(time("2026-01-11T01:30Z")));
        assert_eq!(berlin.after(time("2026-07-10T00:29Z")), Some(time("2026-07-10T00:30Z")));
        let within = time("2026-01-10T01:29:59Z") + TimeDelta::milliseconds(500);
        assert_eq!(berlin.after(within), Some(time("2026-01-10T01:30Z")));
        assert_eq!(berlin.after(within + TimeDelta::seconds(1)), Some(time("2026-01-11T01:30Z")));
        let date = |cron: &Cron, at: &str| cron.date(time(at)).to_string();
        assert_eq!(date(&berlin, "2026-01-10T23:30Z"), "2026-01-11");
        assert_eq!(date(&cron("@daily", "America/New_York"), "2026-01-11T04:59Z"), "2026-01-10");
        let nicknamed = cron("@hourly", "Asia/Kolkata").after(time("2026-01-10T00:00Z"));
        assert_eq!(nicknamed, Some(time("2026-01-10T00:30Z")));
        assert_eq!((berlin.expression(), berlin.zone()), ("30 2 * * *", "Europe/Berlin"));
    }

    #[test]
    fn a_time_that_is_left_out_is_due_when_clocks_jump() {
        let night = ("2026-03-28T22:00Z", "2026-03-29T04:00Z");
        let berlin = |expression| times(&cron(expression, "Europe/Berlin"), night.0, night.1);
        assert_eq!(berlin("30 2 * * *"), ["29 01:00"]);
        // Several once together, also with what is due then anyway.
        assert_eq!(berlin("*/10 2 * * *"), ["29 01:00"]);
        assert_eq!(berlin("0 1-4 * * *"), ["29 00:00", "29 01:00", "29 02:00"]);
        assert_eq!(berlin("0 * * * *").len(), 6);
        assert_eq!(berlin("*/30 * * * *").len(), 12);
        let lord_howe = cron("15 2 * * *", "Australia/Lord_Howe");
        let found = times(&lord_howe, "2026-10-03T12:00Z", "2026-10-04T12:00Z");
        assert_eq!(found, ["03 15:30"]);
        // A day that was left out as a whole.
        let samoa = cron("0 12 30 12 *", "Pacific/Apia");
        assert_eq!(samoa.after(time("2011-12-01T00:00Z")), Some(time("2011-12-30T10:00Z")));
    }

    #[test]
    fn a_time_that_comes_twice_is_due_once_unless_every_hour_is() {
        let night = ("2026-10-24T22:00Z", "2026-10-25T03:00Z");
        let berlin = |expression| times(&cron(expression, "Europe/Berlin"), night.0, night.1);
        assert_eq!(berlin("30 2 * * *"), ["25 00:30"]);
        assert_eq!(berlin("*/30 2,3 * * *"), ["25 00:00", "25 00:30", "25 02:00", "25 02:30"]);
        let hourly = berlin("30 * * * *");
        assert_eq!(hourly, ["24 22:30", "24 23:30", "25 00:30", "25 01:30", "25 02:30"]);
        assert_eq!(berlin("* * * * *").len(), 300);
        // Within the second coming, what was due at the first is the latest.
        let berlin = cron("50 2 * * *", "Europe/Berlin");
        let latest = berlin.latest(time("2026-10-20T00:00Z"), time("2026-10-25T01:10Z"));
        assert_eq!(latest, Some(time("2026-10-25T00:50Z")));
        assert_eq!(berlin.after(time("2026-10-25T01:10Z")), Some(time("2026-10-26T01:50Z")));
    }

    /// What is due in a range of minutes, found by looking at each of them.
    fn counted(cron: &Cron, minutes: &[DateTime<Utc>]) -> Vec<DateTime<Utc>> {
        let shown: Vec<_> = minutes.iter().map(|at| cron.local(*at).unwrap()).collect();
        let matches =
            |local: &NaiveDateTime| cron.pattern.is_time_matching(&local.and_utc()).unwrap();
        let every_hour = cron.expression.split(' ').nth(1) == Some("*");
        let mut highest = shown[0];
        let mut due = Vec::new();
        for (at, shown) in minutes.iter().zip(&shown) {
            // All that have not been shown yet, besides those that are left out.
            let new = (*shown - highest).num_minutes();
            let mut new = (0..new).map(|back| *shown - TimeDelta::minutes(back));
            if if every_hour { matches(shown) } else { new.any(|new| matches(&new)) } {
                due.push(*at);
            }
            highest = highest.max(*shown);
        }
        due
    }

    #[test]
    fn what_is_due_is_what_looking_at_every_minute_finds() {
        let expressions = [
            "* * * * *",
            "0 * * * *",
            "*/7 * * * *",
            "45 * * * *",
            "15 2 * * *",
            "*/20 1-3 * * *",
            "0 */2 * * *",
            "30 1,2 * * *",
            "59 23 * * *",
            "0 0 * * *",
            "10 3 29 2 *",
            "5 4 1 * 0",
            "0 12 L * *",
        ];
        for (zone, expression) in
            ZONES.iter().flat_map(|zone| expressions.map(|expression| (zone, expression)))
        {
            let cron = cron(expression, zone);
            for start in STARTS {
                let start = time(start);
                let minutes: Vec<_> =
                    (0..48 * 60).map(|minute| start + TimeDelta::minutes(minute)).collect();
                let expected = counted(&cron, &minutes);
                // What was left out at the first minute is not known.
                let from = minutes[0];
                let expected: Vec<_> = expected.into_iter().filter(|at| *at > from).collect();
                let end = minutes[minutes.len() - 1];
                let mut found = Vec::new();
                let mut at = from;
                while let Some(next) = cron.after(at).filter(|next| *next <= end) {
                    found.push(next);
                    at = next;
                }
                assert_eq!(found, expected, "{expression} {zone} {start}");
                for at in minutes.iter().step_by(101) {
                    let latest = expected.iter().copied().filter(|due| due <= at).max();
                    assert_eq!(cron.latest(from, *at), latest, "{expression} {zone} {at}");
                    let next = expected.iter().copied().find(|due| due > at);
                    let after = cron.after(*at).filter(|next| *next <= end);
                    assert_eq!(after, next, "{expression} {zone} {at}");
                }
            }
        }
    }

    #[test]
    fn what_has_been_missed_is_caught_up_as_asked() {
        let cron = cron("* * * * *", "Europe/Berlin");
        let (since, now) = (time("2026-01-01T00:00Z"), time("2027-01-01T00:00:30Z"));
        assert_eq!(cron.due(since, now, CatchUp::Latest), [time("2027-01-01T00:00Z")]);
        assert_eq!(cron.due(since, now, CatchUp::None), [time("2027-01-01T00:00Z")]);
        let all = cron.due(since, now, CatchUp::All);
        assert_eq!(all.len(), MOST_DUE);
        assert_eq!((all[0], all[999]), (time("2026-01-01T00:01Z"), time("2026-01-01T16:40Z")));
        assert!(cron.due(now, since, CatchUp::All).is_empty());
        assert!(cron.due(now, now, CatchUp::Latest).is_empty());

        let daily = Cron::new("0 3 * * *", "UTC").unwrap();
        let due = |now, catch_up| daily.due(time("2026-01-01T03:00Z"), time(now), catch_up);
        assert!(due("2026-01-02T02:59Z", CatchUp::All).is_empty());
        assert_eq!(due("2026-01-02T03:02Z", CatchUp::None).len(), 1);
        assert!(due("2026-01-02T03:03Z", CatchUp::None).is_empty());
        assert_eq!(due("2026-01-04T04:00Z", CatchUp::Latest), [time("2026-01-04T03:00Z")]);
        assert_eq!(due("2026-01-04T04:00Z", CatchUp::All).len(), 3);
    }

    #[test]
    fn rare_days_are_found_and_those_that_never_come_refused() {
        let leap = cron("0 3 29 2 *", "Asia/Kolkata");
        assert_eq!(leap.after(time("2026-01-01T00:00Z")), Some(time("2028-02-28T21:30Z")));
        assert_eq!(leap.after(time("2096-03-01T00:00Z")).unwrap().year(), 2104);
        let latest = leap.latest(time("2000-01-01T00:00Z"), time("2026-01-01T00:00Z"));
        assert_eq!(latest, Some(time("2024-02-28T21:30Z")));
        let end = cron("0 0 31 * *", "UTC");
        let months = end.due(time("2026-01-01T00:00Z"), time("2027-01-01T00:00Z"), CatchUp::All);
        let months: Vec<_> = months.iter().map(|at| at.month()).collect();
        assert_eq!(months, [1, 3, 5, 7, 8, 10, 12]);
        for never in ["0 0 30 2 *", "0 0 31 4,6 *"] {
            let error = Cron::new(never, "UTC").unwrap_err();
            assert_eq!(error, format!("'{never}' is never due: there is no such day"));
        }
        assert_eq!(leap.after(DateTime::<Utc>::MAX_UTC), None);
        assert_eq!(leap.latest(time("2000-01-01T00:00Z"), DateTime::<Utc>::MIN_UTC), None);
        leap.date(DateTime::<Utc>::MAX_UTC);
    }

    #[test]
    fn a_deadline_is_the_next_time_that_clocks_show() {
        let berlin = cron("0 22 * * *", "Europe/Berlin");
        let at = |due, hour, minute| {
            berlin.deadline(time(due), NaiveTime::from_hms_opt(hour, minute, 0).unwrap())
        };
        assert_eq!(at("2026-01-10T21:00Z", 6, 0), Some(time("2026-01-11T05:00Z")));
        assert_eq!(at("2026-01-10T21:00Z", 23, 30), Some(time("2026-01-10T22:30Z")));
        assert_eq!(at("2026-01-10T21:00Z", 22, 0), Some(time("2026-01-11T21:00Z")));
        assert_eq!(at("2026-03-28T21:00Z", 2, 30), Some(time("2026-03-29T01:00Z")));
        assert_eq!(at("2026-10-24T20:00Z", 2, 30), Some(time("2026-10-25T00:30Z")));
    }

    #[test]
    fn what_can_not_be_read_is_explained() {
        for (expression, reason) in [
            ("0 3 * *", "5 fields are needed, not 4"),
            ("0 0 3 * * *", "5 fields are needed, not 6"),
            ("", "5 fields are needed, not 0"),
            ("61 3 * * *", "out of bounds"),
            ("x 3 * * *", "illegal character 'X'"),
            ("@noon", "there is no such name"),
            ("0 1,,2 * * *", "a comma"),
            ("5-1 3 * * *", ""),
            ("*/0 3 * * *", ""),
            ("0 3 * * 9", ""),
            ("0 é * * *", ""),
            ("0 3 * * #", ""),
            ("0 3 99999999 * *", ""),
        ] {
            let error = Cron::new(expression, "UTC").unwrap_err();
            assert!(error.starts_with(&format!("'{expression}' is no cron")), "{error}");
            assert!(error.contains(reason), "{error}");
        }
        let zone = |name| zone(name).unwrap_err();
        assert!(zone("Europe/Berln").ends_with("; did you mean Europe/Berlin?"));
        assert!(zone("+02:00").contains("write one like 'Europe/Berlin'"));
    }
}
