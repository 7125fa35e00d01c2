//! Who is told of what.

use super::keys::Keys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Somebody who is told of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// How they are reached.
    pub channel: Channel,
    /// What they are told of.
    pub on: BTreeSet<Event>,
}

/// How somebody is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// By a request to a URL.
    Webhook {
        /// The URL.
        url: String,
        /// The environment variable that has the key which requests are signed with.
        secret_env: Option<String>,
    },
    /// By a program and its arguments.
    Command(Vec<String>),
    /// By mail to an address.
    Email(String),
}

/// What somebody can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A run has failed.
    Failure,
    /// A run is published after one that had failed.
    Recovery,
    /// A run is not published when it has to be.
    Deadline,
    /// A run is not published because of a gate.
    Held,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Failure, Self::Recovery, Self::Deadline, Self::Held];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Recovery => "recovery",
            Self::Deadline => "deadline",
            Self::Held => "held",
        }
    }
}

impl Notify {
    /// Reads one `[[notify]]`.
    pub(super) fn of(keys: &mut Keys<'_, '_>) -> Option<Self> {
        let kind = keys.one_of(&["webhook", "command", "email"]);
        if keys.place("webhook").is_none()
            && let Some(at) = keys.place("secret_env")
        {
            keys.wrong(at, "secret_env has a meaning only together with webhook");
        }
        let webhook = keys.text("webhook", check_url);
        let secret_given = keys.place("secret_env").is_some();
        let secret_env = keys.text("secret_env", check_variable);
        let command = keys.located("command").and_then(|(at, command): (usize, Vec<String>)| {
            let named = command.first().is_some_and(|program| !program.is_empty());
            if !named {
                keys.wrong(
                    at,
                    "a command is a program and its arguments: [\"program\", \"argument\"]",
                );
            }
            named.then_some(command)
        });
        let email = keys.text("email", check_address);
        let on = match keys.located::<BTreeSet<Event>>("on") {
            Some((at, on)) if on.is_empty() => {
                keys.wrong(at, "nobody is told of nothing: leave it out to tell of everything");
                on
            }
            Some((_, on)) => on,
            None => BTreeSet::from(Event::ALL),
        };
        let channel = match kind? {
            // Without the key that was asked for, requests would go out that nobody believes.
            "webhook" if secret_given && secret_env.is_none() => return None,
            "webhook" => Channel::Webhook { url: webhook?, secret_env },
            "command" => Channel::Command(command?),
            _ => Channel::Email(email?),
        };
        Some(Self { channel, on })
    }
}

fn check_url(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    let blank = |c: char| c.is_whitespace() || c.is_control();
    match host {
        Some(host) if !host.is_empty() && !url.contains(blank) => Ok(url.to_string()),
        _ => Err(format!("'{url}' is no URL of a webhook: write one like 'https://host/path'")),
    }
}

fn check_variable(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let digit = name.starts_with(|first: char| first.is_ascii_digit());
    match !name.is_empty() && !digit && name.chars().all(allowed) {
        true => Ok(name.to_string()),
        // It may be the secret itself, so it isn't shown.
        false => {
            Err("this is the name of an environment variable, which has the secret".to_string())
        }
    }
}

fn check_address(address: &str) -> Result<String, String> {
    // Others would be more than one address, or lines of their own in the head of a mail.
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "<>,;\"".contains(c);
    match address.split_once('@') {
        Some((name, host))
            if !name.is_empty()
                && !host.is_empty()
                && !host.contains('@')
                && !address.contains(forbidden) =>
        {
            Ok(address.to_string())
        }
        _ => Err(format!("'{address}' is no address of a mail: write one like 'name@host'")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::tests::check;
    use super::*;

    #[test]
    fn everybody_is_reached_in_one_way() {
        let text = "[[notify]]\nwebhook = 'https://hooks.example.com/x'\nsecret_env = 'HOOK_KEY'\n\
                    on = ['failure', 'held']\n[[notify]]\ncommand = ['page', '--urgent']\n\
                    [[notify]]\nemail = 'team@example.com'\n";
        let (settings, mistakes) = Settings::parse("p.toml", text);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let url = "https://hooks.example.com/x".to_string();
        let expected = [
            Notify {
                channel: Channel::Webhook { url, secret_env: Some("HOOK_KEY".to_string()) },
                on: BTreeSet::from([Event::Failure, Event::Held]),
            },
            Notify {
                channel: Channel::Command(vec!["page".to_string(), "--urgent".to_string()]),
                on: BTreeSet::from(Event::ALL),
            },
            Notify {
                channel: Channel::Email("team@example.com".to_string()),
                on: BTreeSet::from(Event::ALL),
            },
        ];
        assert_eq!(settings.notify, expected);
    }

    #[test]
    fn mistakes_are_said_one_by_one() {
        let text = "[[notify]]\nwebhook = 'hooks'\non = ['failure', 'success']\n[[notify]]\n\
                    [[notify]]\nemail = 'a b@c'\nsecret_env = 'X'\n[[notify]]\n\
                    command = []\non = []\n\
                    [[notify]]\nwebhook = 'https://x'\nsecret_env = 'top-secret'\nemail = 'a@b'";
        let expected = [
            "2:11: 'hooks' is no URL of a webhook",
            "3:18: unknown variant `success`, expected one of `failure`",
            "4:1: one of webhook, command, email is needed",
            "6:9: 'a b@c' is no address of a mail",
            "7:1: secret_env has a meaning only together with webhook",
            "9:11: a command is a program and its arguments",
            "10:6: nobody is told of nothing",
            "13:14: this is the name of an environment variable",
            "14:1: email and webhook exclude each other",
        ];
        check(text, &expected);
        assert!(Settings::parse("p.toml", text).0.notify.is_empty());
        for address in ["", "@b", "a@", "a@b@c", "a@b,c@d", "a@b\\nBcc: c"] {
            let text = format!("[[notify]]\nemail = \"{address}\"");
            check(&text, &["2:9: "]);
        }
        for url in ["ftp://x", "https://", "http:///x", "https://x y"] {
            check(&format!("[[notify]]\nwebhook = '{url}'"), &["2:11: "]);
        }
    }
}
