//! A store in memory that fails as a test tells it to.

use super::retry::RetryStore;
use super::{Storage, Stores};
use async_trait::async_trait;
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Create,
    Overwrite,
    Get,
    List,
    Delete,
    Complete,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered.
    None,
    /// It doesn't get there.
    Cut,
    /// It is done, and its answer doesn't get back; of a list, half of it does.
    Lost,
    /// It is done whether or not the object is there.
    Unconditional,
}

type Decide = Box<dyn Fn(Request, &Path) -> Fault + Send + Sync>;

struct Faulty {
    memory: Arc<InMemory>,
    decide: Arc<Decide>,
}

/// A warehouse on a store of which `decide` says what becomes of its requests, and which is tried for
/// `timeout`.
pub(crate) fn storage(
    timeout: Duration,
    decide: impl Fn(Request, &Path) -> Fault + Send + Sync + 'static,
) -> (Storage, Stores) {
    let faulty = Faulty { memory: Arc::default(), decide: Arc::new(Box::new(decide)) };
    let url = Url::parse("s3://bucket/warehouse/").unwrap();
    let stores = Stores::default();
    stores.register_store(&url, Arc::new(RetryStore::new(Arc::new(faulty), timeout, true)));
    (Storage::open(&url, &stores).unwrap(), stores)
}

fn broken() -> Error {
    let source = HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("no answer"));
    Error::Generic { store: "test", source: Box::new(source) }
}

async fn answer<T>(fault: Fault, done: impl Future<Output = Result<T>>) -> Result<T> {
    match fault {
        Fault::Cut => Err(broken()),
        Fault::Lost => {
            let _ = done.await;
            Err(broken())
        }
        Fault::None | Fault::Unconditional => done.await,
    }
}

impl Faulty {
    async fn answer<T>(
        &self,
        request: Request,
        location: &Path,
        done: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        answer((self.decide)(request, location), done).await
    }

    fn listed(
        &self,
        location: &Path,
        all: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match (self.decide)(Request::List, location) {
            Fault::None | Fault::Unconditional => all,
            Fault::Cut => stream::iter([Err(broken())]).boxed(),
            Fault::Lost => stream::once(all.try_collect::<Vec<_>>())
                .flat_map(|objects| {
                    let mut half: Vec<_> = objects.unwrap().into_iter().map(Ok).collect();
                    half.truncate(half.len().div_ceil(2));
                    half.push(Err(broken()));
                    stream::iter(half)
                })
                .boxed(),
        }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.memory.fmt(f)
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let create = options.mode == PutMode::Create;
        let request = if create { Request::Create } else { Request::Overwrite };
        let fault = (self.decide)(request, location);
        if fault == Fault::Unconditional {
            options.mode = PutMode::Overwrite;
        }
        answer(fault, self.memory.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.memory.put_multipart_opts(location, options).await?;
        let fault = (self.decide)(Request::Complete, location);
        Ok(Box::new(FaultyUpload { upload, fault }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.answer(Request::Get, location, self.memory.get_opts(location, options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (memory, decide) = (Arc::clone(&self.memory), Arc::clone(&self.decide));
        locations
            .and_then(move |location| {
                let faulty = Self { memory: Arc::clone(&memory), decide: Arc::clone(&decide) };
                async move {
                    let one = stream::iter([Ok(location.clone())]).boxed();
                    let deletion =
                        async { faulty.memory.delete_stream(one).try_collect::<Vec<_>>().await };
                    faulty.answer(Request::Delete, &location, deletion).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(&prefix.cloned().unwrap_or_default(), self.memory.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix_path = prefix.cloned().unwrap_or_default();
        self.listed(&prefix_path, self.memory.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.memory.list_with_delimiter(prefix);
        self.answer(Request::List, &prefix.cloned().unwrap_or_default(), listed).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    upload: Box<dyn MultipartUpload>,
    fault: Fault,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        answer(self.fault, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
