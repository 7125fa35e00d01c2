//! `tf_idf(…)`: how much a term says about a document.

use super::arguments::{check_count, number, of_numbers};
use super::reference::{Page, TEXT};
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::LazyLock;

const NAME: &str = "tf_idf";

const SYNTAX: &str = "tf_idf(term_frequency, document_frequency, documents)";

const ARGUMENTS: [&str; 3] = ["term_frequency", "document_frequency", "documents"];

static DOCUMENTATION: LazyLock<Documentation> = LazyLock::new(|| {
    Page {
        section: TEXT,
        syntax: SYNTAX,
        description: "The weight `term_frequency · ln(documents / document_frequency)` of a term in a document: \
            the raw frequency and the unsmoothed idf of Manning, Raghavan and Schütze, \"Introduction to \
            Information Retrieval\" (2008), section 6.2, with the natural logarithm. DOUBLE. A term that all \
            documents have weighs 0. NaN, infinite and negative arguments are errors.",
        arguments: &[
            ("term_frequency", "Occurrences of the term in the document. For 0 the weight is 0."),
            (
                "document_frequency",
                "Documents that have the term, at most `documents`; 0 is an error unless \
                 `term_frequency` is 0 too.",
            ),
            ("documents", "Documents in the collection."),
        ],
        example: "SELECT round(tf_idf(2, 10, 1000), 6)\n-- 9.21034",
    }
    .documentation()
});

/// The function `tf_idf`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TfIdf {
    signature: Signature,
}

impl Default for TfIdf {
    fn default() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TfIdf {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        check_count(SYNTAX, types, &[3])?;
        let arguments = ARGUMENTS.iter().zip(types);
        arguments.map(|(name, given)| number(NAME, name, given, DataType::Float64)).collect()
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        of_numbers(&args.args, tf_idf)
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&DOCUMENTATION)
    }
}

fn tf_idf(numbers: [f64; 3]) -> Result<f64> {
    for (name, value) in ARGUMENTS.iter().zip(numbers) {
        if !(value >= 0.0 && value.is_finite()) {
            return exec_err!("{NAME}: {name} is {value}, it must be finite and not negative");
        }
    }
    let [term, containing, documents] = numbers;
    if containing > documents {
        return exec_err!(
            "{NAME}: document_frequency is {containing}, more than the {documents} documents"
        );
    }
    if term == 0.0 {
        return Ok(0.0);
    }
    if containing == 0.0 {
        return exec_err!("{NAME}: document_frequency is 0 for a term that occurs");
    }
    Ok(term * (documents / containing).ln())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, number, value};

    #[test]
    fn known_values() {
        assert!((number("SELECT tf_idf(3, 2, 8)") - 3.0 * 4f64.ln()).abs() < 1e-12);
        assert_eq!(number("SELECT tf_idf(3, 8, 8)"), 0.0);
        assert_eq!(number("SELECT tf_idf(0, 0, 8)"), 0.0);
        assert_eq!(value("SELECT tf_idf(3, NULL, 8)"), "NULL");
    }

    #[test]
    fn errors_name_the_argument_and_the_value() {
        for (args, message) in [
            ("1, 0, 8", "tf_idf: document_frequency is 0 for a term that occurs"),
            ("1, 9, 8", "tf_idf: document_frequency is 9, more than the 8 documents"),
            ("'inf'::DOUBLE, 1, 8", "tf_idf: term_frequency is inf, it must be finite"),
            ("1, 1, true", "tf_idf: documents is a Boolean, not a number: cast it"),
            ("1, 1", "usage: tf_idf(term_frequency, document_frequency, documents)"),
        ] {
            let error = error(&format!("SELECT tf_idf({args})"));
            assert!(error.contains(message), "{error}");
        }
    }
}
