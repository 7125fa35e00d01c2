//! Errors as they travel: a gRPC code, a message, and an SQLSTATE, both in the message and in the
//! metadata `sqlstate`.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use nightshift_catalog::CatalogError;
use nightshift_jobs::JobError;
use std::fmt::Display;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// What kind of error it is: the SQLSTATE, and the code of gRPC that is closest to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(&'static str, Code);

pub(super) const SYNTAX: Kind = Kind("42601", Code::InvalidArgument);
pub(super) const STATEMENT: Kind = Kind("42000", Code::InvalidArgument);
pub(super) const UNKNOWN_COLUMN: Kind = Kind("42703", Code::InvalidArgument);
pub(super) const UNKNOWN_TABLE: Kind = Kind("42P01", Code::NotFound);
pub(super) const TABLE_EXISTS: Kind = Kind("42P07", Code::AlreadyExists);
pub(super) const PARAMETERS: Kind = Kind("07001", Code::InvalidArgument);
pub(super) const NOT_SUPPORTED: Kind = Kind("0A000", Code::Unimplemented);
pub(super) const DATA: Kind = Kind("22000", Code::InvalidArgument);
pub(super) const CANCELLED: Kind = Kind("57014", Code::Cancelled);
pub(super) const UNKNOWN_HANDLE: Kind = Kind("26000", Code::NotFound);
pub(super) const LIMIT: Kind = Kind("54000", Code::ResourceExhausted);
const AMBIGUOUS_COLUMN: Kind = Kind("42702", Code::InvalidArgument);
const DUPLICATE_COLUMN: Kind = Kind("42701", Code::InvalidArgument);
const UNKNOWN_FUNCTION: Kind = Kind("42883", Code::InvalidArgument);
const NAME: Kind = Kind("42602", Code::InvalidArgument);
const OPTION: Kind = Kind("22023", Code::InvalidArgument);
const ZERO: Kind = Kind("22012", Code::InvalidArgument);
const OVERFLOW: Kind = Kind("22003", Code::InvalidArgument);
const CAST: Kind = Kind("22018", Code::InvalidArgument);
const CHECK: Kind = Kind("23514", Code::FailedPrecondition);
const CONFLICT: Kind = Kind("40001", Code::Aborted);
const MEMORY: Kind = Kind("53200", Code::ResourceExhausted);
const FILE: Kind = Kind("58030", Code::Unavailable);
const INTERNAL: Kind = Kind("XX000", Code::Internal);

/// A status of a kind, with a message for whoever wrote the statement.
pub(super) fn of(kind: Kind, message: impl Display) -> Status {
    let Kind(state, code) = kind;
    let mut status = Status::new(code, format!("{message} (SQLSTATE {state})"));
    status.metadata_mut().insert("sqlstate", MetadataValue::from_static(state));
    status
}

/// A status for what should not happen.
pub(super) fn internal(error: impl Display) -> Status {
    of(INTERNAL, error)
}

/// A status for an error of a statement.
pub(super) fn of_error(error: JobError) -> Status {
    of(kind(&error), &error)
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
        JobError::File { .. } => CAST,
        JobError::Check { .. } => CHECK,
        JobError::Interrupted => CANCELLED,
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
        CatalogError::Location { .. } | CatalogError::Target { .. } => STATEMENT,
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
        let status = of_error(at(Box::new(JobError::Engine(missing.context("somewhere")))));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("statement:2: "), "{}", status.message());
        assert!(status.message().contains("naem"), "{}", status.message());
        assert!(status.message().ends_with("(SQLSTATE 42703)"), "{}", status.message());
        assert_eq!(status.metadata().get("sqlstate").unwrap(), "42703");

        let contention = CatalogError::Contention { url: "x".into(), attempts: 3 };
        let contention = DataFusionError::External(Box::new(contention));
        assert_eq!(kind(&JobError::Engine(contention)), CONFLICT);
        let lost = DataFusionError::Plan("table 'nightshift.a.b' not found".into());
        assert_eq!(kind(&at(Box::new(JobError::Engine(lost)))), UNKNOWN_TABLE);
        let remote = "Job x failed: Task failed: DataFusionError(Shared(ArrowError(DivideByZero)))";
        assert_eq!(kind(&JobError::Engine(DataFusionError::Execution(remote.into()))), ZERO);
        assert_eq!(kind(&JobError::Interrupted), CANCELLED);
    }
}
