//! A screen: what fits is printed, what doesn't goes through a pager.

use super::destination::note;
use crate::Failure;
use std::io::{self, ErrorKind, Write};
use std::process::{Child, Command, Stdio};

/// A screen, and what is shown on it.
pub struct Screen {
    /// Characters in a line, and lines.
    size: (usize, usize),
    /// The command that shows what does not fit.
    pager: Option<String>,
    shown: Shown,
}

/// Where a result is.
enum Shown {
    /// Here, as long as it fits; and how many characters its last line has.
    Kept(Vec<u8>, usize),
    /// On the screen.
    Printed,
    /// In the pager; whether somebody has left it.
    Paged(Child, bool),
}

/// The pager that is used: `NIGHTSHIFT_PAGER`, `PAGER`, or `less` if there is one. Empty means none.
pub fn pager(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let chosen = variable("NIGHTSHIFT_PAGER").or_else(|| variable("PAGER"));
    let found = || {
        let folders = variable("PATH").unwrap_or_default();
        let there = std::env::split_paths(&folders).any(|folder| folder.join("less").is_file());
        there.then(|| "less -SRFX".to_string())
    };
    match chosen {
        Some(command) => Some(command).filter(|command| !command.trim().is_empty()),
        None => found(),
    }
}

impl Screen {
    /// A screen with the pager that the environment names.
    pub fn new() -> Self {
        let pager = pager(|name| std::env::var(name).ok());
        Self { size: (80, 24), pager, shown: Shown::Printed }
    }

    /// Says how many characters fit into a line, and how many lines fit.
    pub fn resize(&mut self, columns: usize, lines: usize) {
        self.size = (columns, lines);
    }

    /// The pager, if one is used.
    pub fn pager(&self) -> Option<&str> {
        self.pager.as_deref()
    }

    /// Uses another pager, or none.
    pub fn set_pager(&mut self, pager: Option<String>) {
        self.pager = pager;
    }

    /// A result begins.
    pub fn begin(&mut self) {
        self.shown = match self.pager {
            Some(_) => Shown::Kept(Vec::new(), 0),
            None => Shown::Printed,
        };
    }

    /// A result ends: shows what was kept of it if it is whole, or waits until the pager has been left.
    /// Returns whether that was before its end.
    pub fn end(&mut self, is_whole: bool) -> Result<bool, Failure> {
        match std::mem::replace(&mut self.shown, Shown::Printed) {
            Shown::Kept(kept, _) if is_whole => io::stdout().write_all(&kept)?,
            Shown::Kept(..) => {}
            Shown::Printed => io::stdout().flush()?,
            Shown::Paged(mut child, left) => {
                drop(child.stdin.take());
                child.wait()?;
                return Ok(left);
            }
        }
        io::stdout().flush()?;
        Ok(false)
    }

    /// Starts the pager with what was kept.
    fn page(&mut self, kept: &[u8]) -> io::Result<()> {
        let command = self.pager.as_deref().unwrap_or_default();
        let mut child = Command::new("sh")
            .args(["-c", command])
            // A pager without options of its own gets what suits tables.
            .env("LESS", std::env::var("LESS").unwrap_or_else(|_| "SRFX".to_string()))
            .stdin(Stdio::piped())
            .spawn()?;
        let written = child.stdin.as_mut().map_or(Ok(()), |pipe| pipe.write_all(kept));
        let mut left = false;
        let written = note(written, &mut left);
        self.shown = Shown::Paged(child, left);
        written
    }
}

/// Whether a result fits of which `kept` ends with a line of `last` characters when more comes, and how
/// many characters its last line has then. One line is for the prompt, another for the number of rows.
fn fits(size: (usize, usize), kept: &[u8], last: usize, more: &[u8]) -> (bool, usize) {
    let (columns, lines) = size;
    let mut width = last;
    let mut widest = last;
    let mut count = kept.iter().filter(|byte| **byte == b'\n').count();
    for byte in more {
        match byte {
            b'\n' => {
                count += 1;
                width = 0;
            }
            // What continues a character takes no room.
            0x80..=0xbf => {}
            _ => {
                width += 1;
                widest = widest.max(width);
            }
        }
    }
    (widest <= columns && count + 2 <= lines, width)
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.shown {
            Shown::Kept(kept, last) => {
                let (fits, width) = fits(self.size, kept, *last, bytes);
                kept.extend_from_slice(bytes);
                *last = width;
                if !fits {
                    let kept = std::mem::take(kept);
                    self.page(&kept)?;
                }
                Ok(bytes.len())
            }
            Shown::Printed => io::stdout().write(bytes),
            Shown::Paged(child, left) => {
                let gone = || io::Error::from(ErrorKind::BrokenPipe);
                let pipe = child.stdin.as_mut().ok_or_else(gone);
                note(pipe.and_then(|pipe| pipe.write(bytes)), left)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.shown {
            Shown::Kept(..) => Ok(()),
            Shown::Printed => io::stdout().flush(),
            Shown::Paged(child, left) => {
                note(child.stdin.as_mut().map_or(Ok(()), Write::flush), left)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wider_or_longer_than_the_screen_does_not_fit() {
        assert_eq!(fits((4, 4), b"", 0, "abcd\nü€\n".as_bytes()), (true, 0));
        assert_eq!(fits((4, 4), b"", 0, b"abcde"), (false, 5));
        assert_eq!(fits((4, 4), b"ab", 2, b"cde"), (false, 5));
        assert_eq!(fits((4, 4), b"a\nb\n", 0, b"c"), (true, 1));
        assert_eq!(fits((4, 4), b"a\nb\n", 0, b"c\n"), (false, 0));
    }

    #[test]
    fn the_pager_is_the_one_that_is_named() {
        let with = |variables: &'static [(&str, &str)]| {
            pager(|name| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| value.to_string())
            })
        };
        assert_eq!(with(&[("NIGHTSHIFT_PAGER", "a -b"), ("PAGER", "c")]).as_deref(), Some("a -b"));
        assert_eq!(with(&[("PAGER", "c")]).as_deref(), Some("c"));
        assert_eq!(with(&[("NIGHTSHIFT_PAGER", ""), ("PAGER", "c")]), None);
        assert_eq!(with(&[("PATH", "/nowhere")]), None);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("less"), "").unwrap();
        let path = folder.path().to_string_lossy().to_string();
        let found = pager(|name| (name == "PATH").then(|| path.clone()));
        assert_eq!(found.as_deref(), Some("less -SRFX"));
    }
}
