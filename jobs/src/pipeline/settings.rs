//! `pipeline.toml`.

use crate::JobError;
use serde::Deserialize;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, Deserializer, Error};

/// What is said of a pipeline besides its statements.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The pipeline's name; that of its folder if it is missing.
    pub name: Option<String>,
    /// Files that must be there before it runs, relative to the folder.
    #[serde(default)]
    pub inputs: Vec<PathBuf>,
    /// A program in the folder that provides the inputs, run when one of them is missing.
    pub fetch: Option<PathBuf>,
}

impl Settings {
    /// Reads the text of a file, and says everything that is wrong in it; `file` is its name in errors.
    pub(super) fn parse(file: &str, text: &str) -> (Self, Vec<JobError>) {
        let (whole, errors) = DeTable::parse_recoverable(text);
        let mut errors: Vec<(Option<usize>, Error)> =
            errors.into_iter().map(|error| (None, error)).collect();
        let of = |table| Self::deserialize(Deserializer::from(Spanned::new(whole.span(), table)));
        let broken = !errors.is_empty();
        // One setting after another, so that each is refused by itself, and the others count.
        let mut good = DeTable::new();
        for (key, value) in whole.get_ref() {
            let one: DeTable<'_> = [(key.clone(), value.clone())].into_iter().collect();
            match of(one) {
                Ok(_) => drop(good.insert(key.clone(), value.clone())),
                // What is broken off can't be read either.
                Err(_) if broken => {}
                Err(error) => errors.push((Some(key.span().start), error)),
            }
        }
        let settings = of(good).unwrap_or_else(|error| {
            errors.push((None, error));
            Self::default()
        });
        let mistakes = errors.into_iter().map(|(key, error)| {
            let at = error.span().map(|span| span.start).or(key).unwrap_or(0);
            let (line, column) = position(text, at);
            let reason = error.message().to_string();
            JobError::Syntax { file: file.to_string(), line, column, reason }
        });
        (settings, mistakes.collect())
    }
}

/// Line and column, from 1, of a byte of a text.
fn position(text: &str, at: usize) -> (u64, u64) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() as u64 + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) as u64 + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_said() {
        let (settings, mistakes) =
            Settings::parse("p.toml", "name = 'p'\ninputs = ['a.csv']\nfetch = 'get'\n");
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let inputs = vec![PathBuf::from("a.csv")];
        let fetch = Some(PathBuf::from("get"));
        assert_eq!(settings, Settings { name: Some("p".to_string()), inputs, fetch });

        let said = |text: &str| -> Vec<String> {
            Settings::parse("p.toml", text).1.iter().map(ToString::to_string).collect()
        };
        let text = "nam = 'p'\n\nfetch = true\n  inputs = ['a', 2]\nname = 'q'";
        let mut wrong = said(text);
        let good = Settings { name: Some("q".to_string()), ..Settings::default() };
        assert_eq!(Settings::parse("p.toml", text).0, good);
        wrong.sort();
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(wrong[0].starts_with("p.toml:1:1: unknown field `nam`"), "{}", wrong[0]);
        assert!(wrong[1].starts_with("p.toml:3:9: invalid type: boolean `true`"), "{}", wrong[1]);
        assert!(wrong[2].starts_with("p.toml:4:18: invalid type: integer `2`"), "{}", wrong[2]);
        let wrong = said("name = 'p\nfetch = 'é' x\n");
        assert!(wrong.iter().any(|mistake| mistake.starts_with("p.toml:1:")), "{wrong:?}");
        assert!(wrong.iter().any(|mistake| mistake.starts_with("p.toml:2:13")), "{wrong:?}");
    }
}
