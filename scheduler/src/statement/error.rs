//! Errors of statements for whoever has sent them: an SQLSTATE, a message, and where in the text it is.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use nightshift_catalog::CatalogError;
use nightshift_jobs::JobError;
use std::fmt::{self, Display};

/// What kind of error it is: an SQLSTATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(&'static str);

pub(crate) const SYNTAX: Kind = Kind("42601");
pub(crate) const STATEMENT: Kind = Kind("42000");
pub(crate) const UNKNOWN_COLUMN: Kind = Kind("42703");
pub(crate) const UNKNOWN_TABLE: Kind = Kind("42P01");
pub(crate) const TABLE_EXISTS: Kind = Kind("42P07");
pub(crate) const PARAMETERS: Kind = Kind("07001");
pub(crate) const NOT_SUPPORTED: Kind = Kind("0A000");
pub(crate) const DATA: Kind = Kind("22000");
pub(crate) const CANCELLED: Kind = Kind("57014");
pub(crate) const UNKNOWN_HANDLE: Kind = Kind("26000");
pub(crate) const LIMIT: Kind = Kind("54000");
pub(crate) const CHECK: Kind = Kind("23514");
pub(crate) const CONFLICT: Kind = Kind("40001");
pub(crate) const MEMORY: Kind = Kind("53200");
pub(crate) const FILE: Kind = Kind("58030");
pub(crate) const INTERNAL: Kind = Kind("XX000");
/// A request that is none.
pub(crate) const PROTOCOL: Kind = Kind("08P01");
/// Something that has ended and can't be stopped any more.
pub(crate) const ENDED: Kind = Kind("55000");
/// Something that the one who asks may not do.
pub(crate) const FORBIDDEN: Kind = Kind("42501");
const AMBIGUOUS_COLUMN: Kind = Kind("42702");
const DUPLICATE_COLUMN: Kind = Kind("42701");
const UNKNOWN_FUNCTION: Kind = Kind("42883");
const NAME: Kind = Kind("42602");
const OPTION: Kind = Kind("22023");
const ZERO: Kind = Kind("22012");
const OVERFLOW: Kind = Kind("22003");
const CAST: Kind = Kind("22018");

impl Kind {
    /// The SQLSTATE.
    pub(crate) fn sqlstate(self) -> &'static str {
        self.0
    }
}

/// A place in a text that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// What the text is called.
    pub(crate) file: String,
    /// The line, from 1.
    pub(crate) line: u64,
    /// The column, from 1, where it is known.
    pub(crate) column: Option<u64>,
}

/// An error for whoever has sent a statement. It is displayed with its place.
#[derive(Debug, Clone)]
pub(crate) struct SqlError {
    /// What kind of error it is.
    pub(crate) kind: Kind,
    /// What is wrong, and what to do.
    pub(crate) message: String,
    /// Where it is.
    pub(crate) place: Option<Place>,
}

impl SqlError {
    /// An error that is nowhere in particular.
    pub(crate) fn new(kind: Kind, message: impl Display) -> Self {
        Self { kind, message: message.to_string(), place: None }
    }

    /// An error of the text of a statement.
    pub(crate) fn at(kind: Kind, line: u64, column: Option<u64>, message: impl Display) -> Self {
        let place = Some(Place { file: TEXT.to_string(), line, column });
        Self { place, ..Self::new(kind, message) }
    }

    /// What should not happen.
    pub(crate) fn internal(error: impl Display) -> Self {
        Self::new(INTERNAL, error)
    }
}

/// What the text of a statement is called in errors.
pub(crate) const TEXT: &str = "statement";

impl Display for SqlError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { file, line, column }) = &self.place {
            write!(out, "{file}:{line}")?;
            if let Some(column) = column {
                write!(out, ":{column}")?;
            }
            out.write_str(": ")?;
        }
        out.write_str(&self.message)
    }
}

impl From<JobError> for SqlError {
    fn from(error: JobError) -> Self {
        let kind = kind(&error);
        match error {
            JobError::Syntax { file, line, column, reason } => {
                let place = Some(Place { file, line, column: Some(column) });
                Self { kind, message: reason, place }
            }
            JobError::At { file, line, source } => {
                let span = match source.as_ref() {
                    JobError::Engine(engine) => engine.diagnostic().and_then(|found| found.span),
                    _ => None,
                };
                let place = match span {
                    Some(span) => {
                        Place { file, line: span.start.line, column: Some(span.start.column) }
                    }
                    None => Place { file, line, column: None },
                };
                Self { kind, message: source.to_string(), place: Some(place) }
            }
            error => Self::new(kind, error),
        }
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        JobError::from(error).into()
    }
}

fn kind(error: &JobError) -> Kind {
    match error {
        JobError::At { source, .. } => kind(source),
        JobError::Shared(shared) => kind(shared),
        JobError::Syntax { .. } => SYNTAX,
        JobError::Statement(text) => match text {
            text if text.contains("exists already") => TABLE_EXISTS,
            text if text.contains("is not supported") => NOT_SUPPORTED,
            text => of_text(text).unwrap_or(STATEMENT),
        },
        JobError::Option { .. } => OPTION,
        JobError::TrainingData { .. } => DATA,
        JobError::File { .. } | JobError::Quarantine { .. } => CAST,
        JobError::Check { .. } => CHECK,
        JobError::Interrupted | JobError::Cancelled => CANCELLED,
        JobError::Catalog(error) => of_catalog(error),
        JobError::Engine(error) => of_engine(error),
        JobError::Arrow(error) => of_text(&error.to_string()).unwrap_or(DATA),
        _ => INTERNAL,
    }
}

fn of_catalog(error: &CatalogError) -> Kind {
    match error {
        CatalogError::Contention { .. } | CatalogError::Conflict { .. } => CONFLICT,
        CatalogError::Name { .. } => NAME,
        CatalogError::Location { .. }
        | CatalogError::Target { .. }
        | CatalogError::NotKept { .. } => STATEMENT,
        CatalogError::Option { .. } => OPTION,
        CatalogError::Store { .. } | CatalogError::NotWritable { .. } => FILE,
        CatalogError::Unsupported { .. } | CatalogError::Column { .. } => NOT_SUPPORTED,
        _ => INTERNAL,
    }
}

fn of_engine(error: &DataFusionError) -> Kind {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            of_engine(inner)
        }
        DataFusionError::Shared(inner) => of_engine(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(INTERNAL, of_engine),
        DataFusionError::External(inner) => {
            if let Some(error) = inner.downcast_ref::<JobError>() {
                kind(error)
            } else if let Some(error) = inner.downcast_ref::<CatalogError>() {
                of_catalog(error)
            } else if let Some(error) = inner.downcast_ref::<DataFusionError>() {
                of_engine(error)
            } else {
                of_text(&inner.to_string()).unwrap_or(INTERNAL)
            }
        }
        DataFusionError::SQL(..) => SYNTAX,
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { .. } => UNKNOWN_COLUMN,
            SchemaError::AmbiguousReference { .. } => AMBIGUOUS_COLUMN,
            SchemaError::DuplicateQualifiedField { .. }
            | SchemaError::DuplicateUnqualifiedField { .. } => DUPLICATE_COLUMN,
        },
        DataFusionError::NotImplemented(_) => NOT_SUPPORTED,
        DataFusionError::ResourcesExhausted(_) => MEMORY,
        DataFusionError::Plan(text) => of_text(text).unwrap_or(STATEMENT),
        error => of_text(&error.to_string()).unwrap_or(INTERNAL),
    }
}

/// The kind that a message tells: what fails on executors comes back as text.
fn of_text(text: &str) -> Option<Kind> {
    const SIGNS: &[(&str, Kind)] = &[
        ("Resources exhausted", MEMORY),
        ("No field named", UNKNOWN_COLUMN),
        ("Ambiguous reference", AMBIGUOUS_COLUMN),
        ("there is no table", UNKNOWN_TABLE),
        ("Invalid function", UNKNOWN_FUNCTION),
        ("is not a known function", UNKNOWN_FUNCTION),
        ("Divide by zero", ZERO),
        ("DivideByZero", ZERO),
        ("overflow", OVERFLOW),
        ("ArithmeticOverflow", OVERFLOW),
        ("Cast error", CAST),
        ("CastError", CAST),
        ("Cannot cast", CAST),
        ("Error while parsing value", CAST),
        ("failed: Cancelled", CANCELLED),
    ];
    // Such as "table 'nightshift.a.b' not found".
    if text.contains("table '") && text.contains("' not found") {
        return Some(UNKNOWN_TABLE);
    }
    SIGNS.iter().find(|(sign, _)| text.contains(sign)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::common::Column;

    #[test]
    fn errors_get_the_state_that_clients_know() {
        let at = |source| JobError::At { file: "statement".into(), line: 2, source };
        let missing = SchemaError::FieldNotFound {
            field: Box::new(Column::from_name("naem")),
            valid_fields: vec![Column::from_name("name")],
        };
        let missing = DataFusionError::SchemaError(Box::new(missing), Box::new(None));
        let error = SqlError::from(at(Box::new(JobError::Engine(missing.context("somewhere")))));
        assert_eq!(error.kind, UNKNOWN_COLUMN);
        assert!(error.to_string().starts_with("statement:2: "), "{error}");
        assert!(error.message.contains("naem") && !error.message.contains("statement:"), "{error}");

        let contention = CatalogError::Contention { url: "x".into(), attempts: 3 };
        let contention = DataFusionError::External(Box::new(contention));
        assert_eq!(kind(&JobError::Engine(contention)), CONFLICT);
        let lost = DataFusionError::Plan("table 'nightshift.a.b' not found".into());
        assert_eq!(kind(&at(Box::new(JobError::Engine(lost)))), UNKNOWN_TABLE);
        let remote = "Job x failed: Task failed: DataFusionError(Shared(ArrowError(DivideByZero)))";
        assert_eq!(kind(&JobError::Engine(DataFusionError::Execution(remote.into()))), ZERO);
        assert_eq!(kind(&JobError::Interrupted), CANCELLED);
        // What the engine only passes on is said once.
        let located = at(Box::new(JobError::Cancelled));
        let passed = SqlError::from(DataFusionError::from(located));
        assert_eq!(passed.kind, CANCELLED);
        assert_eq!(passed.to_string(), "statement:2: the statement was cancelled");
    }
}
