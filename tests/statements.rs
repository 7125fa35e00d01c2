//! Statements as text: each file of `tests/statements` on a warehouse of its own.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use sqllogictest::{DBOutput, DefaultColumnType, Runner};
use std::io;
use std::path::{Path, PathBuf};
use support::s3::S3;
use support::*;
use tempfile::TempDir;

/// Sends every statement to the binary, on the cluster of the test.
struct Shell {
    folder: PathBuf,
    cluster: String,
}

impl sqllogictest::DB for Shell {
    type Error = io::Error;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, io::Error> {
        let mut command = nightshift(&self.folder);
        let command =
            command.args(["sql", "--cluster", &self.cluster, "--format", "csv", "-c", sql]);
        let output = command.output()?;
        if !output.status.success() {
            return Err(io::Error::other(text(&output)));
        }
        let first = sql.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        let rows = ["select", "with", "explain", "show", "describe"];
        if !rows.contains(&first.as_str()) {
            return Ok(DBOutput::StatementComplete(0));
        }
        let value =
            |text: &str| if text.is_empty() { "NULL".to_string() } else { text.to_string() };
        let printed = String::from_utf8_lossy(&output.stdout);
        let rows: Vec<Vec<String>> =
            printed.lines().skip(1).map(|line| line.split(',').map(value).collect()).collect();
        let types = vec![DefaultColumnType::Any; rows.first().map_or(0, Vec::len)];
        Ok(DBOutput::Rows { types, rows })
    }

    fn engine_name(&self) -> &str {
        "nightshift"
    }
}

fn file(name: &str) {
    file_in(name, &tempfile::tempdir().unwrap());
}

fn file_in(name: &str, folder: &TempDir) {
    let key = ("NIGHTSHIFT_PSEUDONYM_KEY", "a key that only the executors have");
    let cluster = Cluster::start_with(folder.path(), &[1, 1], &[key]);
    let (path, address) = (folder.path().to_path_buf(), cluster.address.clone());
    let mut runner = Runner::new(|| {
        let shell = Shell { folder: path.clone(), cluster: address.clone() };
        async move { Ok(shell) }
    });
    let file: &Path = &repository().join("tests/statements").join(name);
    if let Err(error) = runner.run_file(file) {
        panic!("{}", error.display(false));
    }
}

#[test]
fn tables() {
    file("tables.slt");
}

#[test]
fn changes() {
    file("changes.slt");
}

#[test]
fn names() {
    file("names.slt");
}

#[test]
fn refused() {
    file("refused.slt");
}

#[test]
fn matrix_factorization() {
    file("matrix_factorization.slt");
}

#[test]
fn model_functions() {
    file("model_functions.slt");
}

#[test]
fn joins() {
    file("joins.slt");
}

#[test]
fn warm_start() {
    file("warm_start.slt");
}

#[test]
fn pagerank() {
    file("pagerank.slt");
}

#[test]
fn functions() {
    file("functions.slt");
}

/// The same statements on a warehouse in a bucket.
mod on_s3 {
    use super::*;

    fn file(name: &str) {
        let (folder, s3) = (tempfile::tempdir().unwrap(), S3::start());
        s3.configure(folder.path(), &s3.address, "");
        file_in(name, &folder);
        assert!(!s3.objects("warehouse/").is_empty());
        assert!(!folder.path().join("warehouse").exists());
    }

    #[test]
    fn tables() {
        file("tables.slt");
    }

    #[test]
    fn changes() {
        file("changes.slt");
    }

    #[test]
    fn names() {
        file("names.slt");
    }

    #[test]
    fn matrix_factorization() {
        file("matrix_factorization.slt");
    }

    #[test]
    fn pagerank() {
        file("pagerank.slt");
    }
}

#[test]
fn functions_of_a_missing_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = nightshift(folder.path());
    let output = command.args(["sql", "-c", "SELECT pseudonymize(42)"]).output().unwrap();
    assert!(!output.status.success());
    let expected = "pseudonymize: there is no key: set the environment variable NIGHTSHIFT_PSEUDONYM_KEY \
                    of all executors to the same secret of at least 16 characters";
    assert!(text(&output).contains(expected), "{}", text(&output));
}
