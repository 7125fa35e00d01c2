//! `top_k(value, score, k)`: the values with the highest scores.

use super::arguments::{agree, check_count, integer, list_of, list_value};
use super::arguments::{positive_k, refuse_distinct};
use super::reference::{Page, RANKING};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type};
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::cast::{as_int64_array, as_list_array};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, Signature, Volatility,
};
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
        let [value, score, _] = args.expr_fields else {
            return plan_err!("usage: {SYNTAX}");
        };
        let (value, score) = (value.data_type().clone(), score.data_type().clone());
        let best_first = SortOptions { descending: true, nulls_first: false };
        let fields = vec![
            SortField::new_with_options(score.clone(), best_first),
            SortField::new(value.clone()),
        ];
        Ok(Box::new(TopKAccumulator {
            types: [score, value],
            converter: RowConverter::new(fields)?,
            k: None,
            best: Vec::new(),
            worst: None,
            bytes: 0,
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
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

/// The best rows so far, in the row format: their order as bytes is the order of the result.
#[derive(Debug)]
struct TopKAccumulator {
    /// Types of score and value.
    types: [DataType; 2],
    converter: RowConverter,
    k: Option<i64>,
    /// At least the `k` best, at most twice as many.
    best: Vec<OwnedRow>,
    /// The last of the `k` best when they were last selected: worse rows are left out at once.
    worst: Option<OwnedRow>,
    /// Size of the rows of `best`.
    bytes: usize,
}

impl TopKAccumulator {
    fn k(&self) -> usize {
        self.k.map_or(0, |k| usize::try_from(k).unwrap_or(usize::MAX))
    }

    fn update(&mut self, values: &ArrayRef, scores: &ArrayRef, ks: &Int64Array) -> Result<()> {
        let (no_value, no_score) = (values.logical_nulls(), scores.logical_nulls());
        let nan = nan_rows(scores);
        let rows = self.converter.convert_columns(&[Arc::clone(scores), Arc::clone(values)])?;
        for (index, row) in rows.iter().enumerate() {
            let is_null = |nulls: &Option<arrow::buffer::NullBuffer>| {
                nulls.as_ref().is_some_and(|nulls| nulls.is_null(index))
            };
            if is_null(&no_value) || is_null(&no_score) {
                continue;
            }
            if nan(index) {
                return exec_err!("{NAME}: score is NaN");
            }
            let k = positive_k(NAME, ks.is_valid(index).then(|| ks.value(index)))?;
            agree(NAME, "k", &mut self.k, k)?;
            if self.worst.as_ref().is_some_and(|worst| row >= worst.row()) {
                continue;
            }
            let row = row.owned();
            self.bytes += size_of::<OwnedRow>() + row.row().as_ref().len();
            self.best.push(row);
            if self.best.len() >= self.k().saturating_mul(2) {
                self.select();
            }
        }
        Ok(())
    }

    /// Drops all but the `k` best.
    fn select(&mut self) {
        let k = self.k();
        if k == 0 || self.best.len() < k {
            return;
        }
        self.best.select_nth_unstable(k - 1);
        self.best.truncate(k);
        self.worst = self.best.last().cloned();
        let lengths = self.best.iter().map(|row| row.row().as_ref().len());
        self.bytes = lengths.sum::<usize>() + k * size_of::<OwnedRow>();
    }

    /// Scores and values of the best rows.
    fn columns(&self) -> Result<[ArrayRef; 2]> {
        let columns = self.converter.convert_rows(self.best.iter().map(OwnedRow::row))?;
        let [score, value] = columns.as_slice() else {
            return exec_err!("{NAME} has rows of two columns");
        };
        // The row format doesn't keep dictionaries inside of nested types.
        Ok([cast(score, &self.types[0])?, cast(value, &self.types[1])?])
    }
}

/// Which scores are NaN.
fn nan_rows(scores: &ArrayRef) -> impl Fn(usize) -> bool + '_ {
    let half = scores.as_primitive_opt::<Float16Type>();
    let single = scores.as_primitive_opt::<Float32Type>();
    let double = scores.as_primitive_opt::<Float64Type>();
    move |row| {
        half.is_some_and(|scores| scores.value(row).is_nan())
            || single.is_some_and(|scores| scores.value(row).is_nan())
            || double.is_some_and(|scores| scores.value(row).is_nan())
    }
}

impl Accumulator for TopKAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match values {
            [values, scores, ks] => self.update(values, scores, as_int64_array(ks)?),
            _ => exec_err!("{NAME} takes three arguments"),
        }
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.best.is_empty() {
            return Ok(ScalarValue::new_null_list(self.types[1].clone(), true, 1));
        }
        self.select();
        self.best.sort_unstable();
        let [_, values] = self.columns()?;
        list_value(values)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.converter.size() + self.bytes
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.select();
        let [scores, values] = self.columns()?;
        Ok(vec![list_value(values)?, list_value(scores)?, ScalarValue::Int64(self.k)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [values, scores, ks] = states else {
            return exec_err!("{NAME} has a state of three fields");
        };
        let (values, scores) = (as_list_array(values)?, as_list_array(scores)?);
        let ks = as_int64_array(ks)?;
        for state in (0..ks.len()).filter(|state| ks.is_valid(*state)) {
            let (values, scores) = (values.value(state), scores.value(state));
            let ks = Int64Array::from_value(ks.value(state), values.len());
            self.update(&values, &scores, &ks)?;
        }
        Ok(())
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
