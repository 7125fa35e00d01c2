//! Makes the client of a store: its provider, its options, how long it is patient.

use super::location;
use super::retry::RetryStore;
use super::settings::{Entry, Provider, Reach};
use crate::Result;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long an identity is looked for. Where there is a service that gives one it is next door, and
/// where there is none, nobody should wait long to be told.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a request is tried again within a time. The waits between grow to [`MOST_WAIT`], so that
/// the time runs out first.
const MOST_RETRIES: usize = 100;

/// The longest wait between two tries.
const MOST_WAIT: Duration = Duration::from_secs(10);

/// Tries again for `timeout`. A wait is random, up to thrice the one before: with the usual factor of
/// two the waits hardly grow on average, and ten tries are over within seconds.
fn retry(timeout: Duration) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: MOST_WAIT,
            base: 3.0,
        },
        max_retries: MOST_RETRIES,
        retry_timeout: timeout,
    }
}

/// The client of a URL's bucket with these options. It is built twice, because a builder has one
/// patience for the store and for who gives an identity.
macro_rules! client {
    ($builder:ty, $url:expr, $reach:expr) => {{
        let mut builder = <$builder>::new().with_url($url.to_string());
        for (option, value) in &$reach.options {
            let option = option.parse().map_err(|error| location($url, error))?;
            builder = builder.with_config(option, value);
        }
        let identity = builder.clone().with_retry(retry(IDENTITY_TIMEOUT)).build();
        let identity = identity.map_err(|error| location($url, error))?.credentials().clone();
        let builder = builder.with_credentials(identity).with_retry(retry($reach.retry_timeout));
        Arc::new(builder.build().map_err(|error| location($url, error))?)
    }};
}

/// A new client for the store of a URL.
pub(super) fn open(url: &Url, entry: Option<&Entry>) -> Result<Arc<dyn ObjectStore>> {
    if url.scheme() == "file" {
        return Ok(Arc::new(LocalFileSystem::new()));
    }
    let provider = Provider::of(url.scheme()).ok_or_else(|| {
        location(url, format!("{}:// is none of file, s3, gs, az, abfss", url.scheme()))
    })?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let reach = Reach::of(provider, entry, environment)?;
    let client: Arc<dyn ObjectStore> = match provider {
        Provider::Amazon => client!(AmazonS3Builder, url, reach),
        Provider::Google => client!(GoogleCloudStorageBuilder, url, reach),
        Provider::Azure => client!(MicrosoftAzureBuilder, url, reach),
    };
    // The one kind of bucket that is not listed in the order of names.
    let ordered = reach.options.get("aws_s3_express").is_none_or(|value| value == "false");
    Ok(Arc::new(RetryStore::new(client, reach.retry_timeout, ordered)))
}
