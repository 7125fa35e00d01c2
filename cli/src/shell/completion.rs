//! What can be meant by the word that has been begun where the cursor is.

use super::input::{offset, tokenize};
use super::meta::{Argument, COMMANDS, LOOKS, formats};
use super::names::Names;
use datafusion::sql::sqlparser::keywords::{ALL_KEYWORDS, Keyword};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use std::collections::BTreeMap;

/// Keywords of Nightshift that the engine's parser does not know.
const OWN_KEYWORDS: &[&str] = &["MODEL", "MODELS", "RESTORE"];

/// After these words comes the name of something that has rows.
const BEFORE_NAMES: &[&str] = &[
    "FROM",
    "JOIN",
    "INTO",
    "OVERWRITE",
    "UPDATE",
    "TABLE",
    "VIEW",
    "MODEL",
    "DESCRIBE",
    "DESC",
    "OPTIMIZE",
    "VACUUM",
    "HISTORY",
    "USING",
];

/// How many candidates are worth showing.
const MOST: usize = 1000;

/// What can stand in a text.
#[derive(Debug, PartialEq)]
pub enum Candidates {
    /// Words, in place of what begins at a byte of the text.
    Words(usize, Vec<String>),
    /// The name of a file.
    File,
}

/// What can be meant where the cursor is, at the byte `cursor` of a text.
pub fn complete(text: &str, cursor: usize, names: &Names) -> Candidates {
    let before = &text[..cursor];
    let line = &before[before.rfind('\n').map_or(0, |at| at + 1)..];
    if let Some(command) = command(before, line) {
        return of_command(before, command, names);
    }
    let mut tokens = Vec::new();
    if tokenize(before, &mut tokens).is_err() && !ends_in_name(before, &tokens) {
        // Within a string or a comment nothing is meant.
        return Candidates::Words(cursor, Vec::new());
    }
    let start = word_start(before);
    let word = &before[start..];
    let mut found = match word.strip_prefix('$') {
        Some(_) => names.parameters.iter().map(|name| format!("${name}")).collect(),
        None => match word.rsplit_once('.') {
            Some((path, _)) => within(path, text, names),
            None => outside(before, start, text, names),
        },
    };
    let wanted = plain(word);
    found.retain(|candidate| plain(candidate).starts_with(&wanted));
    found.sort();
    found.dedup();
    found.truncate(MOST);
    Candidates::Words(start, found)
}

/// The command that the cursor's line is, from its backslash.
fn command<'a>(before: &'a str, line: &'a str) -> Option<&'a str> {
    if line.trim_start().starts_with('\\')
        && !super::input::is_open(&before[..before.len() - line.len()])
    {
        return Some(line.trim_start());
    }
    let mut tokens = Vec::new();
    tokenize(before, &mut tokens).ok()?;
    let found = tokens.iter().rev().find(|token| token.token == Token::Backslash)?;
    let at = offset(before, found.span.start);
    Some(&before[at..]).filter(|command| !command.contains('\n'))
}

fn of_command(before: &str, command: &str, names: &Names) -> Candidates {
    let start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let matching = |found: Vec<String>, word: &str, start: usize| {
        let found = found.into_iter().filter(|name| name.starts_with(word)).take(MOST);
        Candidates::Words(start, found.collect())
    };
    let Some((name, rest)) = command.split_once(char::is_whitespace) else {
        let start = before.len() - command.len();
        let commands = COMMANDS.iter().map(|(name, ..)| name.to_string()).collect();
        return matching(commands, command, start);
    };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let is_first = words.len() + usize::from(rest.ends_with(char::is_whitespace)) <= 1;
    let word = &before[start..];
    let argument = COMMANDS.iter().find(|(command, ..)| *command == name.trim_end_matches('+'));
    let found: Vec<String> = match argument.map_or(Argument::None, |(_, _, argument, _)| *argument)
    {
        Argument::File => return Candidates::File,
        Argument::Look if !is_first && words.first() == Some(&"format") => formats().collect(),
        Argument::Look if !is_first && words.first() == Some(&"pager") => switch(),
        _ if !is_first => Vec::new(),
        Argument::None => Vec::new(),
        Argument::Relation => {
            let tables = names.tables.keys().filter(|name| !is_system(name));
            let mut found: Vec<_> = tables.chain(&names.models).cloned().collect();
            found.sort();
            found
        }
        Argument::Schema => names.schemas.iter().cloned().collect(),
        Argument::Function => names.functions.iter().cloned().collect(),
        Argument::Parameter => names.parameters.iter().cloned().collect(),
        Argument::Format => formats().collect(),
        Argument::Look => LOOKS.iter().map(|(name, _)| name.to_string()).collect(),
        Argument::Switch => switch(),
    };
    matching(found, word, start)
}

fn switch() -> Vec<String> {
    ["off", "on"].map(String::from).to_vec()
}

fn is_system(name: &str) -> bool {
    name.starts_with("system.") || name.starts_with("information_schema.")
}

/// Where the word begins that a text ends in: letters, digits, dots, and names in quotation marks.
fn word_start(before: &str) -> usize {
    let mut quoted = before.matches('"').count() % 2 == 1;
    let mut start = before.len();
    for (at, character) in before.char_indices().rev() {
        let part = match character {
            '"' => {
                quoted = !quoted;
                true
            }
            '$' | '.' | '_' | '@' => true,
            other => quoted || other.is_alphanumeric(),
        };
        if !part {
            break;
        }
        start = at;
    }
    start
}

/// Whether what could not be tokenized is a name in quotation marks that has been begun.
fn ends_in_name(before: &str, tokens: &[TokenWithSpan]) -> bool {
    let end = tokens.last().map_or(0, |token| offset(before, token.span.end));
    before[end..].starts_with('"')
}

/// A word as it is compared: without quotation marks, and in lower case.
fn plain(word: &str) -> String {
    word.replace('"', "").to_lowercase()
}

/// A name as it is written: in quotation marks if it needs them.
fn written(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
    let all = characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    match first && all {
        true => name.to_string(),
        false => format!("\"{name}\""),
    }
}

/// What can come after `path` and a dot.
fn within(path: &str, text: &str, names: &Names) -> Vec<String> {
    let inner = plain(path);
    let mut parts = Vec::new();
    // Schemas and models have tables, of which one part more is a step.
    let prefix = format!("{inner}.");
    for name in names.tables.keys().chain(&names.models) {
        if let Some(rest) = name.strip_prefix(&prefix) {
            parts.push(written(rest.split('.').next().unwrap_or(rest)));
        }
    }
    let mut aliases = aliases(text);
    let table = aliases.remove(&inner).unwrap_or(inner);
    parts.extend(columns(&table, names));
    parts.iter().map(|part| format!("{path}.{part}")).collect()
}

/// The columns of a table, as they are written.
fn columns<'a>(table: &str, names: &'a Names) -> impl Iterator<Item = String> + use<'a> {
    let found = names.tables.get(table).or_else(|| names.tables.get(&format!("default.{table}")));
    found.into_iter().flatten().map(|column| written(column))
}

/// What can be a word by itself.
fn outside(before: &str, start: usize, text: &str, names: &Names) -> Vec<String> {
    let word = &before[start..];
    let mut tokens = Vec::new();
    // What is before the word was tokenized together with it.
    let _ = tokenize(&before[..start], &mut tokens);
    let mut last = tokens.iter().rev().map(|token| &token.token);
    let last = last.find(|token| !matches!(token, Token::Whitespace(_)));
    let last = match last {
        Some(Token::Word(word)) if word.quote_style.is_none() => word.value.to_uppercase(),
        _ => String::new(),
    };
    let wants_name = BEFORE_NAMES.contains(&last.as_str());
    let mut found: Vec<String> = Vec::new();
    if wants_name {
        found.extend(names.schemas.iter().map(|name| written(name)));
        let parts = |name: &String| name.split('.').map(written).collect::<Vec<_>>().join(".");
        // All tables of all schemas are too many as long as nothing of them is written.
        if !word.is_empty() {
            found.extend(names.tables.keys().chain(&names.models).map(parts));
        }
    } else {
        for table in aliases(text).values() {
            found.extend(columns(table, names));
        }
        found.extend(aliases(text).into_keys().filter(|name| !name.contains('.')));
    }
    // Only columns and tables are written in quotation marks.
    if !word.is_empty() && !word.contains('"') {
        found.extend(names.functions.iter().cloned());
        let lower = word.starts_with(|c: char| c.is_lowercase());
        let keywords = ALL_KEYWORDS.iter().chain(OWN_KEYWORDS);
        found.extend(
            keywords.map(|word| if lower { word.to_lowercase() } else { word.to_string() }),
        );
    }
    found
}

/// The names under which a text's tables have columns, and the tables.
fn aliases(text: &str) -> BTreeMap<String, String> {
    let mut tokens = Vec::new();
    // What comes after the place where a text can't be tokenized is not known.
    let _ = tokenize(text, &mut tokens);
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    let word = |at: usize| match tokens.get(at).map(|token: &TokenWithSpan| &token.token) {
        Some(Token::Word(word)) => Some((word.value.to_lowercase(), word.keyword)),
        _ => None,
    };
    let is = |at: usize, expected: &Token| tokens.get(at).is_some_and(|t| &t.token == expected);
    let mut found = BTreeMap::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = ["from", "join", "update", "into", "using", "overwrite"];
        let starts = word(at).is_some_and(|(word, _)| begins.contains(&word.as_str()));
        at += 1;
        if !starts {
            continue;
        }
        loop {
            let mut parts = Vec::new();
            while let Some((part, _)) = word(at) {
                parts.push(part);
                at += 1;
                if !is(at, &Token::Period) {
                    break;
                }
                at += 1;
            }
            let Some(last) = parts.last().cloned() else { break };
            let table = parts.join(".");
            found.insert(last, table.clone());
            found.insert(table.clone(), table.clone());
            // Only AS makes a keyword a name.
            let is_said = word(at).is_some_and(|(word, _)| word == "as");
            at += usize::from(is_said);
            let alias = word(at).filter(|(_, keyword)| is_said || *keyword == Keyword::NoKeyword);
            if let Some((alias, _)) = alias {
                found.insert(alias, table);
                at += 1;
            }
            if !is(at, &Token::Comma) {
                break;
            }
            at += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let texts = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        let table = |name: &str, columns: &[&str]| {
            (name.to_string(), columns.iter().map(|column| column.to_string()).collect())
        };
        Names {
            schemas: texts(&["raw", "recs", "system"]),
            tables: [
                table("raw.ratings", &["user_id", "item_id", "Stars"]),
                table("raw.movies", &["item_id", "title"]),
                table("recs.als.user_factors", &["user_id", "factors"]),
                table("system.tables", &[]),
            ]
            .into(),
            models: texts(&["recs.als"]),
            functions: texts(&["array_sort", "ml_recommend"]),
            parameters: texts(&["day"]),
        }
    }

    /// What can be meant where the text has a bar, and the text with it.
    fn meant(text: &str) -> Vec<String> {
        let cursor = text.find('|').unwrap();
        let text = text.replacen('|', "", 1);
        match complete(&text, cursor, &names()) {
            Candidates::Words(start, words) => {
                words.into_iter().map(|word| format!("{}{word}", &text[..start])).collect()
            }
            Candidates::File => vec!["a file".to_string()],
        }
    }

    #[test]
    fn keywords_are_in_the_case_of_the_word() {
        assert_eq!(meant("SELE|"), ["SELECT"]);
        assert_eq!(meant("sele|"), ["select"]);
        assert!(meant("CREATE MODE|").contains(&"CREATE MODEL".to_string()));
        assert!(meant("SELECT arr|").contains(&"SELECT array_sort".to_string()));
        // In strings and comments nothing is meant.
        assert!(meant("SELECT 'sele|").is_empty());
        assert!(meant("SELECT /* sele|").is_empty());
    }

    #[test]
    fn names_come_after_words_that_need_one() {
        assert_eq!(
            meant("SELECT * FROM |"),
            ["raw", "recs", "system"].map(|n| format!("SELECT * FROM {n}"))
        );
        let found = meant("SELECT * FROM ra|");
        for expected in ["raw", "raw.movies", "raw.ratings"] {
            assert!(found.contains(&format!("SELECT * FROM {expected}")), "{found:?}");
        }
        assert_eq!(meant("select 1 from raw.m|"), ["select 1 from raw.movies"]);
        assert_eq!(meant("FROM recs.|"), ["FROM recs.als"]);
        assert_eq!(meant("FROM recs.als.|"), ["FROM recs.als.user_factors"]);
        assert_eq!(meant("FROM RAW.M|"), ["FROM RAW.movies"]);
    }

    #[test]
    fn columns_are_those_of_the_tables_of_the_statement() {
        assert!(meant("SELECT ti| FROM raw.movies").contains(&"SELECT title".to_string()));
        let found = meant("SELECT u| FROM raw.ratings");
        assert!(found.contains(&"SELECT user_id".to_string()), "{found:?}");
        assert!(!meant("SELECT u| FROM raw.movies").contains(&"SELECT user_id".to_string()));
        let join = "SELECT m.|, r.x FROM raw.ratings r\n JOIN raw.movies AS m ON";
        assert_eq!(meant(join), ["SELECT m.item_id", "SELECT m.title"]);
        assert_eq!(meant("SELECT r.s| FROM raw.ratings r"), ["SELECT r.\"Stars\""]);
        assert_eq!(meant("SELECT ratings.i| FROM raw.ratings"), ["SELECT ratings.item_id"]);
        let found = meant("UPDATE raw.movies SET titl|e = 1");
        assert_eq!(found, ["UPDATE raw.movies SET title"]);
        assert_eq!(
            meant("SELECT * FROM raw.ratings WHERE \"S|"),
            ["SELECT * FROM raw.ratings WHERE \"Stars\""]
        );
        assert_eq!(meant("SELECT $d|"), ["SELECT $day"]);
    }

    #[test]
    fn commands_have_arguments_of_their_own() {
        assert_eq!(meant("\\tim|"), ["\\timing"]);
        assert_eq!(meant("\\timing o|"), ["\\timing off", "\\timing on"]);
        assert_eq!(meant("\\d raw.|"), ["\\d raw.movies", "\\d raw.ratings"]);
        assert_eq!(meant("\\d+ re|"), ["\\d+ recs.als", "\\d+ recs.als.user_factors"]);
        assert_eq!(meant("\\dn r|"), ["\\dn raw", "\\dn recs"]);
        assert_eq!(meant("\\df ml|"), ["\\df ml_recommend"]);
        assert_eq!(meant("\\format j|"), ["\\format json", "\\format jsonl"]);
        assert_eq!(meant("\\pset f|"), ["\\pset format"]);
        assert_eq!(meant("\\pset format v|"), ["\\pset format vertical"]);
        assert_eq!(meant("\\set |"), ["\\set day"]);
        assert!(meant("\\q |").is_empty());
        assert_eq!(meant("\\i fi|"), ["a file"]);
        assert_eq!(meant("SELECT 1;\n\\wa|"), ["SELECT 1;\n\\watch"]);
        assert_eq!(meant("SELECT 1 \\wa|"), ["SELECT 1 \\watch"]);
    }
}
