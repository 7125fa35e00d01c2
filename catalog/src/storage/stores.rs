//! Which client a process has for each bucket: one, made when it is first needed.

use super::client;
use super::settings::{Entry, StoreSettings};
use crate::{CatalogError, Result};
use datafusion::common::DataFusionError;
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use url::Url;

/// The stores of a process. Clones share their clients, and with them connections and identities.
///
/// Schedulers and executors need not be told of a bucket beforehand: its client is made from the
/// settings of the process and its environment when a plan first names it.
#[derive(Debug, Clone, Default)]
pub struct Stores {
    settings: Arc<Vec<Entry>>,
    clients: Arc<RwLock<HashMap<String, Arc<dyn ObjectStore>>>>,
}

impl Stores {
    /// Stores by these settings. Fails if an entry has an option that there is not, or a secret, or is
    /// there twice.
    pub fn new(settings: &[StoreSettings]) -> Result<Self> {
        let entries = settings.iter().map(Entry::new).collect::<Result<Vec<_>>>()?;
        for (index, entry) in entries.iter().enumerate() {
            if entries[..index].iter().any(|other| other.is_same(entry)) {
                return Err(CatalogError::StoreSettings {
                    url: entry.url().to_string(),
                    reason: "there are two entries for it".to_string(),
                });
            }
        }
        Ok(Self { settings: Arc::new(entries), clients: Arc::default() })
    }

    /// What a bucket is known by: its URL without a path.
    fn key(url: &Url) -> String {
        format!("{}://{}", url.scheme(), url.authority())
    }

    /// The client of a URL's bucket.
    pub(super) fn client(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let key = Self::key(url);
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(Arc::clone(client));
        }
        drop(clients);
        let fitting = self.settings.iter().filter(|entry| entry.fits(url).is_some());
        let entry = fitting.max_by_key(|entry| entry.fits(url));
        let client = client::open(url, entry)?;
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(clients.entry(key).or_insert(client)))
    }
}

impl ObjectStoreRegistry for Stores {
    fn register_store(
        &self,
        url: &Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        clients.insert(Self::key(url), store)
    }

    fn get_store(&self, url: &Url) -> datafusion::error::Result<Arc<dyn ObjectStore>> {
        self.client(url).map_err(DataFusionError::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Stores> {
        let settings = serde_json::from_str::<Vec<StoreSettings>>(text).unwrap();
        Stores::new(&settings)
    }

    #[test]
    fn a_bucket_has_one_client_however_it_is_asked_for() {
        let stores = settings(r#"[{"url": "s3://", "skip_signature": true}]"#).unwrap();
        let client = |url: &str| stores.clone().client(&Url::parse(url).unwrap()).unwrap();
        assert!(Arc::ptr_eq(&client("s3://b/x/"), &client("s3://b")));
        assert!(!Arc::ptr_eq(&client("s3://b"), &client("s3://c")));
    }

    #[test]
    fn the_entry_of_the_bucket_is_taken() {
        let stores = settings(
            r#"[{"url": "s3://", "skip_signature": true},
                {"url": "s3://mine/", "secret_access_key_env": "NIGHTSHIFT_NO_SUCH"}]"#,
        );
        let stores = stores.unwrap();
        assert!(stores.client(&Url::parse("s3://other").unwrap()).is_ok());
        let message = stores.client(&Url::parse("s3://mine/x").unwrap()).unwrap_err().to_string();
        assert!(message.contains("NIGHTSHIFT_NO_SUCH"), "{message}");
    }

    #[test]
    fn what_is_no_store_or_there_twice_is_refused() {
        let unknown = Url::parse("ftp://host/x").unwrap();
        let message = Stores::default().client(&unknown).unwrap_err().to_string();
        assert!(message.contains("ftp://host/x") && message.contains("s3"), "{message}");
        let twice = settings(r#"[{"url": "s3://b"}, {"url": "s3://b/"}]"#).unwrap_err();
        assert!(twice.to_string().contains("two entries"), "{twice}");
    }
}
