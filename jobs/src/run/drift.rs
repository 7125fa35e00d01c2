//! How far the values of a column are from what they were: the population stability index.
//!
//! The values that are published say what the buckets are; then the rows in each are counted, of both. The index is
//! `Σ (a − b) · ln(a / b)` over the shares a and b of the rows in each bucket, as in Siddiqi, "Credit Risk Scorecards"
//! (2006). It is 0 for equal shares. What is known of the values here is some boundaries or hashes and some counts,
//! however many there are.

use arrow::datatypes::DataType;
use std::collections::{BTreeMap, BTreeSet};

/// Into how many buckets numbers are put, apart from the one of NULL.
const BUCKETS: usize = 10;

/// How many texts have buckets of their own, apart from the ones of all others and of NULL.
const FREQUENT: usize = 50;

/// The least share of the rows that counts for a bucket, so that the index is finite if one is empty.
const LEAST_SHARE: f64 = 1e-4;

/// How many rows are in each bucket.
pub(super) type Counts = BTreeMap<String, u64>;

/// What kind of values a column has. Those of different kinds can't be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Numbers.
    Numbers,
    /// Dates, which count as days.
    Dates,
    /// Timestamps, which count as microseconds.
    Times,
    /// Texts.
    Texts,
    /// Booleans.
    Booleans,
}

impl Scale {
    /// That of a type, if it has one.
    pub(super) fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            number if number.is_numeric() => Some(Self::Numbers),
            DataType::Date32 => Some(Self::Dates),
            DataType::Timestamp(_, _) => Some(Self::Times),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Self::Texts),
            DataType::Boolean => Some(Self::Booleans),
            _ => None,
        }
    }

    /// Whether its values have an order that says which are near to each other.
    pub(super) fn is_ordered(self) -> bool {
        matches!(self, Self::Numbers | Self::Dates | Self::Times)
    }

    /// The query of all values as what is put into buckets: numbers, or hashes, which are short and need no quotes
    /// whatever a text is. The names are quoted.
    fn values(self, table: &str, column: &str) -> String {
        let value = match self {
            Self::Numbers => format!("CAST({column} AS DOUBLE)"),
            Self::Dates | Self::Times => format!("CAST(CAST({column} AS BIGINT) AS DOUBLE)"),
            Self::Texts | Self::Booleans => format!("md5(CAST({column} AS VARCHAR))"),
        };
        format!("SELECT {value} AS v FROM {table}")
    }

    /// The query of what divides values into buckets: a row of quantiles, or hashes and how many rows have them.
    pub(super) fn divisions(self, table: &str, column: &str) -> String {
        let values = self.values(table, column);
        if self.is_ordered() {
            let quantile =
                |n| format!("approx_percentile_cont(v, {:?}) AS q{n}", n as f64 / BUCKETS as f64);
            let quantiles: Vec<_> = (1..BUCKETS).map(quantile).collect();
            let quantiles = quantiles.join(", ");
            // Quantiles of what is infinite or no number would be neither.
            return format!("SELECT {quantiles} FROM ({values}) WHERE abs(v) <= {:e}", f64::MAX);
        }
        format!(
            "SELECT v, count(*) AS n FROM ({values}) WHERE v IS NOT NULL GROUP BY v ORDER BY n DESC, v LIMIT {FREQUENT}"
        )
    }

    /// The query of how many rows are in each bucket.
    pub(super) fn counts(self, table: &str, column: &str, buckets: &Buckets) -> String {
        let (values, bucket) = (self.values(table, column), buckets.of_value());
        format!(
            "SELECT bucket, count(*) AS n FROM (SELECT {bucket} AS bucket FROM ({values})) GROUP BY bucket"
        )
    }
}

/// What the buckets are, besides the one of NULL.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Buckets {
    /// The greatest values of all but the last, in order.
    Ordered(Vec<f64>),
    /// The hashes that are in none with others.
    Frequent(Vec<String>),
}

impl Buckets {
    /// Between quantiles, each once.
    pub(super) fn ordered(quantiles: impl Iterator<Item = f64>) -> Self {
        let mut bounds: Vec<f64> = quantiles.filter(|bound| bound.is_finite()).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        Self::Ordered(bounds)
    }

    /// The bucket of a value, as an expression.
    fn of_value(&self) -> String {
        let cases = match self {
            Self::Ordered(bounds) => {
                let case = |(n, bound): (usize, &f64)| format!(" WHEN v <= {bound:?} THEN '{n}'");
                bounds.iter().enumerate().map(case).collect()
            }
            Self::Frequent(hashes) if hashes.is_empty() => String::new(),
            Self::Frequent(hashes) => format!(" WHEN v IN ('{}') THEN v", hashes.join("', '")),
        };
        format!("CASE WHEN v IS NULL THEN 'null'{cases} ELSE 'others' END")
    }
}

/// The population stability index of what was made against what is published; `None` if nothing is in either's
/// buckets that it could be compared with.
pub(super) fn stability_index(published: &Counts, made: &Counts) -> Option<f64> {
    let rows = |counts: &Counts| counts.values().sum::<u64>();
    let (all_published, all_made) = (rows(published), rows(made));
    if all_published == 0 {
        return None;
    }
    let share = |counts: &Counts, bucket: &str, all: u64| {
        let rows = counts.get(bucket).copied().unwrap_or(0);
        // If there are no rows at all, none is in the bucket.
        (rows as f64 / all.max(1) as f64).max(LEAST_SHARE)
    };
    let buckets: BTreeSet<&String> = published.keys().chain(made.keys()).collect();
    let part = |bucket: &String| {
        let before = share(published, bucket, all_published);
        let now = share(made, bucket, all_made);
        (now - before) * (now / before).ln()
    };
    Some(buckets.into_iter().map(part).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::compute::cast;
    use arrow::datatypes::{Float64Type, Int64Type};
    use datafusion::prelude::SessionContext;

    fn counts(counts: &[(&str, u64)]) -> Counts {
        counts.iter().map(|(bucket, rows)| (bucket.to_string(), *rows)).collect()
    }

    fn near(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn the_index_is_what_one_computes_by_hand() {
        let published = counts(&[("0", 50), ("1", 30), ("null", 20)]);
        let made = counts(&[("0", 250), ("1", 500), ("null", 250)]);
        // (0.25 − 0.5) ln 0.5 + (0.5 − 0.3) ln 5/3 + (0.25 − 0.2) ln 1.25
        let expected = 0.25 * 2f64.ln() + 0.2 * (5f64 / 3.0).ln() + 0.05 * 1.25f64.ln();
        near(stability_index(&published, &made), expected);
        near(stability_index(&made, &published), expected);
        near(Some(expected), 0.286_609_097_458_895);
        near(stability_index(&made, &made), 0.0);
        // A bucket that one of them doesn't have counts as if it had a ten-thousandth.
        let other = counts(&[("0", 50), ("others", 50)]);
        let half = counts(&[("0", 50), ("1", 50)]);
        near(stability_index(&half, &other), 2.0 * (0.5 - 1e-4) * 5000f64.ln());
        // What is gone is far away, and of what was not there nothing is known.
        near(stability_index(&half, &counts(&[])), 2.0 * (0.5 - 1e-4) * 5000f64.ln());
        assert_eq!(stability_index(&counts(&[]), &half), None);
    }

    #[test]
    fn buckets_end_at_each_quantile_once() {
        let buckets =
            Buckets::ordered([1.0, 1.0, -2.5, f64::NAN, 1e300, f64::INFINITY].into_iter());
        assert_eq!(buckets, Buckets::Ordered(vec![-2.5, 1.0, 1e300]));
        let expected = "CASE WHEN v IS NULL THEN 'null' WHEN v <= -2.5 THEN '0' WHEN v <= 1.0 THEN '1' \
                        WHEN v <= 1e300 THEN '2' ELSE 'others' END";
        assert_eq!(buckets.of_value(), expected);
        let none = "CASE WHEN v IS NULL THEN 'null' ELSE 'others' END";
        assert_eq!(Buckets::Frequent(Vec::new()).of_value(), none);
        assert_eq!(Buckets::ordered(std::iter::empty()).of_value(), none);
    }

    /// The rows that a query counts.
    async fn counted(context: &SessionContext, query: &str) -> Counts {
        let mut found = Counts::new();
        for rows in context.sql(query).await.unwrap().collect().await.unwrap() {
            let buckets = cast(rows.column(0), &DataType::Utf8).unwrap();
            let numbers = rows.column(1).as_primitive::<Int64Type>();
            for (bucket, rows) in buckets.as_string::<i32>().iter().zip(numbers.values()) {
                found.insert(bucket.unwrap().to_string(), u64::try_from(*rows).unwrap());
            }
        }
        found
    }

    /// Published and made values of a column whose name needs quotes, as tables.
    async fn tables(published: &str, made: &str) -> SessionContext {
        let context = SessionContext::new();
        for (table, values) in [("published", published), ("made", made)] {
            let sql = format!(
                "CREATE TABLE {table} AS SELECT {values} AS \"a \"\"b\"\"\" \
                               FROM generate_series(0, 9999) AS s(i)"
            );
            context.sql(&sql).await.unwrap().collect().await.unwrap();
        }
        context
    }

    const COLUMN: &str = "\"a \"\"b\"\"\"";

    #[tokio::test]
    async fn numbers_are_counted_between_the_quantiles_of_what_is_published() {
        let published = "CASE WHEN i % 10 > 0 THEN CAST(i * 7919 % 10007 AS DOUBLE) END";
        let made = "CASE WHEN i % 5 > 0 THEN CAST(i * 7919 % 10007 + 1500 AS DOUBLE) END";
        let context = tables(published, made).await;
        let scale = Scale::Numbers;
        let query = scale.divisions("published", COLUMN);
        let row = context.sql(&query).await.unwrap().collect().await.unwrap().remove(0);
        let quantile =
            |n: usize| row.column(n).as_primitive::<Float64Type>().iter().next().flatten();
        let buckets = Buckets::ordered((0..row.num_columns()).filter_map(quantile));
        let Buckets::Ordered(bounds) = &buckets else { panic!("{buckets:?}") };
        assert_eq!(bounds.len(), BUCKETS - 1);

        // The same, value by value.
        let value = |i: u64, shift: u64, nulls: u64| {
            (!i.is_multiple_of(nulls)).then(|| (i * 7919 % 10007 + shift) as f64)
        };
        let slow = |shift: u64, nulls: u64| {
            let mut shares = [0.0; BUCKETS + 1];
            for i in 0..10_000 {
                let bucket = match value(i, shift, nulls) {
                    None => BUCKETS,
                    Some(value) => bounds.iter().filter(|bound| value > **bound).count(),
                };
                shares[bucket] += 1e-4;
            }
            shares
        };
        let (before, now) = (slow(0, 10), slow(1500, 5));
        for share in &before[..BUCKETS] {
            assert!((share - 0.09_f64).abs() < 0.02, "{before:?}");
        }
        let part =
            |(b, a): (&f64, &f64)| (a.max(1e-4) - b.max(1e-4)) * (a.max(1e-4) / b.max(1e-4)).ln();
        let expected: f64 = before.iter().zip(&now).map(part).sum();
        let published = counted(&context, &scale.counts("published", COLUMN, &buckets)).await;
        let made = counted(&context, &scale.counts("made", COLUMN, &buckets)).await;
        assert_eq!((published["null"], made["null"]), (1000, 2000));
        let found = stability_index(&published, &made).unwrap();
        assert!((found - expected).abs() < 1e-9 && found > 0.25, "{found} is not {expected}");
    }

    #[tokio::test]
    async fn texts_are_counted_by_themselves_if_they_are_frequent() {
        let published =
            "CASE WHEN i % 2 = 0 THEN 'it''s ' || (i % 50) ELSE 'rare' || (i % 5000) END";
        let context = tables(published, "CASE WHEN i % 4 > 0 THEN 'it''s ' || (i % 5) END").await;
        let frequent = counted(&context, &Scale::Texts.divisions("published", COLUMN)).await;
        assert_eq!(frequent.len(), FREQUENT);
        let buckets = Buckets::Frequent(frequent.into_keys().collect());
        let published =
            counted(&context, &Scale::Texts.counts("published", COLUMN, &buckets)).await;
        let made = counted(&context, &Scale::Texts.counts("made", COLUMN, &buckets)).await;
        // Twenty-five texts of two hundred rows each, and twenty-five of two.
        assert_eq!((published.len(), published["others"]), (51, 4950));
        assert!(
            !published.contains_key("null")
                && published.values().filter(|n| **n == 200).count() == 25
        );
        assert_eq!((made["null"], made.values().sum::<u64>()), (2500, 10_000));
        assert!(stability_index(&published, &made).unwrap() > 0.25);
    }

    #[tokio::test]
    async fn what_is_no_number_is_no_boundary_and_is_counted() {
        let numbers = "CASE i % 4 WHEN 0 THEN CAST('NaN' AS DOUBLE) WHEN 1 THEN CAST('inf' AS DOUBLE) \
                       WHEN 2 THEN CAST('-inf' AS DOUBLE) ELSE 3.5 END";
        let context = tables(numbers, "CAST(NULL AS DOUBLE)").await;
        let query = Scale::Numbers.divisions("published", COLUMN);
        let row = context.sql(&query).await.unwrap().collect().await.unwrap().remove(0);
        assert_eq!(row.column(4).as_primitive::<Float64Type>().value(0), 3.5);
        let buckets = Buckets::ordered(std::iter::once(3.5));
        let published =
            counted(&context, &Scale::Numbers.counts("published", COLUMN, &buckets)).await;
        assert_eq!(published, counts(&[("0", 5000), ("others", 5000)]));
        let query = Scale::Numbers.divisions("made", COLUMN);
        let row = context.sql(&query).await.unwrap().collect().await.unwrap().remove(0);
        assert!(row.columns().iter().all(|quantile| quantile.is_null(0)));
    }

    #[test]
    fn values_of_some_types_have_a_scale() {
        let numbers = [DataType::Int8, DataType::Float32, DataType::Decimal128(9, 2)];
        assert!(numbers.iter().all(|number| Scale::of(number) == Some(Scale::Numbers)));
        assert_eq!(Scale::of(&DataType::Utf8View), Some(Scale::Texts));
        assert_eq!(Scale::of(&DataType::Binary), None);
    }
}
