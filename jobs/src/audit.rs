//! The record of who has changed what: events of the log with the target `audit`.
//!
//! They name statements by their kind and the id of their query or run, and never have anything of the
//! statement's text besides the name of what it is about.

use crate::queries::Caller;
use std::fmt::Display;

/// Records that somebody has done, or tried to do, something that changes a state.
pub fn record(caller: &Caller, id: impl Display, action: &str, object: &str, outcome: &str) {
    let Caller { who, via } = caller;
    tracing::info!(target: "audit", who, %via, action, object, %id, outcome);
}
