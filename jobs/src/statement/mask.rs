//! Statements as they may be shown: without what gives access to something.

use super::positions::Positions;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

/// What names of secret things have in them.
const SECRET: &[&str] = &[
    "secret",
    "password",
    "passwd",
    "token",
    "credential",
    "access_key",
    "account_key",
    "api_key",
    "private_key",
    "master_key",
    "encryption_key",
    "sas_key",
    "signature",
    "service_account",
    "authorization",
    "connection_string",
];

/// What a secret is shown as.
const MASK: &str = "'***'";

/// The text of a statement in which values of secret options, and the credentials in URLs, are masked.
pub fn mask(text: &str) -> String {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location();
    // A text that can't be read can't be shown safely either.
    let Ok(tokens) = tokens else { return "(not a statement)".to_string() };
    let tokens: Vec<_> =
        tokens.iter().filter(|found| !matches!(found.token, Token::Whitespace(_))).collect();
    let mut shown = String::with_capacity(text.len());
    let mut positions = Positions::new(text);
    let mut done = 0;
    // Parentheses that are open since OPTIONS.
    let mut options = 0;
    for (at, found) in tokens.iter().enumerate() {
        match &found.token {
            Token::LParen if options > 0 || at > 0 && is_word(tokens[at - 1], "options") => {
                options += 1;
            }
            Token::RParen if options > 0 => options -= 1,
            _ => {}
        }
        let masked = if is_value(&found.token, options > 0) && follows_secret(&tokens[..at]) {
            Some(MASK.to_string())
        } else {
            text_of(&found.token).and_then(without_credentials)
        };
        if let Some(masked) = masked {
            shown.push_str(&text[done..positions.at(found.span.start)]);
            shown.push_str(&masked);
            done = positions.at(found.span.end);
        }
    }
    shown.push_str(&text[done..]);
    shown
}

fn is_word(found: &TokenWithSpan, expected: &str) -> bool {
    matches!(&found.token, Token::Word(word) if word.value.eq_ignore_ascii_case(expected))
}

/// The text of a literal.
fn text_of(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::NationalStringLiteral(text)
        | Token::EscapedStringLiteral(text)
        | Token::UnicodeStringLiteral(text)
        | Token::HexStringLiteral(text) => Some(text),
        Token::DollarQuotedString(text) => Some(&text.value),
        _ => None,
    }
}

/// Whether a token can be the value of an option; in `OPTIONS (…)` a word can be one.
fn is_value(token: &Token, options: bool) -> bool {
    text_of(token).is_some()
        || matches!(token, Token::Number(..))
        || options && matches!(token, Token::Word(_))
}

/// Whether what has been written last, before `=` if there is one, is the name of something secret.
fn follows_secret(before: &[&TokenWithSpan]) -> bool {
    let mut names = before.iter().rev().map(|found| &found.token);
    let name = match names.next() {
        Some(Token::Eq) => names.next(),
        name => name,
    };
    let name = match name {
        Some(Token::Word(word)) => word.value.as_str(),
        Some(name) => text_of(name).unwrap_or_default(),
        None => return false,
    };
    let name = name.to_ascii_lowercase().replace(['-', '.'], "_");
    SECRET.iter().any(|secret| name.contains(secret))
}

/// A literal that is a URL with a password or a signature, without these; `None` if it has none.
fn without_credentials(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?***"),
        None => (rest, ""),
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // `abfss://container@account/…` has no password.
    let (user, host) = match host.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => ("***@", host),
        _ => ("", host),
    };
    let masked = format!("{scheme}://{user}{host}{path}{query}").replace('\'', "''");
    (!user.is_empty() || !query.is_empty()).then(|| format!("'{masked}'"))
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn secrets_are_not_shown() {
        let text = "CREATE EXTERNAL TABLE é.t STORED AS CSV LOCATION 's3://key:word@b/a?sig=x%y' \
                    OPTIONS ('aws.secret_access_key' 'very ''secret', aws.session_token 'abc', \
                    'format.has_header' 'true', access_key_id AKIA, password=12)";
        let expected = "CREATE EXTERNAL TABLE é.t STORED AS CSV LOCATION 's3://***@b/a?***' \
                        OPTIONS ('aws.secret_access_key' '***', aws.session_token '***', \
                        'format.has_header' 'true', access_key_id '***', password='***')";
        assert_eq!(mask(text), expected);
        assert_eq!(
            mask("SELECT * FROM u WHERE password =\n 'x'"),
            "SELECT * FROM u WHERE password =\n '***'"
        );
    }

    #[test]
    fn what_is_no_secret_is_shown_as_it_was_written() {
        for text in [
            "SELECT token FROM a.b  -- a comment\nWHERE x = 'y' AND secret IS NOT NULL",
            "INSERT INTO a.b VALUES ('secret', 'x', 's3://bucket/a', 'abfss://c@account/x')",
            "CREATE MODEL a.m OPTIONS (model_type = 'pagerank', damping = 0.85) AS SELECT 1",
        ] {
            assert_eq!(mask(text), text);
        }
        assert_eq!(mask("SELECT 'open"), "(not a statement)");
    }
}
