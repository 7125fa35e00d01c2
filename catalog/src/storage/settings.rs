//! What is said of object stores: entries `[[store]]` of the settings over the providers' environment
//! variables.
//!
//! An entry says which store it is for and how that is reached. Its options are those of
//! `object_store`, under the names that it gives them with or without the provider's prefix. A secret
//! is never an option: it is read from the environment variable or the file that `…_env` or `…_file`
//! names.

use crate::{CatalogError, Result};
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use url::Url;

/// How long a request is tried again if nothing is said. A store that is asked to slow down, restarts
/// or loses its network needs a minute or two, and a nightly run had better wait than fail; beyond that
/// somebody should know.
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);

/// `object_store` sends a request again as it was signed, and asks for less than five minutes.
const LONGEST_RETRY_TIMEOUT: Duration = Duration::from_secs(280);

/// An entry `[[store]]` of the settings, as it is written.
#[derive(Debug, Clone, Deserialize)]
pub struct StoreSettings {
    /// A bucket, such as `s3://bucket`, or all buckets of a scheme, such as `s3://`.
    pub url: String,
    /// Options by name.
    #[serde(flatten)]
    pub options: BTreeMap<String, OptionValue>,
}

/// The value of an option.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// True or false.
    Switch(bool),
    /// A number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl OptionValue {
    fn text(&self) -> String {
        match self {
            Self::Switch(switch) => switch.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Who runs a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    Amazon,
    Google,
    Azure,
}

impl Provider {
    /// Whose URLs have this scheme.
    pub(super) fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" | "s3a" => Some(Self::Amazon),
            "gs" => Some(Self::Google),
            "az" | "azure" | "adl" | "abfs" | "abfss" => Some(Self::Azure),
            _ => None,
        }
    }

    /// How the names of its environment variables begin.
    fn prefix(self) -> &'static str {
        match self {
            Self::Amazon => "AWS_",
            Self::Google => "GOOGLE_",
            Self::Azure => "AZURE_",
        }
    }

    /// Environment variables without the prefix, and the options that they are.
    fn other_variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Amazon => &[],
            Self::Google => &[("SERVICE_ACCOUNT", "google_service_account")],
            Self::Azure => &[("IDENTITY_ENDPOINT", "azure_msi_endpoint")],
        }
    }

    /// The one name of an option that has several; `None` if there is no such option.
    fn option(self, name: &str) -> Option<String> {
        fn known<K: std::str::FromStr + AsRef<str>>(name: &str) -> Option<String> {
            name.parse::<K>().ok().map(|key| key.as_ref().to_string())
        }
        match self {
            Self::Amazon => known::<AmazonS3ConfigKey>(name),
            Self::Google => known::<GoogleConfigKey>(name),
            Self::Azure => known::<AzureConfigKey>(name),
        }
    }
}

/// Options that must not be written into a file of settings.
const SECRETS: &[&str] = &[
    "aws_secret_access_key",
    "aws_session_token",
    "aws_sse_customer_key_base64",
    "google_service_account_key",
    "azure_storage_account_key",
    "azure_storage_client_secret",
    "azure_storage_sas_key",
    "azure_storage_token",
    "azure_fabric_session_token",
];

/// Options that say who asks, besides the secrets. An entry that has one of them takes none from the
/// environment: half of one identity and half of another make none.
const IDENTITIES: &[&str] = &[
    "aws_access_key_id",
    "aws_web_identity_token_file",
    "aws_role_arn",
    "aws_container_credentials_relative_uri",
    "aws_container_credentials_full_uri",
    "aws_container_authorization_token_file",
    "aws_skip_signature",
    "google_service_account",
    "google_application_credentials",
    "google_skip_signature",
    "azure_storage_client_id",
    "azure_storage_tenant_id",
    "azure_msi_endpoint",
    "azure_object_id",
    "azure_msi_resource_id",
    "azure_federated_token_file",
    "azure_use_azure_cli",
    "azure_skip_signature",
];

/// Options that a URL says.
const OF_URL: &[&str] = &["aws_bucket", "google_bucket", "azure_container_name"];

fn is_identity(option: &str) -> bool {
    IDENTITIES.contains(&option)
        || (SECRETS.contains(&option) && option != "aws_sse_customer_key_base64")
}

/// Where the value of an option is.
#[derive(Debug, Clone)]
enum Source {
    Written(String),
    Variable(String),
    File(String),
}

/// An entry that was checked.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The URL as it is written.
    url: String,
    scheme: String,
    /// The bucket; empty for all.
    bucket: String,
    options: BTreeMap<String, Source>,
    retry_timeout: Duration,
}

impl Entry {
    /// Checks an entry. Secrets are not read yet: a process may never need them.
    pub(super) fn new(settings: &StoreSettings) -> Result<Self> {
        let url = &settings.url;
        let wrong = |reason: String| CatalogError::StoreSettings { url: url.clone(), reason };
        let (scheme, bucket) = url.split_once("://").ok_or_else(|| {
            wrong("it is not the URL of a bucket, such as s3://bucket".to_string())
        })?;
        let provider = Provider::of(scheme).ok_or_else(|| {
            wrong(format!("there are no settings for {scheme}://, only for s3, gs, az and abfss"))
        })?;
        let bucket = bucket.trim_end_matches('/');
        if bucket.contains('/') {
            return Err(wrong(
                "settings are those of a bucket, not of a folder in it: leave out its path"
                    .to_string(),
            ));
        }
        let mut entry = Self {
            url: url.clone(),
            scheme: scheme.to_string(),
            bucket: bucket.to_string(),
            options: BTreeMap::new(),
            retry_timeout: RETRY_TIMEOUT,
        };
        for (name, value) in &settings.options {
            entry.set(provider, name, value.text()).map_err(&wrong)?;
        }
        Ok(entry)
    }

    fn set(&mut self, provider: Provider, name: &str, value: String) -> Result<(), String> {
        if name == "retry_timeout" {
            self.retry_timeout = duration(&value)
                .filter(|timeout| *timeout <= LONGEST_RETRY_TIMEOUT)
                .ok_or_else(|| {
                    format!("retry_timeout = \"{value}\" is not like \"90s\" or longer than 280s")
                })?;
            return Ok(());
        }
        let suffixed = |suffix| name.strip_suffix(suffix).and_then(|name| provider.option(name));
        let (option, source) = if let Some(option) = provider.option(name) {
            if SECRETS.contains(&option.as_str()) {
                return Err(format!(
                    "{name} is a secret, which doesn't belong into a file of settings: say with \
                     {name}_env which environment variable has it, or with {name}_file which file"
                ));
            }
            (option, Source::Written(value))
        } else if let Some(option) = suffixed("_env") {
            (option, Source::Variable(value))
        } else if let Some(option) = suffixed("_file") {
            (option, Source::File(value))
        } else {
            return Err(format!("there is no option {name} for {}://", self.scheme));
        };
        if OF_URL.contains(&option.as_str()) {
            return Err(format!("{name} is said by url already: leave it out"));
        }
        if self.options.insert(option.clone(), source).is_some() {
            return Err(format!("{name} and another name of it ({option}) are both there"));
        }
        Ok(())
    }

    /// The URL as it is written.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is for the same stores.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.scheme, &self.bucket) == (&other.scheme, &other.bucket)
    }

    /// How well it fits a URL: the greater the better; `None` if it is for other stores.
    pub(super) fn fits(&self, url: &Url) -> Option<usize> {
        let bucket = self.bucket.is_empty() || self.bucket == url.authority();
        (self.scheme == url.scheme() && bucket).then_some(self.bucket.len())
    }

    fn values(&self) -> Result<BTreeMap<String, String>> {
        let wrong = |reason| CatalogError::StoreSettings { url: self.url.clone(), reason };
        let value = |(option, source): (&String, &Source)| {
            let value = match source {
                Source::Written(value) => value.clone(),
                Source::Variable(name) => std::env::var(name).map_err(|_| {
                    wrong(format!(
                        "{option} is to be in the environment variable {name}, which is not set"
                    ))
                })?,
                Source::File(path) => std::fs::read_to_string(path)
                    .map_err(|error| {
                        wrong(format!("{option} is to be in the file {path}: {error}"))
                    })?
                    .trim_end()
                    .to_string(),
            };
            Ok((option.clone(), value))
        };
        self.options.iter().map(value).collect()
    }
}

/// Everything that is known about how to reach a store.
pub(super) struct Reach {
    /// Options by the name that `object_store` prints.
    pub(super) options: BTreeMap<String, String>,
    /// How long a request is tried again.
    pub(super) retry_timeout: Duration,
}

impl Reach {
    /// What `entry` says, and beneath it the environment.
    pub(super) fn of(
        provider: Provider,
        entry: Option<&Entry>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self> {
        let said = entry.map(Entry::values).transpose()?.unwrap_or_default();
        let identified = said.keys().any(|option| is_identity(option));
        let mut options = BTreeMap::new();
        for (variable, value) in environment {
            let others = provider.other_variables();
            let other = others.iter().find(|(name, _)| *name == variable);
            let option = match other {
                Some((_, option)) => Some((*option).to_string()),
                None if variable.starts_with(provider.prefix()) => {
                    provider.option(&variable.to_ascii_lowercase())
                }
                None => None,
            };
            if let Some(option) = option
                && !(identified && is_identity(&option))
            {
                options.insert(option, value);
            }
        }
        // Whatever variable an endpoint is in, the one that is written down wins.
        if said.contains_key("aws_endpoint") {
            options.remove("aws_endpoint_url_s3");
        }
        options.extend(said);
        // Who gives an address without encryption means it.
        let endpoints =
            ["aws_endpoint", "aws_endpoint_url_s3", "azure_storage_endpoint", "google_base_url"];
        let plain = |name| options.get(name).is_some_and(|url: &String| url.starts_with("http://"));
        if endpoints.into_iter().any(plain) {
            options.entry("allow_http".to_string()).or_insert_with(|| "true".to_string());
        }
        let retry_timeout = entry.map_or(RETRY_TIMEOUT, |entry| entry.retry_timeout);
        Ok(Self { options, retry_timeout })
    }
}

/// `90s`, `2m` and the like.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" | "min" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(url: &str, options: &[(&str, &str)]) -> Result<Entry> {
        let options = options
            .iter()
            .map(|(name, value)| (name.to_string(), OptionValue::Text(value.to_string())));
        Entry::new(&StoreSettings { url: url.to_string(), options: options.collect() })
    }

    fn reach(entry: &Entry, environment: &[(&str, &str)]) -> BTreeMap<String, String> {
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Reach::of(Provider::Amazon, Some(entry), environment).unwrap().options
    }

    #[test]
    fn what_is_written_wins_over_the_environment() {
        let entry = entry("s3://b", &[("endpoint", "http://here"), ("timeout", "5s")]).unwrap();
        let options = reach(
            &entry,
            &[
                ("AWS_ENDPOINT_URL_S3", "https://elsewhere"),
                ("AWS_REGION", "eu-central-1"),
                ("AWS_ACCESS_KEY_ID", "id"),
                ("TIMEOUT", "1s"),
                ("ENDPOINT", "https://nowhere"),
            ],
        );
        let expected = [
            ("allow_http", "true"),
            ("aws_access_key_id", "id"),
            ("aws_endpoint", "http://here"),
            ("aws_region", "eu-central-1"),
            ("timeout", "5s"),
        ];
        let options: Vec<_> = options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(options, expected);
    }

    #[test]
    fn two_identities_are_not_mixed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "written\n").unwrap();
        let file = file.to_str().unwrap();
        let settings = [("access_key_id", "mine"), ("secret_access_key_file", file)];
        let entry = entry("s3://b", &settings).unwrap();
        let options = reach(
            &entry,
            &[
                ("AWS_ACCESS_KEY_ID", "theirs"),
                ("AWS_SESSION_TOKEN", "theirs"),
                ("AWS_REGION", "eu-central-1"),
            ],
        );
        let expected = [
            ("aws_access_key_id", "mine"),
            ("aws_region", "eu-central-1"),
            ("aws_secret_access_key", "written"),
        ];
        let options: Vec<_> = options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(options, expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |url: &str, options: &[(&str, &str)]| {
            entry(url, options).map(drop).unwrap_err().to_string()
        };
        let message = refused("s3://b", &[("regoin", "x")]);
        assert!(message.contains("s3://b") && message.contains("regoin"), "{message}");
        let message = refused("s3://b", &[("secret_access_key", "hush")]);
        assert!(
            message.contains("secret_access_key_env") && !message.contains("hush"),
            "{message}"
        );
        let message = refused("s3://b/folder", &[]);
        assert!(message.contains("leave out its path"), "{message}");
        let message = refused("ftp://b", &[]);
        assert!(message.contains("ftp"), "{message}");
        let message = refused("s3://b", &[("bucket", "c")]);
        assert!(message.contains("said by url"), "{message}");
        let message = refused("s3://b", &[("region", "x"), ("aws_region", "y")]);
        assert!(message.contains("aws_region"), "{message}");
        let message = refused("gs://b", &[("retry_timeout", "soon")]);
        assert!(message.contains("soon") && message.contains("90s"), "{message}");
        // The name of a variable that isn't set is said when its value is needed.
        let entry = entry("s3://b", &[("secret_access_key_env", "NIGHTSHIFT_NO_SUCH")]).unwrap();
        let message = entry.values().unwrap_err().to_string();
        assert!(message.contains("NIGHTSHIFT_NO_SUCH"), "{message}");
    }

    #[test]
    fn every_provider_has_names_of_its_own() {
        entry("gs://b", &[("service_account", "/key.json"), ("base_url", "http://x")]).unwrap();
        entry("az://c", &[("account_name", "a"), ("account_key_env", "KEY")]).unwrap();
        entry("abfss://c@a.dfs.core.windows.net", &[("sas_token_file", "/sas")]).unwrap();
        entry("s3://", &[("web_identity_token_file", "/t"), ("role_arn", "r")]).unwrap();
        assert!(entry("gs://b", &[("region", "x")]).is_err());
    }

    #[test]
    fn a_bucket_fits_better_than_a_scheme() {
        let url = Url::parse("s3://bucket/folder/").unwrap();
        let fits = |settings: &str| entry(settings, &[]).unwrap().fits(&url);
        assert!(fits("s3://bucket") > fits("s3://"));
        assert!(fits("s3://").is_some());
        assert_eq!(fits("s3://buck"), None);
        assert_eq!(fits("gs://bucket"), None);
    }
}
