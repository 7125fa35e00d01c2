//! `top_k(value, score, k)`: the values with the highest scores.

mod groups;

use super::arguments::{check_count, integer, list_of, refuse_distinct};
use super::reference::{Page, RANKING};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, GroupsAccumulator, Signature, Volatility,
};
use groups::{Groups, OneGroup};
use std::sync::{Arc, LazyLock};

const NAME: &str = "top_k";

const SYNTAX: &str = "top_k(value, score, k)";

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: RANKING,
        syntax: SYNTAX,
        description: "The list of the `k` values with the highest scores, best first; values with the same score are \
            in their own order. It is the beginning of `array_agg(value ORDER BY score DESC, value)`, without \
            gathering or sorting the rest. Equal values are not merged. Fewer rows give a shorter list, a \
            group without a row that counts gives NULL.",
        arguments: &[
            ("value", "Of any type but MAP and UNION. A row whose value is NULL doesn't count."),
            (
                "score",
                "Of any type that has an order: a number, a TIMESTAMP for the latest, … A row whose score is \
                 NULL doesn't count; NaN is an error; infinities are allowed.",
            ),
            ("k", "The length of the list, from 1 and the same in all rows of a group."),
        ],
        example: "SELECT top_k(name, score, 2) AS best\n\
            FROM (VALUES ('c', 0.9), ('a', 0.5), ('b', 0.9)) AS t(name, score)\n-- [b, c]",
    }
    .documentation()
});

/// The function `top_k`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TopK {
    signature: Signature,
}

impl Default for TopK {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for TopK {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(SYNTAX, types, &[3])?;
        let (value, score) = (plain(&types[0]), plain(&types[1]));
        if !is_ordered(value) {
            return plan_err!("{NAME}: value is a {value}, which can't be ordered");
        }
        if !is_ordered(score) || score.is_nested() {
            return plan_err!("{NAME}: score is a {score}, not a number or another scalar");
        }
        Ok(vec![value.clone(), score.clone(), integer(NAME, "k", &types[2])?])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first() {
            Some(value) => Ok(list_of(value.clone())),
            None => plan_err!("usage: {SYNTAX}"),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let [value, score, _] = args.input_fields else {
            return plan_err!("usage: {SYNTAX}");
        };
        let field = |name: &str, data_type: DataType| {
            Arc::new(Field::new(format_state_name(args.name, name), data_type, true))
        };
        Ok(vec![
            field("values", list_of(value.data_type().clone())),
            field("scores", list_of(score.data_type().clone())),
            field("k", DataType::Int64),
        ])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        refuse_distinct(NAME, &args)?;
        Ok(Box::new(OneGroup(groups(&args)?)))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(groups(&args)?))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

/// The state for a call.
fn groups(args: &AccumulatorArgs) -> Result<Groups> {
    match args.expr_fields {
        [value, score, _] => Groups::new(score.data_type().clone(), value.data_type().clone()),
        _ => plan_err!("usage: {SYNTAX}"),
    }
}

/// A type without the dictionary that it may be encoded with.
fn plain(given: &DataType) -> &DataType {
    match given {
        DataType::Dictionary(_, values) => plain(values),
        other => other,
    }
}

fn is_ordered(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(..) | DataType::Union(..) | DataType::RunEndEncoded(..) => false,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            is_ordered(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| is_ordered(field.data_type())),
        other => !other.is_nested(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, over, sql, value};
    use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Against sorting everything, with many ties.
        #[test]
        fn agrees_with_sorting_everything(
            rows in prop::collection::vec(
                (0i64..3, prop::option::of("[a-d]{1,2}"), prop::option::of(-2i8..3)), 0..80),
            k in 1usize..12,
        ) {
            let mut expected: BTreeMap<i64, Vec<(i8, String)>> = BTreeMap::new();
            for (group, value, score) in &rows {
                let gathered = expected.entry(*group).or_default();
                if let (Some(value), Some(score)) = (value, score) {
                    gathered.push((-score, value.clone()));
                }
            }
            let parts = 3;
            let batch = |part: usize| {
                let own: Vec<_> = rows.iter().skip(part).step_by(parts).collect();
                let scores = own.iter().map(|row| row.2.map(f64::from));
                RecordBatch::try_from_iter([
                    ("g", Arc::new(Int64Array::from_iter_values(own.iter().map(|r| r.0))) as ArrayRef),
                    ("v", Arc::new(StringArray::from_iter(own.iter().map(|r| r.1.as_ref())))),
                    ("s", Arc::new(Float64Array::from_iter(scores))),
                ]).unwrap()
            };
            let query = format!("SELECT g, top_k(v, s, {k}) FROM t GROUP BY g ORDER BY g");
            let actual = over("t", (0..parts).map(batch).collect(), &query).unwrap();
            let expected: Vec<Vec<String>> = expected
                .into_iter()
                .map(|(group, mut rows)| {
                    rows.sort();
                    rows.truncate(k);
                    let list: Vec<String> = rows.into_iter().map(|row| row.1).collect();
                    let list =
                        if list.is_empty() { "NULL".into() } else { format!("[{}]", list.join(", ")) };
                    vec![group.to_string(), list]
                })
                .collect();
            prop_assert_eq!(actual, expected);
        }
    }

    #[test]
    fn values_and_scores_have_many_types() {
        let top = |row: &str, other: &str| {
            let rows = format!("(VALUES ({row}), ({other})) AS t(v, s)");
            value(&format!("SELECT top_k(v, s, 1) FROM {rows}"))
        };
        assert_eq!(top("1, 0.5", "2, 0.7"), "[2]");
        assert_eq!(top("true, 3", "false, 2"), "[true]");
        assert_eq!(top("'old', DATE '2020-01-01'", "'new', DATE '2021-01-01'"), "[new]");
        assert_eq!(top("[1, 2], 'a'", "[3], 'b'"), "[[3]]");
        assert_eq!(top("{x: 1, y: 'p'}, 2", "{x: 2, y: 'q'}, 1"), "[{x: 1, y: p}]");
        assert_eq!(top("1, 'inf'::DOUBLE", "2, 1e300"), "[1]");
        assert_eq!(value("SELECT top_k(arrow_cast('a', 'Dictionary(Int32, Utf8)'), 1, 2)"), "[a]");
    }

    #[test]
    fn it_is_the_beginning_of_array_agg() {
        let rows = "(SELECT value % 7 AS s, value AS v FROM generate_series(1, 200)) AS t";
        let top = value(&format!("SELECT top_k(v, s, 40) FROM {rows}"));
        let all = value(&format!("SELECT array_agg(v ORDER BY s DESC, v)[1:40] FROM {rows}"));
        assert_eq!(top, all);
    }

    #[test]
    fn empty_groups_are_null() {
        assert_eq!(value("SELECT top_k(1, 2, 3) WHERE false"), "NULL");
        assert_eq!(value("SELECT top_k(NULL, 2, 3)"), "NULL");
        assert_eq!(value("SELECT top_k(1, NULL, 3)"), "NULL");
        assert_eq!(value("SELECT top_k(1, 2, 9223372036854775807)"), "[1]");
    }

    #[test]
    fn windows_and_filters_work() {
        let rows = "(VALUES (1, 5), (2, 7), (3, 6)) AS t(v, s)";
        let query = format!("SELECT top_k(v, s, 2) OVER (ORDER BY v) FROM {rows} ORDER BY v");
        assert_eq!(sql(&query).unwrap(), [["[1]"], ["[2, 1]"], ["[2, 3]"]]);
        assert_eq!(
            value(&format!("SELECT top_k(v, s, 2) FILTER (WHERE v <> 2) FROM {rows}")),
            "[3, 1]"
        );
    }

    #[test]
    fn errors_name_the_argument_and_the_value() {
        for (args, message) in [
            ("1, 2, 0", "top_k: k is 0, it must be at least 1"),
            ("1, 2, -1", "top_k: k is -1, it must be at least 1"),
            ("1, 2, NULL", "top_k: k is NULL, it must be at least 1"),
            ("1, 2, 1.5", "top_k: k is a Float64, not a whole number: cast it"),
            ("1, 'NaN'::DOUBLE, 1", "top_k: score is NaN"),
            ("1, 'NaN'::FLOAT, 1", "top_k: score is NaN"),
            ("1, [2], 1", "top_k: score is a List"),
            ("MAP {'a': 1}, 2, 1", "top_k: value is a Map"),
            ("DISTINCT 1, 2, 1", "top_k: DISTINCT is not supported, use a subquery"),
            ("1, 2", "usage: top_k(value, score, k)"),
        ] {
            let error = error(&format!("SELECT top_k({args})"));
            assert!(error.contains(message), "{error}");
        }
        let lengths = error("SELECT top_k(v, v, v) FROM (VALUES (1), (2)) AS t(v)");
        assert!(lengths.contains("top_k: k is 1 and 2 in one group"), "{lengths}");
    }
}
