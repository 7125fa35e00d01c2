//! Telling somebody of what has happened to a run: one notice, to one channel, once.
//!
//! Whoever has to be told is told at least once: a receiver that doesn't answer may have understood all the same, and
//! is told again. So a notice has an id for each channel that is the same however often it is sent.

mod command;
mod mail;
mod webhook;

use chrono::{DateTime, SecondsFormat, Utc};
use nightshift_jobs::notices::Pending;
use nightshift_jobs::pipeline::{Channel, Event};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::time::Duration;
use thiserror::Error;

/// The pause after the first attempt that has failed.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// What a scheduler says that runs no programs for pipelines.
const NO_COMMANDS: &str =
    "pipelines can't have programs run: start the scheduler with --notify-commands to allow it";

/// Characters of what others wrote that are shown in one line at most.
const SHOWN: usize = 300;

/// Reads an environment variable. Tests give their own: a process has one environment for all of them.
type Variables<'a> = &'a (dyn Fn(&str) -> Option<String> + Sync);

/// What somebody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The pipeline.
    pub pipeline: String,
    /// The run.
    pub run: String,
    /// What has happened to it.
    pub about: Event,
    /// Who the pipeline belongs to.
    pub owner: Option<String>,
    /// Why it has happened; of several lines the first says most.
    pub reason: String,
    /// When it has happened.
    pub at: DateTime<Utc>,
}

impl From<&Pending> for Notice {
    fn from(pending: &Pending) -> Self {
        let Pending { pipeline, run, about, owner, reason, at, .. } = pending.clone();
        Self { pipeline, run, about, owner, reason, at }
    }
}

impl Notice {
    /// How it is written down that it is to be delivered to a channel; `source` is what the pipeline's text is kept
    /// under.
    pub fn pending(&self, source: &str, channel: &Channel) -> Pending {
        let Self { pipeline, run, about, owner, reason, at } = self.clone();
        let (source, receiver) = (source.to_string(), shown(channel));
        let (attempts, error) = (0, None);
        Pending { source, pipeline, run, about, owner, reason, at, receiver, attempts, error }
    }

    /// What has happened, in a few words: the subject of a mail.
    fn headline(&self) -> String {
        let what = match self.about {
            Event::Failure => "a run has failed",
            Event::Recovery => "a run is published, after one that had failed",
            Event::Deadline => "a run is not published in time",
            Event::Held => "a run is held back by a gate",
        };
        format!("{}: {what}", one_line(&self.pipeline))
    }

    /// What has happened, in a sentence.
    fn text(&self) -> String {
        let mut text = self.headline();
        if let Some(first) = self.reason.lines().find(|line| !line.trim().is_empty()) {
            text = format!("{text}: {}", one_line(first).trim_end_matches(':'));
        }
        let run = one_line(&self.run);
        match &self.owner {
            Some(owner) => format!("{text} (run {run}, owner {})", one_line(owner)),
            None => format!("{text} (run {run})"),
        }
    }
}

/// What receivers read, in this order: `pipeline`, `run`, `event` (`failure`, `recovery`, `deadline` or `held`),
/// `owner` (or null), `reason`, `at` (RFC 3339, UTC, whole seconds) and `text`, a sentence that says it all, under the
/// name that chats look for. Names may be added, and are never changed or taken away.
#[derive(Serialize)]
struct Form<'a> {
    pipeline: &'a str,
    run: &'a str,
    event: Event,
    owner: Option<&'a str>,
    reason: &'a str,
    at: String,
    text: String,
}

impl Serialize for Notice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = Form {
            pipeline: &self.pipeline,
            run: &self.run,
            event: self.about,
            owner: self.owner.as_deref(),
            reason: &self.reason,
            at: seconds(self.at),
            text: self.text(),
        };
        form.serialize(serializer)
    }
}

/// Why a notice could not be delivered. It shows neither secrets nor the parts of a URL that may be some.
#[derive(Debug, Error)]
#[error("{channel}: {fault}")]
pub struct NotifyError {
    channel: String,
    fault: Fault,
}

impl NotifyError {
    /// Whether the same may be delivered when it is tried again. What a pipeline says that can't work, and what a
    /// receiver refuses for good, is so whenever it is tried.
    pub fn can_pass(&self) -> bool {
        match &self.fault {
            Fault::Lacking(_)
            | Fault::TimedOut(_)
            | Fault::Unreachable(_)
            | Fault::Failed { .. } => true,
            Fault::Refused { can_pass, .. } => *can_pass,
            Fault::Unusable(_) => false,
        }
    }

    /// Whether this process, or its machine, lacks something: others may have it, or this one when somebody has mended
    /// it.
    pub fn is_of_scheduler(&self) -> bool {
        matches!(self.fault, Fault::Lacking(_))
    }

    /// What is wrong, without the channel, as everybody may see it: what a program says may have its arguments in it.
    pub fn reason(&self) -> String {
        match &self.fault {
            Fault::Failed { status, said } if !said.is_empty() => {
                format!("{status}; the scheduler's log has its words")
            }
            fault => fault.to_string(),
        }
    }
}

/// What is wrong with a channel.
#[derive(Debug, Error)]
enum Fault {
    /// Something of the scheduler that it needs is missing or wrong.
    #[error("{0}")]
    Lacking(String),
    /// It can't work as it is written.
    #[error("{0}")]
    Unusable(String),
    /// It has taken too long.
    #[error("it has taken more than {0:?}")]
    TimedOut(Duration),
    /// Nobody answers there.
    #[error("{0}")]
    Unreachable(String),
    /// The receiver doesn't take it.
    #[error("{reason}")]
    Refused {
        /// What it says.
        reason: String,
        /// Whether it may take it later.
        can_pass: bool,
    },
    /// A program has failed. It may have failed to reach somebody, so it is run again.
    #[error("{status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Failed {
        /// How it has ended.
        status: String,
        /// Its last words.
        said: String,
    },
}

/// Delivers a notice to a channel, once. `commands` says whether pipelines can have programs run by this process.
///
/// # Errors
/// Nobody has taken it, or that isn't known.
pub async fn deliver(
    channel: &Channel,
    notice: &Notice,
    commands: bool,
) -> Result<(), NotifyError> {
    deliver_with(channel, notice, commands, &variable).await
}

async fn deliver_with(
    channel: &Channel,
    notice: &Notice,
    commands: bool,
    variables: Variables<'_>,
) -> Result<(), NotifyError> {
    let id = delivery_id(channel, notice);
    let delivered = match channel {
        Channel::Webhook { url, secret_env } => {
            match secret_env.as_deref().map(|name| value_of(variables, name)).transpose() {
                Ok(key) => webhook::send(url, key.as_deref(), notice, &id, webhook::LIMIT).await,
                Err(fault) => Err(fault),
            }
        }
        Channel::Command(_) if !commands => Err(Fault::Lacking(NO_COMMANDS.to_string())),
        Channel::Command(command) => command::run(command, notice, command::LIMIT).await,
        Channel::Email(address) => mail::send(address, notice, &id, variables, mail::LIMIT).await,
    };
    delivered.map_err(|fault| NotifyError { channel: shown(channel), fault })
}

/// What this process lacks to deliver anything to a channel.
pub fn lacking(channel: &Channel, commands: bool) -> Vec<String> {
    lacking_with(channel, commands, &variable)
}

fn lacking_with(channel: &Channel, commands: bool, variables: Variables<'_>) -> Vec<String> {
    let needed: Vec<&str> = match channel {
        Channel::Webhook { secret_env, .. } => secret_env.iter().map(String::as_str).collect(),
        Channel::Command(_) if !commands => return vec![NO_COMMANDS.to_string()],
        Channel::Command(_) => Vec::new(),
        Channel::Email(_) => mail::NEEDED.to_vec(),
    };
    let faults = needed.into_iter().filter_map(|name| value_of(variables, name).err());
    faults.map(|fault| fault.to_string()).collect()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The pause after as many attempts as have failed: it doubles, and there is no last one, because a receiver that is
/// down for a weekend is told on Monday.
pub fn pause(attempts: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

/// A channel as it may be shown to everybody.
fn shown(channel: &Channel) -> String {
    match channel {
        Channel::Webhook { url, .. } => format!("webhook {}", webhook::shown(url)),
        // Arguments may be secrets.
        Channel::Command(command) => {
            format!("command {}", one_line(command.first().map_or("", String::as_str)))
        }
        Channel::Email(address) => format!("mail to {}", one_line(address)),
    }
}

/// The same for every attempt to deliver a notice to a channel, and for nothing else.
pub fn delivery_id(channel: &Channel, notice: &Notice) -> String {
    // A run can fail, be gone on with, and fail again.
    let at = seconds(notice.at);
    let mut parts =
        vec![notice.pipeline.as_str(), notice.run.as_str(), notice.about.as_str(), at.as_str()];
    match channel {
        Channel::Webhook { url, .. } => parts.extend(["webhook", url]),
        Channel::Command(command) => {
            parts.push("command");
            parts.extend(command.iter().map(String::as_str));
        }
        Channel::Email(address) => parts.extend(["email", address]),
    }
    let mut hash = Sha256::new();
    for part in parts {
        // With its length, or parts that are cut elsewhere would be the same.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hexadecimal(hash.finalize().iter().take(16))
}

/// The value of an environment variable. An empty one would be a key that everybody knows.
fn value_of(variables: Variables<'_>, name: &str) -> Result<String, Fault> {
    let value = variables(name).filter(|value| !value.is_empty());
    value.ok_or_else(|| Fault::Lacking(format!("the environment variable {name} is not set")))
}

fn json(notice: &Notice) -> Result<String, Fault> {
    serde_json::to_string(notice).map_err(|error| Fault::Unusable(error.to_string()))
}

fn seconds(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn hexadecimal<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes.into_iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A text as one line that isn't too long: what others wrote can't begin a line of its own where it is put.
fn one_line(text: &str) -> String {
    let separates = |c: char| c.is_whitespace() || c.is_control();
    let words: Vec<_> = text.split(separates).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// What an error comes from in the end, which says most in the fewest words.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    one_line(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    /// A notice of a failed run.
    pub fn notice() -> Notice {
        Notice {
            pipeline: "movielens".to_string(),
            run: "20260301T020000".to_string(),
            about: Event::Failure,
            owner: Some("ana".to_string()),
            reason: "the check users found 2 wrong rows:\n| id |\n| 7  |".to_string(),
            at: DateTime::from_timestamp(1_772_330_400, 987_654_321).unwrap(),
        }
    }

    /// An error as callers see it.
    pub fn told(fault: Fault, channel: &Channel) -> NotifyError {
        NotifyError { channel: shown(channel), fault }
    }

    /// No variables at all.
    pub fn none(_: &str) -> Option<String> {
        None
    }

    fn webhook(url: &str) -> Channel {
        Channel::Webhook { url: url.to_string(), secret_env: Some("HOOK_KEY".to_string()) }
    }

    #[test]
    fn receivers_rely_on_the_form() {
        let expected = [
            r#"{"pipeline":"movielens","run":"20260301T020000","event":"failure","owner":"ana","#,
            r#""reason":"the check users found 2 wrong rows:\n| id |\n| 7  |","#,
            r#""at":"2026-03-01T02:00:00Z","text":"movielens: a run has failed: "#,
            r#"the check users found 2 wrong rows (run 20260301T020000, owner ana)"}"#,
        ]
        .concat();
        assert_eq!(json(&notice()).unwrap(), expected);
        let plain = Notice { owner: None, reason: String::new(), ..notice() };
        let form = serde_json::to_value(&plain).unwrap();
        assert!(form["owner"].is_null());
        assert_eq!(form["text"], "movielens: a run has failed (run 20260301T020000)");
        for event in Event::ALL {
            let form = serde_json::to_value(Notice { about: event, ..notice() }).unwrap();
            assert_eq!(form["event"], event.as_str());
        }
    }

    #[test]
    fn a_sentence_is_one_line() {
        let reason = format!("\n\r\n one\ttwo\u{2028}three\u{7}{}", "é".repeat(500));
        let text = Notice { pipeline: "a\r\nb".to_string(), reason, ..notice() }.text();
        assert!(text.starts_with("a b: a run has failed: one two three é"), "{text}");
        assert!(text.ends_with("é… (run 20260301T020000, owner ana)"), "{text}");
        assert!(!text.contains(char::is_control));
    }

    #[test]
    fn an_id_belongs_to_a_notice_and_a_channel() {
        let channel = webhook("https://x/1");
        let id = delivery_id(&channel, &notice());
        assert_eq!(id.len(), 32);
        let later = Notice { reason: "again".to_string(), ..notice() };
        assert_eq!(delivery_id(&channel, &later), id);
        let command =
            |parts: &[&str]| Channel::Command(parts.iter().map(|p| p.to_string()).collect());
        let others = [
            delivery_id(&webhook("https://x/2"), &notice()),
            delivery_id(&Channel::Email("https://x/1".to_string()), &notice()),
            delivery_id(&command(&["a", "bc"]), &notice()),
            delivery_id(&command(&["ab", "c"]), &notice()),
            delivery_id(&channel, &Notice { run: "other".to_string(), ..notice() }),
            delivery_id(&channel, &Notice { about: Event::Held, ..notice() }),
            delivery_id(&channel, &Notice { at: Utc::now(), ..notice() }),
        ];
        let mut ids = std::collections::BTreeSet::from(others);
        ids.insert(id);
        assert_eq!(ids.len(), 8);
    }

    #[test]
    fn pauses_double_without_end() {
        let seconds = |attempts| pause(attempts).as_secs();
        assert_eq!(
            [0, 1, 2, 3, 7, 8, 40, u32::MAX].map(seconds),
            [5, 5, 10, 20, 320, 600, 600, 600]
        );
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let mail = Channel::Email("team@example.com".to_string());
        let server = |name: &str| (name == "NIGHTSHIFT_SMTP_URL").then(|| "smtp://x".to_string());
        let empty = |_: &str| Some(String::new());
        let command = Channel::Command(vec!["true".to_string()]);
        let error = deliver_with(&command, &notice(), false, &none).await.unwrap_err();
        assert_eq!(error.to_string(), format!("command true: {NO_COMMANDS}"));
        assert!(error.is_of_scheduler() && error.can_pass());
        assert_eq!(lacking_with(&command, false, &none), [NO_COMMANDS]);
        assert!(lacking_with(&command, true, &none).is_empty());
        assert_eq!(lacking_with(&mail, true, &none).len(), 2);
        let cases: [(Channel, Variables<'_>, &str); 5] = [
            (webhook("http://127.0.0.1:9/"), &none, "HOOK_KEY"),
            (webhook("http://127.0.0.1:9/"), &empty, "HOOK_KEY"),
            (mail.clone(), &none, "NIGHTSHIFT_SMTP_URL"),
            (mail.clone(), &empty, "NIGHTSHIFT_SMTP_URL"),
            (mail, &server, "NIGHTSHIFT_SMTP_FROM"),
        ];
        for (channel, variables, missing) in cases {
            let error = deliver_with(&channel, &notice(), true, variables).await.unwrap_err();
            let expected = format!("the environment variable {missing} is not set");
            assert_eq!(error.to_string(), format!("{}: {expected}", shown(&channel)));
            assert_eq!(error.reason(), expected);
            assert!(error.is_of_scheduler() && error.can_pass());
            assert_eq!(lacking_with(&channel, true, variables)[0], expected);
        }
    }

    #[tokio::test]
    async fn what_is_taken_is_delivered() {
        let channel = Channel::Command(vec!["true".to_string()]);
        // By a task of its own, so that nobody waits for a receiver.
        tokio::spawn(async move { deliver(&channel, &notice(), true).await })
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn errors_keep_secrets() {
        // Nobody listens on a port that was just given back.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let variables = move |name: &str| match name {
            "HOOK_KEY" => Some("s3cret-key".to_string()),
            "NIGHTSHIFT_SMTP_URL" => {
                Some(format!("smtp://s3cret-user:s3cret-password@127.0.0.1:{port}"))
            }
            "NIGHTSHIFT_SMTP_FROM" => Some("nightshift@example.com".to_string()),
            _ => None,
        };
        let url = format!("http://s3cret:s3cret@127.0.0.1:{port}/s3cret?token=s3cret#s3cret");
        let channels = [
            (webhook(&url), format!("webhook http://127.0.0.1:{port}/…: ")),
            (
                Channel::Email("team@example.com".to_string()),
                "mail to team@example.com: ".to_string(),
            ),
            (
                Channel::Command(vec!["false".to_string(), "s3cret".to_string()]),
                "command false: exit status: 1".to_string(),
            ),
        ];
        for (channel, start) in channels {
            let error = deliver_with(&channel, &notice(), true, &variables).await.unwrap_err();
            assert!(error.to_string().starts_with(&start), "{error}");
            assert!(error.can_pass(), "{error}");
            assert!(error.source().is_none());
            for text in [error.to_string(), format!("{error:?}"), format!("{error:#?}")] {
                assert!(!text.contains("s3cret"), "{text}");
            }
        }
    }
}
