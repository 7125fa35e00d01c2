//! Nightshift's own grammar: models, versions, and the care of tables.

use super::classify::{identifier, name_of, parts_of};
use super::kinds::*;
use crate::JobError;
use datafusion::sql::sqlparser::ast::{self, ObjectName, UnaryOperator, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use nightshift_catalog::registry::Kind;

/// Why a statement of our own grammar was not made.
pub enum OwnError {
    /// The text isn't one.
    Syntax(ParserError),
    /// It is one, and can't be meant.
    Meaning(JobError),
}

impl From<ParserError> for OwnError {
    fn from(error: ParserError) -> Self {
        Self::Syntax(error)
    }
}

impl From<JobError> for OwnError {
    fn from(error: JobError) -> Self {
        Self::Meaning(error)
    }
}

type Parsed<T> = Result<T, OwnError>;

/// Parses a statement if it is one of ours; the parser has not moved if it isn't. What is only a short
/// way to write a query is returned as that query's text.
pub fn parse_own(parser: &mut Parser<'_>) -> Parsed<Option<Own>> {
    let statement =
        if at(parser, &["create", "model"]) || at(parser, &["create", "or", "replace", "model"]) {
            Statement::CreateModel(create_model(parser)?)
        } else if at(parser, &["explain", "create", "model"])
            || at(parser, &["explain", "create", "or", "replace", "model"])
        {
            skip(parser, 1);
            Statement::ExplainModel(create_model(parser)?)
        } else if at(parser, &["drop", "model"]) {
            drop_model(parser)?
        } else if at(parser, &["alter", "model"]) {
            alter_model(parser)?
        } else if at(parser, &["restore", "table"]) {
            restore(parser)?
        } else if at(parser, &["optimize"]) {
            optimize(parser)?
        } else if at(parser, &["vacuum"]) {
            vacuum(parser)?
        } else if at(parser, &["show"]) {
            return show(parser).map(Some);
        } else if at(parser, &["describe"]) || at(parser, &["desc"]) {
            return describe(parser).map(Some);
        } else {
            return Ok(None);
        };
    Ok(Some(Own::Statement(Box::new(statement))))
}

/// A statement of our own grammar.
pub enum Own {
    /// A statement.
    Statement(Box<Statement>),
    /// The text of a query that says the same.
    Query(String),
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

fn at(parser: &Parser<'_>, words: &[&str]) -> bool {
    words.iter().enumerate().all(|(n, word)| is_word(&parser.peek_nth_token(n).token, word))
}

fn skip(parser: &mut Parser<'_>, tokens: usize) {
    for _ in 0..tokens {
        parser.next_token();
    }
}

/// Takes the words if they come next.
fn take(parser: &mut Parser<'_>, words: &[&str]) -> bool {
    let found = at(parser, words);
    if found {
        skip(parser, words.len());
    }
    found
}

fn expect(parser: &mut Parser<'_>, words: &[&str]) -> Parsed<()> {
    if take(parser, words) {
        return Ok(());
    }
    let found = parser.peek_token();
    Ok(parser.expected(&words.join(" ").to_uppercase(), found)?)
}

fn table_name(parser: &mut Parser<'_>) -> Parsed<nightshift_catalog::warehouse::Name> {
    let object = parser.parse_object_name(false)?;
    Ok(name_of(&object)?)
}

fn whole_number(parser: &mut Parser<'_>) -> Parsed<u64> {
    Ok(parser.parse_literal_uint()?)
}

fn create_model(parser: &mut Parser<'_>) -> Parsed<CreateModel> {
    parser.expect_keyword(Keyword::CREATE)?;
    let or_replace = parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
    skip(parser, 1);
    let if_not_exists = take(parser, &["if", "not", "exists"]);
    let object = parser.parse_object_name(false)?;
    let mut options = Vec::new();
    if !parser.parse_keyword(Keyword::OPTIONS) {
        let found = parser.peek_token();
        parser.expected::<()>("OPTIONS", found)?;
    }
    parser.expect_token(&Token::LParen)?;
    loop {
        let option = parser.parse_identifier()?;
        parser.expect_token(&Token::Eq)?;
        let position = parser.peek_token();
        let value = match parser.parse_expr()? {
            ast::Expr::Value(value) => option_value(&value.value, ""),
            ast::Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match *expr {
                ast::Expr::Value(value) => option_value(&value.value, "-"),
                _ => None,
            },
            _ => None,
        };
        let Some(value) = value else {
            return Ok(parser.expected("a text, a number, true or false", position)?);
        };
        options.push(ModelOption { name: option.value.to_ascii_lowercase(), value });
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen)?;
    parser.expect_keyword(Keyword::AS)?;
    let query = parser.parse_query()?;
    let name = name_of(&object)?;
    Ok(CreateModel { name, or_replace, if_not_exists, options, query })
}

fn option_value(value: &Value, sign: &str) -> Option<OptionValue> {
    match value {
        Value::SingleQuotedString(text) if sign.is_empty() => Some(OptionValue::Text(text.clone())),
        Value::Boolean(value) if sign.is_empty() => Some(OptionValue::Boolean(*value)),
        Value::Number(text, _) => Some(OptionValue::Number(format!("{sign}{text}"))),
        _ => None,
    }
}

fn drop_model(parser: &mut Parser<'_>) -> Parsed<Statement> {
    skip(parser, 2);
    let if_exists = take(parser, &["if", "exists"]);
    let name = table_name(parser)?.to_string();
    Ok(Statement::Drop(Drop { kind: Kind::Model, name, if_exists, cascade: false }))
}

fn alter_model(parser: &mut Parser<'_>) -> Parsed<Statement> {
    skip(parser, 2);
    let model = table_name(parser)?;
    expect(parser, &["set", "version"])?;
    Ok(Statement::SetModelVersion { model, version: whole_number(parser)? })
}

fn restore(parser: &mut Parser<'_>) -> Parsed<Statement> {
    skip(parser, 2);
    let table = table_name(parser)?;
    expect(parser, &["to"])?;
    let moment = if take(parser, &["version", "as", "of"]) {
        Moment::Version(whole_number(parser)?)
    } else {
        expect(parser, &["timestamp", "as", "of"])?;
        Moment::Time(super::time::parse(&parser.parse_literal_string()?)?)
    };
    Ok(Statement::Restore { table, moment })
}

fn optimize(parser: &mut Parser<'_>) -> Parsed<Statement> {
    skip(parser, 1);
    let table = table_name(parser)?;
    let mut zorder = Vec::new();
    if take(parser, &["zorder", "by"]) {
        parser.expect_token(&Token::LParen)?;
        let columns = parser.parse_comma_separated(|parser| parser.parse_identifier())?;
        zorder = columns.iter().map(identifier).collect();
        parser.expect_token(&Token::RParen)?;
    }
    Ok(Statement::Optimize { table, zorder })
}

fn vacuum(parser: &mut Parser<'_>) -> Parsed<Statement> {
    skip(parser, 1);
    let next = parser.peek_token().token;
    let all = matches!(next, Token::EOF | Token::SemiColon)
        || at(parser, &["retain"]) && matches!(parser.peek_nth_token(1).token, Token::Number(..))
        || at(parser, &["dry", "run"]);
    let table = if all { None } else { Some(table_name(parser)?) };
    let retain_hours = match take(parser, &["retain"]) {
        true => {
            let hours = whole_number(parser)?;
            expect(parser, &["hours"])?;
            Some(hours)
        }
        false => None,
    };
    Ok(Statement::Vacuum { table, retain_hours, dry_run: take(parser, &["dry", "run"]) })
}

/// `'text'`, as a literal.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn show(parser: &mut Parser<'_>) -> Parsed<Own> {
    skip(parser, 1);
    let condition = |parser: &mut Parser<'_>, column: &str| -> Parsed<String> {
        let mut conditions = Vec::new();
        if take(parser, &["in"]) || take(parser, &["from"]) {
            let schema = parser.parse_identifier()?.value.to_ascii_lowercase();
            conditions.push(format!("table_schema = {}", quoted(&schema)));
        }
        if take(parser, &["like"]) {
            let pattern = parser.parse_literal_string()?;
            conditions.push(format!("{column} LIKE {}", quoted(&pattern)));
        }
        Ok(match conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conditions.join(" AND ")),
        })
    };
    let text = if take(parser, &["tables"]) {
        let condition = condition(parser, "table_name")?;
        format!(
            "SELECT table_schema, table_name, table_type FROM information_schema.tables{condition} \
             ORDER BY 1, 2"
        )
    } else if take(parser, &["schemas"]) {
        "SELECT schema_name FROM information_schema.schemata ORDER BY 1".to_string()
    } else if take(parser, &["models"]) {
        "SELECT model, model_type, version, published_at FROM system.models ORDER BY 1".to_string()
    } else if take(parser, &["functions"]) {
        let condition = match take(parser, &["like"]) {
            true => format!(" WHERE name LIKE {}", quoted(&parser.parse_literal_string()?)),
            false => String::new(),
        };
        format!(
            "SELECT name, kind, syntax, description FROM system.functions{condition} ORDER BY 1, 2"
        )
    } else if take(parser, &["columns"]) {
        if !take(parser, &["from"]) {
            expect(parser, &["in"])?;
        }
        return columns_of(parser.parse_object_name(false)?);
    } else {
        let found = parser.peek_token();
        return Ok(
            parser.expected("TABLES, SCHEMAS, MODELS, FUNCTIONS or COLUMNS FROM a table", found)?
        );
    };
    Ok(Own::Query(text))
}

fn describe(parser: &mut Parser<'_>) -> Parsed<Own> {
    skip(parser, 1);
    if take(parser, &["history"]) {
        let name = parser.parse_object_name(false)?;
        return Ok(Own::Query(about("table_history", &name)));
    }
    if take(parser, &["model"]) {
        let name = table_name(parser)?.to_string();
        let text = format!(
            "SELECT version, published, published_at, model_type, options, metrics, query, inputs, \
             run FROM system.model_versions WHERE model = {} ORDER BY version DESC",
            quoted(&name)
        );
        return Ok(Own::Query(text));
    }
    take(parser, &["table"]);
    columns_of(parser.parse_object_name(false)?)
}

fn columns_of(object: ObjectName) -> Parsed<Own> {
    Ok(Own::Query(about("table_columns", &object)))
}

/// What a table function says of a table.
fn about(function: &str, object: &ObjectName) -> String {
    let name = parts_of(object).join(".");
    format!("SELECT * FROM {function}({})", quoted(&name))
}
