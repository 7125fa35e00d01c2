//! Numbers of things, in messages.

use std::fmt::Display;

/// `1 row`, `2 rows`.
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, one: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {one}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(0_u64, "row"), "0 rows");
        assert_eq!(counted(1_usize, "wrong row"), "1 wrong row");
        assert_eq!(counted(2_u32, "table"), "2 tables");
    }
}
