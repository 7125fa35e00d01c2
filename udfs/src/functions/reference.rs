//! The documentation of the functions: data, of which the reference page is made.

use super::{aggregate_functions, scalar_functions};
use datafusion::logical_expr::{DocSection, Documentation};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Sections of the page, in the order of their names.
pub(super) const FACTORIZATION: &str = "Matrix factorization";
pub(super) const LAYOUT: &str = "Layout of tables";
pub(super) const PRIVACY: &str = "Privacy";
pub(super) const RANKING: &str = "Ranking and its quality";
pub(super) const TEXT: &str = "Text";
pub(super) const TIME: &str = "Time";

/// A function as the page shows it. The lines of `example` that are comments are the rows that the
/// query before them returns, with `|` between columns; a test runs them.
pub(super) struct Page {
    pub(super) section: &'static str,
    pub(super) syntax: &'static str,
    pub(super) description: &'static str,
    pub(super) arguments: &'static [(&'static str, &'static str)],
    pub(super) example: &'static str,
}

impl Page {
    /// The same in the engine's form.
    pub(super) fn documentation(self) -> Documentation {
        let section = DocSection { include: true, label: self.section, description: None };
        let mut builder = Documentation::builder(section, self.description, self.syntax)
            .with_sql_example(self.example);
        for (name, description) in self.arguments {
            builder = builder.with_argument(*name, *description);
        }
        builder.build()
    }
}

/// The reference page of all functions, in Markdown: those of this crate, and `table` functions, which
/// are made elsewhere, by name.
pub fn reference(table: &[(&str, Documentation)]) -> String {
    let scalar = scalar_functions();
    let aggregate = aggregate_functions();
    let scalar = scalar.iter().map(|f| (f.name(), "Scalar", f.documentation()));
    let aggregate = aggregate.iter().map(|f| (f.name(), "Aggregate", f.documentation()));
    let table = table.iter().map(|(name, documentation)| (*name, "Table", Some(documentation)));
    let mut sections: BTreeMap<&str, BTreeMap<&str, (&str, &Documentation)>> = BTreeMap::new();
    let functions: Vec<_> = scalar.chain(aggregate).chain(table).collect();
    for (name, kind, documentation) in &functions {
        if let Some(documentation) = documentation {
            let section = sections.entry(documentation.doc_section.label).or_default();
            section.insert(name, (kind, documentation));
        }
    }
    let mut page = String::from(
        "<!-- Generated from udfs/src/functions and jobs/src/table_functions; a test fails when it is \
         stale and says how to write it again. -->\n\n\
         # Functions\n\n\
         Besides [DataFusion's functions](https://datafusion.apache.org/user-guide/sql/), every \
         query can use these. Scalar\nfunctions are NULL when an argument is; aggregate functions \
         are NULL for a group without a row that counts.\nNone of the aggregates takes DISTINCT. \
         The comments below an example are the rows that it returns.\n\n\
         Table functions stand in FROM. Where one takes a table or a query, it is written `TABLE schema.name`, \
         `(SELECT …)`,\nor either of them as a text, `'schema.name'` or `'(SELECT …)'`.\n",
    );
    for (section, functions) in sections {
        let _ = write!(page, "\n## {section}\n");
        for (name, (kind, documentation)) in functions {
            let _ = write!(page, "\n### {name}\n\n");
            let _ = write!(page, "    {}\n\n", documentation.syntax_example);
            let _ = writeln!(page, "{kind} function. {}", documentation.description);
            page.push_str("\n| argument | meaning |\n| --- | --- |\n");
            for (argument, meaning) in documentation.arguments.iter().flatten() {
                let _ = writeln!(page, "| `{argument}` | {meaning} |");
            }
            if let Some(example) = &documentation.sql_example {
                let _ = write!(page, "\n```sql\n{}\n```\n", example.trim());
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::testing::sql;

    #[test]
    fn every_function_is_on_the_page() {
        let page = reference(&[]);
        let names = scalar_functions().iter().map(|f| f.name().to_string()).collect::<Vec<_>>();
        let more = aggregate_functions().iter().map(|f| f.name().to_string()).collect::<Vec<_>>();
        for name in names.iter().chain(&more) {
            assert!(page.contains(&format!("### {name}\n")), "{name}");
        }
    }

    #[test]
    fn examples_return_what_they_say() {
        let scalar = scalar_functions();
        let aggregate = aggregate_functions();
        let examples = scalar
            .iter()
            .map(|f| f.documentation().unwrap())
            .chain(aggregate.iter().map(|f| f.documentation().unwrap()))
            .map(|documentation| documentation.sql_example.clone().unwrap());
        for example in examples {
            let (comments, query): (Vec<&str>, Vec<&str>) =
                example.trim().lines().partition(|line| line.starts_with("--"));
            if comments.is_empty() {
                continue;
            }
            let expected: Vec<String> =
                comments.iter().map(|line| line.trim_start_matches("--").trim().into()).collect();
            let rows = sql(&query.join("\n")).unwrap();
            let actual: Vec<String> = rows.iter().map(|row| row.join(" | ")).collect();
            assert_eq!(actual, expected, "{example}");
        }
    }
}
