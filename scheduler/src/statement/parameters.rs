//! Placeholders in statements, `$1` or `?`, and the values that are bound to them.
//!
//! In queries the engine puts the values into the plan. Other statements get them as literals in their
//! text, wherever the text has a placeholder.

use super::error::{self, SqlError};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};
use nightshift_jobs::counted;
use nightshift_jobs::statement::Positions;
use std::ops::Range;

/// The highest number of a parameter.
const MOST: usize = 65_535;

/// A statement whose placeholders all have numbers.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    sql: String,
    /// Where placeholders are, and their numbers from 1.
    placeholders: Vec<(Range<usize>, usize)>,
}

impl Text {
    /// Finds the placeholders of a statement. Those without a number are counted.
    pub(crate) fn new(sql: &str) -> Result<Self, SqlError> {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
        // A text that has no tokens is one that can't be parsed either, with a better message.
        let tokens = tokens.unwrap_or_default();
        let mut found = Vec::new();
        let mut positions = Positions::new(sql);
        for token in &tokens {
            let Token::Placeholder(name) = &token.token else { continue };
            let range = positions.at(token.span.start)..positions.at(token.span.end);
            let number = match name.split_at(1) {
                ("?", "") => found.len() + 1,
                (_, number) => match number.parse::<usize>() {
                    Ok(number) if (1..=MOST).contains(&number) => number,
                    _ => {
                        let Location { line, column } = token.span.start;
                        let reason = format!("{name}: parameters are written $1, $2, … or ?");
                        return Err(SqlError::at(error::SYNTAX, line, Some(column), reason));
                    }
                },
            };
            found.push((range, number));
        }
        let mut numbered = String::with_capacity(sql.len());
        let mut placeholders = Vec::with_capacity(found.len());
        let mut done = 0;
        for (range, number) in found {
            numbered.push_str(&sql[done..range.start]);
            let start = numbered.len();
            numbered.push_str(&format!("${number}"));
            placeholders.push((start..numbered.len(), number));
            done = range.end;
        }
        numbered.push_str(&sql[done..]);
        Ok(Self { sql: numbered, placeholders })
    }

    /// The statement with `$1`, `$2`, ….
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    /// How many parameters it has.
    pub(crate) fn count(&self) -> usize {
        self.placeholders.iter().map(|(_, number)| *number).max().unwrap_or(0)
    }

    /// Fails unless there is a value for each parameter.
    pub(crate) fn check(&self, values: &[ScalarValue]) -> Result<(), SqlError> {
        let (expected, found) = (self.count(), values.len());
        if expected == found {
            return Ok(());
        }
        let expected = counted(expected, "parameter");
        let reason = format!("the statement has {expected}, but values for {found} are bound");
        Err(SqlError::new(error::PARAMETERS, reason))
    }

    /// The statement with the values in their places.
    pub(crate) fn with_literals(&self, values: &[ScalarValue]) -> Result<String, SqlError> {
        self.check(values)?;
        let mut text = String::with_capacity(self.sql.len());
        let mut done = 0;
        for (range, number) in &self.placeholders {
            text.push_str(&self.sql[done..range.start]);
            text.push_str(&literal(&values[number - 1])?);
            done = range.end;
        }
        text.push_str(&self.sql[done..]);
        Ok(text)
    }

    /// The parameters' types, which are those that the plan has found out; without a type where it has
    /// not.
    pub(crate) fn schema(&self, plan: Option<&LogicalPlan>) -> Result<Schema, SqlError> {
        let types = plan.map(LogicalPlan::get_parameter_types).transpose();
        let types = types.map_err(SqlError::from)?.unwrap_or_default();
        let field = |number: usize| {
            let name = format!("${number}");
            let kind = types.get(&name).cloned().flatten().unwrap_or(DataType::Null);
            Field::new(name, kind, true)
        };
        Ok(Schema::new((1..=self.count()).map(field).collect::<Vec<_>>()))
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A value as it is written in SQL.
fn literal(value: &ScalarValue) -> Result<String, SqlError> {
    if value.is_null() {
        return Ok("NULL".to_string());
    }
    let kind = value.data_type();
    let printed = || -> Result<String, SqlError> {
        let column = value.to_array().map_err(SqlError::internal)?;
        let format = ArrayFormatter::try_new(&column, &FormatOptions::default());
        Ok(format.map_err(SqlError::internal)?.value(0).to_string())
    };
    let cast = |to: &str| Ok(format!("CAST({} AS {to})", quoted(&printed()?)));
    match &kind {
        DataType::Boolean => printed(),
        kind if kind.is_integer() => Ok(format!("({})", printed()?)),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            Ok(quoted(value.try_as_str().flatten().unwrap_or_default()))
        }
        DataType::Float16 | DataType::Float32 => cast("REAL"),
        DataType::Float64 => cast("DOUBLE"),
        DataType::Decimal128(precision, scale) => cast(&format!("DECIMAL({precision}, {scale})")),
        DataType::Date32 | DataType::Date64 => cast("DATE"),
        DataType::Time32(_) | DataType::Time64(_) => cast("TIME"),
        DataType::Timestamp(unit, zone) => {
            let unit = match unit {
                TimeUnit::Second => "Second",
                TimeUnit::Millisecond => "Millisecond",
                TimeUnit::Microsecond => "Microsecond",
                TimeUnit::Nanosecond => "Nanosecond",
            };
            let zone = zone.as_ref().map_or("None".to_string(), |zone| format!("Some(\"{zone}\")"));
            let kind = quoted(&format!("Timestamp({unit}, {zone})"));
            Ok(format!("arrow_cast({}, {kind})", quoted(&printed()?)))
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            // Bytes are printed as hexadecimal digits.
            Ok(format!("X{}", quoted(&printed()?)))
        }
        other => {
            let reason = format!("a parameter of this statement can't be of type {other}");
            Err(SqlError::new(error::NOT_SUPPORTED, reason))
        }
    }
}

/// A value for each parameter of a statement.
pub(crate) type Values = Vec<ScalarValue>;

/// The rows of values that a client has bound: a statement is executed for each of them.
pub(crate) fn rows(batch: &RecordBatch) -> Result<Vec<Values>, SqlError> {
    let value = |row: usize| {
        let columns = batch.columns().iter();
        columns.map(|column| ScalarValue::try_from_array(column, row)).collect()
    };
    let rows: Result<_, _> = (0..batch.num_rows()).map(value).collect();
    rows.map_err(SqlError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_where_they_are_and_nowhere_else() {
        let text = Text::new("SELECT 'é?', ? -- ?\n FROM t WHERE a = ? AND \"?\" < ?").unwrap();
        assert_eq!(text.count(), 3);
        assert_eq!(text.sql(), "SELECT 'é?', $1 -- ?\n FROM t WHERE a = $2 AND \"?\" < $3");
        let text = Text::new("SELECT $2, $1, $2").unwrap();
        assert_eq!((text.count(), text.sql()), (2, "SELECT $2, $1, $2"));
        assert_eq!(Text::new("SELECT 1").unwrap().count(), 0);
        let message = Text::new("SELECT\n $name").unwrap_err().to_string();
        assert!(message.starts_with("statement:2:2: $name"), "{message}");
    }

    #[test]
    fn values_are_written_so_that_they_stay_values() {
        let text = Text::new("INSERT INTO t VALUES (?, ?, ?, ?)").unwrap();
        let values = [
            ScalarValue::from("it's; DROP TABLE t --"),
            ScalarValue::from(-5_i64),
            ScalarValue::from(0.5_f64),
            ScalarValue::Utf8(None),
        ];
        assert_eq!(
            text.with_literals(&values).unwrap(),
            "INSERT INTO t VALUES ('it''s; DROP TABLE t --', (-5), CAST('0.5' AS DOUBLE), NULL)"
        );
        let few = text.with_literals(&values[..3]).unwrap_err();
        assert!(few.message.contains("4 parameters"), "{few}");
        let binary = ScalarValue::Binary(Some(vec![0, 255]));
        assert_eq!(literal(&binary).unwrap(), "X'00ff'");
        let time = ScalarValue::TimestampMicrosecond(Some(1_500_000), Some("UTC".into()));
        assert_eq!(
            literal(&time).unwrap(),
            "arrow_cast('1970-01-01T00:00:01.500Z', 'Timestamp(Microsecond, Some(\"UTC\"))')"
        );
    }
}
