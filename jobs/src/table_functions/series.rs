//! `generate_series` and `range` in `FROM`: the engine's own can't be sent to a cluster.

use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::datasource::ViewTable;
use datafusion::error::Result as PlanResult;
use datafusion::functions::core::expr_fn::{greatest, least};
use datafusion::functions_nested::expr_fn::{gen_series, range};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::scalar::ScalarValue;
use std::sync::Arc;

/// The functions, and whether the end belongs to the series.
pub const SERIES_FUNCTIONS: &[(&str, bool)] = &[("generate_series", true), ("range", false)];

/// The name of the column.
const VALUE: &str = "value";

/// Values of a list: a long series is a list of lists, or all of it would be in the plan and then in
/// memory.
const BLOCK: i64 = 1 << 16;

/// A function that makes the rows of a series.
#[derive(Debug)]
pub struct Series {
    /// The function's name.
    pub function: &'static str,
    /// Whether the end belongs to the series.
    pub with_end: bool,
}

impl TableFunctionImpl for Series {
    fn call_with_args(
        &self,
        args: TableFunctionArgs<'_, '_>,
    ) -> PlanResult<Arc<dyn TableProvider>> {
        let (start, end, step) = match args.exprs() {
            [end] => (lit(0_i64), end.clone(), lit(1_i64)),
            [start, end] => (start.clone(), end.clone(), lit(1_i64)),
            [start, end, step] => (start.clone(), end.clone(), step.clone()),
            _ => return plan_err!("usage: {}([start, ]end[, step])", self.function),
        };
        let blocks = match (integer(&start), integer(&end), integer(&step)) {
            (_, _, Some(0)) => return plan_err!("{}: the step can't be zero", self.function),
            (Some(start), Some(end), Some(step)) => in_blocks(start, end, step, self.with_end)?,
            _ => None,
        };
        let plan = match blocks {
            Some(plan) => plan,
            None => {
                let list = if self.with_end { gen_series } else { range };
                let row = LogicalPlanBuilder::empty(true);
                unnested(row, list(start, end, step))?
            }
        };
        Ok(Arc::new(ViewTable::new(plan, None)))
    }
}

fn integer(value: &Expr) -> Option<i64> {
    match value {
        Expr::Literal(value, _) => match value.cast_to(&arrow::datatypes::DataType::Int64).ok()? {
            ScalarValue::Int64(integer) if value.data_type().is_integer() => integer,
            _ => None,
        },
        _ => None,
    }
}

fn unnested(rows: LogicalPlanBuilder, list: Expr) -> PlanResult<LogicalPlan> {
    rows.project([list.alias(VALUE)])?.unnest_column(VALUE)?.build()
}

/// The series as lists of its blocks; `None` if it is short, or too close to the largest integers.
fn in_blocks(start: i64, end: i64, step: i64, with_end: bool) -> PlanResult<Option<LogicalPlan>> {
    let distance = (i128::from(end) - i128::from(start)) * i128::from(step.signum());
    let distance = if with_end { distance } else { distance - 1 };
    if distance < 0 {
        return Ok(None);
    }
    let values = distance / i128::from(step.unsigned_abs()) + 1;
    let last = i128::from(start) + (values - 1) * i128::from(step);
    let between = i128::from(BLOCK) * i128::from(step);
    let beyond = i64::try_from(last + between).is_err();
    let (Ok(last), Ok(between), Ok(values)) =
        (i64::try_from(last), i64::try_from(between), i64::try_from(values))
    else {
        return Ok(None);
    };
    if values <= BLOCK || beyond {
        return Ok(None);
    }
    let blocks = LogicalPlanBuilder::empty(true);
    let blocks = unnested(blocks, gen_series(lit(0_i64), lit((values - 1) / BLOCK), lit(1_i64)))?;
    let first = lit(start) + col(VALUE) * lit(between);
    let end = first.clone() + lit(between - step);
    let end = if step > 0 { least(vec![end, lit(last)]) } else { greatest(vec![end, lit(last)]) };
    Ok(Some(unnested(LogicalPlanBuilder::from(blocks), gen_series(first, end, lit(step)))?))
}
