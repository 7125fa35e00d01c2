//! What a statement can be.

use crate::JobError;
use chrono::NaiveDate;
use datafusion::sql::parser::{CopyToStatement, CreateExternalTable, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast::{
    ColumnDef, Expr, MergeClause, Query, TableAlias, TableFactor,
};
use nightshift_catalog::registry::Kind;
use nightshift_catalog::warehouse::Name;
use serde_json::json;

/// A statement and where it stands.
#[derive(Debug, Clone)]
pub struct Located {
    /// The file, or another name for where the text came from.
    pub file: String,
    /// The line it starts on, from 1.
    pub line: u64,
    /// Its text as it may be shown: values that may be secrets are masked.
    pub text: String,
    /// The statement.
    pub statement: Statement,
}

impl Located {
    /// The line it ends on.
    pub fn last_line(&self) -> u64 {
        self.line + self.text.trim_end().matches('\n').count() as u64
    }

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
    /// Return the rows of a query.
    Query(EngineStatement),
    /// Give a schema a name before anything is in it.
    CreateSchema {
        /// The schema.
        name: String,
        /// Whether one that exists is no error.
        if_not_exists: bool,
    },
    /// Write a table.
    CreateTable(CreateTable),
    /// Read files in place under a name.
    CreateExternalTable(CreateExternalTable),
    /// Give a query a name.
    CreateView(CreateView),
    /// Train a model.
    CreateModel(CreateModel),
    /// `EXPLAIN CREATE MODEL …`: return what training would take, as rows.
    ExplainModel(CreateModel),
    /// Give up a name.
    Drop(Drop),
    /// `ALTER TABLE name ADD COLUMN …`.
    AddColumns {
        /// The table.
        table: Name,
        /// The columns.
        columns: Vec<ColumnDef>,
    },
    /// `COMMENT ON TABLE | COLUMN … IS …`.
    Comment {
        /// The table.
        table: Name,
        /// The column, if it is one that is commented on.
        column: Option<String>,
        /// The comment; `None` removes it.
        text: Option<String>,
    },
    /// Add rows to a table.
    Insert(Insert),
    /// Take rows out of a table.
    Delete(Delete),
    /// Change rows of a table.
    Update(Update),
    /// Change a table by the rows of another.
    Merge(Box<Merge>),
    /// Write the rows of a query to files.
    Copy(CopyToStatement),
    /// `ALTER MODEL name SET VERSION n`.
    SetModelVersion {
        /// The model.
        model: Name,
        /// A version that was published before.
        version: u64,
    },
    /// `RESTORE TABLE name TO …`.
    Restore {
        /// The table.
        table: Name,
        /// What it is to be again.
        moment: Moment,
    },
    /// `OPTIMIZE name [ZORDER BY (column, …)]`: write a table's small files together, or all of them
    /// with rows that are alike next to each other.
    Optimize {
        /// The table.
        table: Name,
        /// Columns in whose values rows are to be alike.
        zorder: Vec<String>,
    },
    /// `VACUUM [name] [RETAIN n HOURS] [DRY RUN]`: delete files that no version needs any more.
    Vacuum {
        /// The table; all there are, and those that were dropped, if there is none.
        table: Option<Name>,
        /// Hours for which files that were replaced are kept.
        retain_hours: Option<u64>,
        /// Whether files are only named.
        dry_run: bool,
    },
}

impl Statement {
    /// Whether it returns rows and changes nothing.
    pub fn returns_rows(&self) -> bool {
        matches!(self, Statement::Query(_) | Statement::ExplainModel(_))
    }

    /// The words that it begins with, for the record.
    pub fn word(&self) -> &'static str {
        match self {
            Statement::Query(_) => "SELECT",
            Statement::CreateSchema { .. } => "CREATE SCHEMA",
            Statement::CreateTable(_) => "CREATE TABLE",
            Statement::CreateExternalTable(_) => "CREATE EXTERNAL TABLE",
            Statement::CreateView(_) => "CREATE VIEW",
            Statement::CreateModel(_) => "CREATE MODEL",
            Statement::ExplainModel(_) => "EXPLAIN CREATE MODEL",
            Statement::Drop(_) => "DROP",
            Statement::AddColumns { .. } => "ADD COLUMN",
            Statement::Comment { .. } => "COMMENT",
            Statement::Insert(insert) if insert.overwrite => "INSERT OVERWRITE",
            Statement::Insert(_) => "INSERT",
            Statement::Delete(_) => "DELETE",
            Statement::Update(_) => "UPDATE",
            Statement::Merge(_) => "MERGE",
            Statement::Copy(_) => "COPY",
            Statement::SetModelVersion { .. } => "SET VERSION",
            Statement::Restore { .. } => "RESTORE",
            Statement::Optimize { .. } => "OPTIMIZE",
            Statement::Vacuum { .. } => "VACUUM",
        }
    }
}

/// A state of a table in the past.
#[derive(Debug, Clone, PartialEq)]
pub enum Moment {
    /// A version.
    Version(u64),
    /// What was published at a time, in microseconds since 1970.
    Time(i64),
}

/// `CREATE [OR REPLACE] TABLE [IF NOT EXISTS] name [(columns)] [PARTITIONED BY (…)] [AS query]`.
#[derive(Debug, Clone)]
pub struct CreateTable {
    /// The table.
    pub name: Name,
    /// Whether one that exists is replaced.
    pub or_replace: bool,
    /// Whether one that exists is left alone.
    pub if_not_exists: bool,
    /// Its columns, unless they are those of the query.
    pub columns: Vec<ColumnDef>,
    /// Columns that it is partitioned by.
    pub partitioned_by: Vec<String>,
    /// The comment on it.
    pub comment: Option<String>,
    /// What it is to hold.
    pub query: Option<Box<Query>>,
    /// The partitions that are made anew if the table is there; `None` for all of it.
    pub slice: Option<Slice>,
}

/// The partitions of a table that are those of some days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The column that says which day it is.
    pub column: String,
    /// The first day.
    pub first: NaiveDate,
    /// The last day.
    pub last: NaiveDate,
}

/// `CREATE [OR REPLACE] VIEW [IF NOT EXISTS] name AS query`.
#[derive(Debug, Clone)]
pub struct CreateView {
    /// The view.
    pub name: Name,
    /// Whether one that exists is replaced.
    pub or_replace: bool,
    /// Whether one that exists is left alone.
    pub if_not_exists: bool,
    /// What it stands for.
    pub query: Box<Query>,
}

/// `DROP TABLE | VIEW | MODEL | SCHEMA [IF EXISTS] name [CASCADE]`.
#[derive(Debug, Clone)]
pub struct Drop {
    /// What is dropped.
    pub kind: Kind,
    /// `schema.name`, or the name of a schema.
    pub name: String,
    /// Whether a name that stands for nothing is no error.
    pub if_exists: bool,
    /// Whether everything in the schema goes as well.
    pub cascade: bool,
}

/// `INSERT INTO | OVERWRITE name [(columns)] query`.
#[derive(Debug, Clone)]
pub struct Insert {
    /// The table.
    pub table: Name,
    /// The columns that the query's columns are for; all of the table's if there are none.
    pub columns: Vec<String>,
    /// Whether what is there is replaced: everything, or the partitions that the rows are in.
    pub overwrite: bool,
    /// The rows.
    pub source: Box<Query>,
}

/// `DELETE FROM name [WHERE …]`.
#[derive(Debug, Clone)]
pub struct Delete {
    /// The table.
    pub table: Name,
    /// Its name in the condition.
    pub alias: Option<TableAlias>,
    /// Which rows go; all if there is no condition.
    pub condition: Option<Expr>,
}

/// `UPDATE name SET column = value, … [WHERE …]`.
#[derive(Debug, Clone)]
pub struct Update {
    /// The table.
    pub table: Name,
    /// Its name in the condition and the values.
    pub alias: Option<TableAlias>,
    /// Columns and their new values.
    pub assignments: Vec<(String, Expr)>,
    /// Which rows change; all if there is no condition.
    pub condition: Option<Expr>,
}

/// `MERGE INTO name USING source ON condition WHEN …`.
#[derive(Debug, Clone)]
pub struct Merge {
    /// The table.
    pub table: Name,
    /// Its name in the conditions and values.
    pub alias: Option<TableAlias>,
    /// The rows that change it.
    pub source: TableFactor,
    /// Which row of the source belongs to which row of the table.
    pub on: Expr,
    /// What becomes of rows, in the order of precedence.
    pub clauses: Vec<MergeClause>,
}

/// `CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name OPTIONS (…) AS query`.
#[derive(Debug, Clone)]
pub struct CreateModel {
    /// The model.
    pub name: Name,
    /// Whether one that exists gets a new version.
    pub or_replace: bool,
    /// Whether one that exists is left alone.
    pub if_not_exists: bool,
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
