//! A file of results. It gets its name when all of it is there: whoever reads that name sees either
//! what was there before or everything.

use crate::Failure;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// A file of results that is written.
pub struct ResultFile {
    out: BufWriter<File>,
    /// What it is called until it is finished; `None` if it is no regular file, which can't get another
    /// name.
    temporary: Option<TempPath>,
    path: PathBuf,
    /// Where the current result begins.
    start: u64,
}

impl ResultFile {
    /// A file without results, under another name in the same folder.
    ///
    /// # Errors
    ///
    /// If there can't be such a file.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        Self::open(path).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn open(path: &Path) -> io::Result<Self> {
        // A link stays a link.
        let path = if path.exists() { path.canonicalize()? } else { path.to_path_buf() };
        let present = fs::metadata(&path).ok();
        if present.as_ref().is_some_and(|file| !file.is_file()) {
            let file = OpenOptions::new().write(true).open(&path)?;
            return Ok(Self { out: BufWriter::new(file), temporary: None, path, start: 0 });
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let temporary = tempfile::Builder::new()
            .prefix(".nightshift-")
            .permissions(present.map_or(Permissions::from_mode(0o666), |file| file.permissions()))
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        let (file, temporary) = temporary.into_parts();
        Ok(Self { out: BufWriter::new(file), temporary: Some(temporary), path, start: 0 })
    }

    /// A result begins.
    pub fn begin(&mut self) -> Result<(), Failure> {
        if self.temporary.is_some() {
            self.start = self.out.stream_position()?;
        }
        Ok(())
    }

    /// Takes back what was written of the current result.
    pub fn undo(&mut self) -> Result<(), Failure> {
        if self.temporary.is_some() {
            self.out.flush()?;
            self.out.get_ref().set_len(self.start)?;
            self.out.seek(io::SeekFrom::Start(self.start))?;
        }
        Ok(())
    }

    /// Gives it its name.
    pub fn close(mut self) -> Result<(), Failure> {
        let named = |error: io::Error| format!("{}: {error}", self.path.display());
        self.out.flush().map_err(named)?;
        if let Some(temporary) = self.temporary {
            temporary.persist(&self.path).map_err(|error| named(error.error))?;
        }
        Ok(())
    }
}

impl Write for ResultFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
