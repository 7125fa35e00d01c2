//! `nightshift.toml`, and which setting wins: the flag, then the environment, then the file.

use crate::Failure;
use crate::arguments::LineageArguments;
use nightshift_catalog::storage::{StoreSettings, Stores, parse_url};
use nightshift_scheduler::{LineageReceiver, LineageTarget};
use serde::Deserialize;
use std::path::Path;
use url::Url;

/// The file, looked for in the current folder.
const FILE: &str = "nightshift.toml";

/// What is used when nothing is said.
const WAREHOUSE: &str = "warehouse";

/// The namespace of lineage when nothing is said.
const NAMESPACE: &str = "nightshift";

/// What `nightshift.toml` can say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The warehouse.
    warehouse: Option<String>,
    /// The cluster.
    pub cluster: Option<String>,
    /// Where lineage goes.
    lineage: Option<String>,
    /// The namespace of lineage.
    lineage_namespace: Option<String>,
    /// Folders and URLs, besides the warehouse and a pipeline's own folder, that external tables may
    /// be in.
    #[serde(default)]
    locations: Vec<String>,
    /// How object stores are reached.
    #[serde(default)]
    store: Vec<StoreSettings>,
}

impl Settings {
    /// Reads the file, if there is one.
    pub fn read() -> Result<Self, Failure> {
        match std::fs::read_to_string(FILE) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("{FILE}: {error}").into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{FILE}: {error}").into()),
        }
    }

    /// The warehouse. `given` is what the flag or the environment says.
    pub fn warehouse(&self, given: Option<&str>) -> Result<Url, Failure> {
        Ok(parse_url(given.or(self.warehouse.as_deref()).unwrap_or(WAREHOUSE))?)
    }

    /// Who is told what runs read and make, if anybody is.
    pub fn lineage(&self, given: &LineageArguments) -> Result<Option<LineageReceiver>, Failure> {
        // An empty one is how a flag says that nobody is.
        let target = given.lineage.as_ref().or(self.lineage.as_ref());
        let Some(target) = target.filter(|target| !target.is_empty()) else { return Ok(None) };
        let namespace = given.lineage_namespace.as_ref().or(self.lineage_namespace.as_ref());
        let namespace = namespace.cloned().unwrap_or_else(|| NAMESPACE.to_string());
        Ok(Some(LineageReceiver { target: LineageTarget::parse(target)?, namespace }))
    }

    /// The object stores of this process.
    pub fn stores(&self) -> Result<Stores, Failure> {
        Ok(Stores::new(&self.store)?)
    }

    /// Where external tables may be.
    pub fn locations(&self, pipeline: Option<&Path>) -> Result<Vec<Url>, Failure> {
        let mut locations: Vec<Url> =
            self.locations.iter().map(|text| parse_url(text)).collect::<Result<_, _>>()?;
        if let Some(folder) = pipeline {
            locations.push(parse_url(&folder.to_string_lossy())?);
        }
        Ok(locations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_over_the_file() {
        let settings: Settings =
            toml::from_str("warehouse = 's3://b/w'\nlocations = ['/data']").unwrap();
        assert_eq!(settings.warehouse(Some("s3://x/y")).unwrap().as_str(), "s3://x/y");
        assert_eq!(settings.warehouse(None).unwrap().as_str(), "s3://b/w");
        let default = Settings::default().warehouse(None).unwrap();
        assert!(default.as_str().ends_with("/warehouse"));
        assert_eq!(settings.locations(Some(Path::new("/p"))).unwrap().len(), 2);
        assert!(toml::from_str::<Settings>("warehose = 'x'").is_err());
    }

    #[test]
    fn lineage_is_told_to_whom_is_given() {
        let settings: Settings = toml::from_str("lineage = 'a.jsonl'").unwrap();
        let given = |lineage: Option<&str>, namespace: Option<&str>| LineageArguments {
            lineage: lineage.map(str::to_string),
            lineage_namespace: namespace.map(str::to_string),
        };
        let told = |lineage, namespace| {
            let receiver = settings.lineage(&given(lineage, namespace)).unwrap();
            receiver.map(|receiver| (receiver.target.to_string(), receiver.namespace))
        };
        let pair =
            |target: &str, namespace: &str| Some((target.to_string(), namespace.to_string()));
        assert_eq!(told(None, None), pair("a.jsonl", "nightshift"));
        assert_eq!(told(Some("b.jsonl"), Some("n")), pair("b.jsonl", "n"));
        assert_eq!(told(Some(""), None), None);
        assert!(settings.lineage(&given(Some("ftp://x"), None)).is_err());
        let nobody = Settings::default().lineage(&given(None, None)).unwrap();
        assert!(nobody.is_none());
    }

    #[test]
    fn stores_have_options() {
        let stores = |text: &str| toml::from_str::<Settings>(text).unwrap().stores();
        let entry =
            "[[store]]\nurl = 's3://b'\nendpoint = 'http://127.0.0.1:9000'\nallow_http = true";
        assert!(stores(entry).is_ok());
        let message = stores(&format!("{entry}\nendpiont = 'x'")).unwrap_err().to_string();
        assert!(message.contains("nightshift.toml") && message.contains("endpiont"), "{message}");
        assert!(toml::from_str::<Settings>("[[store]]\nregion = 'x'").is_err());
    }
}
