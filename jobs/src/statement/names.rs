//! What a statement reads and creates, from its text alone.

use super::arguments::with_queries;
use super::classify::{name_of, parts_of};
use super::kinds::*;
use crate::Result;
use crate::external::Quarantine;
use crate::session::{CATALOG, SCHEMA};
use datafusion::common::TableReference;
use datafusion::sql::parser::{CopyToSource, DFParser, Statement as EngineStatement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, MergeAction, MergeInsertKind, TableFactor, Value,
};
use datafusion::sql::sqlparser::ast::{Query, Visit, Visitor};
use nightshift_catalog::warehouse::Name;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// The table, view or model that a statement creates, as `schema.name`.
pub fn creates(statement: &Statement) -> Result<Option<String>> {
    Ok(match statement {
        Statement::CreateTable(table) => Some(table.name.to_string()),
        Statement::CreateView(view) => Some(view.name.to_string()),
        Statement::CreateModel(model) => Some(model.name.to_string()),
        Statement::CreateExternalTable(table) => Some(name_of(&table.name)?.to_string()),
        _ => None,
    })
}

/// The table that a statement makes of the records which it can't read, as `schema.name`. Whether its options are right
/// is found out when it is executed.
pub fn quarantine(statement: &Statement) -> Option<String> {
    match statement {
        Statement::CreateExternalTable(table) => Quarantine::named(&table.options),
        _ => None,
    }
}

/// What is there already and changed by a statement, as `schema.name`.
pub fn changes(statement: &Statement) -> Option<String> {
    match statement {
        Statement::AddColumns { table, .. }
        | Statement::Comment { table, .. }
        | Statement::Restore { table, .. }
        | Statement::Optimize { table, .. } => Some(table.to_string()),
        Statement::Vacuum { table, .. } => table.as_ref().map(Name::to_string),
        Statement::Insert(insert) => Some(insert.table.to_string()),
        Statement::Delete(delete) => Some(delete.table.to_string()),
        Statement::Update(update) => Some(update.table.to_string()),
        Statement::Merge(merge) => Some(merge.table.to_string()),
        Statement::SetModelVersion { model, .. } => Some(model.to_string()),
        Statement::Drop(drop) => Some(drop.name.clone()),
        _ => None,
    }
}

/// The tables, views and models that a statement reads.
pub fn reads(statement: &Statement) -> Result<References> {
    let mut found = match statement {
        Statement::Query(query) => References::of(query)?,
        Statement::CreateTable(CreateTable { query: Some(query), .. })
        | Statement::CreateView(CreateView { query, .. })
        | Statement::Insert(Insert { source: query, .. }) => References::of_query(query)?,
        Statement::CreateModel(model) | Statement::ExplainModel(model) => {
            let mut found = References::of_query(&model.query)?;
            for option in &model.options {
                if let ("teleport_table", OptionValue::Text(table)) =
                    (option.name.as_str(), &option.value)
                {
                    found.tables.push(TableReference::parse_str(table));
                }
            }
            found
        }
        Statement::Copy(copy) => match &copy.source {
            CopyToSource::Query(query) => References::of_query(query)?,
            CopyToSource::Relation(name) => {
                let tables = vec![TableReference::parse_str(&parts_of(name).join("."))];
                References { tables, ..References::default() }
            }
        },
        Statement::Delete(delete) => of_conditions(delete.condition.iter(), "")?,
        Statement::Update(update) => {
            let values = update.assignments.iter().map(|(_, value)| value);
            of_conditions(values.chain(&update.condition), "")?
        }
        Statement::Merge(merge) => {
            let mut expressions = vec![&merge.on];
            for clause in &merge.clauses {
                expressions.extend(&clause.predicate);
                match &clause.action {
                    MergeAction::Update(update) => {
                        expressions.extend(update.assignments.iter().map(|set| &set.value));
                    }
                    MergeAction::Insert(insert) => {
                        if let MergeInsertKind::Values(values) = &insert.kind {
                            expressions.extend(values.rows.iter().flat_map(|row| row.iter()));
                        }
                    }
                    MergeAction::Delete { .. } => {}
                }
            }
            of_conditions(expressions.into_iter(), &merge.source.to_string())?
        }
        _ => References::default(),
    };
    found.tables.sort();
    found.tables.dedup();
    Ok(found)
}

/// What expressions read in subqueries, and `from` besides.
fn of_conditions<'a>(
    expressions: impl Iterator<Item = &'a Expr>,
    from: &str,
) -> Result<References> {
    let list: Vec<_> = expressions.map(Expr::to_string).collect();
    let list = if list.is_empty() { "1".to_string() } else { list.join(", ") };
    let from = if from.is_empty() { String::new() } else { format!(" FROM {from}") };
    match DFParser::parse_sql(&format!("SELECT {list}{from}"))?.pop_front() {
        Some(query) => References::of(&query),
        None => Ok(References::default()),
    }
}

/// Names that a statement refers to.
#[derive(Debug, Clone, Default)]
pub struct References {
    /// Tables, with one to three parts.
    pub tables: Vec<TableReference>,
    /// Models, named in the first argument of a table function.
    pub models: BTreeSet<String>,
    /// Table functions that say something of a table, and the table's name.
    pub about: BTreeSet<(String, String)>,
}

impl References {
    /// Those of a query.
    pub fn of_query(query: &Query) -> Result<Self> {
        let statement = ast::Statement::Query(Box::new(query.clone()));
        Self::of(&EngineStatement::Statement(Box::new(statement)))
    }

    /// Those of a statement of the engine.
    pub fn of(statement: &EngineStatement) -> Result<Self> {
        let statement = with_queries(statement.clone())?;
        let (tables, _) = resolve_table_references(&statement, true)?;
        let mut functions = Functions::default();
        visit(&statement, &mut functions);
        // The name of a table function looks like that of a table.
        let tables =
            tables.into_iter().filter(|table| !functions.names.contains(table.table())).collect();
        Ok(Self { tables, models: functions.models, about: functions.about })
    }

    /// What of it another statement may create, as `schema.name`.
    pub fn created_names(&self) -> BTreeSet<String> {
        let of_table = |table: &TableReference| match table {
            TableReference::Full { catalog, schema, table } if &**catalog == CATALOG => {
                format!("{schema}.{table}")
            }
            TableReference::Full { catalog, schema, .. } => format!("{catalog}.{schema}"),
            TableReference::Bare { table } => format!("{SCHEMA}.{table}"),
            other => other.to_string(),
        };
        let about = self.about.iter().map(|(_, name)| name.clone());
        self.tables.iter().map(of_table).chain(self.models.iter().cloned()).chain(about).collect()
    }
}

fn visit(statement: &EngineStatement, functions: &mut Functions) {
    // The visitor never breaks off.
    let _ = match statement {
        EngineStatement::Statement(statement) => statement.visit(functions),
        EngineStatement::Explain(explain) => return visit(&explain.statement, functions),
        _ => return,
    };
}

/// Finds `ml_…('schema.model', …)` among the tables of a statement.
#[derive(Default)]
struct Functions {
    names: BTreeSet<String>,
    models: BTreeSet<String>,
    about: BTreeSet<(String, String)>,
}

impl Visitor for Functions {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(args), .. } = factor {
            let name = name.to_string().to_ascii_lowercase();
            if let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))) =
                args.args.first()
                && let Value::SingleQuotedString(text) = &value.value
            {
                let text = text.to_ascii_lowercase();
                if name.starts_with("ml_") {
                    self.models.insert(text);
                } else if name.starts_with("table_") {
                    self.about.insert((name.clone(), text));
                }
            }
            self.names.insert(name);
        }
        ControlFlow::Continue(())
    }
}

impl Located {
    /// What the statement reads.
    pub fn reads(&self) -> Result<References> {
        reads(&self.statement).map_err(|error| self.locate(error))
    }

    /// What the statement creates.
    pub fn creates(&self) -> Result<Option<String>> {
        creates(&self.statement).map_err(|error| self.locate(error))
    }

    /// All that the statement creates: files that are read in place can have a table of bad records besides.
    pub fn creates_all(&self) -> Result<Vec<String>> {
        Ok(self.creates()?.into_iter().chain(self.quarantine()).collect())
    }

    /// The table that the statement makes of the records which it can't read.
    pub fn quarantine(&self) -> Option<String> {
        quarantine(&self.statement)
    }

    /// What the statement changes.
    pub fn changes(&self) -> Option<String> {
        changes(&self.statement)
    }

    /// What the statement creates, changes or gives up; `None` if it only reads.
    pub fn object(&self) -> Option<String> {
        match &self.statement {
            Statement::CreateSchema { name, .. } => Some(name.clone()),
            statement => creates(statement).ok().flatten().or_else(|| changes(statement)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::statement::parse;

    fn names(text: &str) -> Vec<String> {
        let statements = parse("f.sql", text).unwrap();
        statements[0].reads().unwrap().created_names().into_iter().collect()
    }

    #[test]
    fn reads_are_found_wherever_they_are() {
        let text = "CREATE TABLE a.b AS WITH x AS (SELECT * FROM f.ratings) SELECT * FROM x JOIN \
                    ml_recommend('recs.als', 10) AS r ON true WHERE EXISTS (SELECT 1 FROM f.movies) \
                    AND 1 IN (SELECT rank FROM graph.pr.ranks)";
        assert_eq!(names(text), ["f.movies", "f.ratings", "graph.pr", "recs.als"]);
        let text = "CREATE MODEL a.m OPTIONS (teleport_table = 'f.seeds') AS SELECT * FROM F.Links";
        assert_eq!(names(text), ["f.links", "f.seeds"]);
        let text = "MERGE INTO a.t USING (SELECT * FROM a.changes) AS c ON t.id = c.id \
                    WHEN MATCHED AND c.n > (SELECT max(n) FROM a.limits) THEN UPDATE SET n = \
                    (SELECT min(n) FROM a.defaults) WHEN MATCHED THEN DELETE WHEN NOT MATCHED AND \
                    c.id IN (SELECT id FROM a.known) THEN INSERT (id, n) VALUES (c.id, (SELECT avg(n) \
                    FROM a.others))";
        let read = ["a.changes", "a.defaults", "a.known", "a.limits", "a.others"];
        assert_eq!(names(text), read);
        assert_eq!(names("EXPLAIN SELECT * FROM a.b"), ["a.b"]);
        assert_eq!(names("EXPLAIN CREATE MODEL a.m OPTIONS (x = 1) AS SELECT * FROM a.b"), ["a.b"]);
        let text = "WITH x AS (SELECT * FROM a.b) SELECT * FROM ml_recommend('a.m', 3, \
                    (SELECT * FROM ml_fold_in('a.n', TABLE x))) \
                    JOIN ml_predict('a.m', 'a.c') ON true JOIN ml_evaluate('a.m', '(SELECT * FROM a.d)', 3)";
        assert_eq!(names(text), ["a.b", "a.c", "a.d", "a.m", "a.n"]);
        assert_eq!(names("SELECT 1"), Vec::<String>::new());
    }

    #[test]
    fn files_in_place_can_have_a_second_table() {
        let created = |options: &str| {
            let text = format!("CREATE EXTERNAL TABLE a.b STORED AS CSV LOCATION 'x' {options}");
            parse("f.sql", &text).unwrap()[0].creates_all().unwrap()
        };
        assert_eq!(created(""), ["a.b"]);
        let both = ["a.b", "c.bad"];
        assert_eq!(created("OPTIONS ('quarantine' 'C.Bad', has_header true)"), both);
        assert_eq!(created("OPTIONS (format.QUARANTINE 'c.bad')"), both);
        assert_eq!(created("OPTIONS (quarantine 'bad')"), ["a.b"]);
    }
}
