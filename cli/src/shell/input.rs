//! What has been typed: whether it is complete, and which statements and commands it consists of.
//!
//! The engine's tokenizer says what is a string, a comment or the end of a statement.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// A part of a text.
#[derive(Debug, PartialEq)]
pub enum Part {
    /// Statements. Empty lines before them stand for what came before, so that errors say the right one.
    Sql(String),
    /// A command, from its backslash to the end of the line.
    Command(String),
}

/// Cuts a text into statements and commands.
pub fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.trim().is_empty() {
        let trimmed = rest.trim_start();
        if trimmed.starts_with('\\') {
            let (line, after) = trimmed.split_once('\n').unwrap_or((trimmed, ""));
            parts.push(Part::Command(line.trim_end().to_string()));
            rest = after;
        } else {
            let end = command(rest).unwrap_or(rest.len());
            let before = text[..text.len() - rest.len()].matches('\n').count();
            parts.push(Part::Sql(format!("{}{}", "\n".repeat(before), &rest[..end])));
            rest = &rest[end..];
        }
    }
    parts
}

/// Whether a text needs no more lines: all its strings and comments are closed, and its last statement
/// ends with a semicolon, or it ends with a command.
pub fn is_complete(text: &str) -> bool {
    let Some(Part::Sql(text)) = parts(text).pop() else { return true };
    let mut tokens = Vec::new();
    if let Err(error) = tokenize(&text, &mut tokens) {
        // What no further line can mend is complete: it gets an error.
        return !["Unterminated", "EOF"].iter().any(|sign| error.contains(sign));
    }
    ends(&tokens)
}

/// Whether the last of some tokens ends a statement, or there are none.
fn ends(tokens: &[TokenWithSpan]) -> bool {
    let mut last = tokens.iter().rev().map(|token| &token.token);
    let last = last.find(|token| !matches!(token, Token::Whitespace(_)));
    matches!(last, None | Some(Token::SemiColon))
}

/// Whether statements lack the semicolon at their end.
pub fn is_open(text: &str) -> bool {
    let mut tokens = Vec::new();
    tokenize(text, &mut tokens).is_ok() && !ends(&tokens)
}

/// The tokens of a text; if it can't be tokenized, those before the place where it can't.
pub fn tokenize(text: &str, tokens: &mut Vec<TokenWithSpan>) -> Result<(), String> {
    let mut tokenizer = Tokenizer::new(&GenericDialect {}, text);
    tokenizer.tokenize_with_location_into_buf(tokens).map_err(|error| error.to_string())
}

/// Where the first command of a text begins.
fn command(text: &str) -> Option<usize> {
    let mut tokens = Vec::new();
    // What comes after the command is no SQL, and may look like a string that is not closed.
    let _ = tokenize(text, &mut tokens);
    let found = tokens.iter().find(|token| token.token == Token::Backslash)?;
    Some(offset(text, found.span.start))
}

/// Where a place of a text is, in bytes.
pub fn offset(text: &str, place: Location) -> usize {
    let mut lines = text.split_inclusive('\n');
    let above = lines.by_ref().take(place.line.saturating_sub(1) as usize);
    let before: usize = above.map(str::len).sum();
    let line = lines.next().unwrap_or_default();
    let column = place.column.saturating_sub(1) as usize;
    before + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_with_a_semicolon_that_is_one() {
        for text in [
            "SELECT 1;",
            "SELECT 1; -- done",
            "SELECT ';' /* ; */ ;\n\n",
            "SELECT $$ ' $$;",
            "",
            "  \n",
            "-- only a comment",
            "\\d",
            "\\i it's.sql",
            "SELECT 1 \\watch 2",
            "SELECT 1; \\i it's.sql",
            "SELECT x'zz' \u{1};",
        ] {
            assert!(is_complete(text), "{text}");
        }
        for text in [
            "SELECT 1",
            "SELECT 1; SELECT 2",
            "SELECT ';",
            "SELECT \";",
            "SELECT 1 -- ;",
            "SELECT /* ;",
            "SELECT $$ ;",
            "SELECT $tag$ ; $$ ;",
            "SELECT '\\watch",
            "\\timing\nSELECT 1",
        ] {
            assert!(!is_complete(text), "{text}");
        }
    }

    #[test]
    fn commands_are_told_from_statements() {
        let sql = |text: &str| Part::Sql(text.to_string());
        let command = |text: &str| Part::Command(text.to_string());
        assert_eq!(parts("SELECT '\\d';"), [sql("SELECT '\\d';")]);
        assert_eq!(
            parts("\\timing on\nSELECT 'é',\n 1; \\watch 2\n\\d 'x\n\nSELECT 3;"),
            [
                command("\\timing on"),
                sql("\nSELECT 'é',\n 1; "),
                command("\\watch 2"),
                command("\\d 'x"),
                sql("\n\n\n\n\nSELECT 3;"),
            ]
        );
        assert!(is_open("SELECT 1 ") && !is_open("SELECT 1; "));
    }
}
