//! `als_solve(factors, weight, l2_reg[, alpha, gram])`: the factor vector of a user, or an item,
//! from the factors of the other side: what a half step of training computes for one row.

mod groups;

use super::arguments::{check_count, list_of, number, number_list, refuse_distinct};
use super::reference::{FACTORIZATION, Page};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, GroupsAccumulator, Signature, Volatility,
};
use groups::{Groups, OneGroup};
use std::sync::{Arc, LazyLock};

const NAME: &str = "als_solve";

const SYNTAX: &str = "als_solve(factors, weight, l2_reg[, alpha, gram])";

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: FACTORIZATION,
        syntax: SYNTAX,
        description: "The factor vector of a user from the factors `y` and weights `w` of the user's items (or of an \
            item from those of its users), as alternating least squares computes it in training: a list of \
            FLOAT, such as `inner_product` takes. A group is a user, a row an item of the user.\n\n\
            With five arguments it is implicit feedback, after Hu, Koren and Volinsky, \"Collaborative \
            Filtering for Implicit Feedback Datasets\" (2008): `(G + Σ alpha·|w|·y·yᵀ + l2_reg·I)⁻¹ Σ (1 + \
            alpha·|w|)·p·y`, where the preference p is 1 for a positive weight and 0 otherwise. `G` is the \
            Gram matrix of all items, not only of the user's: items without a row count as not preferred, and \
            `als_gram` computes their part once. With three arguments it is explicit feedback without biases, \
            ridge regression: `(Σ y·yᵀ + l2_reg·I)⁻¹ Σ w·y`. Four are an error, since without `G` the items \
            that the user does not have would be left out.\n\n\
            Equations without a unique solution are an error. Sums are made in DOUBLE and in the order in \
            which rows and partial results come, so the last digits can differ between runs. Each row is \
            an observation: several rows of an item are to be added up before, as training does. The function \
            is meant for new users and for checks: factors travel with each row and `gram` with each group, \
            and `CREATE MODEL` trains without that.",
        arguments: &[
            (
                "factors",
                "The item's factors: a list of numbers, taken as FLOAT, of one length in a group. An empty list \
                 and an element that is NULL, NaN or infinite are errors.",
            ),
            (
                "weight",
                "The evidence, or for explicit feedback the value to predict, taken as FLOAT. NaN and infinity \
                 are errors. A row whose factors or weight are NULL doesn't count.",
            ),
            ("l2_reg", "Weight of the penalty on the squared length, from 0 and the same in all rows of a group."),
            (
                "alpha",
                "How much confidence grows with a unit of weight (`wals_alpha` in training), from 0 and the same \
                 in all rows of a group.",
            ),
            (
                "gram",
                "`als_gram` of the factors of all items, from a CROSS JOIN: arguments of aggregates can't be \
                 subqueries. It may be NULL in rows of a group, but not in all of them; the first one counts.",
            ),
        ],
        example: "SELECT als_solve(i.factors, e.weight, 0.5, 2, g.gram) AS factors\n\
            FROM (VALUES ('ann', 1, 3.0), ('ann', 2, 1.0)) AS e(user_id, item_id, weight)\n\
            JOIN (VALUES (1, [1.0, 0.0]), (2, [0.0, 1.0]), (3, [0.0, 1.0])) AS i(item_id, factors)\n  \
            ON e.item_id = i.item_id\n\
            CROSS JOIN (SELECT als_gram(factors) AS gram\n  \
            FROM (VALUES ([1.0, 0.0]), ([0.0, 1.0]), ([0.0, 1.0])) AS i(factors)) AS g\n\
            GROUP BY e.user_id\n-- [0.93333334, 0.6666667]",
    }
    .documentation()
});

/// The function `als_solve`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AlsSolve {
    signature: Signature,
}

impl Default for AlsSolve {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for AlsSolve {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(SYNTAX, types, &[3, 5])?;
        let mut coerced = vec![
            number_list(NAME, "factors", &types[0], DataType::Float32)?,
            number(NAME, "weight", &types[1], DataType::Float32)?,
            number(NAME, "l2_reg", &types[2], DataType::Float64)?,
        ];
        if let [_, _, _, alpha, gram] = types {
            coerced.push(number(NAME, "alpha", alpha, DataType::Float64)?);
            coerced.push(number_list(NAME, "gram", gram, DataType::Float64)?);
        }
        Ok(coerced)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(list_of(DataType::Float32))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |(name, data_type)| {
            Arc::new(Field::new(format_state_name(args.name, name), data_type, true))
        };
        Ok(groups::state().into_iter().map(field).collect())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        refuse_distinct(NAME, &args)?;
        Ok(Box::new(OneGroup::default()))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        _args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups::default()))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, over, sql, value};
    use crate::als::{Feedback, Fixed, HalfStep, Regularization, Solver, gram};
    use crate::csr::{Csr, Duplicates};
    use crate::random::starting_factors;
    use arrow::array::{ArrayRef, Float32Array, Int64Array, ListArray, RecordBatch};
    use arrow::datatypes::Float32Type;
    use proptest::prelude::*;
    use std::sync::Arc;

    const USERS: usize = 4;
    const ITEMS: usize = 12;

    /// The equations of the reference, with every item as a row.
    struct Reference {
        matrix: Vec<Vec<f64>>,
        target: Vec<f64>,
        /// The lengths of what is added up in the right side, which may cancel out.
        pulled: f64,
    }

    fn reference(
        items: &[f32],
        width: usize,
        own: &[(usize, f32)],
        l2: f64,
        alpha: Option<f64>,
    ) -> Reference {
        let mut matrix = vec![vec![0.0; width]; width];
        let (mut target, mut pulled) = (vec![0.0; width], 0.0);
        for item in 0..ITEMS {
            let y: Vec<f64> =
                items[item * width..][..width].iter().map(|v| f64::from(*v)).collect();
            let weight =
                own.iter().find(|(of, _)| *of == item).map(|(_, weight)| f64::from(*weight));
            let (confidence, pull) = match (alpha, weight) {
                (Some(_), None) => (1.0, 0.0),
                (Some(alpha), Some(w)) => {
                    let confidence = 1.0 + alpha * w.abs();
                    (confidence, if w > 0.0 { confidence } else { 0.0 })
                }
                (None, None) => (0.0, 0.0),
                (None, Some(w)) => (1.0, w),
            };
            pulled += pull.abs() * length(&y);
            for i in 0..width {
                target[i] += pull * y[i];
                for j in 0..width {
                    matrix[i][j] += confidence * y[i] * y[j];
                }
            }
        }
        for (i, row) in matrix.iter_mut().enumerate() {
            row[i] += l2;
        }
        Reference { matrix, target, pulled }
    }

    fn length(vector: &[f64]) -> f64 {
        vector.iter().map(|value| value * value).sum::<f64>().sqrt()
    }

    /// By how much a solution misses the equations, in roundings of `f32` of the terms that are added up. What
    /// solves equations near the given ones stays small however close to singular they are (Rigal and Gaches,
    /// "On the compatibility of a given solution with the data of a linear system", 1967).
    fn backward_error(reference: &Reference, solution: &[f64]) -> f64 {
        let Reference { matrix, target, pulled } = reference;
        let residuals: Vec<f64> = matrix
            .iter()
            .zip(target)
            .map(|(row, target)| row.iter().zip(solution).map(|(a, x)| a * x).sum::<f64>() - target)
            .collect();
        let trace: f64 = (0..target.len()).map(|i| matrix[i][i]).sum();
        let terms = trace * length(solution) + pulled;
        length(&residuals) / (terms * f64::from(f32::EPSILON)).max(f64::MIN_POSITIVE)
    }

    fn parse(list: &str) -> Vec<f64> {
        list.trim_matches(['[', ']']).split(", ").map(|v| v.parse().unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// The formulas, and the kernel that trains, for rows spread over partitions in batches.
        #[test]
        fn is_a_row_of_a_half_step(
            weights in prop::collection::btree_map((0..USERS, 0..ITEMS), -2i8..5, 1..40),
            width in 1usize..5,
            alpha in prop::option::of(0.1f64..20.0),
            l2 in 0.05f64..2.0,
            seed in any::<u64>(),
        ) {
            let items: Vec<f32> =
                starting_factors(seed, 0, ITEMS, width, width).iter().map(|v| v * 10.0).collect();
            let vector = |item: usize| items[item * width..][..width].iter().map(|v| Some(*v));
            let rows: Vec<(usize, usize, f32)> =
                weights.iter().map(|((u, i), w)| (*u, *i, f32::from(*w))).collect();
            let batch = |own: Vec<&(usize, usize, f32)>| {
                let factors = own.iter().map(|row| Some(vector(row.1)));
                let factors = ListArray::from_iter_primitive::<Float32Type, _, _>(factors);
                RecordBatch::try_from_iter([
                    ("u", Arc::new(Int64Array::from_iter_values(own.iter().map(|r| r.0 as i64))) as ArrayRef),
                    ("f", Arc::new(factors)),
                    ("w", Arc::new(Float32Array::from_iter_values(own.iter().map(|r| r.2)))),
                ]).unwrap()
            };
            let parts = (0..3).map(|part| batch(rows.iter().skip(part).step_by(3).collect())).collect();
            let items_gram = gram(&items, width, width);
            let implicit = alpha.map(|alpha| format!(", {alpha}, {items_gram:?}")).unwrap_or_default();
            let query = format!("SELECT u, als_solve(f, w, {l2}{implicit}) FROM t GROUP BY u ORDER BY u");
            let solved = over("t", parts, &query).unwrap();

            let feedback = match alpha {
                Some(alpha) => Feedback::Implicit { alpha },
                None => Feedback::Explicit { bias: false, mean: 0.0 },
            };
            let regularization = Regularization { strength: l2, exponent: 0.0, unobserved: 0.0 };
            let entries = rows.iter().map(|(u, i, w)| (*u as u32, *i as u32, *w));
            let block = Csr::from_entries(0, USERS, entries, Duplicates::Add);
            let fixed = Fixed::new(&items, &items_gram);
            let mut users = vec![0.0; USERS * width];
            HalfStep { feedback, regularization, solver: Solver::Exact, factors: width }
                .run(fixed, &block, &mut users)
                .unwrap();

            prop_assert!(!solved.is_empty());
            for row in solved {
                let user: usize = row[0].parse().unwrap();
                let own: Vec<(usize, f32)> =
                    rows.iter().filter(|row| row.0 == user).map(|row| (row.1, row.2)).collect();
                let reference = reference(&items, width, &own, l2, alpha);
                let kernel: Vec<f64> =
                    users[user * width..][..width].iter().map(|v| f64::from(*v)).collect();
                // What als_solve returns is only rounded to `f32`; the kernel makes its sums in `f32`.
                let of_function = backward_error(&reference, &parse(&row[1]));
                let of_kernel = backward_error(&reference, &kernel);
                prop_assert!(of_function <= 1.0 && of_kernel <= 4.0, "{of_function} {of_kernel}");
            }
        }
    }

    #[test]
    fn many_rows_of_a_group_are_folded_and_merged() {
        // 1000 equal rows of the width 1: 1000 · 2 · 0.5 / (1000 · 0.25 + 1).
        let rows = "generate_series(1, 1000) AS t(i)";
        let solved = value(&format!("SELECT als_solve([0.5], 2, 1) FROM {rows}"));
        assert!((parse(&solved)[0] - 1000.0 / 251.0).abs() < 1e-6, "{solved}");
        let grouped = format!("SELECT als_solve([0.5], 2, 1) FROM {rows} GROUP BY i % 2");
        for row in sql(&grouped).unwrap() {
            assert!((parse(&row[0])[0] - 500.0 / 126.0).abs() < 1e-6);
        }
    }

    #[test]
    fn rows_that_do_not_count() {
        let solve = |rows: &str| {
            value(&format!("SELECT als_solve(f, w, 1) FROM (VALUES {rows}) AS t(f, w)"))
        };
        assert_eq!(solve("([1, 0], 2), ([5, 5], NULL), (NULL, 3)"), "[1.0, 0.0]");
        assert_eq!(solve("([1], NULL)"), "NULL");
        assert_eq!(value("SELECT als_solve([1], 1, 1) WHERE false"), "NULL");
        let filtered = "SELECT als_solve(f, w, 1) FILTER (WHERE w < 3)
            FROM (VALUES (1, [1], 2), (1, [9], 9), (2, [9], 9)) AS t(g, f, w) GROUP BY g ORDER BY g";
        assert_eq!(sql(filtered).unwrap(), [["[1.0]"], ["NULL"]]);
    }

    #[test]
    fn one_gram_matrix_of_a_group_is_enough() {
        let rows = "(VALUES (1, NULL), (2, [1]), (3, NULL)) AS t(w, g)";
        assert_eq!(value(&format!("SELECT als_solve([1], w, 1, 1, g) FROM {rows}")), "[1.125]");
    }

    #[test]
    fn windows_work() {
        let query = "SELECT als_solve([1], w, 1) OVER (ORDER BY w) FROM (VALUES (2), (4)) AS t(w) ORDER BY w";
        assert_eq!(sql(query).unwrap(), [["[1.0]"], ["[2.0]"]]);
    }

    #[test]
    fn errors_name_the_argument_and_the_value() {
        for (args, message) in [
            ("[1], 1, -1", "l2_reg is -1, it must be finite and not negative"),
            ("[1], 1, NULL", "l2_reg is NULL, it must be finite and not negative"),
            ("[1], 'NaN'::DOUBLE, 1", "weight is NaN, it must be finite"),
            ("[1], 1e300, 1", "weight is inf, it must be finite"),
            ("[1, NULL], 1, 1", "factors has an element that is NULL"),
            ("[1, 'NaN'::DOUBLE], 1, 1", "factors has an element that is NaN"),
            ("arrow_cast([], 'List(Float32)'), 1, 1", "factors is an empty list"),
            ("[1], 1, 1, -2, [1]", "alpha is -2, it must be finite and not negative"),
            ("[1], 1, 1, NULL, [1]", "alpha is NULL, it must be finite and not negative"),
            ("[1], 1, 1, 1, NULL", "gram is NULL in all rows of a group"),
            ("[1], 1, 1, 1, [1, 2]", "gram has 2 numbers, factors of the length 1 need 1"),
            ("[1, 2], 1, 0", "the equations of a group are singular: use a larger l2_reg"),
            ("1, 1, 1", "factors is a Int64, not a list of numbers: cast it"),
            ("[1], true, 1", "weight is a Boolean, not a number: cast it"),
            ("DISTINCT [1], 1, 1", "DISTINCT is not supported, use a subquery"),
        ] {
            let error = error(&format!("SELECT als_solve({args})"));
            assert!(error.contains(&format!("als_solve: {message}")), "{error}");
        }
        let usage = error("SELECT als_solve([1], 1, 1, 1)");
        assert!(
            usage.contains(
                "usage: als_solve(factors, weight, l2_reg[, alpha, gram]), and not with 4"
            )
        );
        let rows = |rows: &str| {
            error(&format!("SELECT als_solve(f, 1, l) FROM (VALUES {rows}) AS t(f, l)"))
        };
        assert!(rows("([1], 1), ([1], 2)").contains("als_solve: l2_reg is 1 and 2 in one group"));
        let lengths = rows("([1], 1), ([1, 2], 1)");
        assert!(
            lengths.contains("als_solve: the length of factors is 1 and 2 in one group"),
            "{lengths}"
        );
    }
}
