//! What runs: statements, pipelines, runs and training drivers.
//!
//! Everything is written against a [`session::Session`] that runs plans, so that the same run works
//! in this process, on an embedded cluster and on a remote one.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`statement`] | text to statements, and what a statement reads and creates |
//! | [`session`] | running plans; the names that a statement sees |
//! | [`change`] | what statements do to tables that are there |
//! | [`introspection`] | the warehouse described as tables |
//! | `table_functions` | functions in `FROM` |
//! | [`external`] | files that are read in place |
//! | [`operator`] | Nightshift's own operators in plans, and how they travel |
//! | [`superstep`] | the operators of iterative algorithms, and what executors keep in memory |
//! | [`training`] | the drivers of `CREATE MODEL` |
//! | [`connection`] | statements executed one by one, as clients do |
//! | [`run`] | statements executed together and published together |
//! | [`pipeline`] | folders of SQL files |
//! | [`progress`] | what a run tells while it works |

mod error;

pub mod change;
pub mod connection;
pub mod external;
pub mod introspection;
pub mod operator;
pub mod pipeline;
pub mod progress;
pub mod run;
pub mod session;
pub mod statement;
mod suggest;
pub mod superstep;
mod table_functions;
pub mod training;

pub use error::{JobError, Result};
