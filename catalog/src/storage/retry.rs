//! What `object_store` leaves to its callers when a request fails: a wrapper around a client.
//!
//! A client tries a request again that was answered with 5xx or whose connection broke, and a request
//! that is the same done twice also when its answer is late. Three things are left:
//! - An object that is created if absent. When the answer to the first try is lost and the second finds
//!   the object there, its own object looks like somebody else's; when an answer is late there is no
//!   second try, and nobody knows. Here the object is read back: it is known by its bytes.
//! - The completion of an upload in parts, which can be done once only: the object is looked at.
//! - Answers that break off after they began, which a client only takes up again for objects that are
//!   read. Here lists go on after the last name, and deletions are made again.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result, UploadPart,
};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first wait between two tries; each is twice the one before.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait between two tries.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// Objects that are deleted by one request.
const DELETED_AT_ONCE: usize = 1000;

/// A client that was given more patience.
#[derive(Debug)]
pub(super) struct RetryStore {
    client: Arc<dyn ObjectStore>,
    timeout: Duration,
    /// Whether objects are listed in the order of their names.
    ordered: bool,
}

impl RetryStore {
    /// Tries again what the client doesn't, for `timeout`.
    pub(super) fn new(client: Arc<dyn ObjectStore>, timeout: Duration, ordered: bool) -> Self {
        Self { client, timeout, ordered }
    }

    async fn create(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let mut patience = Patience::new(self.timeout);
        loop {
            let put = self.client.put_opts(location, payload.clone(), options.clone()).await;
            let error = match put {
                // Other errors say that nothing was tried.
                Err(error @ (Error::AlreadyExists { .. } | Error::Generic { .. })) => error,
                Err(error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => {
                    error
                }
                answered => return answered,
            };
            match self.read_back(location).await {
                Ok(Some((found, result))) if found == Bytes::from(payload.clone()) => {
                    tracing::info!(%location, %error, "an object was created although its answer was lost");
                    return Ok(result);
                }
                Ok(Some(_)) => {
                    let path = location.to_string();
                    return Err(Error::AlreadyExists { path, source: Box::new(error) });
                }
                // A conflict with somebody who has not succeeded either is answered like an object
                // that is there.
                Ok(None) if is_broken(&error) || matches!(error, Error::AlreadyExists { .. }) => {
                    if !patience.wait(&error).await {
                        return Err(undecided(location, error));
                    }
                }
                _ if matches!(error, Error::Generic { .. } | Error::AlreadyExists { .. }) => {
                    return Err(undecided(location, error));
                }
                _ => return Err(error),
            }
        }
    }

    async fn read_back(&self, location: &Path) -> Result<Option<(Bytes, PutResult)>> {
        match self.client.get(location).await {
            Ok(found) => {
                let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
                Ok(Some((found.bytes().await?, PutResult { e_tag, version })))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn listing(&self, prefix: Option<&Path>, after: Option<&Path>) -> Listing {
        let listing = Listing {
            client: Arc::clone(&self.client),
            prefix: prefix.cloned(),
            last: after.cloned(),
            timeout: self.timeout,
            ordered: self.ordered,
            stream: stream::empty().boxed(),
        };
        Listing { stream: listing.begin(), ..listing }
    }
}

/// A list that is being read.
struct Listing {
    client: Arc<dyn ObjectStore>,
    prefix: Option<Path>,
    /// What it goes on after.
    last: Option<Path>,
    timeout: Duration,
    ordered: bool,
    stream: BoxStream<'static, Result<ObjectMeta>>,
}

impl Listing {
    fn begin(&self) -> BoxStream<'static, Result<ObjectMeta>> {
        match &self.last {
            Some(last) => self.client.list_with_offset(self.prefix.as_ref(), last),
            None => self.client.list(self.prefix.as_ref()),
        }
    }

    async fn next(mut self) -> Result<Option<(ObjectMeta, Self)>> {
        let mut patience = Patience::new(self.timeout);
        loop {
            match self.stream.try_next().await {
                Ok(Some(object)) => {
                    self.last = Some(object.location.clone());
                    return Ok(Some((object, self)));
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    let resumable = self.ordered && is_broken(&error);
                    if !resumable || !patience.wait(&error).await {
                        return Err(error);
                    }
                    self.stream = self.begin();
                }
            }
        }
    }
}

/// Whether something went wrong on the way, so that the same request can well succeed.
fn is_broken(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<HttpError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An object of which nobody can tell whether it was created.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Undecided(Error);

fn undecided(location: &Path, error: Error) -> Error {
    tracing::warn!(%location, %error, "whether an object was created is not known");
    Error::Generic { store: "object store", source: Box::new(Undecided(error)) }
}

/// Whether an error of creating an object leaves open whether it was created.
pub(super) fn is_undecided(error: &Error) -> bool {
    matches!(error, Error::Generic { source, .. } if source.is::<Undecided>())
}

/// How long something is still tried.
struct Patience {
    until: Instant,
    next: Duration,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        Self { until: Instant::now() + timeout, next: FIRST_WAIT }
    }

    /// Waits before the next try; `false` if it is time to give up.
    async fn wait(&mut self, error: &Error) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tracing::info!(%error, wait = ?self.next, "a request to the object store is made again");
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(MOST_WAIT);
        true
    }
}

async fn delete(
    client: Arc<dyn ObjectStore>,
    locations: Vec<Path>,
    timeout: Duration,
) -> Vec<Result<Path>> {
    let mut patience = Patience::new(timeout);
    let mut again = false;
    loop {
        let named = locations.clone().into_iter().map(Ok);
        let mut deleted: Vec<_> = client.delete_stream(stream::iter(named).boxed()).collect().await;
        if again && deleted.len() == locations.len() {
            // What is not there was deleted by the try before.
            for (deletion, location) in deleted.iter_mut().zip(&locations) {
                if matches!(deletion, Err(Error::NotFound { .. })) {
                    *deletion = Ok(location.clone());
                }
            }
        }
        match deleted.iter().find_map(|deletion| deletion.as_ref().err().filter(|e| is_broken(e))) {
            Some(error) if patience.wait(error).await => again = true,
            _ => return deleted,
        }
    }
}

impl fmt::Display for RetryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for RetryStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match options.mode {
            PutMode::Create => self.create(location, payload, options).await,
            _ => self.client.put_opts(location, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let mut patience = Patience::new(self.timeout);
        let before = match self.client.head(location).await {
            Ok(object) => object.e_tag,
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        loop {
            match self.client.put_multipart_opts(location, options.clone()).await {
                Err(error) if is_broken(&error) && patience.wait(&error).await => {}
                begun => {
                    return Ok(Box::new(Upload {
                        upload: begun?,
                        client: Arc::clone(&self.client),
                        location: location.clone(),
                        bytes: 0,
                        before,
                        timeout: self.timeout,
                    }));
                }
            }
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.client.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.client.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let deleted = locations.try_chunks(DELETED_AT_ONCE).then(move |chunk| {
            let client = Arc::clone(&client);
            async move {
                match chunk {
                    Ok(locations) => delete(client, locations, timeout).await,
                    Err(error) => vec![Err(error.1)],
                }
            }
        });
        deleted.flat_map(stream::iter).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::try_unfold(self.listing(prefix, None), Listing::next).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::try_unfold(self.listing(prefix, Some(offset)), Listing::next).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut patience = Patience::new(self.timeout);
        loop {
            match self.client.list_with_delimiter(prefix).await {
                Err(error) if is_broken(&error) && patience.wait(&error).await => {}
                listed => return listed,
            }
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.client.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.client.rename_opts(from, to, options).await
    }
}

/// An upload in parts.
#[derive(Debug)]
struct Upload {
    upload: Box<dyn MultipartUpload>,
    client: Arc<dyn ObjectStore>,
    location: Path,
    /// Bytes of all parts.
    bytes: u64,
    /// What was there before.
    before: Option<String>,
    timeout: Duration,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.bytes += data.content_length() as u64;
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let error = match self.upload.complete().await {
            // A second try is told that there is no such upload, in words that differ by store.
            Err(error) => error,
            completed => return completed,
        };
        let mut patience = Patience::new(self.timeout.min(MOST_WAIT));
        loop {
            // The store may still be at it, when it was the answer that was late.
            if let Ok(object) = self.client.head(&self.location).await
                && object.size == self.bytes
                && object.e_tag != self.before
            {
                let location = &self.location;
                tracing::info!(%location, %error, "an upload was completed although its answer was lost");
                return Ok(PutResult { e_tag: object.e_tag, version: object.version });
            }
            if !patience.wait(&error).await {
                return Err(error);
            }
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fault, Request, storage};
    use super::*;
    use crate::CatalogError;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PATIENT: Duration = Duration::from_secs(20);

    /// A fault for the first requests of a kind.
    fn first(
        request: Request,
        faults: &'static [Fault],
    ) -> impl Fn(Request, &Path) -> Fault + Send + Sync + 'static {
        let count = AtomicUsize::new(0);
        move |asked, _| match asked == request {
            true => {
                let number = count.fetch_add(1, Ordering::SeqCst);
                faults.get(number).copied().unwrap_or(Fault::None)
            }
            false => Fault::None,
        }
    }

    #[tokio::test]
    async fn an_object_is_known_for_ones_own_when_the_answer_is_lost() {
        for faults in [&[Fault::Lost][..], &[Fault::Cut, Fault::Lost], &[Fault::Cut, Fault::Cut]] {
            let (storage, _) = storage(PATIENT, first(Request::Create, faults));
            assert!(storage.create("a", "mine").await.unwrap(), "{faults:?}");
            assert!(!storage.create("a", "theirs").await.unwrap(), "{faults:?}");
            assert_eq!(storage.get("a").await.unwrap(), "mine");
        }
    }

    #[tokio::test]
    async fn an_object_of_somebody_else_is_not() {
        let (storage, _) = storage(PATIENT, first(Request::Create, &[Fault::None, Fault::Lost]));
        assert!(storage.create("a", "theirs").await.unwrap());
        assert!(!storage.create("a", "mine").await.unwrap());
        assert_eq!(storage.get("a").await.unwrap(), "theirs");
    }

    #[tokio::test]
    async fn what_is_not_known_is_said() {
        let unreachable = |request, _: &Path| match request {
            Request::Create => Fault::Lost,
            _ => Fault::Cut,
        };
        let (storage, _) = storage(Duration::ZERO, unreachable);
        let error = storage.create("a", "mine").await.unwrap_err();
        assert!(matches!(error, CatalogError::Undecided { .. }), "{error}");
        assert!(error.to_string().contains("warehouse/a"), "{error}");
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_goes_on() {
        let faults = &[Fault::Lost, Fault::Cut, Fault::Lost];
        let (storage, _) = storage(PATIENT, first(Request::List, faults));
        for name in 0..9 {
            storage.put(&format!("{name}"), "x").await.unwrap();
        }
        let listed = storage.list().await.unwrap();
        let names: Vec<_> = listed.iter().filter_map(|object| object.location.filename()).collect();
        assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    }

    #[tokio::test]
    async fn deletions_are_made_again() {
        let faults = &[Fault::None, Fault::Lost, Fault::Cut];
        let (storage, _) = storage(PATIENT, first(Request::Delete, faults));
        for name in ["a", "b", "c"] {
            storage.put(name, "x").await.unwrap();
        }
        storage.delete_all().await.unwrap();
        assert!(storage.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_upload_that_was_completed_is_not_failed() {
        let (storage, _) = storage(PATIENT, first(Request::Complete, &[Fault::Lost]));
        let path = storage.path("a");
        let mut upload = storage.store().put_multipart(&path).await.unwrap();
        for part in ["one ", "two"] {
            upload.put_part(part.into()).await.unwrap();
        }
        let put = upload.complete().await.unwrap();
        assert!(put.e_tag.is_some());
        assert_eq!(storage.get("a").await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn an_upload_that_was_not_completed_fails() {
        let (storage, _) =
            storage(Duration::ZERO, first(Request::Complete, &[Fault::None, Fault::Cut]));
        let path = storage.path("a");
        // The object that is there already is of the same size.
        for (text, succeeds) in [("old", true), ("new", false)] {
            let mut upload = storage.store().put_multipart(&path).await.unwrap();
            upload.put_part(text.into()).await.unwrap();
            assert_eq!(upload.complete().await.is_ok(), succeeds);
        }
        assert_eq!(storage.get("a").await.unwrap(), "old");
    }
}
