//! Moments in statements.

use crate::{JobError, Result};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_timestamp_microsecond_array;

/// A time such as `2026-11-22`, `2026-11-22 03:00:00` or `2026-11-22T03:00:00+01:00`, in microseconds
/// since 1970. One without a zone is in UTC.
pub fn parse(text: &str) -> Result<i64> {
    let wrong = || {
        JobError::Statement(format!(
            "'{text}' is not a time: write it like '2026-11-22 03:00:00' (UTC) or \
             '2026-11-22T03:00:00+01:00'"
        ))
    };
    let array = ScalarValue::from(text.trim()).to_array()?;
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let times = cast(&array, &time)?;
    let times = as_timestamp_microsecond_array(&times)?;
    match arrow::array::Array::is_null(times, 0) {
        true => Err(wrong()),
        false => Ok(times.value(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn times_are_read_with_and_without_a_zone() {
        assert_eq!(parse("1970-01-02").unwrap(), 86_400_000_000);
        assert_eq!(parse("1970-01-01 00:00:01.5").unwrap(), 1_500_000);
        assert_eq!(parse("1970-01-01T01:00:00+01:00").unwrap(), 0);
        assert!(parse("yesterday").unwrap_err().to_string().contains("'yesterday' is not a time"));
    }
}
