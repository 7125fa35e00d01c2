//! The commands that begin with a backslash: which there are, and what is said with them. They have
//! psql's names where psql has them.

use crate::arguments::{Format, is_parameter};
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Duration;

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Leave the shell.
    Quit,
    /// List the commands.
    Help,
    /// List what there is of a kind, or describe one.
    List(Kind, Option<String>),
    /// Write a table's columns below each other, or no longer; the other of both if nothing is said.
    Expanded(Option<bool>),
    /// Say how long statements take, or no longer; the other of both if nothing is said.
    Timing(Option<bool>),
    /// Execute the last statement again and again, with a pause between.
    Watch(Duration),
    /// Execute the last statement once more, perhaps with its columns below each other.
    Go(bool),
    /// Execute a file.
    Include(PathBuf),
    /// Write results to a file, or no longer.
    Output(Option<PathBuf>),
    /// Give a parameter a value, or list them.
    Set(Option<(String, String)>),
    /// Take a parameter's value away.
    Unset(String),
    /// Change how results look, or list what can be changed.
    Look(Option<Look>),
    /// Write a statement in an editor.
    Edit,
    /// Say where statements are executed.
    Connection,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything that has rows.
    Relations,
    /// Tables.
    Tables,
    /// Views.
    Views,
    /// Models.
    Models,
    /// Schemas.
    Schemas,
    /// Functions.
    Functions,
}

/// How results look.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// Their format.
    Format(Format),
    /// What stands for NULL.
    Null(String),
    /// How many rows of a table are fetched; 0 means all.
    Limit(usize),
    /// The pager; empty means none.
    Pager(String),
}

/// The settings of `\pset`, and what they are for.
pub const LOOKS: &[(&str, &str)] = &[
    ("format", "table, vertical, csv, json, jsonl, parquet or arrow"),
    ("null", "what stands for NULL in tables"),
    ("limit", "how many rows of a table are fetched; 0 means all"),
    ("pager", "on, off, or the command that shows what does not fit on the screen"),
];

/// What is completed after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// Nothing.
    None,
    /// The name of a table, view or model.
    Relation,
    /// The name of a schema.
    Schema,
    /// The name of a function.
    Function,
    /// A file.
    File,
    /// The name of a parameter.
    Parameter,
    /// A format.
    Format,
    /// A setting of `\pset`.
    Look,
    /// `on` or `off`.
    Switch,
}

/// The commands as they are written, what is completed after them, and what they do.
pub const COMMANDS: &[(&str, &str, Argument, &str)] = &[
    (
        "\\d",
        "[NAME|PATTERN]",
        Argument::Relation,
        "list tables, views and models' tables; describe one",
    ),
    ("\\dt", "[PATTERN]", Argument::Relation, "list tables"),
    ("\\dv", "[PATTERN]", Argument::Relation, "list views"),
    ("\\dm", "[NAME|PATTERN]", Argument::Relation, "list models; describe the versions of one"),
    ("\\dn", "[PATTERN]", Argument::Schema, "list schemas"),
    ("\\df", "[PATTERN]", Argument::Function, "list functions"),
    ("\\g", "", Argument::None, "execute the last statement again; in place of ; execute this one"),
    ("\\gx", "", Argument::None, "the same, with columns below each other"),
    ("\\watch", "[SECONDS]", Argument::None, "the same, every 2 or SECONDS seconds until Ctrl-C"),
    ("\\e", "", Argument::None, "edit the last statement in $VISUAL or $EDITOR"),
    ("\\i", "FILE", Argument::File, "execute a file"),
    ("\\o", "[FILE]", Argument::File, "write results to a file; without one, show them again"),
    ("\\x", "[on|off]", Argument::Switch, "write columns below each other"),
    ("\\timing", "[on|off]", Argument::Switch, "say how long statements take"),
    ("\\format", "NAME", Argument::Format, "write results in another format"),
    ("\\pset", "[NAME [VALUE]]", Argument::Look, "change how results look, or list the settings"),
    (
        "\\set",
        "[NAME VALUE]",
        Argument::Parameter,
        "give the parameter $NAME a value, or list them",
    ),
    ("\\unset", "NAME", Argument::Parameter, "take a parameter's value away"),
    ("\\conninfo", "", Argument::None, "say which warehouse this is"),
    ("\\?", "", Argument::None, "list these commands"),
    ("\\q", "", Argument::None, "leave"),
];

/// A line as a command.
///
/// # Errors
///
/// If there is no such command, or it can't be meant like that.
pub fn parse(line: &str) -> Result<Command, String> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    // psql has \d+ for more details; here all details are shown anyway.
    let name = name.strip_suffix('+').unwrap_or(name);
    // A semicolon ends statements, and habits die hard.
    let rest = rest.trim().trim_end_matches(';').trim_end();
    let name = name.trim_end_matches(';');
    let text = (!rest.is_empty()).then(|| rest.to_string());
    let needed = |what: &str| text.clone().ok_or_else(|| format!("{name}: {what} is missing"));
    let kind = match name {
        "\\d" => Some(Kind::Relations),
        "\\dt" => Some(Kind::Tables),
        "\\dv" => Some(Kind::Views),
        "\\dm" => Some(Kind::Models),
        "\\dn" => Some(Kind::Schemas),
        "\\df" => Some(Kind::Functions),
        _ => None,
    };
    if let Some(kind) = kind {
        return Ok(Command::List(kind, text));
    }
    let command = match name {
        "\\q" | "\\quit" => Command::Quit,
        "\\?" | "\\h" | "\\help" => Command::Help,
        "\\x" => Command::Expanded(switch(name, &text)?),
        "\\timing" => Command::Timing(switch(name, &text)?),
        "\\watch" => Command::Watch(pause(rest)?),
        "\\g" => Command::Go(false),
        "\\gx" => Command::Go(true),
        "\\i" | "\\include" => Command::Include(needed("the file")?.into()),
        "\\o" | "\\out" => Command::Output(text.clone().map(PathBuf::from)),
        "\\set" => Command::Set(match &text {
            None => None,
            Some(text) => {
                let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
                Some((parameter(name)?, unquoted(value.trim())))
            }
        }),
        "\\unset" => Command::Unset(parameter(&needed("the parameter")?)?),
        "\\format" => Command::Look(Some(look("format", &needed("the format")?)?)),
        "\\pset" => Command::Look(match &text {
            None => None,
            Some(text) => {
                let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
                Some(look(name, &unquoted(value.trim()))?)
            }
        }),
        "\\e" | "\\edit" => Command::Edit,
        "\\conninfo" => Command::Connection,
        other => return Err(format!("{other}: there is no such command; \\? lists them")),
    };
    let alone = matches!(
        command,
        Command::Quit | Command::Help | Command::Go(_) | Command::Edit | Command::Connection
    );
    match text {
        Some(text) if alone => Err(format!("{name}: '{text}' is too much, it stands alone")),
        _ => Ok(command),
    }
}

fn switch(name: &str, text: &Option<String>) -> Result<Option<bool>, String> {
    match text.as_deref() {
        None => Ok(None),
        Some("on") => Ok(Some(true)),
        Some("off") => Ok(Some(false)),
        Some(other) => Err(format!("{name}: '{other}' is neither on nor off")),
    }
}

fn pause(text: &str) -> Result<Duration, String> {
    let text = if text.is_empty() { "2" } else { text };
    let wrong = || format!("\\watch: '{text}' is no number of seconds");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

fn parameter(name: &str) -> Result<String, String> {
    let name = name.strip_prefix('$').unwrap_or(name);
    match is_parameter(name) {
        true => Ok(name.to_string()),
        false => Err(format!("'{name}' is no name: letters, digits and _ make one")),
    }
}

fn look(name: &str, value: &str) -> Result<Look, String> {
    match name {
        "format" => Format::from_str(value, true).map(Look::Format).map_err(|_| {
            let formats: Vec<_> = formats().collect();
            format!("'{value}' is no format; there are {}", formats.join(", "))
        }),
        "null" => Ok(Look::Null(value.to_string())),
        "limit" => value
            .parse()
            .map(Look::Limit)
            .map_err(|_| format!("\\pset limit: '{value}' is no number of rows")),
        "pager" => Ok(Look::Pager(value.to_string())),
        other => {
            let names: Vec<_> = LOOKS.iter().map(|(name, _)| *name).collect();
            Err(format!("\\pset: there is no {other}, only {}", names.join(", ")))
        }
    }
}

/// The names of the formats.
pub fn formats() -> impl Iterator<Item = String> {
    let names = Format::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    names.map(|name| name.get_name().to_string())
}

/// A value without the quotation marks around it.
fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
    inner.map_or_else(|| text.to_string(), |inner| inner.replace("''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_list_can_be_meant() {
        for (name, arguments, _, _) in COMMANDS {
            let argument = match *arguments {
                "NAME" if *name == "\\format" => "csv",
                "" => "",
                text if text.starts_with('[') => "",
                _ => "x",
            };
            parse(&format!("{name} {argument}")).unwrap();
        }
        for (name, _) in LOOKS {
            let value = match *name {
                "format" => "csv",
                "limit" => "10",
                _ => "",
            };
            parse(&format!("\\pset {name} {value}")).unwrap();
        }
    }

    #[test]
    fn commands_say_what_they_say() {
        let pattern = |text: &str| Some(text.to_string());
        assert_eq!(parse("\\d a.b;"), Ok(Command::List(Kind::Relations, pattern("a.b"))));
        assert_eq!(parse("\\df+ als*"), Ok(Command::List(Kind::Functions, pattern("als*"))));
        assert_eq!(parse("\\watch"), Ok(Command::Watch(Duration::from_secs(2))));
        assert_eq!(parse("\\watch 0.5"), Ok(Command::Watch(Duration::from_millis(500))));
        assert_eq!(parse("\\i a b.sql"), Ok(Command::Include("a b.sql".into())));
        let set = |value: &str| Ok(Command::Set(Some(("n".to_string(), value.to_string()))));
        assert_eq!(parse("\\set n it's; "), set("it's"));
        assert_eq!(parse("\\set $n 'it''s  so '"), set("it's  so "));
        assert_eq!(parse("\\format CSV"), Ok(Command::Look(Some(Look::Format(Format::Csv)))));
    }

    #[test]
    fn what_can_not_be_meant_is_named() {
        for (line, expected) in [
            ("\\nothing", "\\nothing: there is no such command"),
            ("\\timing maybe", "'maybe' is neither on nor off"),
            ("\\watch -1", "'-1' is no number of seconds"),
            ("\\watch soon", "'soon' is no number of seconds"),
            ("\\i", "\\i: the file is missing"),
            ("\\q now", "'now' is too much"),
            ("\\set a-b 1", "'a-b' is no name"),
            ("\\format xml", "'xml' is no format; there are table, vertical, csv"),
            ("\\pset limit few", "'few' is no number of rows"),
            ("\\pset colour red", "there is no colour, only format, null, limit, pager"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
