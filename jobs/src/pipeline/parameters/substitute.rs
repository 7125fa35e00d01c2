//! Values in the places of parameters.

use super::super::settings::position;
use super::scan::{Part, Piece, is_word, scan};
use super::{Value, is_name};
use crate::suggestion::did_you_mean;
use std::collections::BTreeMap;
use std::fmt;

/// A parameter that can't get a value where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What is between `${` and `}`.
    pub name: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// Why it can't.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// The parameters that a text uses, with line and column, in the order of the text.
pub fn used(sql: &str) -> Vec<(String, u64, u64)> {
    let mut used = Vec::new();
    for piece in scan(sql) {
        let parts = match piece {
            Piece::Bare { part, .. } => vec![part],
            Piece::Quoted { parts, .. } => parts,
        };
        for part in parts {
            let Some(name) = part.name else { continue };
            let (line, column) = position(sql, part.at.start);
            used.push((name.to_string(), line, column));
        }
    }
    used
}

/// The text with values in the places of its parameters. Lines stay where they are.
///
/// # Errors
/// All parameters that can't get one: those without a value, and those that stand where no value
/// can.
pub fn substitute(sql: &str, values: &BTreeMap<String, Value>) -> Result<String, Vec<Mistake>> {
    let mut filling = Filling { sql, values, filled: String::new(), mistakes: Vec::new() };
    let mut done = 0;
    for piece in scan(sql) {
        match piece {
            Piece::Bare { part, minus } => {
                filling.filled.push_str(&sql[done..part.at.start]);
                filling.bare(&part, minus);
                done = part.at.end;
            }
            Piece::Quoted { within, mark, parts } => {
                filling.filled.push_str(&sql[done..within.start]);
                let filled = filling.quoted(within.start, within.end, mark, &parts);
                filling.filled.push_str(&filled);
                done = within.end;
            }
        }
    }
    filling.filled.push_str(&sql[done..]);
    match filling.mistakes.is_empty() {
        true => Ok(filling.filled),
        false => Err(filling.mistakes),
    }
}

struct Filling<'a> {
    sql: &'a str,
    values: &'a BTreeMap<String, Value>,
    filled: String,
    mistakes: Vec<Mistake>,
}

impl<'a> Filling<'a> {
    fn wrong(&mut self, part: &Part<'_>, reason: String) {
        let name = part.name.unwrap_or_default().to_string();
        let (line, column) = position(self.sql, part.at.start);
        self.mistakes.push(Mistake { name, line, column, reason });
    }

    fn value(&mut self, part: &Part<'_>, name: &str) -> Option<&'a Value> {
        let value = self.values.get(name);
        match value {
            None if is_name(name) => {
                let meant = did_you_mean(name, self.values.keys().map(String::as_str));
                self.wrong(part, format!("there is no parameter {name}{meant}"));
            }
            None => {
                let reason = format!(
                    "'{name}' can't be the name of a parameter; within quotation marks, $${{ \
                     stands for ${{"
                );
                self.wrong(part, reason);
            }
            // Values that were not read by us could have some.
            Some(Value::Text(text)) if text.contains(char::is_control) => {
                let reason =
                    format!("the value of {name} has a line break or another control character");
                self.wrong(part, reason);
            }
            Some(_) => {}
        }
        value
    }

    /// A literal, with blanks where it would touch something else.
    fn bare(&mut self, part: &Part<'_>, minus: bool) {
        let Some(name) = part.name else { return };
        let Some(value) = self.value(part, name) else { return };
        let left = self.sql[..part.at.start].chars().next_back();
        let right = self.sql[part.at.end..].chars().next();
        let joins = |beside: Option<char>| {
            beside.is_some_and(|beside| is_word(beside) || matches!(beside, '\'' | '"' | '`' | '.'))
        };
        if joins(left) || joins(right) {
            let reason = format!(
                "${{{name}}} touches what is beside it: set it apart, or put all of it between the \
                 quotation marks of a text or a name, as in \"a_${{{name}}}\""
            );
            self.wrong(part, reason);
        }
        let free = |beside: Option<char>| {
            let apart = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | ';');
            beside.is_none_or(apart)
        };
        let blank = |beside| if free(beside) { "" } else { " " };
        let mut literal = literal(value);
        // What two signs in a row begin is a comment, should the statement be written out.
        if minus && literal.starts_with('-') {
            literal = format!("({literal})");
        }
        self.filled.extend([blank(left), &literal, blank(right)]);
    }

    /// What is between the marks of a text or a name.
    fn quoted(
        &mut self,
        start: usize,
        end: usize,
        mark: Option<char>,
        parts: &[Part<'_>],
    ) -> String {
        let mut filled = String::new();
        let mut done = start;
        let mut marked = None;
        for part in parts {
            filled.push_str(&self.sql[done..part.at.start]);
            done = part.at.end;
            let (Some(name), Some(mark)) = (part.name, mark) else {
                match part.name {
                    Some(name) => {
                        let reason = format!(
                            "${{{name}}} is in a text with a letter before it, in which no value \
                             can be: write '…' without the letter"
                        );
                        self.wrong(part, reason);
                    }
                    // In texts that get no values it stands for itself.
                    None if mark.is_none() => filled.push_str("$${"),
                    None => filled.push_str("${"),
                }
                continue;
            };
            let Some(value) = self.value(part, name) else { continue };
            let value = value.to_string();
            if value.contains([mark, '\\']) {
                marked = marked.or(Some((part, name)));
            }
            filled.push_str(&value.replace(mark, &format!("{mark}{mark}")));
        }
        filled.push_str(&self.sql[done..end]);
        if let (Some(mark), Some((part, name))) = (mark, marked)
            && is_risky(&filled.replace(&format!("{mark}{mark}"), &mark.to_string()), mark)
        {
            let reason = format!(
                "with the value of {name}, a quotation mark would come after a backslash or \
                 another quotation mark: write ${{{name}}} without quotation marks around it"
            );
            self.wrong(part, reason);
        }
        filled
    }
}

/// A value as a literal of its type.
fn literal(value: &Value) -> String {
    match value {
        Value::Text(text) => text_literal(text),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => value.to_string(),
        Value::Date(_) => format!("DATE '{value}'"),
        Value::Timestamp(_) => format!("TIMESTAMP '{value}'"),
    }
}

/// A text as a literal; one that is put together from parts if it would be risky.
fn text_literal(text: &str) -> String {
    if !is_risky(text, '\'') {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let parts: Vec<_> = text.split('\'').map(|part| format!("'{part}'")).collect();
    format!("({})", parts.join(" || '''' || "))
}

/// Whether a text would be another one if it were written out by the engine's parser, as statements
/// are now and then, and read again: the parser takes some quotation marks for ones that are marked
/// already.
fn is_risky(text: &str, mark: char) -> bool {
    text.contains(&format!("\\{mark}")) || text.contains(&format!("{mark}{mark}"))
}

#[cfg(test)]
mod tests {
    use super::super::Type;
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;
    use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

    const HOSTILE: [&str; 20] = [
        "'",
        "''",
        "'''",
        "\"",
        "\"\"",
        "`",
        "\\",
        "\\'",
        "\\\"",
        "\\\\'",
        "'; DROP TABLE a.b; --",
        "\\' OR true --",
        "x' OR 'y' = 'y",
        "-- x",
        "/* x",
        "*/ x",
        "${other}",
        "$${other}",
        "$$ x $$",
        "é'\u{2019}",
    ];

    fn texts(texts: &[(&str, &str)]) -> BTreeMap<String, Value> {
        let text = |(name, text): &(&str, &str)| (name.to_string(), Value::Text(text.to_string()));
        texts.iter().map(text).collect()
    }

    /// Values of all types.
    fn typed() -> BTreeMap<String, Value> {
        let values = [
            ("n", Type::Integer, "3"),
            ("minus", Type::Integer, "-3"),
            ("x", Type::Float, "2.5"),
            ("whole", Type::Float, "2"),
            ("b", Type::Boolean, "true"),
            ("d", Type::Date, "2026-11-26"),
            ("t", Type::Timestamp, "2026-11-26T03:00:00Z"),
            ("name", Type::Text, "it's"),
        ];
        let parsed = values.map(|(name, kind, text)| (name, Value::parse(kind, text).unwrap()));
        parsed.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    fn reasons(sql: &str, values: &BTreeMap<String, Value>) -> Vec<String> {
        let mistakes = substitute(sql, values).unwrap_err();
        mistakes.iter().map(|m| format!("{}:{}: {m}", m.line, m.column)).collect()
    }

    #[test]
    fn values_become_what_is_needed_where_they_stand() {
        for (sql, expected) in [
            ("SELECT ${n}, ${x}, ${whole}", "SELECT 3, 2.5, 2.0"),
            ("f(${b},${d})", "f(true,DATE '2026-11-26')"),
            ("a<${t}", "a< TIMESTAMP '2026-11-26T03:00:00Z'"),
            ("SELECT ${name};", "SELECT 'it''s';"),
            ("'day=${d}/${n}'", "'day=2026-11-26/3'"),
            ("TIMESTAMP AS OF '${t}'", "TIMESTAMP AS OF '2026-11-26T03:00:00Z'"),
            ("'${name}' \"${name}\" `${name}`", "'it''s' \"it's\" `it's`"),
            ("SELECT 5-${minus}", "SELECT 5- (-3)"),
            ("SELECT 5 - /* - */\n${minus}", "SELECT 5 - /* - */\n(-3)"),
            ("OPTIONS (seed=${minus})", "OPTIONS (seed= -3)"),
            ("${n}::TEXT", "3 ::TEXT"),
            ("-- ${n}\n/* ${n} */ $$${n}$$", "-- ${n}\n/* ${n} */ $$${n}$$"),
            ("'$${n} $$${n} $n $' \"$${n}\"", "'${n} $${n} $n $' \"${n}\""),
            ("'$${n} is ${n}' E'$${n}'", "'${n} is 3' E'$${n}'"),
        ] {
            assert_eq!(substitute(sql, &typed()).unwrap(), expected);
        }
    }

    #[test]
    fn parameters_are_listed_with_their_places() {
        let found = used("SELECT ${a}\n  , 'é${b}$${c}' -- ${d}\n, ${a}");
        let expected = [("a", 1, 8), ("b", 2, 7), ("a", 3, 3)];
        assert_eq!(found, expected.map(|(name, line, column)| (name.to_string(), line, column)));
    }

    #[test]
    fn everything_that_can_not_get_a_value_is_said() {
        let sql = "SELECT ${nam},\n '${d} ${}', ${n}5, E'${n}'\n, a.${n}, x_${n}, ${n}${n}";
        let reasons = reasons(sql, &typed());
        let expected = [
            "1:8: there is no parameter nam; did you mean name?",
            "2:8: '' can't be the name of a parameter; within quotation marks, $${ stands for ${",
            "2:14: ${n} touches what is beside it",
            "2:23: ${n} is in a text with a letter before it",
            "3:5: ${n} touches what is beside it",
            "3:13: ${n} touches what is beside it",
            "3:19: ${n} touches what is beside it",
        ];
        assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
        for (reason, expected) in reasons.iter().zip(expected) {
            assert!(reason.starts_with(expected), "{reason}");
        }
        let broken = texts(&[("v", "a\nb")]);
        let reason = "1:8: the value of v has a line break or another control character";
        assert_eq!(super::tests::reasons("SELECT ${v}", &broken), [reason]);
    }

    fn tokens(sql: &str) -> Vec<Token> {
        Tokenizer::new(&GenericDialect {}, sql).tokenize().unwrap()
    }

    /// Fails if a statement is another one once it was written out by the parser and read again.
    fn check_written(sql: &str) {
        let parsed = |sql: &str| Parser::parse_sql(&GenericDialect {}, sql).unwrap();
        let once = parsed(sql);
        assert_eq!(once.len(), 1, "{sql}");
        assert_eq!(parsed(&once[0].to_string()), once, "{sql}");
    }

    #[test]
    fn a_hostile_value_by_itself_stays_a_text() {
        for value in HOSTILE {
            let values = texts(&[("v", value), ("other", "no")]);
            let filled = substitute("SELECT ${v} FROM t -- ${v}", &values).unwrap();
            let (mut text, mut others) = (String::new(), Vec::new());
            for token in tokens(&filled) {
                match token {
                    Token::SingleQuotedString(part) => text.push_str(&part),
                    Token::Whitespace(_) | Token::StringConcat | Token::LParen | Token::RParen => {}
                    other => others.push(other.to_string()),
                }
            }
            assert_eq!((text.as_str(), others.join(" ").as_str()), (value, "SELECT FROM t"));
            check_written(&filled);
        }
    }

    #[test]
    fn a_hostile_value_within_marks_stays_within_or_is_refused() {
        let mut kept = 0;
        for (value, (sql, mark)) in HOSTILE.into_iter().flat_map(|value| {
            let statements = [
                ("SELECT 'a ${v} b' FROM t", '\''),
                ("SELECT '${v}' FROM t", '\''),
                ("SELECT '\\${v}' FROM t", '\''),
                ("SELECT '''${v}''' FROM t", '\''),
                ("SELECT '${v}${v}' FROM t", '\''),
                ("SELECT \"a ${v} b\" FROM t", '"'),
                ("SELECT `${v}x` FROM t", '`'),
            ];
            statements.map(|statement| (value, statement))
        }) {
            let values = texts(&[("v", value), ("other", "no")]);
            let filled = match substitute(sql, &values) {
                Ok(filled) => filled,
                Err(mistakes) => {
                    assert!(mistakes[0].reason.starts_with("with the value of v"));
                    assert!(value.contains([mark, '\\']));
                    continue;
                }
            };
            let found = tokens(&filled);
            let marked = tokens(&sql.replace("${v}", "marker"));
            assert_eq!(found.len(), marked.len(), "{filled}");
            for (found, marked) in found.iter().zip(&marked) {
                let (found, expected) = match (found, marked) {
                    (Token::SingleQuotedString(found), Token::SingleQuotedString(marked)) => {
                        (found.clone(), marked.replace("marker", value))
                    }
                    (Token::Word(found), Token::Word(marked)) => {
                        (found.value.clone(), marked.value.replace("marker", value))
                    }
                    (found, marked) => (found.to_string(), marked.to_string()),
                };
                assert_eq!(found, expected, "{filled}");
            }
            check_written(&filled);
            kept += 1;
        }
        assert!(kept > 90, "{kept}");
    }

    #[test]
    fn nothing_changes_besides_parameters_and_the_engine_sees_what_we_see() {
        const PARTS: [&str; 33] = [
            "'", "''", "\"", "`", "--", "-", "\n", "/*", "*/", "/", "*", "$$", "$t$", "$", "${",
            "}", "\\", "E'", "r\"", "q'[", "]'", "u&'", "N'", "x", "1e", " ", "é", ";", "b'", "<",
            ">", "?", "|",
        ];
        let mut random: u64 = 1;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % below
        };
        let (mut bare, mut within) = (0, 0);
        for _ in 0..50_000 {
            let length = 1 + next(10);
            let plain: String = (0..length).map(|_| PARTS[next(PARTS.len())]).collect();
            let none = BTreeMap::new();
            if scan(&plain).is_empty() {
                assert_eq!(substitute(&plain, &none).unwrap(), plain);
            }
            if plain.contains("${") {
                continue;
            }
            // What is around a parameter at the end is what the engine's tokenizer finds around it.
            let sql = format!("{plain} ${{v}} ");
            let Ok(filled) = substitute(&sql, &texts(&[("v", "it's")])) else { continue };
            let end = filled.strip_prefix(&plain).unwrap();
            let found = |text: &str| Tokenizer::new(&GenericDialect {}, text).tokenize();
            match end {
                " 'it''s' " => {
                    let Ok(found) = found(&filled) else { continue };
                    let last = Token::SingleQuotedString("it's".to_string());
                    assert_eq!(found.iter().rev().nth(1), Some(&last), "{plain:?}");
                    bare += 1;
                }
                " ${v} " | " it's " | " it''s " => {
                    // In a comment or a text that goes on: the engine finds no text that begins
                    // here.
                    let text = found(&format!("{plain} 'v' "));
                    let last = Token::SingleQuotedString("v".to_string());
                    let begins = text.is_ok_and(|found| found.iter().rev().nth(1) == Some(&last));
                    assert!(!begins, "{plain:?}");
                    within += 1;
                }
                other => panic!("{plain:?}: {other:?}"),
            }
        }
        assert!(bare > 1000 && within > 1000, "{bare} {within}");
    }
}
