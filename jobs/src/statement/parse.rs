//! The grammar: DataFusion's, with `CREATE [OR REPLACE] MODEL name OPTIONS (…) AS query`, which
//! follows BigQuery ML.

use crate::{JobError, Result};
use datafusion::error::DataFusionError;
use datafusion::sql::parser::{
    CreateExternalTable, DFParser, DFParserBuilder, Statement as EngineStatement,
};
use datafusion::sql::sqlparser::ast::{
    self, Ident, ObjectName, ObjectNamePart, Query, UnaryOperator, Value,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Token;
use nightshift_catalog::warehouse::Name;
use serde_json::json;

/// A statement and where it stands.
#[derive(Debug, Clone)]
pub struct Located {
    /// The file, or another name for where the text came from.
    pub file: String,
    /// The line it starts on, from 1.
    pub line: u64,
    /// The statement.
    pub statement: Statement,
}

impl Located {
    /// Says where an error happened, unless it says so itself.
    pub fn locate(&self, error: JobError) -> JobError {
        match error {
            located @ (JobError::Syntax { .. } | JobError::At { .. } | JobError::Check { .. }) => {
                located
            }
            error => {
                JobError::At { file: self.file.clone(), line: self.line, source: Box::new(error) }
            }
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Statement {
    /// Return rows.
    Query(EngineStatement),
    /// Write a table.
    CreateTable(CreateTable),
    /// Read files in place under a name.
    CreateExternalTable(CreateExternalTable),
    /// Train a model.
    CreateModel(CreateModel),
}

/// `CREATE [OR REPLACE] TABLE name AS query`.
#[derive(Debug, Clone)]
pub struct CreateTable {
    /// The table.
    pub name: Name,
    /// Whether one that exists is replaced.
    pub or_replace: bool,
    /// What it is to hold.
    pub query: Box<Query>,
}

/// `CREATE [OR REPLACE] MODEL name OPTIONS (…) AS query`.
#[derive(Debug, Clone)]
pub struct CreateModel {
    /// The model.
    pub name: Name,
    /// Whether one that exists gets a new version.
    pub or_replace: bool,
    /// The options in the order given.
    pub options: Vec<ModelOption>,
    /// What it is trained on.
    pub query: Box<Query>,
}

/// `name = value` of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelOption {
    /// The name in lower case.
    pub name: String,
    /// The value.
    pub value: OptionValue,
}

/// The value of a model's option.
#[derive(Debug, Clone, PartialEq)]
pub enum OptionValue {
    /// `'text'`.
    Text(String),
    /// A number as it was written.
    Number(String),
    /// `true` or `false`.
    Boolean(bool),
}

impl OptionValue {
    /// The value as it is recorded in the registry.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            OptionValue::Text(text) => json!(text),
            OptionValue::Number(text) => text
                .parse::<i64>()
                .map(|number| json!(number))
                .or_else(|_| text.parse::<f64>().map(|number| json!(number)))
                .unwrap_or_else(|_| json!(text)),
            OptionValue::Boolean(value) => json!(value),
        }
    }
}

/// Parses all statements of a text. `file` names the text in errors.
pub fn parse(file: &str, text: &str) -> Result<Vec<Located>> {
    let syntax = |error| syntax_error(file, error);
    let mut parser = DFParserBuilder::new(text).build().map_err(syntax)?;
    let mut statements = Vec::new();
    loop {
        while parser.parser.consume_token(&Token::SemiColon) {}
        let first = parser.parser.peek_token();
        if first.token == Token::EOF {
            return Ok(statements);
        }
        let line = first.span.start.line;
        let located = |statement| Located { file: file.to_string(), line, statement };
        let statement = if at_create_model(&parser) {
            let (object, model) = create_model(&mut parser).map_err(syntax)?;
            let name = name_of(&object).map_err(|reason| JobError::At {
                file: file.to_string(),
                line,
                source: Box::new(reason),
            })?;
            Statement::CreateModel(CreateModel { name, ..model })
        } else {
            let statement = parser.parse_statement().map_err(syntax)?;
            classify(statement).map_err(|reason| JobError::At {
                file: file.to_string(),
                line,
                source: Box::new(reason),
            })?
        };
        statements.push(located(statement));
        let next = parser.parser.peek_token();
        if !matches!(next.token, Token::SemiColon | Token::EOF) {
            let expected = parser.parser.expected::<()>("end of statement", next);
            return Err(expected.map_or_else(
                |error| syntax(error.into()),
                |()| JobError::Statement("a statement does not end".to_string()),
            ));
        }
    }
}

/// The line and column that the parser's message ends with become those of the error.
fn syntax_error(file: &str, error: DataFusionError) -> JobError {
    let inner = match error.find_root() {
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_string(),
        },
        other => other.to_string(),
    };
    let (reason, position) = inner.split_once(" at Line: ").unwrap_or((&inner, "1, Column: 1"));
    let (line, column) = position.split_once(", Column: ").unwrap_or((position, "1"));
    JobError::Syntax {
        file: file.to_string(),
        line: line.trim().parse().unwrap_or(1),
        column: column.trim().parse().unwrap_or(1),
        reason: reason.to_string(),
    }
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

fn at_create_model(parser: &DFParser<'_>) -> bool {
    let word = |n: usize, word| is_word(&parser.parser.peek_nth_token(n).token, word);
    word(0, "create")
        && (word(1, "model") || word(1, "or") && word(2, "replace") && word(3, "model"))
}

/// A model under a name that is still to be checked.
fn create_model(parser: &mut DFParser<'_>) -> Result<(ObjectName, CreateModel), DataFusionError> {
    let parser = &mut parser.parser;
    parser.expect_keyword(Keyword::CREATE)?;
    let or_replace = parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
    parser.next_token();
    let object = parser.parse_object_name(false)?;
    let name = Name { schema: String::new(), name: String::new() };
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
            return parser
                .expected("a text, a number, true or false", position)
                .map_err(Into::into);
        };
        options.push(ModelOption { name: option.value.to_ascii_lowercase(), value });
        if !parser.consume_token(&Token::Comma) {
            break;
        }
    }
    parser.expect_token(&Token::RParen)?;
    parser.expect_keyword(Keyword::AS)?;
    let query = parser.parse_query()?;
    Ok((object, CreateModel { name, or_replace, options, query }))
}

fn option_value(value: &Value, sign: &str) -> Option<OptionValue> {
    match value {
        Value::SingleQuotedString(text) if sign.is_empty() => Some(OptionValue::Text(text.clone())),
        Value::Boolean(value) if sign.is_empty() => Some(OptionValue::Boolean(*value)),
        Value::Number(text, _) => Some(OptionValue::Number(format!("{sign}{text}"))),
        _ => None,
    }
}

fn classify(statement: EngineStatement) -> Result<Statement> {
    let unsupported = |what: &str| {
        Err(JobError::Statement(format!(
            "{what} is not supported: use SELECT, EXPLAIN, CREATE TABLE … AS, CREATE EXTERNAL TABLE or CREATE MODEL"
        )))
    };
    match statement {
        EngineStatement::Explain(explain) => match classify(*explain.statement.clone())? {
            Statement::Query(_) => Ok(Statement::Query(EngineStatement::Explain(explain))),
            _ => unsupported("EXPLAIN of anything but a query"),
        },
        EngineStatement::CreateExternalTable(table) => Ok(Statement::CreateExternalTable(table)),
        EngineStatement::Statement(inner) => match *inner {
            ast::Statement::Query(query) => {
                let inner = Box::new(ast::Statement::Query(query));
                Ok(Statement::Query(EngineStatement::Statement(inner)))
            }
            ast::Statement::CreateTable(table) => {
                let name = name_of(&table.name)?;
                let plain = table.columns.is_empty()
                    && table.constraints.is_empty()
                    && !table.if_not_exists
                    && !table.temporary
                    && !table.external
                    && table.partition_by.is_none();
                match table.query {
                    Some(_) if !plain => unsupported(
                        "CREATE TABLE with columns, IF NOT EXISTS, TEMPORARY or PARTITION BY",
                    ),
                    Some(query) => Ok(Statement::CreateTable(CreateTable {
                        name,
                        or_replace: table.or_replace,
                        query,
                    })),
                    None => unsupported("CREATE TABLE without AS"),
                }
            }
            other => unsupported(&first_words(&other.to_string())),
        },
        other => unsupported(&first_words(&other.to_string())),
    }
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// The part of a name as it is resolved: unquoted identifiers are in lower case.
fn identifier(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// A name of two parts.
pub fn name_of(object: &ObjectName) -> Result<Name> {
    let parts: Vec<String> = object
        .0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => identifier(ident),
            other => other.to_string(),
        })
        .collect();
    match parts.as_slice() {
        [schema, name] => Ok(Name::new(schema, name)?),
        _ => Err(JobError::Statement(format!("{object}: a name has two parts, schema.name"))),
    }
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
    fn what_is_not_supported_is_named() {
        let message = parse("f.sql", "DROP TABLE a.b").unwrap_err().to_string();
        assert!(message.starts_with("f.sql:1: DROP TABLE is not supported"), "{message}");
        for text in [
            "COPY t TO 'x.csv'",
            "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
            "CREATE TABLE a.b (x BIGINT) AS SELECT 1 AS x",
            "CREATE TABLE IF NOT EXISTS a.b AS SELECT 1 AS x",
            "CREATE TEMPORARY TABLE a.b AS SELECT 1 AS x",
        ] {
            let message = parse("f.sql", text).unwrap_err().to_string();
            assert!(message.contains("is not supported"), "{text}: {message}");
        }
        let message = parse("f.sql", "\n\nCREATE MODEL system.x OPTIONS (a = 1) AS SELECT 1");
        assert!(message.unwrap_err().to_string().starts_with("f.sql:3: system.x: "));
        assert!(parse("f.sql", "CREATE TABLE t AS SELECT 1").is_err());
    }
}
