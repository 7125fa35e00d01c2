//! What the commands do, and what a shell remembers between statements.

use super::execution::{Done, Execution};
use super::input::{Part, is_open, parts};
use super::listing::listing;
use super::meta::{COMMANDS, Command, Kind, LOOKS, Look, parse};
use super::names::Known;
use crate::output::{Destination, Screen};
use crate::{Failure, Interrupted, is_interrupted};
use arrow::datatypes::DataType;
use chrono::Local;
use clap::ValueEnum;
use nightshift_jobs::statement::{Parameters, Unparsed, split};
use nightshift_jobs::{JobError, counted};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many rows of a table are fetched when people read them.
const LIMIT: usize = 10_000;

/// How deeply files can include others.
const DEEPEST: usize = 10;

/// A shell: how statements are executed, and what has been said about it.
pub struct Shell {
    /// How statements are executed.
    pub execution: Execution,
    /// The names that completion knows.
    pub known: Known,
    /// The last statement.
    last: Option<Unparsed>,
    /// The text that it is from.
    text: String,
    /// Whether people read what is said about results.
    is_interactive: bool,
    timing: bool,
    /// Files that include each other at the moment.
    depth: usize,
}

/// What comes after some input.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// More input.
    Input,
    /// More input, which begins with a text.
    Edit(String),
    /// Nothing.
    End,
}

impl Shell {
    /// A shell that nothing has been said to.
    pub fn new(mut execution: Execution, is_interactive: bool) -> Self {
        if is_interactive {
            execution.output.style.limit = LIMIT;
        }
        let known = Known::default();
        known.set_parameters(execution.parameters.keys());
        Self {
            execution,
            known,
            last: None,
            text: String::new(),
            is_interactive,
            timing: false,
            depth: 0,
        }
    }

    /// Puts files in their places.
    pub fn close(self) -> Result<(), Failure> {
        self.execution.output.close()
    }

    /// Says something that is no result.
    fn say(&self, text: &str) -> Result<(), Failure> {
        match self.is_interactive {
            true => writeln!(std::io::stdout(), "{text}")?,
            false => eprintln!("{text}"),
        }
        Ok(())
    }

    /// Executes a text's statements and commands until one fails. `name` names the text in errors.
    pub async fn text(&mut self, name: &str, text: &str) -> Result<Next, Failure> {
        let parts = parts(text);
        let mut parts = parts.into_iter().peekable();
        while let Some(part) = parts.next() {
            match part {
                Part::Sql(text) => {
                    self.text = text.trim().to_string();
                    let mut statements = split(name, &text)?;
                    let next = match parts.peek() {
                        Some(Part::Command(line)) => Some(parse(line)?),
                        _ => None,
                    };
                    // \g and its like stand in place of the semicolon.
                    let waits = matches!(next, Some(Command::Go(_) | Command::Watch(_)));
                    let waiting = if waits && is_open(&text) { statements.pop() } else { None };
                    for statement in statements {
                        self.statement(statement).await?;
                    }
                    if waiting.is_some() {
                        self.last = waiting;
                    }
                }
                Part::Command(line) => match self.command(parse(&line)?).await? {
                    Next::Input => {}
                    next => return Ok(next),
                },
            }
        }
        Ok(Next::Input)
    }

    /// Executes a statement, and remembers it.
    async fn statement(&mut self, statement: Unparsed) -> Result<(), Failure> {
        self.last = Some(statement.clone());
        if self.execution.interrupts.take() {
            return Err(Interrupted.into());
        }
        self.execute(&statement).await
    }

    async fn execute(&mut self, statement: &Unparsed) -> Result<(), Failure> {
        let started = Instant::now();
        let done = self.execution.statement(statement).await;
        let took = started.elapsed();
        match done? {
            Done::Rows(Some(written)) if self.is_interactive => {
                let rows = counted(written.rows, "row");
                match written.cut {
                    true => {
                        self.say(&format!("(the first {rows}; \\pset limit 0 fetches all)"))?;
                    }
                    false => self.say(&format!("({rows})"))?,
                }
            }
            Done::Rows(_) => {}
            Done::Made if self.is_interactive => self.known.refresh(&self.execution),
            Done::Made => {}
        }
        if self.timing {
            self.say(&format!("Time: {:.3} ms", took.as_secs_f64() * 1000.0))?;
        }
        Ok(())
    }

    async fn command(&mut self, command: Command) -> Result<Next, Failure> {
        match command {
            Command::Quit => return Ok(Next::End),
            Command::Edit => return self.edit().map(Next::Edit),
            Command::Help => self.help()?,
            Command::List(kind, looked_for) => self.list(kind, looked_for.as_deref()).await?,
            Command::Expanded(on) => {
                let style = &mut self.execution.output.style;
                style.expanded = on.unwrap_or(!style.expanded);
                let on = on_or_off(style.expanded);
                self.say(&format!("columns below each other: {on}"))?;
            }
            Command::Timing(on) => {
                self.timing = on.unwrap_or(!self.timing);
                self.say(&format!("timing: {}", on_or_off(self.timing)))?;
            }
            Command::Go(expanded) => {
                let statement = self.last()?;
                let before = self.execution.output.style.expanded;
                self.execution.output.style.expanded |= expanded;
                let done = self.execute(&statement).await;
                self.execution.output.style.expanded = before;
                done?;
            }
            Command::Watch(pause) => self.watch(pause).await?,
            Command::Include(file) => return self.include(&file).await,
            Command::Output(file) => {
                let destination = match &file {
                    None if self.is_interactive => Destination::Screen(Screen::new()),
                    file => Destination::new(file.as_deref())?,
                };
                self.execution.output.redirect(destination)?;
            }
            Command::Set(None) => {
                for (name, value) in &self.execution.parameters {
                    self.say(&format!("{name} = '{}'", value.replace('\'', "''")))?;
                }
            }
            Command::Set(Some((name, value))) => {
                self.execution.parameters.insert(name, value);
                self.known.set_parameters(self.execution.parameters.keys());
            }
            Command::Unset(name) => {
                if self.execution.parameters.remove(&name).is_none() {
                    return Err(format!("the parameter ${name} has no value").into());
                }
                self.known.set_parameters(self.execution.parameters.keys());
            }
            Command::Look(None) => self.tell_looks()?,
            Command::Look(Some(look)) => self.look(look)?,
            Command::Connection => {
                let warehouse =
                    self.execution.connection.session().warehouse().storage().url().to_string();
                self.say(&format!("warehouse {warehouse}"))?;
            }
        }
        Ok(Next::Input)
    }

    fn last(&self) -> Result<Unparsed, Failure> {
        self.last.clone().ok_or_else(|| "there is no statement yet".into())
    }

    fn help(&self) -> Result<(), Failure> {
        for (name, arguments, _, help) in COMMANDS {
            self.say(&format!("  {:<24} {help}", format!("{name} {arguments}")))?;
        }
        self.say("A statement ends with ; and can have several lines. Ctrl-C cancels it.")
    }

    /// Executes the query behind `\d` and its like.
    async fn list(&mut self, kind: Kind, looked_for: Option<&str>) -> Result<(), Failure> {
        let listing = listing(kind, looked_for);
        let statement = split("listing", &listing.sql)?.pop();
        let statement = statement.ok_or("there is no statement")?;
        let parameters: Parameters =
            listing.name.into_iter().map(|name| ("name".to_string(), name)).collect();
        let types = HashMap::from([("$name".to_string(), Some(DataType::Utf8))]);
        let located = statement.bind(&parameters, &types)?;
        let done = self.execution.located(&located).await;
        // Where the query comes from means nothing to those who have not written it.
        let done = done.map_err(|error| match error.downcast::<JobError>() {
            Ok(error) => match *error {
                JobError::At { source, .. } => source,
                error => error.into(),
            },
            Err(error) => error,
        });
        match done? {
            Done::Rows(Some(written)) if self.is_interactive => {
                self.say(&format!("({})", counted(written.rows, "row")))
            }
            _ => Ok(()),
        }
    }

    /// Executes the last statement again and again, until somebody has seen enough.
    async fn watch(&mut self, pause: Duration) -> Result<(), Failure> {
        let statement = self.last()?;
        // A pager would have to be left each time.
        let pager = self.execution.output.screen().map(|screen| {
            let pager = screen.pager().map(str::to_string);
            screen.set_pager(None);
            pager
        });
        let watched = self.watch_until_interrupted(&statement, pause).await;
        if let (Some(screen), Some(pager)) = (self.execution.output.screen(), pager) {
            screen.set_pager(pager);
        }
        match watched {
            // That is how it ends.
            Err(error) if self.is_interactive && is_interrupted(&error) => Ok(()),
            watched => watched,
        }
    }

    async fn watch_until_interrupted(
        &mut self,
        statement: &Unparsed,
        pause: Duration,
    ) -> Result<(), Failure> {
        loop {
            let now = Local::now().format("%Y-%m-%d %H:%M:%S");
            self.say(&format!("{now} (every {} s)", pause.as_secs_f64()))?;
            self.execute(statement).await?;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.execution.interrupts.next() => return Err(Interrupted.into()),
            }
        }
    }

    async fn include(&mut self, file: &Path) -> Result<Next, Failure> {
        let name = file.display().to_string();
        if self.depth >= DEEPEST {
            return Err(format!("{name}: files include each other too deeply").into());
        }
        let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
        self.depth += 1;
        let done = Box::pin(self.text(&name, &text)).await;
        self.depth -= 1;
        // What leaves a file does not leave the shell.
        done.map(|_| Next::Input)
    }

    fn tell_looks(&mut self) -> Result<(), Failure> {
        let style = self.execution.output.style.clone();
        let format = style.format.to_possible_value();
        let format = format.map(|value| value.get_name().to_string()).unwrap_or_default();
        let pager = self.execution.output.screen().and_then(|screen| screen.pager());
        let pager = pager.unwrap_or("off").to_string();
        for (name, help) in LOOKS {
            let value = match *name {
                "format" => format.clone(),
                "null" => style.null.clone(),
                "limit" => style.limit.to_string(),
                _ => pager.clone(),
            };
            self.say(&format!("  {name:<8} {value:<16} {help}"))?;
        }
        Ok(())
    }

    fn look(&mut self, look: Look) -> Result<(), Failure> {
        let style = &mut self.execution.output.style;
        match look {
            Look::Format(format) => style.format = format,
            Look::Null(text) => style.null = text,
            Look::Limit(rows) => style.limit = rows,
            Look::Pager(command) => {
                let Some(screen) = self.execution.output.screen() else {
                    return Err("results are not shown on a screen".into());
                };
                match command.as_str() {
                    "off" => screen.set_pager(None),
                    "on" | "" => *screen = Screen::new(),
                    _ => screen.set_pager(Some(command)),
                }
            }
        }
        Ok(())
    }

    /// What the user makes of the last statement in an editor.
    fn edit(&self) -> Result<String, Failure> {
        let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok());
        let editor = editor.unwrap_or_else(|| "vi".to_string());
        let file = tempfile::Builder::new().prefix("nightshift-").suffix(".sql").tempfile()?;
        std::fs::write(file.path(), &self.text)?;
        let status = std::process::Command::new("sh")
            .args(["-c", &format!("{editor} \"$1\""), "sh"])
            .arg(file.path())
            .status()?;
        if !status.success() {
            return Err(format!("{editor}: {status}").into());
        }
        Ok(std::fs::read_to_string(file.path())?.trim().to_string())
    }
}

fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
