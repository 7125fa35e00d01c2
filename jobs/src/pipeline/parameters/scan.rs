//! Where parameters are in SQL text. The engine can't say that: `${` isn't of its grammar. So its
//! texts, names and comments are found here as its tokenizer finds them.
//! Words that begin with `#` or `@` and a mark are the exception: nobody writes those.

use std::ops::Range;

/// A part of the text in which there is something to replace.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A parameter that stands by itself.
    Bare {
        /// The parameter.
        part: Part<'a>,
        /// Whether a minus sign comes before it, with nothing but blanks and comments between them.
        minus: bool,
    },
    /// What is between the quotation marks of a text or a name.
    Quoted {
        /// The bytes.
        within: Range<usize>,
        /// The mark; `None` if its texts have rules of their own, such as `E'…'`.
        mark: Option<char>,
        /// What there is to replace.
        parts: Vec<Part<'a>>,
    },
}

/// Something to replace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// Its bytes.
    pub(super) at: Range<usize>,
    /// The name in `${name}`, whatever it is; `None` for `$${`, which stands for `${`.
    pub(super) name: Option<&'a str>,
}

/// Finds all pieces, in their order.
pub(super) fn scan(text: &str) -> Vec<Piece<'_>> {
    let mut scan = Scan { text, at: 0, minus: false, pieces: Vec::new() };
    while let Some(next) = scan.rest().chars().next() {
        scan.step(next);
    }
    scan.pieces
}

/// Operators whose end together with what comes after it would look like a comment.
const OPERATORS: [&str; 2] = ["//", "|/"];

struct Scan<'a> {
    text: &'a str,
    at: usize,
    minus: bool,
    pieces: Vec<Piece<'a>>,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn step(&mut self, next: char) {
        let rest = self.rest();
        if rest.starts_with("--") {
            self.at += rest.find('\n').unwrap_or(rest.len());
            return;
        }
        if rest.starts_with("/*") {
            self.at += comment(rest);
            return;
        }
        let minus = self.minus;
        self.minus = next == '-' || minus && next.is_whitespace();
        match next {
            '/' | '|' if let Some(operator) = OPERATORS.iter().find(|o| rest.starts_with(**o)) => {
                self.at += operator.len();
            }
            '$' => match parameter(self.text, self.at..self.text.len()) {
                Some(part) => {
                    self.at = part.at.end;
                    self.pieces.push(Piece::Bare { part, minus });
                }
                None => self.at += dollars(rest),
            },
            '\'' | '"' | '`' => self.quoted(doubled(rest, next), Some(next)),
            // The letter after a number begins a word of its own.
            _ if is_word(next) && !next.is_ascii_digit() => self.word(rest),
            _ => self.at += next.len_utf8(),
        }
    }

    /// A word, and the text that it begins, if it does.
    fn word(&mut self, rest: &'a str) {
        let ends = |(at, next): &(usize, char)| !is_word(*next) || rest[*at..].starts_with("${");
        let length = rest.char_indices().find(ends).map_or(rest.len(), |(at, _)| at);
        let (word, after) = rest.split_at(length);
        self.at += length;
        match (word.to_ascii_lowercase().as_str(), after.chars().next()) {
            ("n", Some('\'')) => self.quoted(doubled(after, '\''), None),
            ("b", Some(mark @ ('\'' | '"'))) => self.quoted(doubled(after, mark), None),
            ("u", _) if after.starts_with("&'") => {
                self.quoted(1 + doubled(&after[1..], '\''), None);
            }
            ("e" | "x", Some('\'')) => self.quoted(escaped(after), None),
            ("r", Some('\'' | '"')) => self.quoted(raw(after), None),
            ("q" | "nq", Some('\'')) => self.quoted(delimited(after), None),
            _ => {}
        }
    }

    /// A text or a name of a length, its marks included.
    fn quoted(&mut self, length: usize, mark: Option<char>) {
        let end = self.at + length;
        let start = self.at + 1;
        // One that isn't closed ends with the whole text.
        let closed = self.text[start..end].ends_with(['\'', '"', '`']);
        let within = start..end - usize::from(closed);
        let mut parts = Vec::new();
        let mut at = within.start;
        while let Some(dollar) = self.text[at..within.end].find('$') {
            at += dollar;
            let part = match self.text[at..within.end].starts_with("$${") {
                true => Some(Part { at: at..at + 3, name: None }),
                false => parameter(self.text, at..within.end),
            };
            at = part.as_ref().map_or(at + 1, |part| part.at.end);
            parts.extend(part);
        }
        if !parts.is_empty() {
            self.pieces.push(Piece::Quoted { within, mark, parts });
        }
        self.at = end;
    }
}

/// The parameter that begins where a range of the text does. It ends in the same line.
fn parameter(text: &str, within: Range<usize>) -> Option<Part<'_>> {
    let start = within.start;
    let name = text[within].strip_prefix("${")?;
    let name = &name[..name.find(['}', '\n']).filter(|at| name[*at..].starts_with('}'))?];
    Some(Part { at: start..start + name.len() + 3, name: Some(name) })
}

/// The length of a text or a name in which its mark is doubled.
fn doubled(text: &str, mark: char) -> usize {
    let mut at = 1;
    while let Some(end) = text[at..].find(mark) {
        at += end + 1;
        if !text[at..].starts_with(mark) {
            return at;
        }
        at += 1;
    }
    text.len()
}

/// Whether a character can be in a word.
pub(super) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '#' | '@' | '$')
}

/// The length of a comment `/* … */`, in which there can be others.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while let Some(next) = text[at..].chars().next() {
        match text.get(at..at + 2) {
            Some("/*") => (depth, at) = (depth + 1, at + 2),
            Some("*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += next.len_utf8(),
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a text `$$ … $$` or `$tag$ … $tag$`, or of a placeholder `$name`.
fn dollars(text: &str) -> usize {
    let is_tag = |character: char| character.is_alphanumeric() || character == '_';
    let tag = text[1..].find(|character| !is_tag(character)).map_or(text.len(), |at| at + 1);
    if !text[tag..].starts_with('$') {
        return tag;
    }
    let (mark, within) = text.split_at(tag + 1);
    within.find(mark).map_or(text.len(), |at| 2 * mark.len() + at)
}

/// The length of a text in which a backslash takes its meaning from the character after it.
fn escaped(text: &str) -> usize {
    let mut at = 1;
    while let Some(next) = text[at..].chars().next() {
        let after = text[at + next.len_utf8()..].chars().next();
        at += next.len_utf8();
        match (next, after) {
            ('\\', Some(after)) => at += after.len_utf8(),
            ('\'', Some('\'')) => at += 1,
            ('\'', _) => break,
            _ => {}
        }
    }
    at
}

/// The length of a text that three marks can begin, which then end it too.
fn raw(text: &str) -> usize {
    let mark = if text.starts_with('"') { '"' } else { '\'' };
    let three = mark.to_string().repeat(3);
    if let Some(within) = text.strip_prefix(&three) {
        return within.find(&three).map_or(text.len(), |at| at + 6);
    }
    match text[1..].starts_with(mark) {
        true => 2,
        false => doubled(text, mark),
    }
}

/// The length of a text `'[ … ]'`, with any character in the place of the brackets.
fn delimited(text: &str) -> usize {
    let Some(open) = text[1..].chars().next() else { return text.len() };
    let close = match open {
        '[' => ']',
        '{' => '}',
        '<' => '>',
        '(' => ')',
        other => other,
    };
    let (start, end) = (1 + open.len_utf8(), format!("{close}'"));
    text[start..].find(&end).map_or(text.len(), |at| start + at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is found, with what is around it.
    fn found(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for piece in scan(text) {
            let (parts, around) = match piece {
                Piece::Bare { part, minus } => (vec![part], format!("minus {minus}")),
                Piece::Quoted { parts, mark, .. } => (parts, format!("within {mark:?}")),
            };
            let name = |part: &Part<'_>| part.name.unwrap_or("$").to_string();
            found.extend(parts.iter().map(|part| format!("{} {around}", name(part))));
        }
        found
    }

    #[test]
    fn parameters_are_found_with_what_is_around_them() {
        let text =
            "SELECT ${a}, '${b} ''${c}', \"x\"\"${d}\", `${e}` -- ${no}\n, - /* ${no} */ ${f}";
        let expected = [
            "a minus false",
            "b within Some('\\'')",
            "c within Some('\\'')",
            "d within Some('\"')",
            "e within Some('`')",
            "f minus true",
        ];
        assert_eq!(found(text), expected);
        assert_eq!(found("${a}"), ["a minus false"]);
        assert_eq!(found("'a$${b}c${d}'"), ["$ within Some('\\'')", "d within Some('\\'')"]);
    }

    #[test]
    fn comments_and_texts_end_where_the_engine_says() {
        for text in [
            "/* /* */ ${no} */ ${a}",
            "/*/ ${no} */ ${a}",
            "$$ ' ${no} $$ ${a}",
            "$t$ $$ ' ${no} $t$ ${a}",
            "$1 ${a}",
            "$q'[' ${a}",
            "a // * /* x */ ${a}",
            "//* ${a}",
            "|/* ${a}",
            "x$y ${a}",
            "'--' ${a}",
            "'it''s' ${a}",
            "'\\' ${a}",
            "E'\\' ' ${a}",
            "e'\\\\' ${a}",
            "X'00' ${a}",
            "b'\\' ${a}",
            "B\"\\\" ${a}",
            "r'''it's''' ${a}",
            "r'' ${a}",
            "R\"'\" ${a}",
            "q'[it's]' ${a}",
            "nQ'!it's!' ${a}",
            "N'\\' ${a}",
            "U&'\\0041' ${a}",
            "name'\\' ${a}",
            "1e'\\' ' ${a}",
            "é'é' ${a}",
        ] {
            let found = found(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with("a minus "), "{text}: {found:?}");
        }
        for prefix in ["E", "x", "b", "R", "N", "u&"] {
            assert_eq!(found(&format!("{prefix}'${{a}}'")), ["a within None"], "{prefix}");
        }
        assert_eq!(found("q'(${a})' b\"${b}\""), ["a within None", "b within None"]);
    }

    #[test]
    fn what_is_not_closed_is_no_parameter() {
        for text in ["${a\n}", "${a", "'${a' }", "$ {a}", "/* ${a}", "--${a}", "$$${a}", "${é", ""]
        {
            assert!(found(text).is_empty(), "{text}");
        }
        // A text that isn't closed goes on to the end.
        for text in ["'${a}é", "'é${a}\"", "E'\\'${a}", "q'${a}", "r'''${a}''é", "u&'${a}", "`${a}"]
        {
            assert_eq!(found(text).len(), 1, "{text}");
        }
        for text in ["'", "E'\\", "q'", "r'", "r'''", "$t$", "$", "u&'", "é'", "/*", "--", "/"] {
            assert!(found(text).is_empty(), "{text}");
        }
    }
}
