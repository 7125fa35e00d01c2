//! `bm25(…)`: how well a document matches a term.

use super::arguments::{check_count, number, of_numbers};
use super::reference::{Page, TEXT};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::LazyLock;

const NAME: &str = "bm25";

const SYNTAX: &str =
    "bm25(term_frequency, document_frequency, documents, document_length, average_length[, k1, b])";

const ARGUMENTS: [&str; 7] = [
    "term_frequency",
    "document_frequency",
    "documents",
    "document_length",
    "average_length",
    "k1",
    "b",
];

/// Saturation of the term frequency, and strength of the normalization by length, where the call
/// doesn't say: the middle of what Robertson and Zaragoza recommend.
const K1: f64 = 1.2;
const B: f64 = 0.75;

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: TEXT,
        syntax: SYNTAX,
        description: "The Okapi BM25 score of a term in a document, `idf · tf · (k1 + 1) / (tf + k1 · (1 - b + b · \
            document_length / average_length))`, after Robertson and Zaragoza, \"The Probabilistic \
            Relevance Framework: BM25 and Beyond\" (2009). Its idf is Lucene's, `ln(1 + (documents - \
            document_frequency + 0.5) / (document_frequency + 0.5))`, which is never negative. DOUBLE. The \
            score of a query is the `sum` over its terms. NaN, infinite and negative arguments are errors.",
        arguments: &[
            ("term_frequency", "Occurrences of the term in the document. For 0 the score is 0."),
            ("document_frequency", "Documents that have the term, at most `documents`."),
            ("documents", "Documents in the collection."),
            ("document_length", "Terms in the document."),
            ("average_length", "Mean of the documents' lengths, positive."),
            ("k1", "How late repetitions stop to count: 1.2 if it is not given."),
            ("b", "How much long documents are discounted, from 0 to 1: 0.75 if it is not given."),
        ],
        example: "SELECT round(bm25(2, 10, 1000, 120, 100), 6)\n-- 5.932683",
    }
    .documentation()
});

/// The function `bm25`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Bm25 {
    signature: Signature,
}

impl Default for Bm25 {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Bm25 {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(SYNTAX, types, &[5, 6, 7])?;
        let arguments = ARGUMENTS.iter().zip(types);
        arguments.map(|(name, given)| number(NAME, name, given, DataType::Float64)).collect()
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut args = args.args;
        for default in [K1, B].iter().skip(args.len() - 5) {
            args.push(ColumnarValue::Scalar(ScalarValue::from(*default)));
        }
        of_numbers(&args, bm25)
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

fn bm25(numbers: [f64; 7]) -> Result<f64> {
    for (name, value) in ARGUMENTS.iter().zip(numbers) {
        if !(value >= 0.0 && value.is_finite()) {
            return exec_err!("{NAME}: {name} is {value}, it must be finite and not negative");
        }
    }
    let [term, containing, documents, length, average, k1, b] = numbers;
    if containing > documents {
        return exec_err!(
            "{NAME}: document_frequency is {containing}, more than the {documents} documents"
        );
    }
    if average == 0.0 {
        return exec_err!("{NAME}: average_length is 0, it must be positive");
    }
    if b > 1.0 {
        return exec_err!("{NAME}: b is {b}, it must be from 0 to 1");
    }
    if term == 0.0 {
        return Ok(0.0);
    }
    let idf = ((documents - containing + 0.5) / (containing + 0.5)).ln_1p();
    Ok(idf * term * (k1 + 1.0) / (term + k1 * (1.0 - b + b * length / average)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, number, value};
    use super::bm25;
    use proptest::prelude::*;

    proptest! {
        /// The properties that define it: no negative score, more for more occurrences but less than
        /// idf · (k1 + 1), less for longer documents and for more frequent terms.
        #[test]
        fn grows_and_saturates(
            term in 1f64..50.0, containing in 0f64..1000.0, length in 1f64..500.0,
            k1 in 0f64..3.0, b in 0f64..1.0,
        ) {
            let score = |term, containing, length| {
                bm25([term, containing, 1000.0, length, 100.0, k1, b]).unwrap()
            };
            let base = score(term, containing, length);
            let limit = (1.0f64 + (1000.5 - containing) / (containing + 0.5)).ln() * (k1 + 1.0);
            prop_assert!(base >= 0.0 && base <= limit * (1.0 + 1e-12));
            prop_assert!(score(term + 1.0, containing, length) >= base * (1.0 - 1e-12));
            prop_assert!(score(term, containing, length + 10.0) <= base * (1.0 + 1e-12));
            prop_assert!(score(term, (containing + 1.0).min(1000.0), length) <= base * (1.0 + 1e-12));
        }
    }

    #[test]
    fn known_values() {
        // ln(1 + 2.5 / 1.5) · 1 · 2.2 / (1 + 1.2): a document of average length.
        let idf = (1.0f64 + 2.5 / 1.5).ln();
        assert!((number("SELECT bm25(1, 1, 3, 10, 10)") - idf).abs() < 1e-12);
        let longer = idf * 3.0 * 2.2 / (3.0 + 1.2 * (0.25 + 0.75 * 2.0));
        assert!((number("SELECT bm25(3, 1, 3, 20, 10)") - longer).abs() < 1e-12);
        let other = idf * 3.0 * 3.0 / (3.0 + 2.0 * (0.5 + 0.5 * 2.0));
        assert!((number("SELECT bm25(3, 1, 3, 20, 10, 2, 0.5)") - other).abs() < 1e-12);
        assert_eq!(
            number("SELECT bm25(3, 1, 3, 20, 10, 2)"),
            number("SELECT bm25(3, 1, 3, 20, 10, 2, 0.75)")
        );
        assert_eq!(number("SELECT bm25(0, 0, 0, 0, 1, 0, 0)"), 0.0);
    }

    #[test]
    fn null_gives_null() {
        assert_eq!(value("SELECT bm25(NULL, 1, 3, 10, 10)"), "NULL");
        assert_eq!(value("SELECT bm25(1, 1, 3, 10, 10, NULL)"), "NULL");
    }

    #[test]
    fn errors_name_the_argument_and_the_value() {
        for (args, message) in [
            ("-1, 1, 3, 10, 10", "bm25: term_frequency is -1, it must be finite and not negative"),
            ("1, 4, 3, 10, 10", "bm25: document_frequency is 4, more than the 3 documents"),
            ("1, 1, 3, 10, 0", "bm25: average_length is 0, it must be positive"),
            ("1, 1, 3, 'NaN'::DOUBLE, 10", "bm25: document_length is NaN, it must be finite"),
            ("1, 1, 3, 10, 10, -2", "bm25: k1 is -2, it must be finite and not negative"),
            ("1, 1, 3, 10, 10, 1, 1.5", "bm25: b is 1.5, it must be from 0 to 1"),
            ("'a', 1, 3, 10, 10", "bm25: term_frequency is a Utf8, not a number: cast it"),
            ("1, 1, 3", "usage: bm25(term_frequency, document_frequency, documents"),
        ] {
            let error = error(&format!("SELECT bm25({args})"));
            assert!(error.contains(message), "{error}");
        }
    }
}
