//! Text to statements: DataFusion's grammar, and Nightshift's own beside it.

use super::classify::{classify, identifier};
use super::kinds::*;
use super::limits::{check_length, check_tokens};
use super::mask::mask;
use super::own::{Own, OwnError, parse_own};
use super::positions::Positions;
use crate::{JobError, Result};
use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParser, DFParserBuilder};
use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};

/// How deeply expressions and queries can be nested.
const DEEPEST: usize = 50;

/// What is said of a statement that is.
pub(super) const TOO_DEEP: &str =
    "the statement is nested too deeply: give names to its parts, in WITH";

/// Parses all statements of a text. `file` names the text in errors.
pub fn parse(file: &str, text: &str) -> Result<Vec<Located>> {
    parse_tokens(file, text, tokenize(file, text)?)
}

/// Cuts a text into words.
pub(super) fn tokenize(file: &str, text: &str) -> Result<Vec<TokenWithSpan>> {
    check_length(file, text)?;
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location();
    tokens
        .map_err(|error| syntax_error(file, &ParserError::TokenizerError(error.to_string()).into()))
}

/// Parses all statements of a text that has been cut into words.
pub(super) fn parse_tokens(
    file: &str,
    text: &str,
    tokens: Vec<TokenWithSpan>,
) -> Result<Vec<Located>> {
    let syntax = |error: DataFusionError| syntax_error(file, &error);
    check_tokens(file, &tokens)?;
    let last = tokens.iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_)));
    let end = last.map_or(Location { line: 1, column: 1 }, |token| token.span.end);
    let (tokens, mut partitions) = rewrite(tokens);
    let mut parser = DFParserBuilder::new("").build().map_err(syntax)?;
    parser.parser = Parser::new(&GenericDialect {})
        .with_recursion_limit(DEEPEST)
        .with_tokens_with_locations(tokens);
    let mut statements = Vec::new();
    let mut positions = Positions::new(text);
    loop {
        while parser.parser.consume_token(&Token::SemiColon) {}
        let first = parser.parser.peek_token();
        if first.token == Token::EOF {
            return Ok(statements);
        }
        let (line, column) = (first.span.start.line, first.span.start.column);
        let start = positions.at(first.span.start);
        let at = |source: JobError| JobError::At {
            file: file.to_string(),
            line,
            source: Box::new(source),
        };
        let mut statement = match parse_own(&mut parser.parser) {
            Ok(Some(Own::Statement(statement))) => *statement,
            Ok(Some(Own::Query(text))) => query(&text).map_err(at)?,
            Ok(None) => {
                let parsed = parser.parse_statement();
                classify(parsed.map_err(|error| syntax_at(file, &error, &parser, end))?)
                    .map_err(at)?
            }
            Err(OwnError::Syntax(error)) => {
                return Err(syntax_at(file, &error.into(), &parser, end));
            }
            Err(OwnError::Meaning(error)) => return Err(at(error)),
        };
        if let Statement::CreateTable(table) = &mut statement {
            let here = |(at, _): &(u64, _)| *at == position(line, column);
            if let Some(found) = partitions.iter().position(here) {
                table.partitioned_by = partitions.swap_remove(found).1;
            }
        }
        let next = parser.parser.peek_token();
        let end = match next.token {
            Token::EOF => text.len(),
            _ => positions.at(next.span.start),
        };
        let shown = mask(text[start..end].trim_end());
        statements.push(Located { file: file.to_string(), line, text: shown, statement });
        if !matches!(next.token, Token::SemiColon | Token::EOF) {
            let expected = parser.parser.expected::<()>("end of statement", next);
            return Err(expected.map_or_else(
                |error| syntax(error.into()),
                |()| JobError::Statement("a statement does not end".to_string()),
            ));
        }
    }
}

/// A statement that is short for a query.
fn query(text: &str) -> Result<Statement> {
    classify(
        DFParser::parse_sql(text)?
            .pop_front()
            .ok_or_else(|| JobError::Statement("there is no statement".to_string()))?,
    )
}

/// An error of the parser; one that doesn't say where it is, is where the parser has stopped.
/// That is after the last word, at `end`, if there should have been more.
fn syntax_at(
    file: &str,
    error: &DataFusionError,
    parser: &DFParser<'_>,
    end: Location,
) -> JobError {
    let next = parser.parser.peek_token();
    let stopped = if next.token == Token::EOF { end } else { next.span.start };
    let (reason, place) = reason_of(error);
    let (line, column) = place.unwrap_or((stopped.line.max(1), stopped.column.max(1)));
    JobError::Syntax { file: file.to_string(), line, column, reason }
}

/// The line and column that the parser's message ends with become those of the error.
fn syntax_error(file: &str, error: &DataFusionError) -> JobError {
    let (reason, place) = reason_of(error);
    let (line, column) = place.unwrap_or((1, 1));
    JobError::Syntax { file: file.to_string(), line, column, reason }
}

/// What the parser says, and the line and column that its message ends with, if it does.
fn reason_of(error: &DataFusionError) -> (String, Option<(u64, u64)>) {
    let inner = match error.find_root() {
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => TOO_DEEP.to_string(),
        },
        other => other.to_string(),
    };
    let place = |text: &str| {
        let (line, column) = text.split_once(", Column: ")?;
        Some((line.trim().parse().ok()?, column.trim().parse().ok()?))
    };
    match inner.split_once(" at Line: ") {
        Some((reason, position)) => (reason.to_string(), place(position)),
        None => (inner, None),
    }
}

/// A place in a text as one number.
fn position(line: u64, column: u64) -> u64 {
    (line << 32) | column
}

/// Takes out of the text what the engine's grammar has no word for: `t VERSION AS OF 3` and `t TIMESTAMP
/// AS OF '…'` become the names `t@v3` and `t@…`, and the columns of `PARTITIONED BY (…)` in `CREATE
/// TABLE` are returned with the place where their statement starts. An argument `TABLE t` becomes `(SELECT
/// * FROM t)`.
fn rewrite(tokens: Vec<TokenWithSpan>) -> (Vec<TokenWithSpan>, Vec<(u64, Vec<String>)>) {
    let tokens: Vec<_> =
        tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect();
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut partitions = Vec::new();
    let mut start = 0;
    let mut at = 0;
    let mut argument_ends = None;
    while at < tokens.len() {
        let rest = &tokens[at..];
        if argument_ends == Some(at) {
            kept.push(TokenWithSpan::new(Token::RParen, tokens[at].span));
            argument_ends = None;
        }
        if let Some((suffix, taken)) = moment(rest)
            && let Some(Token::Word(word)) = kept.last_mut().map(|last| &mut last.token)
            // RESTORE TABLE t TO VERSION AS OF 3.
            && word.keyword != Keyword::TO
        {
            let name = if word.quote_style.is_none() {
                word.value.to_lowercase()
            } else {
                word.value.clone()
            };
            *word = Word {
                value: format!("{name}@{suffix}"),
                quote_style: Some('"'),
                keyword: Keyword::NoKeyword,
            };
            at += taken;
        } else if creates_table(&kept[start..])
            && let Some((columns, taken)) = partitioned_by(rest)
        {
            let first = kept[start].span.start;
            partitions.push((position(first.line, first.column), columns));
            at += taken;
        } else if let Some(length) = table_argument(rest)
            && kept.last().is_some_and(|last| last.token == Token::Comma)
        {
            let (select, from) = (Token::make_keyword("SELECT"), Token::make_keyword("FROM"));
            let around = [Token::LParen, select, Token::Mul, from];
            kept.extend(around.map(|token| TokenWithSpan::new(token, tokens[at].span)));
            at += 1;
            argument_ends = Some(at + length);
        } else {
            if tokens[at].token == Token::SemiColon {
                start = kept.len() + 1;
            }
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    (kept, partitions)
}

/// Whether these words come next.
pub(super) fn words(tokens: &[TokenWithSpan], words: &[&str]) -> bool {
    tokens.len() >= words.len()
        && tokens.iter().zip(words).all(|(token, word)| {
            matches!(&token.token, Token::Word(w)
                if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
        })
}

/// `VERSION AS OF 3` or `TIMESTAMP AS OF '…'` as the end of a name, and how many tokens it has.
fn moment(tokens: &[TokenWithSpan]) -> Option<(String, usize)> {
    let value = tokens.get(3).map(|token| &token.token);
    match value {
        Some(Token::Number(number, _)) if words(tokens, &["version", "as", "of"]) => {
            Some((format!("v{number}"), 4))
        }
        Some(Token::SingleQuotedString(time)) if words(tokens, &["timestamp", "as", "of"]) => {
            Some((time.clone(), 4))
        }
        _ => None,
    }
}

fn creates_table(statement: &[TokenWithSpan]) -> bool {
    words(statement, &["create", "table"])
        || words(statement, &["create", "or", "replace", "table"])
}

/// How many tokens the name has in an argument `TABLE name`.
fn table_argument(tokens: &[TokenWithSpan]) -> Option<usize> {
    if !words(tokens, &["table"]) {
        return None;
    }
    let mut length = 0;
    loop {
        let Token::Word(_) = tokens.get(1 + length)?.token else { return None };
        length += 1;
        if tokens.get(1 + length)?.token != Token::Period {
            break;
        }
        length += 1;
    }
    length += moment(&tokens[1 + length..]).map_or(0, |(_, taken)| taken);
    matches!(tokens.get(1 + length)?.token, Token::Comma | Token::RParen).then_some(length)
}

/// The columns of `PARTITIONED BY (a, b)`, and how many tokens it has.
fn partitioned_by(tokens: &[TokenWithSpan]) -> Option<(Vec<String>, usize)> {
    if !words(tokens, &["partitioned", "by"]) || tokens.get(2)?.token != Token::LParen {
        return None;
    }
    let mut columns = Vec::new();
    for (index, token) in tokens.iter().enumerate().skip(3) {
        match &token.token {
            Token::Word(word) => {
                let ident = Ident {
                    value: word.value.clone(),
                    quote_style: word.quote_style,
                    span: token.span,
                };
                columns.push(identifier(&ident));
            }
            Token::Comma => {}
            Token::RParen => return Some((columns, index + 1)),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_parsed_with_their_options() {
        let text = "SELECT 1;\n\nCREATE OR REPLACE MODEL Recs.\"Als\"\n OPTIONS (model_type = \
                    'matrix_factorization', L2_REG = 0.01, seed = -3, early_stop = false)\n AS \
                    SELECT a, b FROM t;";
        let statements = parse("x.sql", text).unwrap();
        assert_eq!(statements.iter().map(|s| s.line).collect::<Vec<_>>(), [1, 3]);
        let Statement::CreateModel(model) = &statements[1].statement else { panic!() };
        assert_eq!(model.name.to_string(), "recs.Als");
        assert!(model.or_replace);
        let options: Vec<_> = model.options.iter().map(|o| (o.name.as_str(), &o.value)).collect();
        assert_eq!(options[1], ("l2_reg", &OptionValue::Number("0.01".to_string())));
        assert_eq!(options[2], ("seed", &OptionValue::Number("-3".to_string())));
        assert_eq!(options[3], ("early_stop", &OptionValue::Boolean(false)));
        assert_eq!(model.query.to_string(), "SELECT a, b FROM t");
    }

    #[test]
    fn syntax_errors_say_line_and_column() {
        for (text, line, column) in [
            ("SELECT 1;\nSELECT (1 + ) FROM t", 2, 13),
            ("CREATE MODEL a.b\nOPTION (x = 1) AS SELECT 1", 2, 1),
            ("CREATE MODEL a.b OPTIONS (x = y) AS SELECT 1", 1, 31),
            ("SELECT 1 SELECT 2", 1, 10),
            ("SELECT 'open", 1, 8),
            ("SELECT 1;\nINSERT INTO a.b VALUES (1,\n 'x' ", 3, 5),
            ("COPY a.b TO", 1, 12),
            ("VACUUM a.b RETAIN", 1, 18),
        ] {
            match parse("f.sql", text) {
                Err(JobError::Syntax { file, line: l, column: c, .. }) => {
                    assert_eq!((file.as_str(), l, c), ("f.sql", line, column), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn moments_and_partitions_are_found_in_the_text() {
        let text = "SELECT * FROM A.T VERSION AS OF 3 AS x JOIN a.\"T\" TIMESTAMP AS OF '2026-01-01' ON true;\n\
                    CREATE TABLE a.b PARTITIONED BY (Day, \"Kind\") AS SELECT 1 AS day, 2 AS \"Kind\", 3 AS n;\n\
                    CREATE TABLE a.c AS SELECT 1 AS version";
        let statements = parse("f.sql", text).unwrap();
        let names: Vec<_> =
            statements[0].reads().unwrap().tables.iter().map(|t| t.to_string()).collect();
        assert_eq!(names, ["a.T@2026-01-01", "a.t@v3"]);
        let partitions = |at: usize| match &statements[at].statement {
            Statement::CreateTable(table) => table.partitioned_by.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(partitions(1), ["day", "Kind"]);
        assert!(partitions(2).is_empty());
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let message = parse("f.sql", "TRUNCATE TABLE a.b").unwrap_err().to_string();
        assert!(message.starts_with("f.sql:1: TRUNCATE TABLE is not supported"), "{message}");
        for text in [
            "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
            "CREATE TABLE a.b (x BIGINT) AS SELECT 1 AS x",
            "CREATE TEMPORARY TABLE a.b AS SELECT 1 AS x",
            "UPDATE a.b SET x = 1 FROM a.c",
            "DELETE FROM a.b USING a.c",
            "INSERT INTO a.b VALUES (1) RETURNING x",
        ] {
            let message = parse("f.sql", text).unwrap_err().to_string();
            assert!(message.contains("is not supported"), "{text}: {message}");
        }
        let message = parse("f.sql", "\n\nCREATE MODEL system.x OPTIONS (a = 1) AS SELECT 1");
        assert!(message.unwrap_err().to_string().starts_with("f.sql:3: system.x: "));
        assert!(parse("f.sql", "CREATE TABLE t AS SELECT 1").is_err());
    }
}
