//! Texts as statements and commands: what is wrong is said before the first of them is executed.

use super::input::{Part, parts};
use crate::Failure;
use nightshift_jobs::statement::{Parameters, split};
use std::collections::{BTreeSet, HashMap};

/// Fails if a statement of a text can't be parsed, or if a parameter has no value, or one that nothing
/// asks for. Where there are commands, only when they are executed is known what parameters there are.
pub fn check(name: &str, text: &str, parameters: &Parameters) -> Result<(), Failure> {
    let mut statements = Vec::new();
    for part in parts(text) {
        match part {
            Part::Sql(text) => statements.extend(split(name, &text)?),
            Part::Command(_) => return Ok(()),
        }
    }
    let used: BTreeSet<&str> =
        statements.iter().flat_map(|statement| statement.parameters()).collect();
    if let Some(unknown) = parameters.keys().find(|name| !used.contains(name.as_str())) {
        let used: Vec<_> = used.iter().map(|name| format!("${name}")).collect();
        let used = if used.is_empty() { "none".to_string() } else { used.join(", ") };
        return Err(format!("no statement has the parameter ${unknown}; there are: {used}").into());
    }
    for statement in &statements {
        statement.bind(parameters, &HashMap::new())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_checked_before_anything_is_done() {
        let check = |text: &str, given: &[(&str, &str)]| {
            let given = given.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            check("f.sql", text, &given.collect()).map_err(|error| error.to_string())
        };
        assert_eq!(check("SELECT $a; SELECT $b", &[("a", "1"), ("b", "x")]), Ok(()));
        let error = check("SELECT 1;\nSELECT $b", &[]).unwrap_err();
        assert_eq!(error, "f.sql:2: the parameter $b has no value");
        let error = check("SELECT $a", &[("a", "1"), ("c", "1")]).unwrap_err();
        assert_eq!(error, "no statement has the parameter $c; there are: $a");
        assert!(check("SELECT 1;\nSELECT 1 +", &[]).unwrap_err().starts_with("f.sql:2:"));
        assert_eq!(check("\\set a 1\nSELECT $a", &[]), Ok(()));
    }
}
