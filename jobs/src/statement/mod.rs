//! Statements: text to what is to be done, and what a statement reads and creates.
//!
//! `parse` goes through a text, `classify` knows the engine's statements, `own` Nightshift's, `arguments`
//! the queries among the arguments of table functions, and `script` cuts a text into statements that get
//! values for their parameters before they are parsed.

mod arguments;
mod classify;
mod kinds;
mod limits;
mod mask;
mod names;
mod own;
mod parse;
mod positions;
mod script;
mod time;

pub use arguments::with_queries;
pub use classify::{assignments_of, identifier, name_of, parts_of};
pub use kinds::*;
pub use limits::STACK;
pub use names::{References, changes, creates, reads};
pub use parse::parse;
pub use positions::Positions;
pub use script::{Parameters, Unparsed, split};
pub use time::parse as parse_time;
