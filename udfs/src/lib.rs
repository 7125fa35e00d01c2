//! What the data plane computes: kernels as pure functions of slices, with no I/O and no cluster.
//!
//! A kernel exists once. The superstep operators of the other crates and the SQL functions move
//! data to it and results away from it; everything numeric is here, next to its tests.
//!
//! | module | what it computes |
//! | --- | --- |
//! | [`csr`] | compressed sparse rows, the form in which training data is kept |
//! | [`dictionary`] | the different values of a column, and the place of each value among them |
//! | [`als`] | one half step of alternating least squares, implicit and explicit |
//! | [`pagerank`] | one superstep of PageRank |
//! | [`top_k`] | the best unseen items of a batch of users |
//! | [`similar_items`] | the most similar items of a batch of items |
//! | [`random`] | starting factors, a function of seed and position alone |
//! | [`zorder`] | the order of rows by several columns at once |
//! | [`functions`] | the SQL functions |

pub mod als;
pub mod csr;
mod dense;
pub mod dictionary;
pub mod functions;
pub mod pagerank;
mod prefetch;
pub mod random;
pub mod similar_items;
pub mod top_k;
pub mod zorder;
