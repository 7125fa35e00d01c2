//! What the measures of a ranking share: the rows of one user, and the state that they are
//! gathered in.

mod groups;

use super::arguments::{check_count, integer, number, refuse_distinct};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, GroupsAccumulator, Signature, Volatility,
};
use groups::{Groups, OneGroup};
use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::Arc;

/// The arguments, as the reference lists them; all measures have the same.
pub(super) const ARGUMENTS: &[(&str, &str)] = &[
    (
        "rank",
        "The item's rank among what was recommended to the user, from 1; NULL if it was not recommended. \
         A rank below 1, and two relevant items with one rank, are errors.",
    ),
    (
        "relevance",
        "A BOOLEAN, or a number above 0 for a relevant item and 0 for another. NULL counts as 0. A negative \
         one, NaN and infinity are errors. Relevant items that were not recommended must have a row too.",
    ),
    (
        "k",
        "The length to which the ranking is looked at, from 1 and the same in all rows of a group.",
    ),
];

/// A measure of one user's ranking.
pub(super) trait Measure:
    Debug + Clone + Copy + PartialEq + Eq + Hash + Send + Sync + 'static
{
    /// The function's name.
    const NAME: &'static str;

    /// The call, as the reference shows it.
    const SYNTAX: &'static str;

    /// The reference.
    fn documentation() -> &'static Documentation;

    /// The measure of a ranking with at least one relevant item.
    fn of(ranking: &Ranking) -> f64;
}

/// What is known of one user's ranking.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranking {
    /// The length to which it is looked at; 0 before the first row.
    pub(super) k: usize,
    /// Ranks of the relevant items among the first `k`, ascending, with their relevance.
    pub(super) hits: Vec<(i64, f64)>,
    /// The `k` largest relevances of all items, largest first.
    pub(super) ideal: Vec<f64>,
    /// Number of relevant items, recommended or not.
    pub(super) relevant: i64,
}

/// The function of a measure.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct RankingMeasure<M> {
    signature: Signature,
    measure: PhantomData<M>,
}

impl<M> Default for RankingMeasure<M> {
    fn default() -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { signature, measure: PhantomData }
    }
}

impl<M: Measure> AggregateUDFImpl for RankingMeasure<M> {
    fn name(&self) -> &str {
        M::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(M::SYNTAX, types, &[3])?;
        let relevance = match &types[1] {
            DataType::Boolean => DataType::Float64,
            other => number(M::NAME, "relevance", other, DataType::Float64)?,
        };
        Ok(vec![integer(M::NAME, "rank", &types[0])?, relevance, integer(M::NAME, "k", &types[2])?])
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |(name, data_type)| {
            Arc::new(Field::new(format_state_name(args.name, name), data_type, true))
        };
        Ok(groups::state().into_iter().map(field).collect())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        refuse_distinct(M::NAME, &args)?;
        Ok(Box::new(OneGroup::<M>::default()))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        _args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups::<M>::default()))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(M::documentation())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, over, sql};
    use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
    use arrow::array::{Float64Array, UInt8Array};
    use proptest::prelude::*;
    use std::sync::Arc;

    const MEASURES: [&str; 3] = ["recall_at_k", "ndcg_at_k", "average_precision_at_k"];

    /// By their definitions: the relevance of every item, in the order of the ranking, and of those
    /// that are not in it.
    fn slow(ranked: &[f64], missed: &[f64], k: usize) -> Option<[f64; 3]> {
        let mut all: Vec<f64> = ranked.iter().chain(missed).copied().collect();
        let relevant = all.iter().filter(|r| **r > 0.0).count();
        if relevant == 0 {
            return None;
        }
        all.sort_by(|a, b| b.total_cmp(a));
        let top = &ranked[..k.min(ranked.len())];
        let gain = |list: &[f64]| -> f64 {
            list.iter().take(k).enumerate().map(|(i, r)| r / (i as f64 + 2.0).log2()).sum()
        };
        let hits_until = |i: usize| top[..=i].iter().filter(|r| **r > 0.0).count() as f64;
        let precision: f64 = (0..top.len())
            .filter(|i| top[*i] > 0.0)
            .map(|i| hits_until(i) / (i as f64 + 1.0))
            .sum();
        let hits = top.iter().filter(|r| **r > 0.0).count() as f64;
        let best = relevant.min(k) as f64;
        Some([hits / relevant as f64, gain(top) / gain(&all), precision / best])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn measures_are_their_definitions(
            users in prop::collection::vec(
                (prop::collection::vec(0u8..4, 0..12), prop::collection::vec(0u8..4, 0..5)), 1..5),
            k in 1usize..15,
        ) {
            let mut rows: Vec<(i64, Option<i64>, u8)> = Vec::new();
            for (user, (ranked, missed)) in users.iter().enumerate() {
                for (rank, relevance) in ranked.iter().enumerate() {
                    rows.push((user as i64, Some(rank as i64 + 1), *relevance));
                }
                rows.extend(missed.iter().map(|relevance| (user as i64, None, *relevance)));
            }
            // Rows of a user are spread over the partitions, so that states are merged.
            let parts = 3;
            let batch = |part: usize| {
                let own: Vec<_> = rows.iter().skip(part).step_by(parts).collect();
                RecordBatch::try_from_iter([
                    ("u", Arc::new(Int64Array::from_iter_values(own.iter().map(|r| r.0))) as ArrayRef),
                    ("rank", Arc::new(Int64Array::from_iter(own.iter().map(|r| r.1)))),
                    ("grade", Arc::new(UInt8Array::from_iter_values(own.iter().map(|r| r.2)))),
                    ("hit", Arc::new(BooleanArray::from_iter(own.iter().map(|r| Some(r.2 > 0))))),
                ]).unwrap()
            };
            let query = format!(
                "SELECT u, recall_at_k(rank, grade, {k}), ndcg_at_k(rank, grade, {k}),
                    average_precision_at_k(rank, grade, {k}),
                    recall_at_k(rank, hit, {k}), ndcg_at_k(rank, hit, {k}),
                    average_precision_at_k(rank, hit, {k})
                 FROM t GROUP BY u"
            );
            for row in over("t", (0..parts).map(batch).collect(), &query).unwrap() {
                let (ranked, missed) = &users[row[0].parse::<usize>().unwrap()];
                let graded = |list: &[u8]| list.iter().map(|r| f64::from(*r)).collect::<Vec<_>>();
                let binary = |list: &[u8]| list.iter().map(|r| f64::from(*r.min(&1))).collect::<Vec<_>>();
                let expected = [
                    slow(&graded(ranked), &graded(missed), k),
                    slow(&binary(ranked), &binary(missed), k),
                ];
                for (actual, expected) in row[1..].chunks(3).zip(expected) {
                    for (measure, actual) in actual.iter().enumerate() {
                        match expected {
                            None => prop_assert_eq!(actual, "NULL"),
                            Some(expected) => {
                                let actual: f64 = actual.parse().unwrap();
                                prop_assert!((actual - expected[measure]).abs() < 1e-12);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn groups_without_a_relevant_item_are_null() {
        for measure in MEASURES {
            for rows in ["(1, false)", "(1, CAST(NULL AS BOOLEAN))", "(NULL, false)"] {
                let query = format!("SELECT {measure}(r, x, 3) FROM (VALUES {rows}) AS t(r, x)");
                assert_eq!(sql(&query).unwrap(), [["NULL"]], "{query}");
            }
            let none = format!("SELECT {measure}(1, true, 3) WHERE false");
            assert_eq!(sql(&none).unwrap(), [["NULL"]], "{none}");
            let missed = format!("SELECT {measure}(NULL, 1, 3)");
            assert_eq!(sql(&missed).unwrap(), [["0.0"]]);
        }
    }

    #[test]
    fn filters_and_windows_work() {
        let rows = "(VALUES (1, true), (2, false), (3, true)) AS t(r, x)";
        let query = format!("SELECT recall_at_k(r, x, 3) FILTER (WHERE r < 3) FROM {rows}");
        assert_eq!(sql(&query).unwrap(), [["1.0"]]);
        let query = format!("SELECT recall_at_k(r, x, 2) OVER (ORDER BY r) FROM {rows} ORDER BY r");
        assert_eq!(sql(&query).unwrap(), [["1.0"], ["1.0"], ["0.5"]]);
    }

    #[test]
    fn errors_name_the_argument_and_the_value() {
        for measure in MEASURES {
            for (args, message) in [
                ("1, true, 0", "k is 0, it must be at least 1"),
                ("1, true, -3", "k is -3, it must be at least 1"),
                ("1, true, NULL", "k is NULL, it must be at least 1"),
                ("0, true, 3", "rank is 0, ranks start at 1"),
                ("1, -1, 3", "relevance is -1, it must be finite and not negative"),
                ("1, 'NaN'::DOUBLE, 3", "relevance is NaN"),
                ("1.5, true, 3", "rank is a Float64, not a whole number: cast it"),
                ("1, 'a', 3", "relevance is a Utf8, not a number: cast it"),
                ("DISTINCT 1, true, 3", "DISTINCT is not supported, use a subquery"),
            ] {
                let error = error(&format!("SELECT {measure}({args})"));
                assert!(error.contains(&format!("{measure}: {message}")), "{error}");
            }
            let usage = error(&format!("SELECT {measure}(1)"));
            assert!(usage.contains(&format!("usage: {measure}(rank, relevance, k)")), "{usage}");
            let rows = |rows: &str| {
                error(&format!("SELECT {measure}(r, x, k) FROM (VALUES {rows}) AS t(r, x, k)"))
            };
            let twice = rows("(2, true, 5), (2, true, 5)");
            assert!(twice.contains(&format!("{measure}: two relevant items have the rank 2")));
            let lengths = rows("(1, true, 5), (2, true, 6)");
            assert!(
                lengths.contains(&format!("{measure}: k is 5 and 6 in one group")),
                "{lengths}"
            );
        }
    }

    #[test]
    fn errors_in_merged_states_are_found() {
        let batch = || {
            RecordBatch::try_from_iter([
                ("rank", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
                ("x", Arc::new(Float64Array::from(vec![1.0])) as ArrayRef),
            ])
            .unwrap()
        };
        let query = "SELECT ndcg_at_k(rank, x, 5) FROM t";
        let error = over("t", vec![batch(), batch()], query).unwrap_err().to_string();
        assert!(error.contains("two relevant items have the rank 1"), "{error}");
    }
}
