//! Parameters of a pipeline: values that have a type, and their places in SQL text.
//!
//! `${name}` stands for a value. What it becomes depends on what is around it:
//!
//! - In a text `'…'` or a name `"…"` it becomes the value as it is read, with quotation marks
//!   doubled: `'s3://b/day=${run_date}/'`, `features."ratings_${country}"`. There, `$${name}` is no
//!   parameter, but stands for `${name}`.
//! - Elsewhere it becomes a literal: `'it''s'`, `3`, `2.5`, `true`, `DATE '2026-11-26'` or
//!   `TIMESTAMP '2026-11-26T03:00:00Z'`. It stands by itself there.
//! - In comments and between `$$` and `$$` it is left as it is.
//!
//! A value never ends the text or the name that it is in, nor becomes more than one value. Where a
//! text is itself a query, as in `ml_predict('recs.als', '(SELECT …)')`, a value in it is a part of
//! that query; `(SELECT …)` without quotation marks takes values like any other query.

mod scan;
mod substitute;

pub use substitute::{Mistake, substitute, used};

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Parameters that every run has.
pub const BUILT_IN: [&str; 3] = ["run_date", "interval_start", "interval_end"];

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Any text of one line.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// True or false.
    Boolean,
    /// A day.
    Date,
    /// A moment.
    Timestamp,
}

/// The value of a parameter. As JSON it is `{"type": "date", "value": "2026-11-26"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
pub enum Value {
    /// A text; see [`Value::text`] for what is allowed in it.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number, neither infinite nor NaN.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A day.
    Date(NaiveDate),
    /// A moment.
    Timestamp(DateTime<Utc>),
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
        })
    }
}

impl Value {
    /// Reads a value that is given as text. A timestamp without a zone is in UTC.
    ///
    /// # Errors
    /// What a value of the type looks like, if this is none.
    pub fn parse(kind: Type, text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let (value, expected) = match kind {
            Type::Text => return Self::text(text),
            Type::Integer => (trimmed.parse().ok().map(Self::Integer), "a whole number of 64 bits"),
            Type::Float => {
                let number = trimmed.parse().ok().filter(|number: &f64| number.is_finite());
                (number.map(Self::Float), "a number")
            }
            Type::Boolean => (trimmed.parse().ok().map(Self::Boolean), "true or false"),
            Type::Date => (date(trimmed).map(Self::Date), "a date such as 2026-11-26"),
            Type::Timestamp => {
                let expected = "a timestamp such as 2026-11-26T03:00:00Z";
                (timestamp(trimmed).map(Self::Timestamp), expected)
            }
        };
        value.ok_or_else(|| format!("'{text}' is not {expected}"))
    }

    /// A text of one line: with a line break in it, every line of a file after it would be another
    /// one in messages than in the file.
    ///
    /// # Errors
    /// If there is a control character in it.
    pub fn text(text: &str) -> Result<Self, String> {
        match text.chars().find(|character| character.is_control()) {
            None => Ok(Self::Text(text.to_string())),
            Some(control) => {
                let code = u32::from(control);
                Err(format!("a text has no line breaks or control characters: U+{code:04X} is one"))
            }
        }
    }

    /// The type.
    pub fn kind(&self) -> Type {
        match self {
            Self::Text(_) => Type::Text,
            Self::Integer(_) => Type::Integer,
            Self::Float(_) => Type::Float,
            Self::Boolean(_) => Type::Boolean,
            Self::Date(_) => Type::Date,
            Self::Timestamp(_) => Type::Timestamp,
        }
    }
}

/// As [`Value::parse`] reads it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            // With a point or an exponent, so that it stays one wherever it is read.
            Self::Float(number) => write!(f, "{number:?}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Date(date) => write!(f, "{date}"),
            Self::Timestamp(time) => {
                f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
            }
        }
    }
}

/// What every run has: the date of the time that it is for, and the interval from the time that the
/// run before it was for until its own.
pub fn built_in(
    run_date: NaiveDate,
    interval_start: DateTime<Utc>,
    interval_end: DateTime<Utc>,
) -> BTreeMap<String, Value> {
    let [date, start, end] = BUILT_IN.map(str::to_string);
    let times = [(start, interval_start), (end, interval_end)];
    let times = times.map(|(name, time)| (name, Value::Timestamp(time)));
    std::iter::once((date, Value::Date(run_date))).chain(times).collect()
}

/// Whether something can be the name of a parameter.
pub(super) fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|other| other.is_ascii_alphanumeric() || other == '_')
}

fn date(text: &str) -> Option<NaiveDate> {
    // Years have four digits: others are written in a way that not everybody reads.
    let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    text.starts_with(|first: char| first.is_ascii_digit()).then(date)?.filter(|_| text.len() == 10)
}

fn timestamp(text: &str) -> Option<DateTime<Utc>> {
    date(text.get(..10)?)?;
    if text.len() == 10 {
        return date(text).map(|date| date.and_time(NaiveTime::MIN).and_utc());
    }
    let with_zone = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    let formats =
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let plain = |format: &&str| NaiveDateTime::parse_from_str(text, format).ok();
    with_zone.or_else(|| formats.iter().find_map(plain).map(|time| time.and_utc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_by_their_type_and_written_as_they_are_read() {
        for (kind, text, shown) in [
            (Type::Text, " it's ", " it's "),
            (Type::Text, "", ""),
            (Type::Integer, " -9223372036854775808 ", "-9223372036854775808"),
            (Type::Float, "3", "3.0"),
            (Type::Float, "-1e300", "-1e300"),
            (Type::Boolean, "true", "true"),
            (Type::Date, "2028-02-29", "2028-02-29"),
            (Type::Timestamp, "2026-11-26", "2026-11-26T00:00:00Z"),
            (Type::Timestamp, "2026-11-26 03:00", "2026-11-26T03:00:00Z"),
            (Type::Timestamp, "2026-11-26T03:00:00.5", "2026-11-26T03:00:00.500Z"),
            (Type::Timestamp, "2026-11-26T03:00:00+01:00", "2026-11-26T02:00:00Z"),
            (Type::Timestamp, "2026-11-26 03:00:00Z", "2026-11-26T03:00:00Z"),
        ] {
            let value = Value::parse(kind, text).unwrap();
            assert_eq!((value.kind(), value.to_string()), (kind, shown.to_string()));
            assert_eq!(Value::parse(kind, shown).unwrap(), value);
        }
        for (kind, text, expected) in [
            (Type::Text, "a\nb", "a text has no line breaks or control characters: U+000A is one"),
            (Type::Integer, "2.5", "'2.5' is not a whole number of 64 bits"),
            (Type::Integer, "9223372036854775808", "is not a whole number"),
            (Type::Float, "NaN", "'NaN' is not a number"),
            (Type::Float, "1e999", "is not a number"),
            (Type::Boolean, "yes", "'yes' is not true or false"),
            (Type::Date, "2026-02-29", "'2026-02-29' is not a date such as 2026-11-26"),
            (Type::Date, "26-11-26", "is not a date"),
            (Type::Date, "+12026-11-26", "is not a date"),
            (Type::Timestamp, "yesterday é", "is not a timestamp such as 2026-11-26T03:00:00Z"),
            (Type::Timestamp, "2026-11-26T25:00:00Z", "is not a timestamp"),
        ] {
            let error = Value::parse(kind, text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn values_as_json_keep_their_type() {
        for (kind, text, json) in [
            (Type::Text, "a\"b", r#"{"type":"text","value":"a\"b"}"#),
            (Type::Integer, "3", r#"{"type":"integer","value":3}"#),
            (Type::Float, "3", r#"{"type":"float","value":3.0}"#),
            (Type::Boolean, "false", r#"{"type":"boolean","value":false}"#),
            (Type::Date, "2026-11-26", r#"{"type":"date","value":"2026-11-26"}"#),
            (
                Type::Timestamp,
                "2026-11-26",
                r#"{"type":"timestamp","value":"2026-11-26T00:00:00Z"}"#,
            ),
        ] {
            let value = Value::parse(kind, text).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Value>(json).unwrap(), value);
        }
    }

    #[test]
    fn every_run_has_a_date_and_an_interval() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let date = NaiveDate::from_ymd_opt(2026, 11, 26).unwrap();
        let (start, end) = (time("2026-11-25T03:00:00Z"), time("2026-11-26T03:00:00Z"));
        let values = built_in(date, start, end);
        let shown: Vec<_> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "interval_end=2026-11-26T03:00:00Z",
            "interval_start=2026-11-25T03:00:00Z",
            "run_date=2026-11-26",
        ];
        assert_eq!(shown, expected);
    }
}
