//! Errors as they travel: a gRPC code, a message, and an SQLSTATE, both in the message and in the
//! metadata `sqlstate`.

pub(super) use crate::statement::error::*;
use nightshift_jobs::JobError;
use std::fmt::Display;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The code of gRPC that is closest to a kind of error.
fn code(kind: Kind) -> Code {
    match kind {
        UNKNOWN_TABLE | UNKNOWN_HANDLE => Code::NotFound,
        TABLE_EXISTS => Code::AlreadyExists,
        NOT_SUPPORTED => Code::Unimplemented,
        CANCELLED => Code::Cancelled,
        LIMIT | MEMORY => Code::ResourceExhausted,
        CHECK | ENDED => Code::FailedPrecondition,
        CONFLICT => Code::Aborted,
        FILE => Code::Unavailable,
        FORBIDDEN => Code::PermissionDenied,
        INTERNAL => Code::Internal,
        _ => Code::InvalidArgument,
    }
}

impl From<SqlError> for Status {
    fn from(error: SqlError) -> Self {
        let state = error.kind.sqlstate();
        let mut status = Status::new(code(error.kind), format!("{error} (SQLSTATE {state})"));
        status.metadata_mut().insert("sqlstate", MetadataValue::from_static(state));
        status
    }
}

/// A status of a kind, with a message for whoever wrote the statement.
pub(super) fn of(kind: Kind, message: impl Display) -> Status {
    SqlError::new(kind, message).into()
}

/// A status for what should not happen.
pub(super) fn internal(error: impl Display) -> Status {
    SqlError::internal(error).into()
}

/// A status for an error of a statement.
pub(super) fn of_error(error: JobError) -> Status {
    SqlError::from(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_travel_with_their_state() {
        let status = of_error(JobError::Statement("there is no table a.b".to_string()));
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "there is no table a.b (SQLSTATE 42P01)");
        assert_eq!(status.metadata().get("sqlstate").unwrap(), "42P01");
    }
}
