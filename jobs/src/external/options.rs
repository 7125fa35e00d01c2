//! How files are to be read, as it is written in a statement.

use super::quarantine::Quarantine;
use crate::{JobError, Result};
use datafusion::common::config::{CsvOptions, JsonOptions, TableParquetOptions};
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::sql::sqlparser::ast::Value;
use nightshift_catalog::encode::set_options;
use object_store::ObjectMeta;
use std::collections::{BTreeMap, HashMap};

/// Compressions by how the names of files end.
pub(crate) const COMPRESSIONS: [(&str, &str); 4] =
    [(".gz", "gzip"), (".bz2", "bzip2"), (".xz", "xz"), (".zst", "zstd")];

/// The options of files, checked.
#[derive(Debug, Clone)]
pub(super) struct FileOptions {
    /// The format in lower case.
    pub(super) format: &'static str,
    /// The options by DataFusion's names, without `format.` before them.
    given: BTreeMap<String, String>,
    /// The compression, as the option names it.
    compression: Option<String>,
    /// Where records go that can't be read.
    pub(super) quarantine: Option<Quarantine>,
}

impl FileOptions {
    /// Refuses formats and options that are unknown or wrong.
    pub(super) fn of(format: &str, given: &[(String, Value)]) -> Result<Self> {
        let format = match format.to_ascii_lowercase().as_str() {
            "csv" => "csv",
            "json" | "ndjson" => "json",
            "parquet" => "parquet",
            "avro" => "avro",
            _ => {
                return Err(JobError::Statement(format!(
                    "{format} is not a format that can be read: use STORED AS PARQUET, CSV, JSON, AVRO \
                     or DELTA"
                )));
            }
        };
        let mut given = options_of(given)?;
        let quarantine = Quarantine::take(&mut given)?;
        if quarantine.is_some() && !matches!(format, "csv" | "json") {
            return Err(JobError::Statement(format!(
                "option quarantine: only CSV and JSON files can be read without some of their records, \
                 not {format}"
            )));
        }
        let compression = given.get("compression").map(|name| name.to_ascii_lowercase());
        match format {
            "csv" => {
                set_options(CsvOptions::default(), &given)?;
            }
            "json" => {
                let json = set_options(JsonOptions::default(), &given)?;
                if quarantine.is_some() && !json.newline_delimited {
                    return Err(JobError::Statement(
                        "option quarantine: it needs an object on each line, not one list"
                            .to_string(),
                    ));
                }
            }
            "parquet" => {
                set_options(TableParquetOptions::default(), &given)?;
            }
            _ => {
                if let Some(option) = given.keys().next() {
                    return Err(JobError::Statement(format!(
                        "option {option}: there are no options for {format}"
                    )));
                }
            }
        }
        Ok(Self { format, given, compression, quarantine })
    }

    /// The options of CSV files; those of no others.
    pub(super) fn csv(&self) -> Result<Option<CsvOptions>> {
        match self.format {
            "csv" => Ok(Some(set_options(CsvOptions::default(), &self.given)?)),
            _ => Ok(None),
        }
    }

    /// How the files are compressed.
    pub(super) fn compression(&self) -> Result<CompressionTypeVariant> {
        let name = self.compression.as_deref().unwrap_or("uncompressed");
        Ok(name.parse::<CompressionTypeVariant>()?)
    }

    /// The options in the engine's form.
    pub(super) fn of_engine(&self) -> HashMap<String, String> {
        let all = self.given.iter();
        all.map(|(name, value)| (format!("format.{name}"), value.clone())).collect()
    }

    /// How the names of such files end.
    pub(super) fn extension(&self) -> String {
        let compression = self.compression.as_deref().unwrap_or_default();
        let suffix = COMPRESSIONS.iter().find(|(_, name)| *name == compression);
        format!(".{}{}", self.format, suffix.map_or("", |(suffix, _)| suffix))
    }

    /// Text files whose names say that they are compressed are, unless an option says something else.
    pub(super) fn compressed_like(&mut self, files: &[ObjectMeta]) -> Result<()> {
        if self.compression.is_some() || !matches!(self.format, "csv" | "json") {
            return Ok(());
        }
        let of_file = |file: &ObjectMeta| {
            let name = file.location.as_ref().to_ascii_lowercase();
            COMPRESSIONS.iter().find(|(suffix, _)| name.ends_with(suffix)).map(|(_, name)| *name)
        };
        let Some(first) = files.first() else { return Ok(()) };
        let compression = of_file(first);
        if let Some(other) = files.iter().find(|file| of_file(file) != compression) {
            return Err(JobError::Statement(format!(
                "/{} and /{} are not compressed alike: name those that are, with a pattern",
                first.location, other.location
            )));
        }
        if let Some(compression) = compression {
            self.compression = Some(compression.to_string());
            self.given.insert("compression".to_string(), compression.to_string());
        }
        Ok(())
    }
}

/// Options by their names in lower case, without `format.` before them.
pub(crate) fn options_of(given: &[(String, Value)]) -> Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        let name = lower.strip_prefix("format.").unwrap_or(&lower);
        let text = text_of(value).ok_or_else(|| {
            JobError::Statement(format!(
                "option {name}: {value} is not a text, a number or a Boolean"
            ))
        })?;
        if options.insert(name.to_string(), text).is_some() {
            return Err(JobError::Statement(format!("option {name} is given twice")));
        }
    }
    Ok(options)
}

/// The value of an option as a text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::SingleQuotedString(text)
        | Value::DoubleQuotedString(text)
        | Value::EscapedStringLiteral(text)
        | Value::Number(text, _) => Some(text.clone()),
        Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}
