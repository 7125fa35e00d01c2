//! What comments of a pipeline's files say about the statement after them: `-- severity: warn` before a check, and
//! `-- incremental: partition event_date` before a table.

use super::parameters::Value;
use super::settings::Settings;
use crate::JobError;
use crate::statement::{CreateTable, Located, Slice, Statement};
use chrono::TimeDelta;
use datafusion::common::utils::datafusion_strsim::levenshtein;
use std::collections::BTreeMap;

/// The words that comments begin with which say something.
const WORDS: [&str; 2] = ["severity", "incremental"];

/// How many letters of one of them can be wrong, if what follows could be meant: any other comment is just a comment.
const MOST_WRONG: usize = 2;

/// What is told besides statements of the files of a pipeline.
pub(super) struct Directives<'a> {
    pub(super) settings: &'a Settings,
    /// What is in the places of parameters.
    pub(super) values: &'a BTreeMap<String, Value>,
}

impl Directives<'_> {
    /// Does to the statements of a file what its comments say. Returns the lines of checks that only warn.
    pub(super) fn apply(
        &self,
        file: &str,
        text: &str,
        check: bool,
        statements: &mut [Located],
        mistakes: &mut Vec<JobError>,
    ) -> Vec<u64> {
        let mut warnings = Vec::new();
        for Directive { line, key, meant, value } in directives(text) {
            if key != meant {
                let reason = format!("there is no `-- {key}:`; did you mean {meant}?");
                let source = Box::new(JobError::Statement(reason));
                mistakes.push(JobError::At { file: file.to_string(), line, source });
                continue;
            }
            let within = |one: &Located| (one.line..=one.last_line()).contains(&line);
            if statements.iter().any(within) {
                let reason = format!("`-- {key}:` stands before a statement, and not within one");
                let source = Box::new(JobError::Statement(reason));
                mistakes.push(JobError::At { file: file.to_string(), line, source });
                continue;
            }
            // One before a statement that could not be parsed is about nothing.
            let Some(statement) = statements.iter_mut().find(|one| one.line > line) else {
                continue;
            };
            let done = match (key, check) {
                ("severity", true) => match value {
                    "warn" => {
                        warnings.push(statement.line);
                        Ok(())
                    }
                    "error" => Ok(()),
                    _ => Err(format!("the severity of a check is error or warn, not '{value}'")),
                },
                ("severity", false) => Err("only a check has a severity".to_string()),
                (_, true) => Err("a check makes no table that could be incremental".to_string()),
                (_, false) => self.make_incremental(statement, value),
            };
            if let Err(reason) = done {
                let source = Box::new(JobError::Statement(reason));
                mistakes.push(JobError::At { file: file.to_string(), line, source });
            }
        }
        warnings
    }

    /// Lets a table be made anew only where its partitions are of the run's interval.
    fn make_incremental(&self, statement: &mut Located, value: &str) -> Result<(), String> {
        let Some(column) = value.strip_prefix("partition ").map(str::trim) else {
            return Err(format!(
                "'{value}' is not how a table is incremental: write partition, and a column"
            ));
        };
        let Statement::CreateTable(CreateTable {
            or_replace, query, partitioned_by, slice, ..
        }) = &mut statement.statement
        else {
            return Err("what is incremental is a CREATE OR REPLACE TABLE … AS".to_string());
        };
        if !*or_replace || query.is_none() {
            return Err("what is incremental is a CREATE OR REPLACE TABLE … AS".to_string());
        }
        if !partitioned_by.iter().any(|other| other == column) {
            return Err(format!("the table is not PARTITIONED BY ({column})"));
        }
        let (Some(Value::Timestamp(start)), Some(Value::Timestamp(end))) =
            (self.values.get("interval_start"), self.values.get("interval_end"))
        else {
            return Err("the run has no interval".to_string());
        };
        let last = (*end - TimeDelta::microseconds(1)).max(*start);
        *slice = Some(Slice {
            column: column.to_string(),
            first: self.settings.date(*start),
            last: self.settings.date(last),
        });
        Ok(())
    }
}

/// A comment that says something, or is meant to.
struct Directive<'a> {
    /// Its line, from 1.
    line: u64,
    /// The word that it begins with.
    key: &'a str,
    /// The word that somebody has meant.
    meant: &'static str,
    /// What comes after the word.
    value: &'a str,
}

/// The comments that say something, or nearly do.
fn directives(text: &str) -> impl Iterator<Item = Directive<'_>> {
    (1..).zip(text.lines()).filter_map(|(line, text)| {
        let (key, value) = text.trim().strip_prefix("--")?.split_once(':')?;
        let (key, value) = (key.trim(), value.trim());
        Some(Directive { line, key, meant: meant(key, value)?, value })
    })
}

/// The directive that a word is, or that somebody may have meant by it who has put that after it.
fn meant(word: &str, value: &str) -> Option<&'static str> {
    if let Some(known) = WORDS.into_iter().find(|known| *known == word) {
        return Some(known);
    }
    let is_near = |known: &&str| levenshtein(known, &word.to_ascii_lowercase()) <= MOST_WRONG;
    let fits = |known: &&str| match *known {
        "severity" => ["warn", "error"].contains(&value),
        _ => value.starts_with("partition "),
    };
    WORDS.into_iter().find(|known| is_near(known) && fits(known))
}

#[cfg(test)]
mod tests {
    use super::super::{Draft, Given, Source};
    use crate::statement::Statement;
    use chrono::NaiveDate;
    use std::collections::BTreeMap;

    fn draft(files: &[(&str, &str)], day: &str) -> Draft {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("checks")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let source = Source::read(folder.path()).unwrap();
        Draft::of(source, &Given::Day(Some(day.parse().unwrap()), BTreeMap::new())).unwrap()
    }

    #[test]
    fn comments_say_how_statements_count() {
        let table = "CREATE OR REPLACE TABLE x.a PARTITIONED BY (day) AS SELECT 1 AS y, \
                     DATE '2026-01-01' AS day";
        let both = format!(
            "{table};\n-- A note.\n-- incremental: partition day\n{}",
            table.replace("x.a", "x.b")
        );
        let check = "SELECT 1;\n-- severity: warn\nSELECT 2;\n-- severity: error\nSELECT 3";
        let draft = draft(&[("a.sql", &both), ("checks/k.sql", check)], "2026-02-03");
        assert!(draft.mistakes.is_empty(), "{:?}", draft.mistakes);
        let slice = |at: usize| match &draft.pipeline.files[0].statements[at].statement {
            Statement::CreateTable(table) => table.slice.clone(),
            _ => None,
        };
        assert_eq!(slice(0), None);
        let day = NaiveDate::from_ymd_opt(2026, 2, 3).unwrap();
        assert_eq!(slice(1).map(|slice| (slice.first, slice.last)), Some((day, day)));
        let warns: Vec<_> = draft.pipeline.checks[0]
            .statements
            .iter()
            .map(|check| draft.pipeline.only_warns(check))
            .collect();
        assert_eq!(warns, [false, true, false]);
    }

    #[test]
    fn they_stand_before_statements() {
        let check = "SELECT 1\n-- severity: warn\nWHERE 1 > 0;\nSELECT 2";
        let table = ("a.sql", "CREATE TABLE x.a AS SELECT 1 AS y");
        let draft = draft(&[table, ("checks/k.sql", check)], "2026-02-03");
        let said: Vec<_> = draft.mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("k.sql:2: `-- severity:` stands before a statement"), "{said:?}");
    }

    #[test]
    fn misspelt_ones_are_no_comments() {
        let table = "-- increment: partition day\n-- Incremental: partition day\n-- increase: by the day\n\
                     -- in all: 3\n-- security: none\n-- Severity: high\n-- increments: 5\n--\tincremental partition day\nCREATE TABLE x.a AS SELECT 1 AS y\n\
                     -- severity\n";
        let check = "-- severty : warn\nSELECT 1;\n-- sevrety: warn";
        let draft = draft(&[("a.sql", table), ("checks/k.sql", check)], "2026-02-03");
        let said: Vec<_> = draft.mistakes.iter().map(ToString::to_string).collect();
        let expected = [
            "a.sql:1: there is no `-- increment:`; did you mean incremental?",
            "a.sql:2: there is no `-- Incremental:`; did you mean incremental?",
            "checks/k.sql:1: there is no `-- severty:`; did you mean severity?",
            "checks/k.sql:3: there is no `-- sevrety:`; did you mean severity?",
        ];
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.ends_with(expected), "{said}");
        }
    }

    #[test]
    fn what_they_can_not_say_is_refused() {
        let text = "-- severity: warn\nCREATE TABLE x.a AS SELECT 1 AS y;\n\
                    -- incremental: partition y\nCREATE TABLE x.b AS SELECT 1 AS y;\n\
                    -- incremental: partition z\n\
                    CREATE OR REPLACE TABLE x.c PARTITIONED BY (y) AS SELECT 1 AS y, 2 AS z;\n\
                    -- incremental: day\nINSERT INTO x.d SELECT 1";
        let check = "-- severity: bad\nSELECT 1;\n-- incremental: partition y\nSELECT 2";
        let draft = draft(&[("a.sql", text), ("checks/k.sql", check)], "2026-02-03");
        let said: Vec<_> = draft.mistakes.iter().map(ToString::to_string).collect();
        let expected = [
            "a.sql:1: only a check has a severity",
            "a.sql:3: what is incremental is a CREATE OR REPLACE TABLE",
            "a.sql:5: the table is not PARTITIONED BY (z)",
            "a.sql:7: 'day' is not how a table is incremental",
            "checks/k.sql:1: the severity of a check is error or warn, not 'bad'",
            "checks/k.sql:3: a check makes no table",
        ];
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.contains(expected), "{said}");
        }
    }
}
