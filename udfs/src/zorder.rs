//! The Z-order of rows: by the bits of several columns' keys in turn, so that rows which are near each
//! other in it are near each other in all of the columns.

/// A key between those of the lowest and the highest value, as a part of all 64 bits. Without a value,
/// for NULL, it is less than all others.
pub fn scaled(key: Option<u64>, low: u64, high: u64) -> u64 {
    let Some(key) = key else { return 0 };
    let (key, span) = (key.clamp(low, high.max(low)) - low, high.saturating_sub(low));
    if span == 0 {
        return 1;
    }
    let part = u128::from(key) * u128::from(u64::MAX - 1) / u128::from(span);
    // At most `u64::MAX - 1`, since the key is at most the span.
    part as u64 + 1
}

/// The bits of the keys in turn, the highest first: the first bit of the first key, the first of the
/// second, and so on. Compared as bytes, it is the Z-order.
pub fn interleaved(keys: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0u8; keys.len() * 8];
    let mut at = 0;
    for bit in (0..64).rev() {
        for key in keys {
            if (key >> bit) & 1 == 1 {
                bytes[at / 8] |= 0x80 >> (at % 8);
            }
            at += 1;
        }
    }
    bytes
}

/// The key of a signed number, in the same order.
pub fn of_signed(value: i64) -> u64 {
    (value as u64) ^ (1 << 63)
}

/// The key of a floating-point number, in the same order; NaN is greater than all others, and both
/// zeros are the same.
pub fn of_float(value: f64) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    // -0.0 becomes 0.0.
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

/// The key of a text, whose first `skipped` bytes are those of all others: the eight after them.
pub fn of_text(text: &str, skipped: usize) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(text.as_bytes().iter().skip(skipped)) {
        *to = *from;
    }
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_come_back(keys in prop::collection::vec(any::<u64>(), 1..6)) {
            let bytes = interleaved(&keys);
            let mut back = vec![0u64; keys.len()];
            for at in 0..bytes.len() * 8 {
                let bit = (bytes[at / 8] >> (7 - at % 8)) & 1;
                let key = &mut back[at % keys.len()];
                *key = (*key << 1) | u64::from(bit);
            }
            prop_assert_eq!(back, keys);
        }

        #[test]
        fn what_is_less_in_all_columns_comes_first(
            rows in prop::collection::vec((any::<u64>(), any::<u64>()), 1..5)
        ) {
            let low: Vec<u64> = rows.iter().map(|(a, b)| *a.min(b)).collect();
            let high: Vec<u64> = rows.iter().map(|(a, b)| *a.max(b)).collect();
            prop_assert!(interleaved(&low) <= interleaved(&high));
        }

        #[test]
        fn keys_are_in_the_order_of_values(a: i64, b: i64, x: f64, y: f64, s: String, t: String) {
            prop_assert_eq!(of_signed(a).cmp(&of_signed(b)), a.cmp(&b));
            if let Some(order) = x.partial_cmp(&y) {
                prop_assert_eq!(of_float(x).cmp(&of_float(y)), order);
            }
            if s <= t {
                prop_assert!(of_text(&s, 0) <= of_text(&t, 0));
            }
        }

        #[test]
        fn scaling_keeps_the_order(mut keys: [u64; 4]) {
            keys.sort();
            let [low, a, b, high] = keys;
            prop_assert!(scaled(Some(a), low, high) <= scaled(Some(b), low, high));
            prop_assert!(scaled(None, low, high) < scaled(Some(low), low, high));
            if low < high {
                prop_assert_eq!(scaled(Some(low), low, high), 1);
                prop_assert_eq!(scaled(Some(high), low, high), u64::MAX);
            }
        }
    }
}
