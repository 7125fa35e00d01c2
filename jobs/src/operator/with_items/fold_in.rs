//! Folding in: factors of users from their interactions, as a half step of training solves them.

use crate::superstep::FixedItems;
use crate::{JobError, Result, counted};
use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float32Builder, Int32Builder, ListBuilder, RecordBatch,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use nightshift_udfs::als::{AlsError, Feedback, Fixed, HalfStep, Regularization, Solver};
use nightshift_udfs::csr::{Csr, Duplicates};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The item's dense number in an interaction, which is a struct.
pub const INTERACTION_ITEM: &str = "item_index";

/// The weight in an interaction.
pub const INTERACTION_WEIGHT: &str = "weight";

/// How users are solved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoldIn {
    /// What the weights mean.
    pub feedback: Feedback,
    /// The penalty of a user's factors.
    pub regularization: Regularization,
    /// Whether no factor may be negative.
    pub nonnegative: bool,
    /// Length of a factor vector.
    pub factors: usize,
}

fn list(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new_list_field(item, true))), true)
}

/// The columns of a model's table `user_factors` without the dense number.
pub(super) fn schema(user: &Field) -> SchemaRef {
    Arc::new(Schema::new(vec![
        user.clone().with_nullable(true),
        list("factors", DataType::Float32),
        Field::new("bias", DataType::Float32, true),
        list("seen_items", DataType::Int32),
    ]))
}

impl FoldIn {
    /// Solves users (id, list of interactions). A user's vector depends on the user's interactions
    /// and the items alone.
    pub(super) fn solve(
        &self,
        items: &FixedItems,
        users: &RecordBatch,
        schema: SchemaRef,
    ) -> Result<RecordBatch> {
        let block = self.block(items, users)?;
        let width = self.feedback.width(self.factors);
        let mut solution = vec![0.0; block.rows() * width];
        let fixed = Fixed::new(&items.rows, &items.gram);
        let step = HalfStep {
            feedback: self.feedback,
            regularization: self.regularization,
            solver: if self.nonnegative { Solver::NonNegative } else { Solver::Exact },
            factors: self.factors,
        };
        let solved = step.run(fixed, &block, &mut solution);
        solved.map_err(|AlsError::Singular { row, observations }| {
            JobError::Statement(format!(
                "ml_fold_in: the equations of user {} ({}) are singular: train with a larger l2_reg",
                shown(users, row),
                counted(observations, "interaction")
            ))
        })?;
        let offset = match self.feedback {
            Feedback::Explicit { bias: true, mean } => mean,
            _ => 0.0,
        };
        let (mut factors, mut biases) = (ListBuilder::new(Float32Builder::new()), Vec::new());
        let mut seen = ListBuilder::new(Int32Builder::new());
        for (row, solved) in solution.chunks_exact(width).enumerate() {
            factors.append_value(solved[..self.factors].iter().map(|value| Some(*value)));
            let bias = solved.get(self.factors).copied().map_or(0.0, f64::from);
            biases.push((bias + offset) as f32);
            let mut items = block.row(row).0.to_vec();
            items.dedup();
            seen.append_value(items.into_iter().map(|item| Some(item as i32)));
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::clone(users.column(0)),
            Arc::new(factors.finish()),
            Arc::new(Float32Array::from(biases)),
            Arc::new(seen.finish()),
        ];
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    /// The interactions as a block, put together as training does.
    fn block(&self, items: &FixedItems, users: &RecordBatch) -> Result<Csr<f32>> {
        let wrong = |reason: String| JobError::Statement(format!("ml_fold_in: {reason}"));
        if users.column(0).null_count() > 0 {
            return Err(wrong("a user is NULL".to_string()));
        }
        let lists = users.column(1).as_list::<i32>();
        let mut entries = Vec::new();
        for row in 0..users.num_rows() {
            let interactions = lists.value(row);
            let interactions = interactions.as_struct();
            let column = |name: &str| {
                interactions
                    .column_by_name(name)
                    .ok_or_else(|| wrong(format!("an interaction has no {name}")))
            };
            let numbers = column(INTERACTION_ITEM)?.as_primitive::<Int64Type>();
            let weights = column(INTERACTION_WEIGHT)?.as_primitive::<Float64Type>();
            for (item, weight) in numbers.values().iter().zip(weights) {
                let finite = weight.filter(|weight| weight.abs() <= f64::from(f32::MAX));
                let Some(weight) = finite else {
                    let weight = weight.map_or("NULL".to_string(), |weight| weight.to_string());
                    let user = shown(users, row);
                    return Err(wrong(format!(
                        "user {user} has an interaction of weight {weight}"
                    )));
                };
                let item = u32::try_from(*item).ok().filter(|item| (*item as usize) < items.count);
                let item = item.ok_or_else(|| JobError::Damaged {
                    what: "a table item_factors".to_string(),
                    reason: format!("its item_index is not 0 to {}", items.count),
                })?;
                entries.push((row as u32, item, weight));
            }
        }
        let duplicates = match self.feedback {
            Feedback::Implicit { .. } => Duplicates::Add,
            Feedback::Explicit { .. } => Duplicates::Keep,
        };
        let entries = entries.iter().copied();
        Ok(Csr::from_entries(0, users.num_rows(), entries, duplicates).into_single())
    }
}

fn shown(users: &RecordBatch, row: usize) -> String {
    array_value_to_string(users.column(0), row).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, ListArray, StringArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Fields, Float32Type};

    fn users(names: &[&str], interactions: &[&[(i64, f64)]]) -> RecordBatch {
        let flat: Vec<(i64, f64)> = interactions.concat();
        let fields = Fields::from(vec![
            Field::new(INTERACTION_ITEM, DataType::Int64, true),
            Field::new(INTERACTION_WEIGHT, DataType::Float64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(flat.iter().map(|pair| pair.0))),
            Arc::new(Float64Array::from_iter_values(flat.iter().map(|pair| pair.1))),
        ];
        let values = Arc::new(StructArray::new(fields.clone(), columns, None));
        let field = Arc::new(Field::new_list_field(DataType::Struct(fields), true));
        let offsets = OffsetBuffer::from_lengths(interactions.iter().map(|list| list.len()));
        let lists = ListArray::new(field, offsets, values, None);
        RecordBatch::try_from_iter([
            ("user", Arc::new(StringArray::from(names.to_vec())) as ArrayRef),
            ("interactions", Arc::new(lists)),
        ])
        .unwrap()
    }

    fn solve(fold: &FoldIn, items: &FixedItems, users: &RecordBatch) -> Result<RecordBatch> {
        let schema = schema(users.schema().field(0));
        fold.solve(items, users, schema)
    }

    #[test]
    fn explicit_feedback_is_ridge_regression_with_biases() {
        // One factor, the items' are 1 and -1, their biases 0.5 and 0. What is left of the weights is
        // 5 - 3 - 0.5 and 2 - 3, so x = (1.5 + 1) / (2 + 0.5), b = (1.5 - 1) / (2 + 0.5).
        let fold = FoldIn {
            feedback: Feedback::Explicit { bias: true, mean: 3.0 },
            regularization: Regularization { strength: 0.5, exponent: 0.0, unobserved: 0.0 },
            nonnegative: false,
            factors: 1,
        };
        let items = FixedItems { rows: vec![1.0, 0.5, -1.0, 0.0], gram: Vec::new(), count: 2 };
        let solved = solve(&fold, &items, &users(&["ann"], &[&[(1, 2.0), (0, 5.0)]])).unwrap();
        let factors = solved.column(1).as_list::<i32>().value(0);
        assert_eq!(factors.as_primitive::<Float32Type>().values(), &[1.0]);
        let biases = solved.column(2).as_primitive::<Float32Type>();
        assert!((biases.value(0) - 3.2).abs() < 1e-6);
    }

    #[test]
    fn implicit_feedback_adds_up_and_scales_the_penalty() {
        // One item with the factor 2 among items whose Gram matrix is 5; the weights 1 and 2 add up, so
        // the confidence is 1 + 4 · 3, and the penalty (1 + 8)^0.5: x = 13 · 2 / (5 + 12 · 4 + 3).
        let fold = FoldIn {
            feedback: Feedback::Implicit { alpha: 4.0 },
            regularization: Regularization { strength: 1.0, exponent: 0.5, unobserved: 8.0 },
            nonnegative: false,
            factors: 1,
        };
        let items = FixedItems { rows: vec![2.0, 1.0], gram: vec![5.0], count: 2 };
        let solved =
            solve(&fold, &items, &users(&["ann", "bob"], &[&[(0, 1.0), (0, 2.0)], &[]])).unwrap();
        let factors = |row: usize| {
            let list = solved.column(1).as_list::<i32>().value(row);
            f64::from(list.as_primitive::<Float32Type>().value(0))
        };
        assert!((factors(0) - 26.0 / 56.0).abs() < 1e-7);
        assert_eq!(factors(1), 0.0);
        assert_eq!(solved.column(3).as_list::<i32>().value(0).len(), 1);
    }

    #[test]
    fn factors_of_a_nonnegative_model_stay_so() {
        // Without the constraint, the second factor would be -1.
        let fold = |nonnegative| FoldIn {
            feedback: Feedback::Explicit { bias: false, mean: 0.0 },
            regularization: Regularization { strength: 0.0, exponent: 0.0, unobserved: 0.0 },
            nonnegative,
            factors: 2,
        };
        let items = FixedItems { rows: vec![1.0, 0.0, 0.0, 1.0], gram: Vec::new(), count: 2 };
        for (nonnegative, expected) in [(true, [3.0, 0.0]), (false, [3.0, -1.0])] {
            let users = users(&["ann"], &[&[(0, 3.0), (1, -1.0)]]);
            let solved = solve(&fold(nonnegative), &items, &users).unwrap();
            let factors = solved.column(1).as_list::<i32>().value(0);
            assert_eq!(factors.as_primitive::<Float32Type>().values(), &expected);
        }
    }

    #[test]
    fn errors_name_the_user() {
        let fold = FoldIn {
            feedback: Feedback::Explicit { bias: false, mean: 0.0 },
            regularization: Regularization { strength: 0.0, exponent: 0.0, unobserved: 0.0 },
            nonnegative: false,
            factors: 2,
        };
        let items = FixedItems { rows: vec![1.0, 1.0], gram: Vec::new(), count: 1 };
        for (interactions, expected) in [
            (&[(0, 1.0)][..], "the equations of user ann (1 interaction) are singular"),
            (&[(0, f64::NAN)][..], "user ann has an interaction of weight NaN"),
            (&[(0, 1e39)][..], "user ann has an interaction of weight 1000"),
        ] {
            let error = solve(&fold, &items, &users(&["ann"], &[interactions])).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
