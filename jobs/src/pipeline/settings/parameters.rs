//! Parameters that a pipeline declares.

use super::super::parameters::{BUILT_IN, Type, Value, is_name};
use super::keys::{Entry, Keys};
use crate::suggestion::did_you_mean;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};
use toml::value::Datetime;

/// A parameter that a pipeline declares.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its type.
    pub kind: Type,
    /// Its value, if none is given with a run. Without one, a run must give it.
    pub default: Option<Value>,
}

/// A parameter that has no value, or none that it can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoValue {
    /// Its name.
    pub name: String,
    /// Whether a value is missing, rather than wrong.
    pub missing: bool,
    /// What is wrong.
    pub reason: String,
}

/// The values that a run has besides those that are built in: those that are `given` with it, by
/// name, and defaults.
///
/// # Errors
/// All that can't be read, that aren't known, and that are missing.
pub(super) fn values(
    parameters: &BTreeMap<String, Parameter>,
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Value>, Vec<NoValue>> {
    let mut wrong = Vec::new();
    let no_value = |name: &str, missing: bool, reason: String| {
        let reason = format!("parameter {name}: {reason}");
        NoValue { name: name.to_string(), missing, reason }
    };
    let mut values = BTreeMap::new();
    for (name, text) in given {
        let value = match parameters.get(name) {
            Some(parameter) => Value::parse(parameter.kind, text),
            None if BUILT_IN.contains(&name.as_str()) => {
                Err("it is there in every run and can't be given".to_string())
            }
            None => {
                let meant = did_you_mean(name, parameters.keys().map(String::as_str));
                Err(format!("there is none of this name{meant}"))
            }
        };
        match value {
            Ok(value) => drop(values.insert(name.clone(), value)),
            Err(reason) => wrong.push(no_value(name, false, reason)),
        }
    }
    for (name, Parameter { kind, default }) in parameters {
        match default {
            _ if given.contains_key(name) => {}
            Some(value) => drop(values.insert(name.clone(), value.clone())),
            None => {
                let reason = format!("it has no default, so a run must give it a {kind}");
                wrong.push(no_value(name, true, reason));
            }
        }
    }
    if wrong.is_empty() { Ok(values) } else { Err(wrong) }
}

/// Reads `[parameters]`.
pub(super) fn of(keys: &mut Keys<'_, '_>) -> BTreeMap<String, Parameter> {
    let mut parameters = BTreeMap::new();
    for Entry { key, at, value } in keys.rest() {
        let refused = if BUILT_IN.contains(&key.as_str()) {
            Some(format!("{key} is there in every run: choose another name"))
        } else if !is_name(&key) {
            let form = "a letter or _, and then letters, digits and _";
            Some(format!("'{key}' can't be the name of a parameter: write {form}"))
        } else {
            None
        };
        let good = refused.is_none();
        if let Some(reason) = refused {
            keys.wrong(at, reason);
        }
        let place = value.span().start;
        let parameter = match value.get_ref() {
            DeValue::Table(_) => {
                let DeValue::Table(table) = value.into_inner() else { continue };
                keys.within(at, table, declared)
            }
            _ => match plain(value) {
                Ok(value) => Some(Parameter { kind: value.kind(), default: Some(value) }),
                Err(reason) => {
                    keys.wrong(place, reason);
                    None
                }
            },
        };
        parameters.extend(parameter.filter(|_| good).map(|parameter| (key, parameter)));
    }
    parameters
}

/// A parameter as a table: `{ type = "date", default = … }`.
fn declared(keys: &mut Keys<'_, '_>) -> Option<Parameter> {
    let missing = keys.place("type").is_none();
    let kind: Option<Type> = keys.take("type");
    if missing {
        let at = keys.at();
        keys.wrong(at, "its type is needed: type = \"text\", or the value alone, without a table");
    }
    let given = keys.any("default");
    let kind = kind?;
    let default = match given {
        None => None,
        Some((at, value)) => match plain(value).and_then(|value| as_type(kind, value)) {
            Ok(value) => Some(value),
            Err(reason) => {
                keys.wrong(at, reason);
                return None;
            }
        },
    };
    Some(Parameter { kind, default })
}

/// The value of another type that a value stands for too.
fn as_type(kind: Type, value: Value) -> Result<Value, String> {
    match (kind, value) {
        (kind, value) if value.kind() == kind => Ok(value),
        (Type::Float, Value::Integer(number)) => Ok(Value::Float(number as f64)),
        (Type::Timestamp, Value::Date(date)) => Value::parse(kind, &date.to_string()),
        (Type::Date | Type::Timestamp, Value::Text(text)) => Value::parse(kind, &text),
        (kind, value) => Err(format!("the default is of the type {}, not {kind}", value.kind())),
    }
}

/// A value whose type follows from how it is written.
fn plain(value: Spanned<DeValue<'_>>) -> Result<Value, String> {
    let kind = match value.get_ref() {
        DeValue::String(_) => Type::Text,
        DeValue::Integer(_) => Type::Integer,
        DeValue::Float(_) => Type::Float,
        DeValue::Boolean(_) => Type::Boolean,
        DeValue::Datetime(Datetime { date: Some(_), time: None, .. }) => Type::Date,
        DeValue::Datetime(Datetime { date: Some(_), .. }) => Type::Timestamp,
        DeValue::Datetime(_) => return Err("a time without a date can't be a value".to_string()),
        DeValue::Array(_) | DeValue::Table(_) => {
            return Err("a value is a text, a number, true, false, a date or a time".to_string());
        }
    };
    let value = ValueDeserializer::from(value);
    let text = match kind {
        Type::Text => String::deserialize(value),
        Type::Integer => i64::deserialize(value).map(|number| number.to_string()),
        Type::Float => f64::deserialize(value).map(|number| number.to_string()),
        Type::Boolean => bool::deserialize(value).map(|value| value.to_string()),
        Type::Date | Type::Timestamp => Datetime::deserialize(value).map(|time| time.to_string()),
    };
    Value::parse(kind, &text.map_err(|error| error.message().to_string())?)
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::tests::check;
    use super::*;

    #[test]
    fn types_follow_from_values_or_are_given() {
        let text = "[parameters]\nshare = 0.5\ntop = 20\ncountry = 'de'\nstrict = true\n\
                    first = 2026-01-01\nbegin = 2026-01-01T03:00:00+01:00\n\
                    local = 2026-01-01 03:00:00\n\
                    since = { type = 'date' }\n\
                    until = { type = 'timestamp', default = '2026-11-26' }\n\
                    rate = { type = 'float', default = 2 }\n";
        let (settings, mistakes) = Settings::parse("p.toml", text);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let shown = |(name, parameter): (&String, &Parameter)| {
            let default = parameter.default.as_ref().map(Value::to_string);
            format!("{name}: {} = {}", parameter.kind, default.unwrap_or("none".to_string()))
        };
        let shown: Vec<_> = settings.parameters.iter().map(shown).collect();
        let expected = [
            "begin: timestamp = 2026-01-01T02:00:00Z",
            "country: text = de",
            "first: date = 2026-01-01",
            "local: timestamp = 2026-01-01T03:00:00Z",
            "rate: float = 2.0",
            "share: float = 0.5",
            "since: date = none",
            "strict: boolean = true",
            "top: integer = 20",
            "until: timestamp = 2026-11-26T00:00:00Z",
        ];
        assert_eq!(shown, expected);

        let given = |pairs: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
            values(&settings.parameters, &pairs.iter().map(pair).collect())
        };
        let found = given(&[("since", "2026-02-01"), ("top", "5")]).unwrap();
        assert_eq!((found.len(), found["top"].clone()), (10, Value::Integer(5)));
        let expected = [
            "parameter run_date: it is there in every run and can't be given",
            "parameter tip: there is none of this name; did you mean top?",
            "parameter top: 'x' is not a whole number of 64 bits",
            "parameter since: it has no default, so a run must give it a date",
        ];
        let wrong = [("top", "x"), ("tip", "1"), ("run_date", "2026-01-01")];
        let wrong = given(&wrong).unwrap_err();
        let said: Vec<_> = wrong.iter().map(|wrong| wrong.reason.as_str()).collect();
        assert_eq!(said, expected);
        let missing = wrong.iter().filter(|wrong| wrong.missing).map(|wrong| wrong.name.as_str());
        assert_eq!(missing.collect::<Vec<_>>(), ["since"]);
    }

    #[test]
    fn mistakes_are_said_one_by_one() {
        let text = "[parameters]\nrun_date = 2026-01-01\n'a b' = 1\nx = [1]\ny = { type = 'int' }\n\
                    z = { default = 3 }\nw = { type = 'date', default = 3, more = 1 }\n\
                    v = { type = 'date', default = 'tomorrow' }\nu = 03:00:00\n\
                    t = \"a\\nb\"\ns = inf\nok = 1";
        let expected = [
            "2:1: run_date is there in every run: choose another name",
            "3:1: 'a b' can't be the name of a parameter",
            "4:5: a value is a text, a number",
            "5:14: unknown variant `int`, expected one of `text`, `integer`",
            "6:1: its type is needed",
            "7:32: the default is of the type integer, not date",
            "7:35: unknown field `more`",
            "8:32: 'tomorrow' is not a date such as 2026-11-26",
            "9:5: a time without a date can't be a value",
            "10:5: a text has no line breaks",
            "11:5: 'inf' is not a number",
        ];
        check(text, &expected);
        let parameters = Settings::parse("p.toml", text).0.parameters;
        assert_eq!(parameters.keys().collect::<Vec<_>>(), ["ok"]);
    }
}
