//! A text cut into statements that are not parsed yet, so that each can get values for its parameters
//! first: `$name`, and a value that is given as text.
//!
//! A value takes the place of a word of the statement. It is never part of its text, so whatever is in
//! it, it stays one value.

use super::kinds::Located;
use super::parse::{parse_tokens, tokenize};
use super::{CreateModel, CreateTable, CreateView, Delete, Insert, Statement, Update};
use crate::{JobError, Result};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{self, Expr, TableAlias, Value};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};
use nightshift_catalog::warehouse::Name;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Values of parameters by name, without the `$`.
pub type Parameters = BTreeMap<String, String>;

/// A statement that is not parsed yet.
#[derive(Debug, Clone)]
pub struct Unparsed {
    file: String,
    /// The whole text, which the places of the tokens are in.
    text: Arc<str>,
    tokens: Vec<TokenWithSpan>,
}

/// Cuts a text into statements. `file` names the text in errors.
///
/// # Errors
///
/// If a string or a comment isn't closed, or a parameter has no name.
pub fn split(file: &str, text: &str) -> Result<Vec<Unparsed>> {
    let whole: Arc<str> = Arc::from(text);
    let unparsed = |tokens| Unparsed { file: file.to_string(), text: Arc::clone(&whole), tokens };
    let mut statements = Vec::new();
    let mut tokens = Vec::new();
    for token in tokenize(file, text)? {
        match token.token {
            Token::Whitespace(_) => continue,
            // `${name}`, or a dollar sign by itself.
            Token::Placeholder(name) if name == "$" => {
                return Err(JobError::Syntax {
                    file: file.to_string(),
                    line: token.span.start.line,
                    column: token.span.start.column,
                    reason: "a parameter is written $name".to_string(),
                });
            }
            Token::SemiColon if tokens.is_empty() => continue,
            Token::SemiColon => {
                // The parser names it as what it found when it expected more.
                tokens.push(token);
                statements.push(unparsed(std::mem::take(&mut tokens)));
            }
            _ => tokens.push(token),
        }
    }
    if !tokens.is_empty() {
        statements.push(unparsed(tokens));
    }
    Ok(statements)
}

impl Unparsed {
    /// The names of its parameters, without the `$`.
    pub fn parameters(&self) -> BTreeSet<&str> {
        self.tokens.iter().filter_map(|token| parameter(&token.token)).collect()
    }

    /// What it begins to create, as `schema.name`, even if the rest can't be parsed.
    pub fn creates(&self) -> Vec<String> {
        self.name().into_iter().chain(self.quarantine()).collect()
    }

    /// The table of bad records that files in place are to have.
    fn quarantine(&self) -> Option<String> {
        let text = |token: &Token| match token {
            Token::SingleQuotedString(text) => Some(text.clone()),
            Token::Word(word) => Some(word.value.clone()),
            _ => None,
        };
        let pairs = self.tokens.windows(2);
        let mut named = pairs.filter(|pair| {
            text(&pair[0].token).is_some_and(|name| name.eq_ignore_ascii_case("quarantine"))
        });
        named.find_map(|pair| match &pair[1].token {
            Token::SingleQuotedString(name) => Some(name.to_lowercase()),
            _ => None,
        })
    }

    /// The table, view or model of its first words.
    fn name(&self) -> Option<String> {
        let mut words = self.tokens.iter().map(|token| &token.token).peekable();
        let mut take = |word: &str| {
            let is_word = |token: &&Token| matches!(token, Token::Word(found) if found.value.eq_ignore_ascii_case(word));
            words.next_if(is_word).is_some()
        };
        if !take("create") {
            return None;
        }
        let _ = take("or") && take("replace");
        let _ = take("external");
        if !["table", "view", "model"].into_iter().any(&mut take) {
            return None;
        }
        let _ = take("if") && take("not") && take("exists");
        let name = |token: Option<&Token>| match token {
            Some(Token::Word(Word { value, quote_style: None, .. })) => Some(value.to_lowercase()),
            Some(Token::Word(Word { value, .. })) => Some(value.clone()),
            _ => None,
        };
        let schema = name(words.next())?;
        words.next_if(|token| **token == Token::Period)?;
        Some(format!("{schema}.{}", name(words.next())?))
    }

    /// Parses it with its parameters left open.
    pub fn parse(&self) -> Result<Located> {
        self.parse_tokens(self.tokens.clone())
    }

    /// Parses it with values in the places of its parameters. A value whose parameter has no type in
    /// `types`, which are by name with the `$`, is a number if it is written like one, and a text if
    /// not.
    ///
    /// # Errors
    ///
    /// If a parameter has no value, or one that isn't of its type.
    pub fn bind(
        &self,
        values: &Parameters,
        types: &HashMap<String, Option<DataType>>,
    ) -> Result<Located> {
        let mut tokens: Vec<TokenWithSpan> = Vec::with_capacity(self.tokens.len());
        for token in &self.tokens {
            let Some(name) = parameter(&token.token) else {
                tokens.push(token.clone());
                continue;
            };
            let value = values.get(name).ok_or_else(|| {
                self.error(token.span, format!("the parameter ${name} has no value"))
            })?;
            let kind = types.get(&format!("${name}")).and_then(Option::as_ref);
            let literal = literal(value, kind).map_err(|expected| {
                self.error(
                    token.span,
                    format!("the parameter ${name} is '{value}': not {expected}"),
                )
            })?;
            // What two signs in a row begin is a comment, should the statement be written out.
            let signs = tokens.last().is_some_and(|last| last.token == Token::Minus);
            let around = |token: Token| signs.then_some(token);
            let literal = around(Token::LParen).into_iter().chain(literal);
            let literal = literal.chain(around(Token::RParen));
            tokens.extend(literal.map(|value| TokenWithSpan { token: value, span: token.span }));
        }
        self.parse_tokens(tokens)
    }

    /// The query within the statement, as one of its own: what the types of parameters are found out
    /// with. `None` if there is none, or if the statement can't be parsed with its parameters open.
    pub(crate) fn query(&self) -> Option<Located> {
        let mut located = self.parse().ok()?;
        let query = match located.statement {
            Statement::Query(_) => return Some(located),
            Statement::CreateTable(CreateTable { query: Some(query), .. })
            | Statement::CreateView(CreateView { query, .. })
            | Statement::CreateModel(CreateModel { query, .. })
            | Statement::Insert(Insert { source: query, .. }) => query,
            Statement::Delete(Delete { table, alias, condition }) => {
                return comparison(&table, alias, condition.iter().map(Expr::to_string));
            }
            Statement::Update(Update { table, alias, assignments, condition }) => {
                let assigned =
                    assignments.iter().map(|(column, value)| format!("\"{column}\" = {value}"));
                let conditions = condition.iter().map(Expr::to_string).chain(assigned);
                return comparison(&table, alias, conditions);
            }
            _ => return None,
        };
        let query = EngineStatement::Statement(Box::new(ast::Statement::Query(query)));
        located.statement = Statement::Query(query);
        Some(located)
    }

    fn parse_tokens(&self, tokens: Vec<TokenWithSpan>) -> Result<Located> {
        let parsed = parse_tokens(&self.file, &self.text, tokens)?.pop();
        parsed.ok_or_else(|| JobError::Statement("there is no statement".to_string()))
    }

    fn error(&self, span: Span, reason: String) -> JobError {
        let source = Box::new(JobError::Statement(reason));
        JobError::At { file: self.file.clone(), line: span.start.line, source }
    }
}

/// A query that compares a table's columns as a statement does.
fn comparison(
    table: &Name,
    alias: Option<TableAlias>,
    conditions: impl Iterator<Item = String>,
) -> Option<Located> {
    let alias = alias.map(|alias| format!(" {alias}")).unwrap_or_default();
    let conditions: Vec<_> = conditions.map(|condition| format!("({condition})")).collect();
    let conditions = conditions.join(" AND ");
    let (schema, name) = (&table.schema, &table.name);
    let text = format!("SELECT 1 FROM \"{schema}\".\"{name}\"{alias} WHERE {conditions}");
    super::parse("", &text).ok()?.pop()
}

/// The name of the parameter that a word is.
fn parameter(token: &Token) -> Option<&str> {
    match token {
        Token::Placeholder(name) => name.strip_prefix('$'),
        _ => None,
    }
}

/// A value as words of a statement; what it should have been if it isn't of the type.
fn literal(value: &str, kind: Option<&DataType>) -> Result<Vec<Token>, String> {
    let Some(kind) = kind else {
        return Ok(match is_number(value) {
            true => vec![Token::Number(value.to_string(), false)],
            false => text(value),
        });
    };
    let typed = || ScalarValue::try_from_string(value.trim().to_string(), kind);
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
            Ok(text(value))
        }
        kind if kind.is_integer() => match typed() {
            Ok(typed) if !typed.is_null() => Ok(vec![Token::Number(typed.to_string(), false)]),
            _ => Err("a whole number of this size".to_string()),
        },
        kind => match typed() {
            Ok(typed) if !typed.is_null() => {
                let name = Word {
                    value: "arrow_cast".to_string(),
                    quote_style: None,
                    keyword: datafusion::sql::sqlparser::keywords::Keyword::NoKeyword,
                };
                let mut tokens = vec![Token::Word(name), Token::LParen];
                tokens.extend(text(value.trim()));
                let kind = Token::SingleQuotedString(kind.to_string());
                tokens.extend([Token::Comma, kind, Token::RParen]);
                Ok(tokens)
            }
            _ => Err(format!("a {kind}")),
        },
    }
}

/// Whether a value is a number that is printed as it is written: 007 and 1e3 are not.
fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    all_digits(whole) && all_digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

/// A text as words. Some statements are written out and parsed again: the parser's own way to write a
/// text takes some quotation marks for ones that are marked already, so a text with such marks is put
/// together from parts without them.
fn text(value: &str) -> Vec<Token> {
    let quoted = format!("'{}'", value.replace('\'', "''"));
    if Value::SingleQuotedString(value.to_string()).to_string() == quoted {
        return vec![Token::SingleQuotedString(value.to_string())];
    }
    let mark =
        [Token::StringConcat, Token::SingleQuotedString("'".to_string()), Token::StringConcat];
    let mut tokens = vec![Token::LParen];
    for (index, part) in value.split('\'').enumerate() {
        if index > 0 {
            tokens.extend(mark.clone());
        }
        tokens.push(Token::SingleQuotedString(part.to_string()));
    }
    tokens.push(Token::RParen);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Unparsed {
        split("f.sql", text).unwrap().pop().unwrap()
    }

    fn values(values: &[(&str, &str)]) -> Parameters {
        values.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn bound(text: &str, given: &[(&str, &str)], kind: Option<DataType>) -> String {
        let types = given.iter().map(|(name, _)| (format!("${name}"), kind.clone())).collect();
        match one(text).bind(&values(given), &types).unwrap().statement {
            Statement::Query(query) => query.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn statements_end_where_the_engine_says() {
        let text = "SELECT ';' -- ;\n, \";\" /* ; */;;\n\nSELECT $$;$$, $t$;$t$; -- the end;\n ";
        let statements = split("f.sql", text).unwrap();
        let lines: Vec<_> = statements.iter().map(|s| s.parse().unwrap().line).collect();
        assert_eq!(lines, [1, 4]);
        assert!(split("f.sql", " ; -- nothing\n").unwrap().is_empty());
        // Errors are where they are in the whole text.
        let statements = split("f.sql", "SELECT 1;\nSELECT (1 + ) FROM t; SELECT 3").unwrap();
        let error = statements[1].parse().unwrap_err().to_string();
        assert!(error.starts_with("f.sql:2:13: "), "{error}");
        let error = one("SELECT 1 SELECT 2").parse().unwrap_err().to_string();
        assert!(error.starts_with("f.sql:1:10: "), "{error}");
        let error = split("f.sql", "SELECT\n 'open").unwrap_err().to_string();
        assert!(error.starts_with("f.sql:2:2: "), "{error}");
        let error = split("f.sql", "SELECT ${date}").unwrap_err().to_string();
        assert!(error.starts_with("f.sql:1:8: a parameter is written $name"), "{error}");
    }

    #[test]
    fn parameters_are_found_where_they_are() {
        let text = "SELECT $a, '$b', \"$c\", $$ $d $$ /* $e */ FROM t WHERE x = $f AND y = $a";
        assert_eq!(one(text).parameters().into_iter().collect::<Vec<_>>(), ["a", "f"]);
        let error = one("SELECT 1\n, $n").bind(&values(&[("m", "1")]), &HashMap::new());
        assert_eq!(error.unwrap_err().to_string(), "f.sql:2: the parameter $n has no value");
    }

    #[test]
    fn values_have_the_type_that_is_known_or_the_one_they_look_like() {
        let sql = "SELECT $v";
        for (value, expected) in [
            ("5", "SELECT 5"),
            ("-0.5", "SELECT -0.5"),
            ("007", "SELECT '007'"),
            ("1e3", "SELECT '1e3'"),
            ("", "SELECT ''"),
            ("2026-01-01", "SELECT '2026-01-01'"),
        ] {
            assert_eq!(bound(sql, &[("v", value)], None), expected);
        }
        assert_eq!(bound(sql, &[("v", "5")], Some(DataType::Utf8View)), "SELECT '5'");
        assert_eq!(bound(sql, &[("v", " 5 ")], Some(DataType::Int64)), "SELECT 5");
        assert_eq!(
            bound(sql, &[("v", "2026-01-01")], Some(DataType::Date32)),
            "SELECT arrow_cast('2026-01-01', 'Date32')"
        );
        assert_eq!(bound("SELECT 1 -$v", &[("v", "-5")], None), "SELECT 1 - (-5)");
        for (value, kind) in [
            ("5.5", DataType::Int64),
            ("300", DataType::Int8),
            ("tomorrow", DataType::Date32),
            ("5; DROP TABLE t", DataType::Int64),
        ] {
            let types = HashMap::from([("$v".to_string(), Some(kind))]);
            let error = one(sql).bind(&values(&[("v", value)]), &types).unwrap_err().to_string();
            let expected = format!("f.sql:1: the parameter $v is '{value}': not a ");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn a_value_stays_one_value_even_if_the_statement_is_written_out() {
        for value in [
            "it's",
            "'; DROP TABLE a.b; --",
            "\\' OR true --",
            "''",
            "a''b",
            "\\\\'",
            "'\\''x",
            "$v",
        ] {
            let written = bound("SELECT $v", &[("v", value)], None);
            let query = parse_again(&written);
            // Parsed again, it is one expression of texts whose sum is the value.
            assert_eq!(query, value, "{written}");
        }
    }

    /// The text that the only column of a query is.
    fn parse_again(query: &str) -> String {
        let mut tokens = tokenize("f.sql", query).unwrap().into_iter().map(|token| token.token);
        let mut found = String::new();
        let Some(Token::Word(select)) = tokens.next() else { panic!("{query}") };
        assert_eq!(select.value, "SELECT");
        for token in tokens {
            match token {
                Token::SingleQuotedString(part) => found.push_str(&part),
                Token::StringConcat | Token::LParen | Token::RParen | Token::Whitespace(_) => {}
                other => panic!("{query}: {other}"),
            }
        }
        assert!(super::super::parse("f.sql", query).unwrap().len() == 1);
        found
    }

    #[test]
    fn the_query_within_a_statement_is_found() {
        for text in [
            "SELECT $a",
            "CREATE TABLE x.y AS SELECT $a AS n",
            "INSERT INTO x.y SELECT $a",
            "CREATE MODEL x.m OPTIONS (model_type = 'pagerank') AS SELECT $a",
        ] {
            let query = one(text).query().unwrap();
            let Statement::Query(query) = query.statement else { panic!("{text}") };
            assert!(query.to_string().starts_with("SELECT $a"), "{text}");
        }
        for (text, expected) in [
            ("DELETE FROM x.y AS t WHERE n = $a", "SELECT 1 FROM \"x\".\"y\" AS t WHERE (n = $a)"),
            (
                "UPDATE x.y SET n = $a WHERE m = $b",
                "SELECT 1 FROM \"x\".\"y\" WHERE (m = $b) AND (\"n\" = $a)",
            ),
        ] {
            let Statement::Query(query) = one(text).query().unwrap().statement else { panic!() };
            assert_eq!(query.to_string(), expected);
        }
        assert!(one("DROP TABLE x.y").query().is_none());
        // Where the grammar wants a literal, the value is there when it is parsed.
        let text = "SELECT * FROM x.y VERSION AS OF $v";
        assert!(one(text).query().is_none());
        assert_eq!(bound(text, &[("v", "3")], None), "SELECT * FROM x.\"y@v3\"");
    }
}
