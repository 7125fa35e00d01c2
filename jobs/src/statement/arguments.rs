//! Tables and queries as arguments of table functions.
//!
//! The engine plans a query among a function's arguments only as an expression of one column, or in
//! `EXISTS`, which takes any number of them. So `(SELECT …)`, `'(SELECT …)'` and `'schema.table'` become
//! `EXISTS (SELECT …)` before a statement is planned. What such a query reads is then found like
//! everything else that a statement reads, and it sees the names that `WITH` gives around it.

use super::kinds::Statement;
use super::parse::parse;
use crate::{JobError, Result};
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, Query, TableFactor, Value, VisitMut, VisitorMut,
};
use std::ops::ControlFlow;

/// The functions that take a table or query, and the position of that argument.
const QUERIES: &[(&str, usize)] = &[
    ("ml_evaluate", 1),
    ("ml_fold_in", 1),
    ("ml_predict", 1),
    ("ml_recommend", 2),
    ("ml_similar_items", 2),
];

/// The statement with all such arguments in the form that the engine plans.
pub fn with_queries(mut statement: EngineStatement) -> Result<EngineStatement> {
    rewrite(&mut statement)?;
    Ok(statement)
}

fn rewrite(statement: &mut EngineStatement) -> Result<()> {
    let visited = match statement {
        EngineStatement::Statement(statement) => statement.visit(&mut Arguments),
        EngineStatement::Explain(explain) => return rewrite(&mut explain.statement),
        _ => return Ok(()),
    };
    match visited {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Arguments;

impl VisitorMut for Arguments {
    type Break = JobError;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<JobError> {
        let TableFactor::Table { name, args: Some(args), .. } = factor else {
            return ControlFlow::Continue(());
        };
        let function = name.to_string().to_ascii_lowercase();
        let Some((_, position)) = QUERIES.iter().find(|(name, _)| *name == function) else {
            return ControlFlow::Continue(());
        };
        let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))) =
            args.args.get_mut(*position)
        else {
            return ControlFlow::Continue(());
        };
        let query = match argument {
            Expr::Subquery(query) => Ok(query.clone()),
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => query_of(&function, text),
                _ => return ControlFlow::Continue(()),
            },
            _ => return ControlFlow::Continue(()),
        };
        match query {
            Ok(subquery) => {
                *argument = Expr::Exists { subquery, negated: false };
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// The query that a text stands for.
fn query_of(function: &str, text: &str) -> Result<Box<Query>> {
    let wrong = |reason: &str| {
        JobError::Statement(format!(
            "{function}: '{text}' is neither the name of a table nor a query{reason}"
        ))
    };
    let trimmed = text.trim();
    let first = trimmed.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let is_query = trimmed.starts_with('(')
        || ["select", "with"].iter().any(|word| first.eq_ignore_ascii_case(word));
    let whole = if is_query { trimmed.to_string() } else { format!("SELECT * FROM {trimmed}") };
    let mut statements = parse(function, &whole).map_err(|error| match error {
        JobError::Syntax { reason, .. } => wrong(&format!(": {reason}")),
        other => other,
    })?;
    match (statements.pop().map(|located| located.statement), statements.is_empty()) {
        (Some(Statement::Query(EngineStatement::Statement(query))), true) => match *query {
            ast::Statement::Query(query) => Ok(query),
            _ => Err(wrong("")),
        },
        _ => Err(wrong("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> Result<String> {
        match parse("f.sql", text)?.remove(0).statement {
            Statement::Query(query) => Ok(with_queries(query)?.to_string()),
            _ => panic!(),
        }
    }

    #[test]
    fn tables_and_queries_are_found_wherever_they_are() {
        for (argument, query) in [
            ("(SELECT a, b FROM f.t)", "SELECT a, b FROM f.t"),
            ("'(SELECT a, b FROM f.t)'", "(SELECT a, b FROM f.t)"),
            ("'WITH x AS (SELECT 1) SELECT * FROM x'", "WITH x AS (SELECT 1) SELECT * FROM x"),
            ("'f.t'", "SELECT * FROM f.t"),
            ("TABLE f.t", "SELECT * FROM f.t"),
            ("'f.t VERSION AS OF 3'", "SELECT * FROM f.\"t@v3\""),
            ("TABLE f.t VERSION AS OF 3", "SELECT * FROM f.\"t@v3\""),
            ("TABLE x", "SELECT * FROM x"),
        ] {
            let text =
                format!("SELECT 1 WHERE EXISTS (SELECT * FROM ml_predict('a.m', {argument}) AS p)");
            let expected = format!(
                "SELECT 1 WHERE EXISTS (SELECT * FROM ml_predict('a.m', EXISTS ({query})) AS p)"
            );
            assert_eq!(rewritten(&text).unwrap(), expected);
        }
        let within =
            "SELECT * FROM ml_recommend('a.m', 3, (SELECT * FROM ml_fold_in('a.m', 'f.t')))";
        let expected = "SELECT * FROM ml_recommend('a.m', 3, EXISTS (SELECT * FROM \
                        ml_fold_in('a.m', EXISTS (SELECT * FROM f.t))))";
        assert_eq!(rewritten(within).unwrap(), expected);
    }

    #[test]
    fn other_arguments_and_columns_stay() {
        for text in [
            "SELECT * FROM ml_recommend('a.m', 3)",
            "SELECT * FROM ml_weights('a.m')",
            "SELECT * FROM generate_series(1, 3)",
        ] {
            assert_eq!(rewritten(text).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_query_is_an_error() {
        for argument in ["'DROP TABLE f.t'", "'f.t; SELECT 1'", "'f..t'", "''"] {
            let text = format!("SELECT * FROM ml_predict('a.m', {argument})");
            let message = rewritten(&text).unwrap_err().to_string();
            assert!(message.contains("ml_predict: "), "{message}");
            assert!(message.contains("is neither the name of a table nor a query"), "{message}");
        }
    }
}
