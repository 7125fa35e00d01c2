//! Supersteps: one job per step of an iterative algorithm (or for several steps, where one task has all blocks, or tasks wait
//! for each other between them).
//!
//! A step combines a block of fixed data (ratings, edges), which stays in the executor's memory
//! between steps, with a shared state (factors, ranks), which every executor reads once. It writes
//! its part of the next state to object storage and returns one row of measurements, from which the
//! driver decides whether to go on. A part is the same whoever computes it, so a task that is run
//! again on another executor writes the same bytes to the same place.
//!
//! A new algorithm is a new [`Kernel`]: the operator, its serialisation, the cache and the driver's
//! plumbing stay.

mod als;
mod barrier;
mod blocks;
mod exec;
mod export;
mod groups;
mod items;
mod layout;
mod pagerank;
mod prepare;
mod resident;
mod sink;
mod slices;
#[cfg(test)]
mod testing;

pub use als::{AlsInitialize, AlsSide, AlsStep, PublishedItems};
pub use blocks::{BlockWrite, Content, WrittenBlock, written_blocks};
pub use exec::{Kernel, MEASURES_SCHEMA, Superstep, SuperstepExec, Task, total};
pub use export::{FactorsExport, RankVectors, RanksExport};
pub use items::{FixedItems, ItemFiles};
pub use layout::{Folder, Partitioned};
pub use pagerank::{Distributions, PageRankGraph, PageRankInitialize, PageRankStep, VectorSums};
pub use prepare::{
    Axis, Destination, Encode, Encoded, Gather, IdType, IdsExport, Number, NumberedIds, SEGMENT,
    Scatter, Segment, Wrong,
};
pub use resident::{Resident, Reuse};
pub use sink::{Sink, SinkExec};
pub use slices::{AlsSlices, LongRow, Slice};
