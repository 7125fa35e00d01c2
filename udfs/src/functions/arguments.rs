//! What the functions share: reading their arguments, with errors that name the function, the
//! argument and the value.

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array, ListArray,
    PrimitiveArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use datafusion::common::cast::{as_float64_array, as_list_array};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::logical_expr::function::AccumulatorArgs;
use std::fmt::Display;
use std::sync::Arc;

/// Checks the number of arguments; `syntax` is the call as the reference shows it.
pub(super) fn check_count(syntax: &str, types: &[DataType], allowed: &[usize]) -> Result<()> {
    if allowed.contains(&types.len()) {
        return Ok(());
    }
    plan_err!("usage: {syntax}, and not with {} arguments", types.len())
}

/// The type that an argument is cast to that must be a number: `target`.
pub(super) fn number(
    function: &str,
    argument: &str,
    given: &DataType,
    target: DataType,
) -> Result<DataType> {
    if given.is_numeric() || given.is_null() {
        return Ok(target);
    }
    plan_err!("{function}: {argument} is a {given}, not a number: cast it")
}

/// The type that an argument is cast to that must be a whole number: `BIGINT`.
pub(super) fn integer(function: &str, argument: &str, given: &DataType) -> Result<DataType> {
    if given.is_integer() || given.is_null() {
        return Ok(DataType::Int64);
    }
    plan_err!("{function}: {argument} is a {given}, not a whole number: cast it")
}

/// The type that an argument is cast to that must be a list of numbers: a list of `element`.
pub(super) fn number_list(
    function: &str,
    argument: &str,
    given: &DataType,
    element: DataType,
) -> Result<DataType> {
    use DataType::{FixedSizeList, LargeList, List};
    match given {
        DataType::Null => Ok(list_of(element)),
        List(field) | LargeList(field) | FixedSizeList(field, _)
            if field.data_type().is_numeric() || field.data_type().is_null() =>
        {
            Ok(list_of(element))
        }
        _ => plan_err!("{function}: {argument} is a {given}, not a list of numbers: cast it"),
    }
}

/// The type of a list.
pub(super) fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element, true)))
}

/// One list.
pub(super) fn list_value(values: ArrayRef) -> Result<ScalarValue> {
    let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    Ok(ScalarValue::List(Arc::new(ListArray::try_new(field, offsets, values, None)?)))
}

/// Refuses `function(DISTINCT …)`, which would silently be computed over all rows.
pub(super) fn refuse_distinct(function: &str, args: &AccumulatorArgs) -> Result<()> {
    if args.is_distinct {
        return plan_err!("{function}: DISTINCT is not supported, use a subquery");
    }
    Ok(())
}

/// Whether a row takes part, by the filter of its aggregate.
pub(super) fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

/// The `k` of a row.
pub(super) fn positive_k(function: &str, k: Option<i64>) -> Result<i64> {
    match k {
        Some(k) if k >= 1 => Ok(k),
        Some(k) => exec_err!("{function}: k is {k}, it must be at least 1"),
        None => exec_err!("{function}: k is NULL, it must be at least 1"),
    }
}

/// Takes a value that must be the same in all rows of a group.
pub(super) fn agree<T: PartialEq + Copy + Display>(
    function: &str,
    argument: &str,
    known: &mut Option<T>,
    value: T,
) -> Result<()> {
    match known {
        Some(known) if *known != value => {
            exec_err!(
                "{function}: {argument} is {known} and {value} in one group, it must be the same \
                 in all rows"
            )
        }
        _ => {
            *known = Some(value);
            Ok(())
        }
    }
}

/// A column of lists of numbers.
pub(super) struct NumberLists<'a, T: ArrowPrimitiveType> {
    function: &'static str,
    argument: &'static str,
    lists: &'a ListArray,
    values: &'a PrimitiveArray<T>,
}

impl<'a, T: ArrowPrimitiveType<Native: Into<f64>>> NumberLists<'a, T> {
    /// The lists of a column that has been cast to the type that [`number_list`] says.
    pub(super) fn new(
        function: &'static str,
        argument: &'static str,
        column: &'a ArrayRef,
    ) -> Result<Self> {
        let lists = as_list_array(column)?;
        match lists.values().as_primitive_opt::<T>() {
            Some(values) => Ok(Self { function, argument, lists, values }),
            None => exec_err!("{function}: {argument} is a {}", lists.data_type()),
        }
    }

    /// The numbers of a row: at least one, all finite.
    pub(super) fn row(&self, row: usize) -> Result<Option<&'a [T::Native]>> {
        if self.lists.is_null(row) {
            return Ok(None);
        }
        let (function, argument) = (self.function, self.argument);
        let range =
            self.lists.value_offsets()[row] as usize..self.lists.value_offsets()[row + 1] as usize;
        if range.is_empty() {
            return exec_err!("{function}: {argument} is an empty list");
        }
        if self.values.null_count() > 0 && range.clone().any(|index| self.values.is_null(index)) {
            return exec_err!("{function}: {argument} has an element that is NULL");
        }
        let numbers = &self.values.values()[range];
        match numbers.iter().map(|value| (*value).into()).find(|value: &f64| !value.is_finite()) {
            Some(value) => exec_err!("{function}: {argument} has an element that is {value}"),
            None => Ok(Some(numbers)),
        }
    }
}

/// Evaluates a function of columns. Constant arguments have one row, and so has the result if all
/// of them are constant.
pub(super) fn of_columns(
    args: &[ColumnarValue],
    compute: impl FnOnce(&[ArrayRef]) -> Result<ArrayRef>,
) -> Result<ColumnarValue> {
    let result = compute(&ColumnarValue::values_to_arrays(args)?)?;
    if args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) {
        return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
    }
    Ok(ColumnarValue::Array(result))
}

/// Evaluates a function of `DOUBLE` columns row by row; it is NULL where any of them is.
pub(super) fn of_numbers<const N: usize>(
    args: &[ColumnarValue],
    compute: impl Fn([f64; N]) -> Result<f64>,
) -> Result<ColumnarValue> {
    of_columns(args, |columns| {
        let columns =
            columns.iter().map(|column| as_float64_array(column)).collect::<Result<Vec<_>>>()?;
        let rows = columns.first().map_or(0, |column| column.len());
        let row = |row: usize| {
            let mut numbers = [0.0; N];
            for (number, column) in numbers.iter_mut().zip(&columns) {
                if column.is_null(row) {
                    return Ok(None);
                }
                *number = column.value(row);
            }
            compute(numbers).map(Some)
        };
        let values: Float64Array = (0..rows).map(row).collect::<Result<_>>()?;
        Ok(Arc::new(values))
    })
}
