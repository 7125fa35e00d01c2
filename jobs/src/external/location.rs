//! Where files are that are read in place, and whether they may be.

use super::pattern;
use crate::session::Session;
use crate::{JobError, Result};
use datafusion::datasource::listing::ListingTableUrl;
use nightshift_catalog::storage::{Storage, parse_url};
use object_store::{ObjectMeta, ObjectStoreExt};
use std::path::Path;
use url::Url;

/// Where files are: a file, a folder, or those in a folder whose names match a pattern.
#[derive(Debug, Clone)]
pub(super) struct Location {
    /// The file or folder.
    pub(super) url: Url,
    /// Such as `2026-*/*.csv`.
    pub(super) pattern: Option<String>,
}

impl Location {
    /// A location as it is written in a statement.
    pub(super) fn parse(text: &str, folder: Option<&Path>) -> Result<Self> {
        let is_pattern = |part: &str| part.contains(['*', '?', '[']);
        let parts: Vec<&str> = text.split('/').collect();
        match parts.iter().position(|part| is_pattern(part)) {
            None => Ok(Self { url: located(text, folder)?, pattern: None }),
            Some(at) => {
                let above = parts[..at].join("/");
                let above = match above.as_str() {
                    "" if text.starts_with('/') => "/",
                    "" => ".",
                    other => other,
                };
                Ok(Self { url: located(above, folder)?, pattern: Some(parts[at..].join("/")) })
            }
        }
    }

    /// The location as people write it.
    pub(super) fn shown(&self) -> String {
        let folder = readable(&self.url);
        match &self.pattern {
            Some(pattern) => format!("{}/{pattern}", folder.trim_end_matches('/')),
            None => folder,
        }
    }

    /// Whether the location is a file, and not a folder with files.
    pub(super) fn is_one(&self, found: &[ObjectMeta]) -> bool {
        let own = object_store::path::Path::from_url_path(self.url.path());
        matches!((found, own), ([file], Ok(own)) if file.location == own)
    }

    /// The folder for listings.
    pub(super) fn folder(&self) -> Result<ListingTableUrl> {
        let mut url = self.url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(ListingTableUrl::parse(url)?)
    }

    /// The URL of a file on the same store.
    pub(super) fn url_of(&self, file: &ObjectMeta) -> Result<Url> {
        let mut url = self.url.clone();
        // A percent sign in a name is itself.
        url.set_path(&file.location.as_ref().replace('%', "%25"));
        Ok(url)
    }

    /// A file on the same store, for listings.
    pub(super) fn listed(&self, file: &ObjectMeta) -> Result<ListingTableUrl> {
        Ok(ListingTableUrl::parse(self.url_of(file)?)?)
    }

    /// The files: the location itself, or what is in the folder of that name, but not in others within
    /// it unless they are named like partitions or the pattern says so. Names that begin with a dot or an
    /// underscore are those of files that aren't data.
    pub(super) async fn objects(&self, session: &Session) -> Result<Vec<ObjectMeta>> {
        if let Some(reason) = self.pattern.as_deref().and_then(pattern::wrong) {
            return Err(JobError::Statement(format!("{}: {reason}", self.shown())));
        }
        let folder = Storage::of_session(session.runtime(), &self.url)?;
        let root = folder.path("");
        if self.pattern.is_none() && !self.url.path().ends_with('/') {
            match folder.store().head(&root).await {
                Ok(file) => return Ok(vec![file]),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    return Err(JobError::File { file: self.shown(), reason: error.to_string() });
                }
            }
        }
        let is_partition = |part: &str| part.contains('=');
        let data = |file: &ObjectMeta| {
            let parts = file.location.prefix_match(&root).into_iter().flatten();
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_string()).collect();
            let hidden = |part: &String| part.starts_with(['.', '_']) && !is_partition(part);
            let fits = match &self.pattern {
                Some(pattern) => pattern::matches(pattern, &parts.join("/")),
                None => parts.iter().filter(|part| !is_partition(part)).count() <= 1,
            };
            fits && !parts.iter().any(hidden)
        };
        let mut found: Vec<_> = folder.list().await?.into_iter().filter(data).collect();
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }
}

fn readable(url: &Url) -> String {
    let path = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
    path.map_or_else(|| url.to_string(), |path| path.display().to_string())
}

/// The URL of a location in a statement. A relative one is relative to `folder`.
pub(crate) fn located(location: &str, folder: Option<&Path>) -> Result<Url> {
    Ok(match folder {
        Some(folder) if Url::parse(location).is_err() => {
            parse_url(&folder.join(location).to_string_lossy())?
        }
        _ => parse_url(location)?,
    })
}

/// Whether a location is a folder or in it.
pub(crate) fn is_inside(location: &Url, folder: &Url) -> bool {
    let with_slash = |url: &Url| format!("{}/", url.as_str().trim_end_matches('/'));
    with_slash(location).starts_with(&with_slash(folder))
}

/// SQL reaches files in the warehouse and in declared locations, and no others.
pub(crate) fn check_allowed(session: &Session, location: &Url) -> Result<()> {
    let warehouse = session.warehouse().storage().url();
    let inside = |folder: &Url| is_inside(location, folder);
    if location.path().split('/').any(|part| part == "..") || location.as_str().contains("%2e%2e") {
        return Err(JobError::Statement(format!("{location}: a location can't have .. in it")));
    }
    if inside(warehouse) || session.locations().iter().any(inside) {
        return Ok(());
    }
    Err(JobError::Statement(format!(
        "{} is neither in the warehouse nor in a declared location: add it to `locations` in nightshift.toml",
        readable(location)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_begin_with_the_first_folder_that_has_one() {
        let folder = Path::new("/data");
        for (text, url, pattern) in [
            ("logs/2026-*/*.csv", "file:///data/logs", Some("2026-*/*.csv")),
            ("*.csv", "file:///data/.", Some("*.csv")),
            ("/x/y/", "file:///x/y/", None),
            ("s3://b/x/a?.json", "s3://b/x", Some("a?.json")),
        ] {
            let location = Location::parse(text, Some(folder)).unwrap();
            let found = location.url.as_str().trim_end_matches('/').trim_end_matches("/.");
            let url = url.trim_end_matches('/').trim_end_matches("/.");
            assert_eq!((found, location.pattern.as_deref()), (url, pattern), "{text}");
        }
    }
}
