//! What runs: statements, pipelines, runs and training drivers.
//!
//! Everything is written against a [`session::Session`] that runs plans, so that the same run works
//! in this process, on an embedded cluster and on a remote one.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`statement`] | text to statements, and what a statement reads and creates |
//! | [`session`] | running plans |
//! | [`view`] | the names that a statement sees |
//! | [`change`] | what statements do to tables that are there |
//! | `small` | queries so small that no executor is asked |
//! | [`introspection`] | the warehouse described as tables |
//! | [`table_functions`] | functions in `FROM` |
//! | [`external`] | files that are read in place |
//! | [`operator`] | Nightshift's own operators in plans, and how they travel |
//! | [`superstep`] | the operators of iterative algorithms, and what executors keep in memory |
//! | [`threads`] | the threads that the partitions of a task share |
//! | [`training`] | the drivers of `CREATE MODEL` |
//! | [`connection`] | statements executed one by one, as clients do |
//! | [`queries`] | what is executed and was executed; cancelling it |
//! | [`audit`] | the record of who has changed what |
//! | [`cluster`] | what a session can tell of its executors |
//! | [`journal`] | what has happened to runs of pipelines |
//! | [`lineage`] | what steps of runs read and make, column by column |
//! | [`notices`] | what somebody is to be told of runs |
//! | [`garbage`] | what runs have left behind |
//! | [`run`] | statements executed together and published together |
//! | [`pipeline`] | folders of SQL files |
//! | [`versions`] | versions of models |
//! | [`rows`] | rows as other programs can read them |
//! | [`progress`] | what a run tells while it works |

mod count;
mod error;

pub mod audit;
pub mod change;
pub mod cluster;
pub mod connection;
pub mod external;
pub mod garbage;
pub mod introspection;
pub mod journal;
pub mod lineage;
pub mod notices;
pub mod operator;
pub mod pipeline;
pub mod progress;
pub mod queries;
#[cfg(test)]
mod reference;
pub mod rows;
pub mod run;
pub mod session;
mod small;
pub mod statement;
mod suggestion;
pub mod superstep;
pub mod table_functions;
pub mod threads;
pub mod training;
pub mod versions;
pub mod view;

pub use count::counted;
pub use error::{JobError, Result};
