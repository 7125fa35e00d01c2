//! How large and how deep a statement may be.
//!
//! What is made of a text is a tree, and whatever goes through a tree goes through it level by level,
//! on a stack. A statement that would need more of it than there is, or more time than anybody wants
//! to wait, is refused before a tree is made of it.

use super::parse::{TOO_DEEP, words};
use crate::{JobError, Result};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// The stack, in bytes, of threads that take statements and plans apart. Only what is used of it takes
/// memory.
pub const STACK: usize = 64 << 20;

/// The longest text, in bytes.
const MOST_BYTES: usize = 16 << 20;

/// Words and signs of a text.
const MOST_TOKENS: usize = 2_000_000;

/// `AND`s and `OR`s in a row, which the engine plans in a time that grows with the square of them.
const MOST_CONDITIONS: usize = 2_000;

/// Other operators in a row.
const MOST_OPERATORS: usize = 500;

/// Operators between two commas, whatever words stand between them.
const MOST_IN_ALL: usize = 50_000;

/// Tables that a query joins.
const MOST_TABLES: usize = 200;

/// Brackets within brackets. The parser goes less deep; of some it says that they are wrong.
const MOST_LEVELS: usize = 100;

/// Queries that `UNION`, `EXCEPT` and `INTERSECT` put together.
const MOST_QUERIES: usize = 500;

/// Refuses a text that is too long to be taken apart.
pub fn check_length(file: &str, text: &str) -> Result<()> {
    if text.len() <= MOST_BYTES {
        return Ok(());
    }
    let reason = format!(
        "the text has {} MB, {} MB are the most: put data into a file and read it with CREATE \
         EXTERNAL TABLE",
        text.len() >> 20,
        MOST_BYTES >> 20
    );
    Err(JobError::Syntax { file: file.to_string(), line: 1, column: 1, reason })
}

/// Operators that are words.
const OPERATORS: [&str; 11] =
    ["NOT", "IS", "LIKE", "ILIKE", "IN", "SIMILAR", "AT", "DIV", "COLLATE", "INTERVAL", "EXPLAIN"];

/// Words that begin a clause which has other expressions than the one before.
const CLAUSES: [&str; 9] =
    ["SELECT", "WHERE", "GROUP", "HAVING", "ORDER", "QUALIFY", "WINDOW", "LIMIT", "SET"];

/// What has been counted between two brackets, or between `CASE` and `END`.
#[derive(Default)]
struct Level {
    conditions: usize,
    operators: usize,
    /// Both of them since the last comma.
    in_all: usize,
    tables: usize,
    queries: usize,
    /// Whether a comma stands between tables.
    in_from: bool,
}

/// Refuses statements that are too large, by the place where they become so.
pub fn check_tokens(file: &str, tokens: &[TokenWithSpan]) -> Result<()> {
    let mut levels = vec![Level::default()];
    let words_and_signs = tokens.iter().enumerate();
    let words_and_signs =
        words_and_signs.filter(|(_, token)| !matches!(token.token, Token::Whitespace(_)));
    let mut before = 0;
    for (count, (at, token)) in words_and_signs.enumerate() {
        // A comparison, and not the tables that a query is from.
        let is_distinct_from = keyword(&tokens[before..], &["DISTINCT"]);
        before = at;
        let refused = |found: &str, most: usize, advice: &str| {
            let (line, column) = (token.span.start.line, token.span.start.column);
            let reason = format!("more than {most} {found}: {advice}");
            Err(JobError::Syntax { file: file.to_string(), line, column, reason })
        };
        if count >= MOST_TOKENS {
            let advice = "put data into a file and read it with CREATE EXTERNAL TABLE";
            return refused("words and signs", MOST_TOKENS, advice);
        }
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                // A subscript is one more level of the expression before it.
                if token.token == Token::LBracket {
                    last(&mut levels).operator();
                }
                levels.push(Level::default());
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                // What is closed and was never opened is the parser's business.
                if levels.len() > 1 {
                    levels.pop();
                }
            }
            Token::SemiColon => levels = vec![Level::default()],
            Token::Comma => {
                let level = last(&mut levels);
                (level.conditions, level.operators, level.in_all) = (0, 0, 0);
                level.tables += usize::from(level.in_from);
            }
            Token::Word(_) => {
                if keyword(&tokens[at..], &["CASE"]) {
                    levels.push(Level::default());
                } else if keyword(&tokens[at..], &["END"]) && levels.len() > 1 {
                    levels.pop();
                } else if is_distinct_from {
                    last(&mut levels).operator();
                } else {
                    last(&mut levels).word(&tokens[at..]);
                }
            }
            Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Period
            | Token::Colon
            | Token::Placeholder(_) => {}
            _ => last(&mut levels).operator(),
        }
        if levels.len() > MOST_LEVELS {
            let (line, column) = (token.span.start.line, token.span.start.column);
            let (file, reason) = (file.to_string(), TOO_DEEP.to_string());
            return Err(JobError::Syntax { file, line, column, reason });
        }
        let level = last(&mut levels);
        if level.conditions > MOST_CONDITIONS {
            let advice = "use IN (…), or join a table of the values";
            return refused("ANDs and ORs in a row", MOST_CONDITIONS, advice);
        }
        let advice = "use a function such as array_sum or concat, or name parts in a subquery";
        if level.operators > MOST_OPERATORS {
            return refused("operators in a row", MOST_OPERATORS, advice);
        }
        if level.in_all > MOST_IN_ALL {
            return refused("operators between two commas", MOST_IN_ALL, advice);
        }
        if level.tables > MOST_TABLES {
            let advice = "put them together step by step, with CREATE TABLE … AS";
            return refused("tables in one query", MOST_TABLES, advice);
        }
        if level.queries > MOST_QUERIES {
            let advice = "put them together step by step, with CREATE TABLE … AS";
            return refused("UNIONs in a row", MOST_QUERIES, advice);
        }
    }
    Ok(())
}

/// There is always one level.
fn last(levels: &mut Vec<Level>) -> &mut Level {
    if levels.is_empty() {
        levels.push(Level::default());
    }
    let at = levels.len() - 1;
    &mut levels[at]
}

fn keyword(tokens: &[TokenWithSpan], any: &[&str]) -> bool {
    any.iter().any(|word| words(tokens, &[word]))
}

impl Level {
    fn operator(&mut self) {
        self.operators += 1;
        self.in_all += 1;
    }

    /// What is counted beyond the clause that ends here.
    fn next_clause(&mut self) {
        (self.conditions, self.operators, self.in_from) = (0, 0, false);
    }

    /// Counts a word that stands between expressions or in them.
    fn word(&mut self, tokens: &[TokenWithSpan]) {
        if keyword(tokens, &["AND", "OR", "XOR"]) {
            self.conditions += 1;
            self.operators = 0;
            self.in_all += 1;
        } else if keyword(tokens, &OPERATORS) {
            self.operator();
        } else if keyword(tokens, &["UNION", "EXCEPT", "INTERSECT"]) {
            self.next_clause();
            self.queries += 1;
            self.tables = 0;
        } else if keyword(tokens, &["FROM", "JOIN"]) {
            self.next_clause();
            self.tables += 1;
            self.in_from = true;
        } else if keyword(tokens, &CLAUSES) {
            self.next_clause();
        } else if keyword(tokens, &["ON", "WHEN", "THEN", "ELSE", "VALUES", "AS"]) {
            (self.conditions, self.operators) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::statement::parse;

    fn message(text: &str) -> String {
        match parse("f.sql", text) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    fn repeated(first: &str, part: &str, times: usize) -> String {
        format!("{first}{}", part.repeat(times))
    }

    #[test]
    fn what_is_too_large_is_refused_where_it_becomes_so() {
        for (text, expected) in [
            (repeated("SELECT 1", " OR x = 1", 1_000_000), "more than 2000 ANDs and ORs"),
            (repeated("SELECT 1", "+1", 1_000_000), "more than 500 operators"),
            (repeated("SELECT 1", "::INT", 1_000_000), "more than 500 operators"),
            (repeated("SELECT a", "[1]", 100_000), "more than 500 operators"),
            (repeated("SELECT ", "NOT ", 100_000), "more than 500 operators"),
            (repeated("SELECT 1", " UNION ALL SELECT 1", 100_000), "more than 500 UNIONs"),
            (repeated("SELECT 1 FROM t", ", t", 100_000), "more than 200 tables"),
            (repeated("SELECT 1 FROM t", " JOIN t ON a = b", 100_000), "more than 200 tables"),
            (repeated("SELECT ", "(", 100_000), "nested too deeply"),
            (repeated("SELECT ", "CASE WHEN a THEN b ELSE ", 100_000), "nested too deeply"),
            (repeated("SELECT ", "[", 100_000), "nested too deeply"),
            (repeated("SELECT ", "f(", 100_000), "nested too deeply"),
            // Words of the language can be names of columns.
            (repeated("SELECT 1", " + on", 100_000), "more than 50000 operators"),
            (repeated("SELECT ", "- ", 100_000), "more than 500 operators"),
            (repeated("SELECT CAST(1 AS ", "STRUCT<a ", 100_000), "more than 500 operators"),
            (repeated("EXPLAIN ", "EXPLAIN ", 100_000), "more than 500 operators"),
            (repeated("SELECT 1", ",1", 1_500_000), "more than 2000000 words and signs"),
            (format!("SELECT '{}'", "a".repeat(17 << 20)), "17 MB"),
        ] {
            let message = message(&text);
            assert!(message.contains(expected), "{:.60}: {message:.300}", text);
        }
        let text = format!("SELECT 1,\n  {}", vec!["x"; 600].join(" + "));
        assert!(message(&text).starts_with("f.sql:2:2005: "), "{}", message(&text));
    }

    #[test]
    fn what_people_write_is_not_refused() {
        let list: Vec<_> = (0..50_000).map(|n| format!("({n}, {n} + 1, 'x' || 'y')")).collect();
        let cases = " WHEN x = 1 AND y = 2 THEN x + 1".repeat(2_000);
        let daily = vec!["SELECT a, b + c * d FROM t, u WHERE a = 1 AND b = 2"; 400];
        let stars = " LEFT JOIN d ON f.a = d.a AND f.b = d.b".repeat(150);
        for text in [
            format!("INSERT INTO a.b VALUES {}", list.join(", ")),
            format!("SELECT CASE{cases} ELSE 0 END FROM t"),
            daily.join(" UNION ALL "),
            format!("SELECT * FROM f{stars}"),
            format!("SELECT 1 FROM t WHERE (a{}", " IS DISTINCT FROM 1) AND (b".repeat(300) + ")"),
            format!("SELECT DISTINCT a{} FROM t", ", b".repeat(300)),
            format!("SELECT x IN ({})", vec!["1"; 50_000].join(", ")),
            format!("SELECT {}", vec!["a + b AS c"; 5_000].join(", ")),
        ] {
            assert_eq!(message(&text), "", "{:.60}", text);
        }
    }
}
