//! `nightshift sql`: statements from arguments, files and pipes, and the shell in which they are typed.
//!
//! | file | what it is for |
//! | --- | --- |
//! | `script` | texts as statements and commands, executed in order |
//! | `interactive` | the loop of prompt, statement, result |
//! | `execution` | one statement: values for its parameters, its result |
//! | `input` | what has been typed: complete or not, statements and commands |
//! | `meta` | the commands that begin with a backslash: which there are |
//! | `commands` | what they do |
//! | `listing` | the queries behind `\d` and its like |
//! | `helper` | what the line editor asks for |
//! | `completion` | what can be meant by a word that has been begun |
//! | `names` | the names that completion knows, fetched while others work |
//! | `history` | what has been typed before |

mod commands;
mod completion;
mod execution;
mod helper;
mod history;
mod input;
mod interactive;
mod listing;
mod meta;
mod names;
mod script;

use crate::arguments::SqlArguments;
use crate::cluster::Executing;
use crate::commands::open;
use crate::interrupts::Interrupts;
use crate::output::{Output, Screen};
use crate::{Failure, Interrupted};
use commands::Shell;
use execution::Execution;
use nightshift_jobs::statement::Parameters;
use std::io::{IsTerminal, Read, stdin, stdout};

/// Executes statements: those given, or, if the command has a terminal to itself, those typed.
pub async fn sql(arguments: SqlArguments) -> Result<(), Failure> {
    let parameters: Parameters = arguments.parameters.iter().cloned().collect();
    let (name, text) = match (&arguments.command, &arguments.file) {
        (Some(text), _) => ("command".to_string(), text.clone()),
        (None, Some(file)) => {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
            (name, text)
        }
        (None, None) if stdin().is_terminal() && stdout().is_terminal() => {
            return typed(arguments, parameters).await;
        }
        (None, None) => {
            let mut text = String::new();
            stdin().read_to_string(&mut text)?;
            ("standard input".to_string(), text)
        }
    };
    script::check(&name, &text, &parameters)?;
    let output = Output::new(arguments.place.format, arguments.output.as_deref())?;
    let mut interrupts = Interrupts::listen()?;
    let opened = tokio::select! {
        opened = open(&arguments.place, None, Executing::Within) => opened?,
        () = interrupts.next() => return Err(Interrupted.into()),
    };
    let execution = Execution::new(&opened.session, output, parameters, interrupts);
    let mut shell = Shell::new(execution, false);
    shell.text(&name, &text).await?;
    shell.close()
}

/// Executes statements that are typed.
async fn typed(arguments: SqlArguments, parameters: Parameters) -> Result<(), Failure> {
    let format = arguments.place.format;
    let output = match &arguments.output {
        Some(file) => Output::new(format, Some(file))?,
        None => Output::on_screen(format, Screen::new()),
    };
    // What Ctrl-C cancels is a statement, and the executor is there for the next one.
    let opened = open(&arguments.place, None, Executing::Beside).await?;
    let interrupts = Interrupts::listen()?;
    let execution = Execution::new(&opened.session, output, parameters, interrupts);
    interactive::run(Shell::new(execution, true)).await
}
