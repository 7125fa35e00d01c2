//! `time_decay(ts, now, half_life)`: what an event still counts for.

use super::arguments::{check_count, of_columns};
use super::reference::{Page, TIME};
use arrow::array::{Array, ArrayRef, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::cast::{
    as_float64_array, as_int32_array, as_int64_array, as_interval_dt_array, as_interval_mdn_array,
};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

const NAME: &str = "time_decay";

const SYNTAX: &str = "time_decay(ts, now, half_life)";

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: TIME,
        syntax: SYNTAX,
        description: "The weight `2^-((now - ts) / half_life)` of an event: 1 at `now`, 0.5 a half-life \
            before, 0.25 two half-lives before, and more than 1 after `now`. DOUBLE. Differences are \
            exact to the nanosecond; a day has 24 hours, and times without a zone are in UTC.",
        arguments: &[
            ("ts", "When the event was: a TIMESTAMP of any unit, a DATE (its midnight), or a text of either."),
            ("now", "When it counts 1, of the same types."),
            (
                "half_life",
                "A positive INTERVAL, or a positive number of days. A month counts as 30.436875 days, \
                 the mean of the Gregorian calendar. 0, a negative one, NaN and infinity are errors.",
            ),
        ],
        example: "SELECT time_decay(DATE '2024-01-17', DATE '2024-01-31', INTERVAL '7 days')\n-- 0.25",
    }
    .documentation()
});

/// The function `time_decay`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TimeDecay {
    signature: Signature,
}

impl Default for TimeDecay {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TimeDecay {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(SYNTAX, types, &[3])?;
        let half_life = match &types[2] {
            interval @ (DataType::Interval(_) | DataType::Duration(_)) => interval.clone(),
            number if number.is_numeric() || number.is_null() => DataType::Float64,
            other => {
                return plan_err!(
                    "{NAME}: half_life is a {other}, not an INTERVAL or a number of days: cast it"
                );
            }
        };
        Ok(vec![moment_type("ts", &types[0])?, moment_type("now", &types[1])?, half_life])
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        of_columns(&args.args, |columns| {
            let [ts, now, half_life] = columns else {
                return exec_err!("{NAME} takes three arguments");
            };
            let (ts, now) = (moments(ts)?, moments(now)?);
            let decay = |row: usize, half_life: Option<f64>| {
                let (Some(ts), Some(now), Some(half_life)) = (ts[row], now[row], half_life) else {
                    return Ok(None);
                };
                if !(half_life > 0.0 && half_life.is_finite()) {
                    let days = half_life / DAY as f64;
                    return exec_err!(
                        "{NAME}: half_life is {days} days, it must be positive and finite"
                    );
                }
                Ok(Some((-((now - ts) as f64) / half_life).exp2()))
            };
            let half_lives = half_lives(half_life)?;
            let weights: Float64Array = half_lives
                .into_iter()
                .enumerate()
                .map(|(row, half_life)| decay(row, half_life))
                .collect::<Result<_>>()?;
            Ok(Arc::new(weights))
        })
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

/// Nanoseconds of a second, of a day, and of the mean Gregorian month of 365.2425 / 12 days.
const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 86_400 * SECOND;
const MONTH: i128 = 2_629_746 * SECOND;

fn moment_type(argument: &str, given: &DataType) -> Result<DataType> {
    match given {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Ok(given.clone()),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
        }
        _ => plan_err!("{NAME}: {argument} is a {given}, not a TIMESTAMP or DATE: cast it"),
    }
}

fn unit(unit: &TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => SECOND,
        TimeUnit::Millisecond => SECOND / 1_000,
        TimeUnit::Microsecond => SECOND / 1_000_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// Nanoseconds since 1970, which for some dates are beyond 64 bits.
fn moments(column: &ArrayRef) -> Result<Vec<Option<i128>>> {
    let scale = match column.data_type() {
        DataType::Date32 => {
            let days = as_int32_array(&cast(column, &DataType::Int32)?)?.clone();
            return Ok(days.iter().map(|days| days.map(|days| i128::from(days) * DAY)).collect());
        }
        DataType::Date64 => SECOND / 1_000,
        DataType::Timestamp(of, _) => unit(of),
        other => return exec_err!("{NAME} got a {other} for a time"),
    };
    let counts = cast(column, &DataType::Int64)?;
    let counts = as_int64_array(&counts)?;
    Ok(counts.iter().map(|count| count.map(|count| i128::from(count) * scale)).collect())
}

/// Half-lives in nanoseconds.
fn half_lives(column: &ArrayRef) -> Result<Vec<Option<f64>>> {
    let whole = |months: i32, days: i32, nanoseconds: i128| {
        (i128::from(months) * MONTH + i128::from(days) * DAY + nanoseconds) as f64
    };
    Ok(match column.data_type() {
        DataType::Float64 => {
            let days = as_float64_array(column)?;
            days.iter().map(|days| days.map(|days| days * DAY as f64)).collect()
        }
        DataType::Duration(of) => {
            let scale = unit(of);
            let counts = cast(column, &DataType::Int64)?;
            let counts = as_int64_array(&counts)?;
            counts.iter().map(|n| n.map(|n| (i128::from(n) * scale) as f64)).collect()
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => as_interval_mdn_array(column)?
            .iter()
            .map(|i| i.map(|i| whole(i.months, i.days, i128::from(i.nanoseconds))))
            .collect(),
        DataType::Interval(IntervalUnit::DayTime) => as_interval_dt_array(column)?
            .iter()
            .map(|i| i.map(|i| whole(0, i.days, i128::from(i.milliseconds) * SECOND / 1_000)))
            .collect(),
        DataType::Interval(IntervalUnit::YearMonth) => {
            let months = cast(column, &DataType::Int32)?;
            let months = as_int32_array(&months)?;
            months.iter().map(|months| months.map(|months| whole(months, 0, 0))).collect()
        }
        other => return exec_err!("{NAME} got a {other} for a half-life"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, number, over, value};
    use arrow::array::{
        ArrayRef, Date64Array, Float64Array, RecordBatch, TimestampMicrosecondArray,
        TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Against floating-point seconds, for every unit.
        #[test]
        fn is_the_formula_in_every_unit(
            seconds in prop::collection::vec(0i64..4_000_000_000, 1..9),
            now in 0i64..4_000_000_000,
            days in 0.5f64..5000.0,
        ) {
            let times = |scale: i64| seconds.iter().map(move |s| s * scale);
            let columns: [ArrayRef; 5] = [
                Arc::new(TimestampSecondArray::from_iter_values(times(1))),
                Arc::new(TimestampMillisecondArray::from_iter_values(times(1_000))),
                Arc::new(
                    TimestampMicrosecondArray::from_iter_values(times(1_000_000))
                        .with_timezone("+02:00"),
                ),
                Arc::new(TimestampNanosecondArray::from_iter_values(times(1_000_000_000))),
                Arc::new(Date64Array::from_iter_values(times(1_000))),
            ];
            let half_life: ArrayRef = Arc::new(Float64Array::from(vec![days; seconds.len()]));
            for column in columns {
                let batch =
                    RecordBatch::try_from_iter([("ts", column), ("h", half_life.clone())]).unwrap();
                let query = format!("SELECT time_decay(ts, to_timestamp_seconds({now}), h) FROM t");
                let rows = over("t", vec![batch], &query).unwrap();
                for (row, ts) in rows.iter().zip(&seconds) {
                    let expected = 2f64.powf(-((now - ts) as f64 / 86_400.0) / days);
                    let actual: f64 = row[0].parse().unwrap();
                    // What is far in the future is infinitely heavy.
                    let close = (actual - expected).abs() <= 1e-9 * expected;
                    prop_assert!(actual == expected || close, "{} {}", actual, expected);
                }
            }
        }
    }

    #[test]
    fn half_lives_have_many_types() {
        let decay = |half_life: &str| {
            number(&format!(
                "SELECT time_decay(TIMESTAMP '2024-01-01', TIMESTAMP '2024-01-15', {half_life})"
            ))
        };
        assert_eq!(decay("7"), 0.25);
        assert_eq!(decay("7.0"), 0.25);
        assert_eq!(decay("INTERVAL '7 days'"), 0.25);
        assert_eq!(decay("INTERVAL '168 hours'"), 0.25);
        assert_eq!(decay("arrow_cast(604800, 'Duration(Second)')"), 0.25);
        assert_eq!(decay("arrow_cast(INTERVAL '7 days', 'Interval(MonthDayNano)')"), 0.25);
        assert_eq!(decay("INTERVAL '1 month'"), decay("30.436875"));
        assert_eq!(decay("INTERVAL '1 year'"), decay("365.2425"));
    }

    #[test]
    fn times_have_many_types() {
        let decay = |ts: &str| number(&format!("SELECT time_decay({ts}, '2024-01-31', 15)"));
        assert_eq!(decay("'2024-01-01'"), 0.25);
        assert_eq!(decay("DATE '2024-01-01'"), 0.25);
        assert_eq!(decay("'2024-01-01T02:00:00+02:00'"), 0.25);
        assert_eq!(decay("'2024-02-15'"), 2.0, "after now");
        // 1600 years, beyond what 64-bit nanoseconds reach.
        let far = "SELECT time_decay(DATE '0800-01-01', DATE '2400-01-01', INTERVAL '1600 years')";
        assert!((number(far) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn null_gives_null() {
        for args in ["NULL, now(), 1", "now(), NULL, 1", "now(), now(), NULL"] {
            assert_eq!(value(&format!("SELECT time_decay({args})")), "NULL");
        }
    }

    #[test]
    fn errors_name_the_argument_and_the_value() {
        let decay =
            |half_life: &str| error(&format!("SELECT time_decay(now(), now(), {half_life})"));
        assert!(decay("0").contains("time_decay: half_life is 0 days, it must be positive"));
        assert!(decay("-1.5").contains("time_decay: half_life is -1.5 days"));
        assert!(decay("'NaN'::DOUBLE").contains("time_decay: half_life is NaN days"));
        assert!(decay("'inf'::DOUBLE").contains("time_decay: half_life is inf days"));
        assert!(decay("INTERVAL '-7 days'").contains("time_decay: half_life is -7 days"));
        assert!(decay("true").contains("time_decay: half_life is a Boolean"));
        let ts = error("SELECT time_decay(1, now(), 1)");
        assert!(ts.contains("time_decay: ts is a Int64, not a TIMESTAMP or DATE"), "{ts}");
        assert!(
            error("SELECT time_decay(now())").contains("usage: time_decay(ts, now, half_life)")
        );
    }
}
