//! The engine's statements as ours: what is understood, and what is refused by name.

use super::kinds::*;
use crate::{JobError, Result};
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    self, AlterTableOperation, AssignmentTarget, CommentDef, CommentObject, FromTable, Ident,
    ObjectName, ObjectNamePart, ObjectType, SchemaName, TableAlias, TableFactor, TableObject,
    TableWithJoins,
};
use nightshift_catalog::registry::Kind;
use nightshift_catalog::warehouse::{Name, check_schema};

fn unsupported<T>(what: &str) -> Result<T> {
    Err(JobError::Statement(format!("{what} is not supported")))
}

/// What a statement of the engine asks for.
pub fn classify(statement: EngineStatement) -> Result<Statement> {
    match statement {
        EngineStatement::Explain(explain) => match classify(*explain.statement.clone())? {
            Statement::Query(_) => Ok(Statement::Query(EngineStatement::Explain(explain))),
            _ => unsupported("EXPLAIN of anything but a query"),
        },
        EngineStatement::CreateExternalTable(table) => Ok(Statement::CreateExternalTable(table)),
        EngineStatement::CopyTo(copy) => Ok(Statement::Copy(copy)),
        EngineStatement::Statement(inner) => of_standard(*inner),
        other => unsupported(&first_words(&other.to_string())),
    }
}

fn of_standard(statement: ast::Statement) -> Result<Statement> {
    match statement {
        ast::Statement::Query(query) => {
            let inner = Box::new(ast::Statement::Query(query));
            Ok(Statement::Query(EngineStatement::Statement(inner)))
        }
        ast::Statement::CreateSchema { schema_name, if_not_exists, .. } => match schema_name {
            SchemaName::Simple(object) => {
                Ok(Statement::CreateSchema { name: schema_of(&object)?, if_not_exists })
            }
            other => unsupported(&format!("CREATE SCHEMA {other}")),
        },
        ast::Statement::CreateTable(table) => create_table(table),
        ast::Statement::CreateView(view) => create_view(view),
        ast::Statement::Drop { object_type, if_exists, names, cascade, .. } => {
            drop(object_type, if_exists, &names, cascade)
        }
        ast::Statement::AlterTable(table) => alter_table(&table),
        ast::Statement::Comment { object_type, object_name, comment, .. } => {
            comment_on(object_type, &object_name, comment)
        }
        ast::Statement::Insert(insert) => insert_into(insert),
        ast::Statement::Delete(delete) => delete_from(delete),
        ast::Statement::Update(update) => update_table(update),
        ast::Statement::Merge(merge) => merge_into(merge),
        other => unsupported(&first_words(&other.to_string())),
    }
}

fn create_table(table: ast::CreateTable) -> Result<Statement> {
    let plain = !table.temporary
        && !table.external
        && table.constraints.is_empty()
        && table.like.is_none()
        && table.clone.is_none()
        && table.partition_by.is_none()
        && table.location.is_none();
    if !plain {
        return unsupported(
            "CREATE TABLE with TEMPORARY, EXTERNAL, LIKE, CLONE, LOCATION, PARTITION BY (it is PARTITIONED BY) \
             or constraints",
        );
    }
    if table.query.is_some() && !table.columns.is_empty() {
        return unsupported("CREATE TABLE with columns and AS");
    }
    if table.query.is_none() && table.columns.is_empty() {
        return Err(JobError::Statement("a table needs columns, or AS and a query".to_string()));
    }
    if table.or_replace && table.if_not_exists {
        return unsupported("CREATE OR REPLACE TABLE IF NOT EXISTS");
    }
    let comment = match table.comment {
        Some(CommentDef::WithEq(text) | CommentDef::WithoutEq(text)) => Some(text),
        None => None,
    };
    Ok(Statement::CreateTable(CreateTable {
        name: name_of(&table.name)?,
        or_replace: table.or_replace,
        if_not_exists: table.if_not_exists,
        columns: table.columns,
        partitioned_by: Vec::new(),
        comment,
        query: table.query,
        slice: None,
    }))
}

fn create_view(view: ast::CreateView) -> Result<Statement> {
    if view.materialized || view.temporary || !view.columns.is_empty() {
        return unsupported("CREATE VIEW with MATERIALIZED, TEMPORARY or columns");
    }
    Ok(Statement::CreateView(CreateView {
        name: name_of(&view.name)?,
        or_replace: view.or_replace,
        if_not_exists: view.if_not_exists,
        query: view.query,
    }))
}

fn drop(
    kind: ObjectType,
    if_exists: bool,
    names: &[ObjectName],
    cascade: bool,
) -> Result<Statement> {
    let [object] = names else { return unsupported("DROP of several names") };
    let (kind, name) = match kind {
        ObjectType::Table => (Kind::Table, name_of(object)?.to_string()),
        ObjectType::View => (Kind::View, name_of(object)?.to_string()),
        ObjectType::Schema => (Kind::Schema, schema_of(object)?),
        other => return unsupported(&format!("DROP {other}")),
    };
    Ok(Statement::Drop(Drop { kind, name, if_exists, cascade }))
}

fn alter_table(table: &ast::AlterTable) -> Result<Statement> {
    let added = |operation: &AlterTableOperation| match operation {
        AlterTableOperation::AddColumn { column_def, column_position: None, .. } => {
            Ok(column_def.clone())
        }
        other => unsupported(&format!("ALTER TABLE {}", first_words(&other.to_string()))),
    };
    let columns = table.operations.iter().map(added).collect::<Result<_>>()?;
    Ok(Statement::AddColumns { table: name_of(&table.name)?, columns })
}

fn comment_on(kind: CommentObject, object: &ObjectName, text: Option<String>) -> Result<Statement> {
    match kind {
        CommentObject::Table => {
            Ok(Statement::Comment { table: name_of(object)?, column: None, text })
        }
        CommentObject::Column => match parts_of(object).as_slice() {
            [schema, table, column] => {
                let (table, column) = (Name::new(schema, table)?, Some(column.clone()));
                Ok(Statement::Comment { table, column, text })
            }
            _ => Err(JobError::Statement(format!("{object}: write schema.table.column"))),
        },
        other => unsupported(&format!("COMMENT ON {other}")),
    }
}

fn insert_into(insert: ast::Insert) -> Result<Statement> {
    let plain = insert.on.is_none()
        && insert.returning.is_none()
        && insert.partitioned.is_none()
        && insert.assignments.is_empty()
        && insert.or.is_none()
        && !insert.ignore
        && !insert.replace_into;
    let TableObject::TableName(name) = &insert.table else {
        return unsupported("INSERT into anything but a table");
    };
    let Some(source) = insert.source.filter(|_| plain) else {
        return unsupported("INSERT with anything but rows or a query");
    };
    let column = |object: &ObjectName| match parts_of(object).as_slice() {
        [column] => Ok(column.clone()),
        _ => Err(JobError::Statement(format!("{object}: a column's name has one part"))),
    };
    Ok(Statement::Insert(Insert {
        table: name_of(name)?,
        columns: insert.columns.iter().map(column).collect::<Result<_>>()?,
        overwrite: insert.overwrite,
        source,
    }))
}

/// The one table of a statement, and its alias.
fn one_table(tables: &[TableWithJoins], statement: &str) -> Result<(Name, Option<TableAlias>)> {
    match tables {
        [
            TableWithJoins { relation: TableFactor::Table { name, alias, args: None, .. }, joins },
        ] if joins.is_empty() => Ok((name_of(name)?, alias.clone())),
        _ => unsupported(&format!("{statement} of anything but one table")),
    }
}

fn delete_from(delete: ast::Delete) -> Result<Statement> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    if delete.using.is_some()
        || delete.returning.is_some()
        || delete.limit.is_some()
        || !delete.order_by.is_empty()
        || !delete.tables.is_empty()
    {
        return unsupported("DELETE with USING, RETURNING, ORDER BY or LIMIT");
    }
    let (table, alias) = one_table(from, "DELETE")?;
    Ok(Statement::Delete(Delete { table, alias, condition: delete.selection }))
}

fn update_table(update: ast::Update) -> Result<Statement> {
    if update.from.is_some() || update.returning.is_some() || update.limit.is_some() {
        return unsupported("UPDATE with FROM, RETURNING or LIMIT: use MERGE");
    }
    let (table, alias) = one_table(std::slice::from_ref(&update.table), "UPDATE")?;
    let assignments = assignments_of(&update.assignments)?;
    Ok(Statement::Update(Update { table, alias, assignments, condition: update.selection }))
}

/// Columns and their new values. A column can be written with its table's name.
pub fn assignments_of(assignments: &[ast::Assignment]) -> Result<Vec<(String, ast::Expr)>> {
    let assignment = |assignment: &ast::Assignment| match &assignment.target {
        AssignmentTarget::ColumnName(object) => {
            let column = parts_of(object).pop().unwrap_or_default();
            Ok((column, assignment.value.clone()))
        }
        AssignmentTarget::Tuple(_) => unsupported("SET of several columns at once"),
    };
    assignments.iter().map(assignment).collect()
}

fn merge_into(merge: ast::Merge) -> Result<Statement> {
    let table = TableWithJoins { relation: merge.table, joins: Vec::new() };
    let (table, alias) = one_table(std::slice::from_ref(&table), "MERGE")?;
    if merge.output.is_some() {
        return unsupported("MERGE with OUTPUT");
    }
    let (source, on, clauses) = (merge.source, *merge.on, merge.clauses);
    Ok(Statement::Merge(Box::new(Merge { table, alias, source, on, clauses })))
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// An identifier as it is resolved: unquoted ones are in lower case.
pub fn identifier(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// The parts of a name as they are resolved.
pub fn parts_of(object: &ObjectName) -> Vec<String> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) => identifier(ident),
        other => other.to_string(),
    };
    object.0.iter().map(part).collect()
}

/// A name of two parts.
pub fn name_of(object: &ObjectName) -> Result<Name> {
    match parts_of(object).as_slice() {
        [schema, name] => Ok(Name::new(schema, name)?),
        _ => Err(JobError::Statement(format!("{object}: a name has two parts, schema.name"))),
    }
}

fn schema_of(object: &ObjectName) -> Result<String> {
    match parts_of(object).as_slice() {
        [schema] => {
            check_schema(schema)?;
            Ok(schema.clone())
        }
        _ => Err(JobError::Statement(format!("{object}: the name of a schema has one part"))),
    }
}
