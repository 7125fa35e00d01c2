//! Ids of any type as keys whose order is that of the ids.

use super::damaged;
use crate::superstep::layout::numbers_to_bytes;
use crate::{JobError, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, GenericByteArray, Int64Array, StringArray,
    new_empty_array,
};
use arrow::compute::cast;
use arrow::datatypes::{ByteArrayType, DataType, Int64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use nightshift_catalog::storage::Storage;
use nightshift_udfs::dictionary::{Numbers, StringEncoder, Strings, encode_numbers};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// The type of a column of ids, in a form that travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdType(String);

impl IdType {
    /// The form of a type.
    pub fn new(data_type: &DataType) -> Self {
        Self(data_type.to_string())
    }

    /// The type.
    pub fn data_type(&self) -> Result<DataType> {
        Ok(self.0.parse()?)
    }

    /// Whether keys of this type are numbers.
    pub(super) fn is_number(&self) -> Result<bool> {
        Ok(is_number(&self.data_type()?))
    }
}

fn is_number(data_type: &DataType) -> bool {
    use DataType::{Int8, Int16, Int32, Int64};
    matches!(data_type, Int8 | Int16 | Int32 | Int64)
}

/// Keys in order, each of them once.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Keys {
    Numbers(Numbers),
    Strings(Strings),
}

impl Keys {
    /// A form of which [`Self::read`] reads some.
    pub(super) fn to_bytes(&self) -> Bytes {
        match self {
            Keys::Numbers(numbers) => numbers_to_bytes(numbers.to_vec()),
            Keys::Strings(strings) => strings.to_bytes().into(),
        }
    }

    /// A form that is read as a whole, and smaller.
    pub(super) fn to_dictionary(&self) -> Bytes {
        match self {
            Keys::Numbers(numbers) => numbers.to_bytes().into(),
            Keys::Strings(strings) => strings.to_bytes().into(),
        }
    }

    pub(super) fn from_dictionary(bytes: &[u8], numbers: bool) -> Option<Self> {
        match numbers {
            true => Numbers::from_bytes(bytes).map(Keys::Numbers),
            false => Strings::from_bytes(bytes).map(Keys::Strings),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Keys::Numbers(numbers) => numbers.len(),
            Keys::Strings(strings) => strings.len(),
        }
    }

    /// Reads some of the keys in an object.
    pub(super) async fn read(
        folder: &Storage,
        name: &str,
        range: Range<u64>,
        numbers: bool,
    ) -> Result<Self> {
        let wrong = || damaged(name.to_string());
        if numbers {
            let bytes = range.start * 8..range.end * 8;
            let bytes = folder.get_ranges(name, &[bytes]).await?.pop().ok_or_else(wrong)?;
            let (numbers, rest) = bytes.as_chunks();
            let numbers: Vec<i64> = numbers.iter().map(|key| i64::from_le_bytes(*key)).collect();
            return rest.is_empty().then(|| Keys::Numbers(numbers.into())).ok_or_else(wrong);
        }
        let head = Strings::head(range.clone());
        let head = folder.get_ranges(name, &head).await?;
        let (ends, bytes) = Strings::ends(range, &head).ok_or_else(wrong)?;
        let bytes = folder.get_ranges(name, &[bytes]).await?.pop().ok_or_else(wrong)?;
        Strings::from_parts(ends, &bytes).map(Keys::Strings).ok_or_else(wrong)
    }

    /// The ids.
    pub(super) fn to_array(&self, id_type: &IdType) -> Result<ArrayRef> {
        let data_type = id_type.data_type()?;
        let array: ArrayRef = match (self, &data_type) {
            (Keys::Numbers(numbers), _) => Arc::new(Int64Array::from(numbers.to_vec())),
            (Keys::Strings(strings), _) if strings.is_empty() => new_empty_array(&data_type),
            (Keys::Strings(strings), DataType::Utf8) => {
                let texts = strings.iter().map(|text| std::str::from_utf8(text).map(Some));
                let texts = texts.collect::<Result<StringArray, _>>();
                Arc::new(texts.map_err(|error| ArrowError::ExternalError(Box::new(error)))?)
            }
            (Keys::Strings(strings), DataType::Binary) => {
                Arc::new(BinaryArray::from_iter_values(strings.iter()))
            }
            (Keys::Strings(strings), _) => {
                let converter = RowConverter::new(vec![SortField::new(data_type.clone())])?;
                let parser = converter.parser();
                let rows = strings.iter().map(|row| parser.parse(row));
                Arc::clone(&converter.convert_rows(rows)?[0])
            }
        };
        Ok(cast(&array, &data_type)?)
    }
}

fn push_bytes<T: ByteArrayType<Offset = i32>>(
    encoder: &mut StringEncoder,
    ids: &GenericByteArray<T>,
) {
    let [start, ends @ ..] = ids.value_offsets() else { return };
    encoder.extend(ids.value_data(), *start as usize, ends.iter().map(|end| *end as usize));
}

/// Encodes a column of ids, none of which is NULL.
pub(super) enum IdEncoder {
    Numbers(Vec<i64>),
    Strings(StringEncoder),
    Rows(Box<RowConverter>, StringEncoder),
}

impl IdEncoder {
    /// An encoder for at most so many ids at a time.
    pub(super) fn new(data_type: &DataType, most: usize) -> Result<Self> {
        Ok(match data_type {
            number if is_number(number) => IdEncoder::Numbers(Vec::with_capacity(most)),
            DataType::Utf8 | DataType::Binary => IdEncoder::Strings(StringEncoder::default()),
            other => {
                let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
                IdEncoder::Rows(Box::new(converter), StringEncoder::default())
            }
        })
    }

    pub(super) fn push(&mut self, ids: &ArrayRef) -> Result<()> {
        if ids.null_count() > 0 {
            let reason = "there is a NULL among ids that are encoded".to_string();
            return Err(JobError::Damaged { what: "the training data".to_string(), reason });
        }
        match self {
            IdEncoder::Numbers(numbers) => {
                let ids = cast(ids, &DataType::Int64)?;
                numbers.extend_from_slice(ids.as_primitive::<Int64Type>().values());
            }
            IdEncoder::Strings(encoder) => match ids.data_type() {
                DataType::Utf8 => push_bytes(encoder, ids.as_string::<i32>()),
                _ => push_bytes(encoder, ids.as_binary::<i32>()),
            },
            IdEncoder::Rows(converter, encoder) => {
                let rows = converter.convert_columns(&[Arc::clone(ids)])?;
                rows.iter().for_each(|row| encoder.push(row.as_ref()));
            }
        }
        Ok(())
    }

    /// Bytes that it takes in memory.
    pub(super) fn size(&self) -> usize {
        match self {
            IdEncoder::Numbers(numbers) => numbers.len() * 8,
            IdEncoder::Strings(encoder) | IdEncoder::Rows(_, encoder) => encoder.size(),
        }
    }

    /// The different ids. The place of each id among them is appended to `codes`. The encoder is empty then.
    pub(super) fn finish(&mut self, codes: &mut Vec<u32>) -> Keys {
        match self {
            IdEncoder::Numbers(numbers) => {
                let keys = encode_numbers(numbers, codes);
                numbers.clear();
                Keys::Numbers(keys)
            }
            IdEncoder::Strings(encoder) | IdEncoder::Rows(_, encoder) => {
                let (keys, of_strings) = std::mem::take(encoder).finish();
                codes.extend(of_strings);
                Keys::Strings(keys)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, Int16Array, TimestampMicrosecondArray,
    };
    use arrow::compute::{sort, take};

    #[test]
    fn ids_of_every_type_come_back_in_order() {
        let texts =
            ["b", "", "ä", "b", "a", "aa", "thirteen byte", "thirteen byte", "more than 15 bytes"];
        let numbers = [3, -1, 0, 3, i64::from(i16::MAX), i64::from(i16::MIN)];
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(numbers.to_vec())),
            Arc::new(Int16Array::from_iter_values(numbers.iter().map(|n| *n as i16))),
            Arc::new(StringArray::from(texts.to_vec())),
            Arc::new(BinaryArray::from_iter_values(texts)),
            Arc::new(BooleanArray::from(vec![true, false, true])),
            Arc::new(Date32Array::from_iter_values(numbers.iter().map(|n| *n as i32))),
            Arc::new(TimestampMicrosecondArray::from(numbers.to_vec()).with_timezone("UTC")),
            Arc::new(
                Decimal128Array::from_iter_values(numbers.iter().map(|n| i128::from(*n)))
                    .with_precision_and_scale(20, 3)
                    .unwrap(),
            ),
        ];
        for array in arrays {
            let id_type = IdType::new(array.data_type());
            assert_eq!(id_type.data_type().unwrap(), *array.data_type());
            let mut encoder = IdEncoder::new(array.data_type(), 3).unwrap();
            encoder.push(&array.slice(0, 2)).unwrap();
            encoder.push(&array.slice(2, array.len() - 2)).unwrap();
            let mut codes = Vec::new();
            let keys = encoder.finish(&mut codes);
            let numeric = id_type.is_number().unwrap();
            let dictionary = keys.to_dictionary();
            assert_eq!(Keys::from_dictionary(&dictionary, numeric), Some(keys.clone()));
            let ids = keys.to_array(&id_type).unwrap();
            assert_eq!(&sort(&ids, None).unwrap(), &ids, "{ids:?}");
            let codes = arrow::array::UInt32Array::from(codes);
            assert_eq!(&take(&ids, &codes, None).unwrap(), &array);
        }
    }
}
