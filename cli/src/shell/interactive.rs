//! The loop of prompt, statement, result.

use super::commands::{Next, Shell};
use super::helper::Helper;
use super::history;
use crate::{Failure, Interrupted, is_interrupted};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROMPT: &str = "nightshift=> ";

/// The editor of one line after the other, and where they are kept.
struct Lines {
    editor: Editor<Helper, DefaultHistory>,
    history: Option<PathBuf>,
}

/// Reads statements and executes them until there are no more. Neither an error nor Ctrl-C ends it.
pub async fn run(mut shell: Shell) -> Result<(), Failure> {
    let warehouse = shell.execution.connection.session().warehouse().storage().url();
    println!("nightshift {}, warehouse {warehouse}", env!("CARGO_PKG_VERSION"));
    println!("Statements end with ; and \\? lists commands.");
    shell.known.refresh(&shell.execution);
    let mut lines = Lines::new(Helper::new(shell.known.names()))?;
    let mut initial = String::new();
    loop {
        let text = std::mem::take(&mut initial);
        let reading = tokio::task::spawn_blocking(move || {
            let read = lines.editor.readline_with_initial(PROMPT, (&text, ""));
            (lines, read)
        });
        let read = tokio::select! {
            read = reading => read,
            () = shell.execution.interrupts.terminate() => {
                restore_terminal();
                shell.close()?;
                return Err(Interrupted.into());
            }
        };
        let (back, read) = read?;
        lines = back;
        let text = match read {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return shell.close(),
            Err(error) => return Err(error.into()),
        };
        if text.trim().is_empty() {
            continue;
        }
        lines.remember(text.trim_end());
        let size = lines.editor.dimensions();
        if let (Some((columns, rows)), Some(screen)) = (size, shell.execution.output.screen()) {
            screen.resize(columns.into(), rows.into());
        }
        let done = shell.text("statement", &text).await;
        // Whoever pressed Ctrl-C too late does not mean what comes next.
        shell.execution.interrupts.take();
        match done {
            Ok(Next::Input) => {}
            Ok(Next::Edit(text)) => initial = text,
            Ok(Next::End) => return shell.close(),
            Err(error) if is_gone(&error) => return Err(error),
            Err(error) if is_interrupted(&error) => eprintln!("cancelled"),
            Err(error) => eprintln!("error: {error}"),
        }
        if shell.execution.interrupts.is_terminated() {
            shell.close()?;
            return Err(Interrupted.into());
        }
    }
}

/// Whether nobody is there any more to read what is printed.
fn is_gone(error: &Failure) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Gives the terminal back: the thread that edits a line can't be asked to.
fn restore_terminal() {
    // Without a terminal there is nothing to give back.
    let _ = Command::new("stty").arg("sane").stdin(Stdio::inherit()).status();
    println!();
}

impl Lines {
    fn new(helper: Helper) -> Result<Self, Failure> {
        let config = Config::builder()
            .max_history_size(history::ENTRIES)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(helper));
        let history = history::file(|name| std::env::var_os(name).map(PathBuf::from));
        let mut lines = Self { editor, history };
        if let Some(file) = lines.history.clone()
            && let Err(error) = lines.load(&file)
        {
            lines.forget(&file, &error);
        }
        Ok(lines)
    }

    fn load(&mut self, file: &Path) -> Result<(), ReadlineError> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match self.editor.load_history(file) {
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
            loaded => loaded,
        }
    }

    /// Keeps what has been typed, also for other shells.
    fn remember(&mut self, text: &str) {
        let mut keep = || {
            let is_new = self.editor.add_history_entry(text)?;
            match &self.history {
                Some(file) if is_new => self.editor.append_history(file),
                _ => Ok(()),
            }
        };
        if let Err(error) = keep()
            && let Some(file) = self.history.clone()
        {
            self.forget(&file, &error);
        }
    }

    /// Says once that nothing is kept.
    fn forget(&mut self, file: &Path, error: &ReadlineError) {
        eprintln!("note: {}: {error}; what is typed is not kept", file.display());
        self.history = None;
    }
}
