//! What the line editor asks for: whether what is typed is complete, what it could go on with, and how
//! it looks.

use super::completion::{Candidates, complete};
use super::input::{is_complete, offset, tokenize};
use super::names::Names;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Whitespace};
use rustyline::Context;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hint, Hinter};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

/// What is shown in a line that goes on with a statement.
const GOES_ON: &str = "-- goes on until ;";

/// How long a text can be that is coloured with every key: more would be felt.
const COLOURED: usize = 10_000;

/// Answers the line editor.
pub struct Helper {
    names: Arc<RwLock<Names>>,
    files: FilenameCompleter,
}

impl Helper {
    /// Completes with names that others find out.
    pub fn new(names: Arc<RwLock<Names>>) -> Self {
        Self { names, files: FilenameCompleter::new() }
    }
}

impl rustyline::Helper for Helper {}

impl Validator for Helper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Helper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        match complete(line, cursor, &names) {
            Candidates::File => self.files.complete_path(line, cursor),
            Candidates::Words(start, words) => {
                let pair = |word: String| Pair { display: word.clone(), replacement: word };
                Ok((start, words.into_iter().map(pair).collect()))
            }
        }
    }
}

/// Says that a statement goes on, and is never part of it.
pub struct GoesOn;

impl Hint for GoesOn {
    fn display(&self) -> &str {
        GOES_ON
    }

    fn completion(&self) -> Option<&str> {
        None
    }
}

impl Hinter for Helper {
    type Hint = GoesOn;

    fn hint(&self, line: &str, cursor: usize, _: &Context<'_>) -> Option<GoesOn> {
        let begins = line.ends_with('\n') && cursor == line.len();
        (begins && !is_complete(line)).then_some(GoesOn)
    }
}

impl Highlighter for Helper {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        match line.len() > COLOURED {
            true => Cow::Borrowed(line),
            false => Cow::Owned(coloured(line)),
        }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        kind != CmdKind::MoveCursor
    }
}

/// Keywords in bold type, texts in green, comments faint. What can't be told yet is plain.
fn coloured(line: &str) -> String {
    let mut tokens = Vec::new();
    // A text that is not closed yet is what comes after the tokens.
    let _ = tokenize(line, &mut tokens);
    let mut shown = String::with_capacity(line.len() + 32);
    let mut done = 0;
    for token in &tokens {
        let colour = match &token.token {
            Token::Word(word) if word.keyword != Keyword::NoKeyword => "1",
            Token::SingleQuotedString(_) | Token::DollarQuotedString(_) => "32",
            Token::Whitespace(
                Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_),
            ) => "2",
            _ => continue,
        };
        let (start, end) = (offset(line, token.span.start), offset(line, token.span.end));
        shown.push_str(&line[done..start]);
        shown.push_str(&format!("\x1b[{colour}m{}\x1b[0m", &line[start..end]));
        done = end;
    }
    shown.push_str(&line[done..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_change_nothing_else() {
        let line = "select 'é;', \"from\" -- x\nfrom t where 'open";
        let shown = coloured(line);
        assert_eq!(
            shown,
            "\x1b[1mselect\x1b[0m \x1b[32m'é;'\x1b[0m, \"from\" \x1b[2m-- x\n\x1b[0m\x1b[1mfrom\x1b[0m t \
             \x1b[1mwhere\x1b[0m 'open"
        );
        let mut plain = shown;
        for code in ["\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, line);
    }
}
