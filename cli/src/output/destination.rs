//! Where results go: standard output, a screen with a pager, or a file.

use super::Screen;
use super::file::ResultFile;
use crate::Failure;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::path::Path;

/// Where results go.
pub enum Destination {
    /// Standard output, and whether it is known that nobody reads it any more.
    Standard(BufWriter<Stdout>, bool),
    /// A screen.
    Screen(Screen),
    /// A file.
    File(ResultFile),
}

impl Destination {
    /// A file, or standard output if there is none.
    pub fn new(file: Option<&Path>) -> Result<Self, Failure> {
        Ok(match file {
            Some(file) => Self::File(ResultFile::create(file)?),
            None => Self::Standard(BufWriter::new(io::stdout()), false),
        })
    }

    /// Whether people see what is written.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Standard(..) => io::stdout().is_terminal(),
            Self::Screen(_) => true,
            Self::File(_) => false,
        }
    }

    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// A result begins.
    pub fn begin(&mut self) -> Result<(), Failure> {
        match self {
            Self::Standard(..) => Ok(()),
            Self::Screen(screen) => {
                screen.begin();
                Ok(())
            }
            Self::File(file) => file.begin(),
        }
    }

    /// A result has been written, or not. Whoever has left the pager has seen enough, which is no
    /// failure: it is then not known what all there was.
    pub fn end<T>(&mut self, written: Result<T, Failure>) -> Result<Option<T>, Failure> {
        let written = match self {
            Self::Standard(out, gone) => {
                let written = written.and_then(|written| Ok(out.flush().map(|()| written)?));
                match written {
                    // Formats wrap what has happened in errors of their own.
                    Err(_) if *gone => Err(io::Error::from(ErrorKind::BrokenPipe).into()),
                    written => written,
                }
            }
            Self::Screen(screen) => {
                if screen.end(written.is_ok())? {
                    return Ok(None);
                }
                written
            }
            Self::File(file) => {
                if written.is_err() {
                    file.undo()?;
                }
                written
            }
        };
        written.map(Some)
    }

    /// Puts a file in its place.
    pub fn close(self) -> Result<(), Failure> {
        match self {
            Self::Standard(mut out, _) => Ok(out.flush()?),
            Self::Screen(_) => Ok(()),
            Self::File(file) => file.close(),
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(out, gone) => note(out.write(bytes), gone),
            Self::Screen(screen) => screen.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(out, gone) => note(out.flush(), gone),
            Self::Screen(screen) => screen.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

/// Notes whether nobody reads any more.
pub(super) fn note<T>(done: io::Result<T>, gone: &mut bool) -> io::Result<T> {
    *gone |= matches!(&done, Err(error) if error.kind() == ErrorKind::BrokenPipe);
    done
}
