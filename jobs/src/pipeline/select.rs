//! Some of a pipeline's steps: those that somebody names, with what they need or what follows from them.

use super::Pipeline;
use crate::journal::Planned;
use crate::statement::Statement;
use crate::suggestion::did_you_mean;
use crate::{JobError, Result};
use std::collections::BTreeSet;

/// The word for checks among statements.
pub(super) const CHECK: &str = "CHECK";

impl Pipeline {
    /// The numbers of steps that are left out if only some are wanted. A step is named by what it makes, its table of
    /// bad records among it, by its file, or by its file and line, `a.sql:3`;
    /// `name+` stands for it and all that follows from it, `+name` for it and all that it needs. Checks of what is made are
    /// among them, and files that are read in place are opened all the same when one of the others reads them.
    ///
    /// # Errors
    /// A name that is none of a step.
    pub(super) fn left_out(&self, only: &[String]) -> Result<BTreeSet<usize>> {
        if only.is_empty() {
            return Ok(BTreeSet::new());
        }
        let steps = self.planned()?;
        let quarantines: Vec<Option<String>> =
            self.statements().map(|(statement, _)| statement.quarantine()).collect();
        let mut wanted = BTreeSet::new();
        for text in only {
            let (text, needed) = match text.strip_prefix('+') {
                Some(text) => (text, true),
                None => (text.as_str(), false),
            };
            let (name, following) = match text.strip_suffix('+') {
                Some(name) => (name, true),
                None => (text, false),
            };
            let named = |(at, step): &(usize, &Planned)| {
                step.name == name
                    || step.file == name
                    || step.place() == name
                    || quarantines[*at].as_deref() == Some(name)
            };
            let found: BTreeSet<usize> =
                steps.iter().enumerate().filter(named).map(|(at, _)| at).collect();
            if found.is_empty() {
                let names = steps.iter().map(|step| step.name.as_str());
                let names = names.chain(quarantines.iter().flatten().map(String::as_str));
                let hint = did_you_mean(name, names);
                let folder = self.folder().display().to_string();
                return Err(JobError::Pipeline {
                    folder,
                    reason: format!("it has no step {name}{hint}"),
                });
            }
            if following {
                let mut all = found.clone();
                for (at, step) in steps.iter().enumerate() {
                    if step.after.iter().any(|before| all.contains(before)) {
                        all.insert(at);
                    }
                }
                wanted.extend(all);
            }
            if needed {
                let mut all = found.clone();
                for (at, step) in steps.iter().enumerate().rev() {
                    if all.contains(&at) {
                        all.extend(step.after.iter().copied());
                    }
                }
                wanted.extend(all);
            }
            wanted.extend(found);
        }
        // What is made is checked before everybody sees it.
        let checks = (0..steps.len()).filter(|at| {
            steps[*at].action == CHECK && steps[*at].after.iter().any(|made| wanted.contains(made))
        });
        let checks: Vec<usize> = checks.collect();
        wanted.extend(checks);
        let in_place = |at: usize| {
            let statement = self.statements().nth(at).map(|(statement, _)| &statement.statement);
            matches!(statement, Some(Statement::CreateExternalTable(_)))
        };
        let read: Vec<usize> = (0..steps.len())
            .filter(|at| in_place(*at))
            .filter(|at| wanted.iter().any(|one| steps[*one].after.contains(at)))
            .collect();
        wanted.extend(read);
        Ok((0..steps.len()).filter(|at| !wanted.contains(at)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pipeline;

    #[test]
    fn steps_are_chosen_by_name_and_by_what_they_have_to_do_with_each_other() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("checks")).unwrap();
        for (name, text) in [
            (
                "a.sql",
                "CREATE EXTERNAL TABLE raw.a STORED AS CSV LOCATION 'a.csv' \
                 OPTIONS (quarantine 'x.refused')",
            ),
            ("b.sql", "CREATE OR REPLACE TABLE x.b AS SELECT * FROM raw.a"),
            ("c.sql", "CREATE OR REPLACE TABLE x.c AS SELECT * FROM x.b"),
            ("d.sql", "CREATE OR REPLACE TABLE x.d AS SELECT 1 AS y"),
            ("checks/k.sql", "SELECT * FROM x.c WHERE false"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let pipeline = Pipeline::read(folder.path()).unwrap();
        let names: Vec<_> = pipeline.planned().unwrap().into_iter().map(|step| step.name).collect();
        let chosen = |only: &[&str]| {
            let only: Vec<_> = only.iter().map(|name| name.to_string()).collect();
            let left_out = pipeline.left_out(&only).unwrap();
            let chosen = names.iter().enumerate().filter(|(at, _)| !left_out.contains(at));
            chosen.map(|(_, name)| name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&[]), ["raw.a", "x.b", "x.c", "x.d", "checks/k.sql"]);
        assert_eq!(chosen(&["x.b"]), ["raw.a", "x.b"]);
        assert_eq!(chosen(&["x.b+"]), ["raw.a", "x.b", "x.c", "checks/k.sql"]);
        assert_eq!(chosen(&["x.c"]), ["x.c", "checks/k.sql"]);
        assert_eq!(chosen(&["+x.c"]), ["raw.a", "x.b", "x.c", "checks/k.sql"]);
        assert_eq!(chosen(&["d.sql", "checks/k.sql"]), ["x.d", "checks/k.sql"]);
        assert_eq!(chosen(&["x.refused"]), ["raw.a"]);
        assert_eq!(chosen(&["x.refused+"]), ["raw.a", "x.b", "x.c", "checks/k.sql"]);
        let unknown = |name: &str| pipeline.left_out(&[name.to_string()]).unwrap_err().to_string();
        for (name, meant) in [("x.bb+", "x.bb; did you mean x.b?"), ("x.refsed", "x.refused?")] {
            let said = unknown(name);
            assert!(said.contains("it has no step x.") && said.contains(meant), "{said}");
        }
    }
}
