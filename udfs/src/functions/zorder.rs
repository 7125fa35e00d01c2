//! `zorder(value, low, high, …)`: where a row is in the Z-order of several columns.

use super::reference::{LAYOUT, Page};
use crate::zorder::{interleaved, of_float, of_signed, of_text, scaled};
use arrow::array::{Array, ArrayRef, BinaryArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::cast::{
    as_float64_array, as_int64_array, as_string_array, as_uint64_array,
};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

const NAME: &str = "zorder";

const SYNTAX: &str = "zorder(value, low, high [, value, low, high, …])";

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: LAYOUT,
        syntax: SYNTAX,
        description: "Where a row is in the Z-order of several columns, as BINARY: sorted by it, rows \
            which are near each other are near each other in all of them. `OPTIMIZE … ZORDER BY` sorts \
            by it. Each value counts by where it is between the lowest and the highest; NULL comes \
            first, NaN last.",
        arguments: &[
            (
                "value",
                "A number, text, Boolean, DATE or TIMESTAMP. Of a text, the first 8 bytes count after \
                 those which all have in common.",
            ),
            ("low", "The lowest value of the column, a constant of the same type."),
            ("high", "The highest value of the column, a constant of the same type."),
        ],
        example: "SELECT encode(zorder(1, 0, 3, 2, 0, 3), 'hex')\n-- 66666666666666666666666666666666",
    }
    .documentation()
});

/// The function `zorder`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ZOrder {
    signature: Signature,
}

impl Default for ZOrder {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ZOrder {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.is_empty() || !types.len().is_multiple_of(3) {
            return plan_err!("usage: {SYNTAX}, and not with {} arguments", types.len());
        }
        let mut wanted = Vec::with_capacity(types.len());
        for column in types.chunks(3) {
            let data_type = key_type(&column[0])?;
            wanted.extend([data_type.clone(), data_type.clone(), data_type]);
        }
        Ok(wanted)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut columns = Vec::new();
        for column in args.args.chunks(3) {
            let [value, ColumnarValue::Scalar(low), ColumnarValue::Scalar(high)] = column else {
                return exec_err!("{NAME}: low and high must be constants");
            };
            let value = value.to_array(args.number_rows)?;
            columns.push(keys(&value, low, high)?);
        }
        let rows = 0..args.number_rows;
        let row = |row: usize| {
            let keys: Vec<u64> = columns.iter().map(|column| column[row]).collect();
            interleaved(&keys)
        };
        Ok(ColumnarValue::Array(Arc::new(BinaryArray::from_iter_values(rows.map(row)))))
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

/// The type of which keys are made.
fn key_type(given: &DataType) -> Result<DataType> {
    Ok(match given {
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            DataType::UInt64
        }
        number if number.is_integer() => DataType::Int64,
        number if number.is_numeric() => DataType::Float64,
        DataType::Boolean => DataType::Int64,
        time @ (DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) => time.clone(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            DataType::Utf8
        }
        _ => {
            return plan_err!(
                "{NAME}: {given} has no order to sort by: use a number, text, Boolean, DATE or TIMESTAMP"
            );
        }
    })
}

/// The scaled keys of a column.
fn keys(values: &ArrayRef, low: &ScalarValue, high: &ScalarValue) -> Result<Vec<u64>> {
    let skipped = match (low, high) {
        (ScalarValue::Utf8(Some(low)), ScalarValue::Utf8(Some(high))) => {
            low.bytes().zip(high.bytes()).take_while(|(low, high)| low == high).count()
        }
        _ => 0,
    };
    let bound = |value: &ScalarValue| -> Result<u64> {
        let keys = unscaled(&value.to_array()?, skipped)?;
        Ok(keys.into_iter().flatten().next().unwrap_or(0))
    };
    let (low, high) = (bound(low)?, bound(high)?);
    let keys = unscaled(values, skipped)?;
    Ok(keys.into_iter().map(|key| scaled(key, low, high)).collect())
}

fn unscaled(values: &ArrayRef, skipped: usize) -> Result<Vec<Option<u64>>> {
    Ok(match values.data_type() {
        DataType::UInt64 => as_uint64_array(values)?.iter().collect(),
        DataType::Float64 => {
            as_float64_array(values)?.iter().map(|value| value.map(of_float)).collect()
        }
        DataType::Utf8 => {
            let of_text = |value: Option<&str>| value.map(|text| of_text(text, skipped));
            as_string_array(values)?.iter().map(of_text).collect()
        }
        DataType::Date32 => {
            let days = cast(&cast(values, &DataType::Int32)?, &DataType::Int64)?;
            as_int64_array(&days)?.iter().map(|value| value.map(of_signed)).collect()
        }
        _ => {
            let numbers = cast(values, &DataType::Int64)?;
            as_int64_array(&numbers)?.iter().map(|value| value.map(of_signed)).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::functions::testing::sql;

    /// The values of a column in the order of their places.
    fn ordered(values: &str, low: &str, high: &str) -> Vec<String> {
        let query =
            format!("SELECT x FROM (VALUES {values}) AS v(x) ORDER BY zorder(x, {low}, {high}), x");
        sql(&query).unwrap().into_iter().map(|mut row| row.swap_remove(0)).collect()
    }

    #[test]
    fn values_of_every_type_are_in_order() {
        assert_eq!(ordered("(3), (NULL), (-7), (0)", "-7", "3"), ["NULL", "-7", "0", "3"]);
        let floats = ordered(
            "(1.5e0), (CAST('NaN' AS DOUBLE)), (-2e0), (NULL)",
            "-2e0",
            "CAST('NaN' AS DOUBLE)",
        );
        assert_eq!(floats, ["NULL", "-2.0", "1.5", "NaN"]);
        let texts =
            "('https://example.com/b'), ('https://example.com/a'), ('https://example.com/ab')";
        let (low, high) = ("'https://example.com/a'", "'https://example.com/b'");
        let expected = ["https://example.com/a", "https://example.com/ab", "https://example.com/b"];
        assert_eq!(ordered(texts, low, high), expected);
        let days = "(DATE '2026-01-02'), (DATE '1969-12-31'), (DATE '2026-01-01')";
        let expected = ["1969-12-31", "2026-01-01", "2026-01-02"];
        assert_eq!(ordered(days, "DATE '1969-12-31'", "DATE '2026-01-02'"), expected);
        let times = "(TIMESTAMP '2026-01-02T01:00:00'), (TIMESTAMP '2026-01-02T00:00:00')";
        let (low, high) = ("TIMESTAMP '2026-01-02T00:00:00'", "TIMESTAMP '2026-01-02T01:00:00'");
        assert_eq!(ordered(times, low, high)[0], "2026-01-02T00:00:00");
        assert_eq!(ordered("(true), (false)", "false", "true"), ["false", "true"]);
    }

    #[test]
    fn columns_count_alike_whatever_their_scale() {
        // The four corners of a square whose sides differ a millionfold: each is nearer to those with
        // which it shares a side than to the one across.
        let query = "SELECT a || ',' || b FROM (VALUES (0, 0), (0, 1000000), (1, 0), (1, 1000000)) \
                     AS v(a, b) ORDER BY zorder(a, 0, 1, b, 0, 1000000)";
        let rows: Vec<_> = sql(query).unwrap().concat();
        assert_eq!(rows, ["0,0", "0,1000000", "1,0", "1,1000000"]);
    }

    #[test]
    fn what_has_no_order_is_refused() {
        for query in ["SELECT zorder([1], [1], [1])", "SELECT zorder(1, 2)"] {
            assert!(sql(query).unwrap_err().to_string().contains("zorder"), "{query}");
        }
    }
}
