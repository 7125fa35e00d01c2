//! `als_gram(factors)`: the Gram matrix of factor vectors, which [`als_solve`](super::als_solve)
//! needs for implicit feedback.

use super::arguments::{
    NumberLists, check_count, list_of, list_value, number_list, refuse_distinct,
};
use super::reference::{FACTORIZATION, Page};
use crate::als::gram;
use arrow::array::{Array, ArrayRef, Float64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

const NAME: &str = "als_gram";

const SYNTAX: &str = "als_gram(factors)";

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: FACTORIZATION,
        syntax: SYNTAX,
        description: "The Gram matrix `Σ y·yᵀ` of factor vectors: for `als_solve`, over all items, or all users, \
            of a model. A list of n · n DOUBLE for vectors of the length n, row by row.",
        arguments: &[(
            "factors",
            "A list of numbers, taken as FLOAT. NULL doesn't count; an empty list, an element that is NULL, \
             NaN or infinite, and vectors of different lengths are errors.",
        )],
        example: "SELECT als_gram(factors) AS gram\n\
            FROM (VALUES ([1.0, 2.0]), ([0.0, 3.0])) AS items(factors)\n-- [1.0, 2.0, 2.0, 13.0]",
    }
    .documentation()
});

/// The function `als_gram`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AlsGram {
    signature: Signature,
}

impl Default for AlsGram {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for AlsGram {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(SYNTAX, types, &[1])?;
        Ok(vec![number_list(NAME, "factors", &types[0], DataType::Float32)?])
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(list_of(DataType::Float64))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, "gram");
        Ok(vec![Arc::new(Field::new(name, list_of(DataType::Float64), true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        refuse_distinct(NAME, &args)?;
        Ok(Box::new(GramAccumulator::default()))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

/// The matrix so far; empty before the first vector.
#[derive(Debug, Default)]
struct GramAccumulator(Vec<f64>);

impl GramAccumulator {
    fn add(&mut self, gram: &[f64]) -> Result<()> {
        if self.0.is_empty() {
            self.0 = gram.to_vec();
        } else if self.0.len() != gram.len() {
            let width = |gram: &[f64]| gram.len().isqrt();
            return exec_err!(
                "{NAME}: factors has vectors of the lengths {} and {}",
                width(&self.0),
                width(gram)
            );
        } else {
            self.0.iter_mut().zip(gram).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }
}

impl Accumulator for GramAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [lists] = values else {
            return exec_err!("{NAME} takes one argument");
        };
        let vectors = NumberLists::<Float32Type>::new(NAME, "factors", lists)?;
        let (mut rows, mut width) = (Vec::new(), 0);
        for row in 0..lists.len() {
            let Some(factors) = vectors.row(row)? else { continue };
            if factors.len() != width && !rows.is_empty() {
                self.add(&gram(&rows, width, width))?;
                rows.clear();
            }
            width = factors.len();
            rows.extend_from_slice(factors);
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.add(&gram(&rows, width, width))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.0.is_empty() {
            return Ok(ScalarValue::new_null_list(DataType::Float64, true, 1));
        }
        list_value(Arc::new(Float64Array::from(self.0.clone())))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.capacity() * size_of::<f64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [lists] = states else {
            return exec_err!("{NAME} has a state of one field");
        };
        let grams = NumberLists::<Float64Type>::new(NAME, "the Gram matrix", lists)?;
        for row in 0..lists.len() {
            if let Some(gram) = grams.row(row)? {
                self.add(gram)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, over, value};
    use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch};
    use arrow::datatypes::{DataType, Field};
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn is_the_sum_of_outer_products(
            rows in prop::collection::vec(prop::array::uniform3(-9i8..9), 1..30),
        ) {
            let batch = |rows: &[[i8; 3]]| {
                let flat: Float32Array = rows.iter().flatten().map(|v| Some(f32::from(*v))).collect();
                let field = Arc::new(Field::new_list_field(DataType::Float32, true));
                let lists = FixedSizeListArray::new(field, 3, Arc::new(flat), None);
                RecordBatch::try_from_iter([("f", Arc::new(lists) as ArrayRef)]).unwrap()
            };
            let parts: Vec<RecordBatch> = rows.chunks(7).map(batch).collect();
            let actual = over("t", parts, "SELECT als_gram(f) FROM t").unwrap();
            let mut expected = vec![0.0; 9];
            for row in &rows {
                for (i, value) in expected.iter_mut().enumerate() {
                    *value += f64::from(row[i / 3]) * f64::from(row[i % 3]);
                }
            }
            prop_assert_eq!(&actual[0][0], &format!("{expected:?}"));
        }
    }

    #[test]
    fn null_does_not_count() {
        let gram = |rows: &str| value(&format!("SELECT als_gram(f) FROM (VALUES {rows}) AS t(f)"));
        assert_eq!(gram("([2]), (NULL)"), "[4.0]");
        assert_eq!(gram("(NULL)"), "NULL");
        assert_eq!(value("SELECT als_gram([1]) WHERE false"), "NULL");
    }

    #[test]
    fn errors_name_the_argument_and_the_value() {
        for (rows, message) in [
            ("([1, NULL])", "als_gram: factors has an element that is NULL"),
            ("([1, 'inf'::DOUBLE])", "als_gram: factors has an element that is inf"),
            ("([1e300])", "als_gram: factors has an element that is inf"),
            ("(arrow_cast([], 'List(Float32)'))", "als_gram: factors is an empty list"),
            ("([1]), ([1, 2])", "als_gram: factors has vectors of the lengths 1 and 2"),
            ("(['a'])", "als_gram: factors is a List"),
            ("(1)", "als_gram: factors is a Int64, not a list of numbers: cast it"),
        ] {
            let error = error(&format!("SELECT als_gram(f) FROM (VALUES {rows}) AS t(f)"));
            assert!(error.contains(message), "{error}");
        }
    }
}
