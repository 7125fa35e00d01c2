//! Statements: text to what is to be done, and what a statement reads and creates.

mod names;
mod parse;

pub use names::{References, creates, reads};
pub use parse::{
    CreateModel, CreateTable, Located, ModelOption, OptionValue, Statement, name_of, parse,
};
