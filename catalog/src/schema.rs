//! Which columns a Delta table can hold, and how columns of other types are converted.

use crate::{CatalogError, Result};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use std::sync::Arc;

/// Characters that Parquet column names in a Delta table can't have.
const FORBIDDEN: &[char] = &[' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// The schema in which a result of `schema` is stored. Unsigned integers become signed ones,
/// timestamps microseconds in UTC, and views, dictionaries and large variants the plain types.
/// All columns are nullable.
pub fn stored(schema: &Schema) -> Result<Schema> {
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let name = field.name();
        let column = |reason: String| CatalogError::Column { column: name.clone(), reason };
        if name.is_empty() || name.contains(FORBIDDEN) {
            let reason = "a table's column needs a plain name: give it one with AS".to_string();
            return Err(column(reason));
        }
        if fields.iter().any(|other: &Field| other.name().eq_ignore_ascii_case(name)) {
            return Err(column("the name is used twice: give one of them another with AS".into()));
        }
        let data_type = stored_type(field.data_type()).map_err(column)?;
        fields.push(Field::new(name, data_type, true));
    }
    Ok(Schema::new(fields))
}

fn stored_type(data_type: &DataType) -> Result<DataType, String> {
    let list = |item: &FieldRef| -> Result<DataType, String> {
        Ok(DataType::List(Arc::new(Field::new("element", stored_type(item.data_type())?, true))))
    };
    Ok(match data_type {
        DataType::Null => return Err("NULL has no type: use CAST(NULL AS …)".to_string()),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, _) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
        }
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, value) => stored_type(value)?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => list(item)?,
        DataType::Struct(fields) => {
            let stored = |field: &FieldRef| -> Result<Field, String> {
                Ok(Field::new(field.name(), stored_type(field.data_type())?, true))
            };
            DataType::Struct(fields.iter().map(stored).collect::<Result<Fields, _>>()?)
        }
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Decimal128(_, _) => data_type.clone(),
        other => return Err(format!("a table can't hold the type {other}: cast it to another")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(field: Field) -> String {
        stored(&Schema::new(vec![field])).unwrap_err().to_string()
    }

    #[test]
    fn converts_what_delta_lacks() {
        let inner = Arc::new(Field::new("item", DataType::UInt64, false));
        let schema = Schema::new(vec![
            Field::new("a", DataType::UInt64, false),
            Field::new("b", DataType::FixedSizeList(inner, 3), false),
            Field::new("c", DataType::Timestamp(TimeUnit::Second, None), false),
        ]);
        let stored = stored(&schema).unwrap();
        assert_eq!(stored.field(0).data_type(), &DataType::Int64);
        assert!(matches!(stored.field(1).data_type(),
            DataType::List(item) if item.data_type() == &DataType::Int64));
        assert!(matches!(stored.field(2).data_type(),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC"));
    }

    #[test]
    fn names_the_column_it_refuses() {
        assert!(message(Field::new("x", DataType::Null, true)).starts_with("column x: NULL"));
        assert!(message(Field::new("count(*)", DataType::Int64, true)).contains("count(*)"));
        let time = Field::new("t", DataType::Time64(TimeUnit::Nanosecond), true);
        assert!(message(time).starts_with("column t: a table can't hold"));
    }
}
