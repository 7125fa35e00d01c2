//! The reference page of the options, in Markdown.

use super::declarations::{Declared, MATRIX_FACTORIZATION, PAGERANK};
use std::fmt::Write;

/// The page.
pub fn reference() -> String {
    let mut page = String::from(
        "<!-- Generated from jobs/src/training/options; a test fails when it is stale and says how to write it \
         again. -->\n\n\
         # Options of models\n\n\
         `CREATE MODEL schema.name OPTIONS (option = value, …) AS query`. What the models are and do is on the page\n\
         [Models](models.md). Names are those of BigQuery ML where it has them. An option that a model doesn't have, a \
         value\nof another type and one out of range are errors that name the option.\n",
    );
    for (model, options) in [("matrix_factorization", MATRIX_FACTORIZATION), ("pagerank", PAGERANK)]
    {
        let _ = write!(page, "\n## {model}\n\n{}", table(options));
    }
    page
}

fn table(options: &[&dyn Declared]) -> String {
    let mut table =
        String::from("| option | values | default | meaning |\n| --- | --- | --- | --- |\n");
    for option in options {
        let _ = writeln!(table, "| {} |", option.row().join(" | "));
    }
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reference_page_of_options_is_fresh() {
        crate::reference::check("model-options.md", &super::reference());
    }
}
