//! Statements: text to what is to be done, and what a statement reads and creates.
//!
//! `parse` goes through a text, `classify` knows the engine's statements, `own` Nightshift's, and
//! `arguments` the queries among the arguments of table functions.

mod arguments;
mod classify;
mod kinds;
mod names;
mod own;
mod parse;
mod time;

pub use arguments::with_queries;
pub use classify::{assignments_of, identifier, name_of, parts_of};
pub use kinds::*;
pub use names::{References, changes, creates, reads};
pub use parse::parse;
pub use time::parse as parse_time;
