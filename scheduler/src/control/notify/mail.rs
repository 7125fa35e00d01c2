//! Notices as mails.
//!
//! They go to the server of `NIGHTSHIFT_SMTP_URL`, whose path is the name that we give ourselves there:
//! `smtps://user:password@host` (encrypted from the start), `smtp://user:password@host?tls=required` (encrypted after
//! STARTTLS) or `smtp://host:25` (not encrypted). They come from the address of `NIGHTSHIFT_SMTP_FROM`.

use super::{Fault, Notice, Variables, one_line, root_cause, seconds, value_of};
use lettre::message::header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::Error;
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use std::time::Duration;
use tokio::time::timeout;

/// What sending a mail may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Where the server is.
const SERVER: &str = "NIGHTSHIFT_SMTP_URL";

/// Who mails are from.
const FROM: &str = "NIGHTSHIFT_SMTP_FROM";

/// The variables without which no mail is sent.
pub(super) const NEEDED: [&str; 2] = [SERVER, FROM];

/// Sends a notice to an address.
pub(super) async fn send(
    address: &str,
    notice: &Notice,
    id: &str,
    variables: Variables<'_>,
    limit: Duration,
) -> Result<(), Fault> {
    let server = value_of(variables, SERVER)?;
    let from = value_of(variables, FROM)?;
    let message = message(&from, address, notice, id)?;
    let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&server)
        .map_err(|error| match error.is_tls() {
            true => fault_of(&error, limit),
            // What the error says of the URL may be a secret.
            false => Fault::Lacking(format!(
                "{SERVER} can't be read: it looks like smtp://user:password@host:587?tls=required"
            )),
        })?
        .timeout(Some(limit))
        .build();
    match timeout(limit, transport.send(message)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(fault_of(&error, limit)),
        Err(_) => Err(Fault::TimedOut(limit)),
    }
}

fn message(from: &str, to: &str, notice: &Notice, id: &str) -> Result<Message, Fault> {
    let from: Mailbox = from
        .parse()
        .map_err(|error| Fault::Lacking(format!("{FROM} is no address of a mail: {error}")))?;
    let to = to.parse().map_err(|error| Fault::Unusable(format!("it is no address: {error}")))?;
    let domain = from.email.domain().to_string();
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    Message::builder()
        .from(from)
        .to(Mailbox::new(None, to))
        .subject(format!("[nightshift] {}", notice.headline()))
        // The same for every attempt: a mail that comes twice is shown once.
        .message_id(Some(format!("<{id}@{domain}>")))
        // Or those who are on holiday would answer.
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_string()))
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN)
        .body(body(notice))
        .map_err(|error| Fault::Unusable(error.to_string()))
}

fn body(notice: &Notice) -> String {
    let lines = notice.reason.lines().map(|line| line.replace(char::is_control, " "));
    let reason: String = lines.map(|line| format!("{line}\n")).collect();
    let mut body = format!(
        "{}.\n\n{reason}\nPipeline: {}\nRun: {}\n",
        notice.headline(),
        one_line(&notice.pipeline),
        one_line(&notice.run)
    );
    if let Some(owner) = &notice.owner {
        body += &format!("Owner: {}\n", one_line(owner));
    }
    body + &format!("Time: {}\n", seconds(notice.at))
}

fn fault_of(error: &Error, limit: Duration) -> Fault {
    if error.is_timeout() {
        return Fault::TimedOut(limit);
    }
    let said = root_cause(error);
    match error.status() {
        Some(code) => {
            let code = u16::from(code);
            // Some servers repeat the command, and it has the password.
            let without_words = format!("the server answers {code}: look at {SERVER}");
            let reason = match code {
                // All of them are about who we are, and how we say it.
                530..=538 => return Fault::Lacking(without_words),
                454 | 500..=504 => without_words,
                _ => format!("the server answers {code}: {said}"),
            };
            Fault::Refused { reason, can_pass: error.is_transient() }
        }
        None if error.is_client() => Fault::Unusable(said),
        None => Fault::Unreachable(said),
    }
}

#[cfg(test)]
mod tests {
    use super::super::NotifyError;
    use super::super::tests::{notice, told};
    use super::*;
    use nightshift_jobs::pipeline::Channel;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    const LONG: Duration = Duration::from_secs(60);

    const TO: &str = "team@example.com";

    /// A server that takes mails of one client, but for the command that it answers otherwise. It returns what it was
    /// told, line by line.
    async fn server(
        refused: &'static str,
        answer: &'static str,
    ) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.split();
            let mut lines = BufReader::new(read).lines();
            let mut told = Vec::new();
            let mut writes_mail = false;
            write.write_all(b"220 ready\r\n").await.unwrap();
            while let Ok(Some(line)) = lines.next_line().await {
                let verb = line.get(..4).unwrap_or_default().to_uppercase();
                let reply = match verb.as_str() {
                    _ if writes_mail && line != "." => "",
                    _ if writes_mail => "250 taken",
                    _ if verb == refused => answer,
                    "EHLO" => "250-server\r\n250 AUTH PLAIN",
                    "AUTH" => "235 welcome",
                    "DATA" => "354 go on",
                    "QUIT" => "221 bye",
                    _ => "250 ok",
                };
                writes_mail = (verb == "DATA" && verb != refused) || (writes_mail && line != ".");
                told.push(line);
                if !reply.is_empty() {
                    write.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
                }
                if verb == "QUIT" {
                    break;
                }
            }
            told
        });
        (address, task)
    }

    fn variables(url: String, from: &str) -> impl Fn(&str) -> Option<String> + Sync {
        move |name| match name {
            SERVER => Some(url.clone()),
            FROM => Some(from.to_string()),
            _ => None,
        }
    }

    async fn fails(url: String, limit: Duration) -> NotifyError {
        let variables = variables(url, "nightshift@example.com");
        let fault = send(TO, &notice(), "id", &variables, limit).await.unwrap_err();
        told(fault, &Channel::Email(TO.to_string()))
    }

    #[tokio::test]
    async fn a_mail_says_what_has_happened() {
        let (address, task) = server("", "").await;
        let url = format!("smtp://user:pass%2Fword@{address}/scheduler.example.com");
        let variables = variables(url, "Nightshift <nightshift@example.com>");
        send(TO, &notice(), "id-1", &variables, LONG).await.unwrap();
        let told = task.await.unwrap();
        for expected in [
            "EHLO scheduler.example.com",
            // Of "\0user\0pass/word".
            "AUTH PLAIN AHVzZXIAcGFzcy93b3Jk",
            "MAIL FROM:<nightshift@example.com>",
            "RCPT TO:<team@example.com>",
            "From: Nightshift <nightshift@example.com>",
            "To: team@example.com",
            "Subject: [nightshift] movielens: a run has failed",
            "Message-ID: <id-1@example.com>",
            "Auto-Submitted: auto-generated",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert!(told.iter().any(|line| line == expected), "{expected} {told:#?}");
        }
        let start = told.iter().position(String::is_empty).unwrap();
        let end = told.iter().position(|line| line == ".").unwrap();
        let expected = "movielens: a run has failed.\n\nthe check users found 2 wrong rows:\n| id |\n\
                        | 7  |\n\nPipeline: movielens\nRun: 20260301T020000\nOwner: ana\n\
                        Time: 2026-03-01T02:00:00Z\n";
        assert_eq!(told[start + 1..end].join("\n").trim_end(), expected.trim_end());
    }

    #[tokio::test]
    async fn nothing_becomes_a_header_or_a_command() {
        // Mails are encoded by what is in them: one as it is, the other not.
        for letter in ["e", "é"] {
            let (address, task) = server("", "").await;
            let evil = format!(
                "x\r\nBcc: victim@example.com\r\n\r\n.\r\nMAIL FROM:<evil@example.com>\r\n\
                 \0{letter}\r.\n.\n"
            );
            let notice = Notice {
                pipeline: evil.clone(),
                run: evil.clone(),
                owner: Some(evil.clone()),
                reason: evil,
                ..notice()
            };
            let variables = variables(format!("smtp://{address}"), "nightshift@example.com");
            send(TO, &notice, "id", &variables, LONG).await.unwrap();
            let told = task.await.unwrap();

            let place = |text: &str| told.iter().position(|line| line == text).unwrap();
            let (data, start, end) = (place("DATA"), place(""), place("."));
            let commands: Vec<_> = told[..=data].iter().chain(&told[end + 1..]).collect();
            let expected = [
                "EHLO [127.0.0.1]",
                "MAIL FROM:<nightshift@example.com>",
                "RCPT TO:<team@example.com>",
                "DATA",
                "QUIT",
            ];
            assert_eq!(commands, expected);
            let mut names: Vec<_> = told[data + 1..start]
                .iter()
                .filter(|line| !line.starts_with(' '))
                .map(|line| line.split(':').next().unwrap())
                .collect();
            names.sort_unstable();
            let expected = [
                "Auto-Submitted",
                "Content-Transfer-Encoding",
                "Content-Type",
                "Date",
                "From",
                "MIME-Version",
                "Message-ID",
                "Subject",
                "To",
            ];
            assert_eq!(names, expected);
            assert!(told.iter().all(|line| !line.contains(char::is_control)), "{told:?}");
        }
    }

    #[tokio::test]
    async fn some_refusals_may_pass() {
        let cases = [
            ("RCPT", "451 4.7.1 try later", true, "the server answers 451: 4.7.1 try later"),
            ("RCPT", "550 5.1.1 nobody here", false, "the server answers 550: 5.1.1 nobody here"),
            ("MAIL", "421 4.3.2 too busy", true, "the server answers 421: 4.3.2 too busy"),
            ("DATA", "554 5.7.1 spam", false, "the server answers 554: 5.7.1 spam"),
            (
                "AUTH",
                "535 no AHMzY3JldAA= s3cret",
                true,
                "the server answers 535: look at NIGHTSHIFT_SMTP_URL",
            ),
        ];
        for (command, answer, can_pass, expected) in cases {
            let (address, task) = server(command, answer).await;
            let error = fails(format!("smtp://user:s3cret@{address}"), LONG).await;
            assert_eq!(error.to_string(), format!("mail to team@example.com: {expected}"));
            assert_eq!(error.can_pass(), can_pass, "{error}");
            assert!(!format!("{error:?}").contains("s3cret"));
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_mail_that_is_taken_is_delivered_whatever_comes_after() {
        let (address, task) = server("QUIT", "500 what?").await;
        let variables = variables(format!("smtp://{address}"), "nightshift@example.com");
        send(TO, &notice(), "id", &variables, LONG).await.unwrap();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let error = fails(url, Duration::from_millis(50)).await;
        assert_eq!(error.to_string(), "mail to team@example.com: it has taken more than 50ms");
        assert!(error.can_pass());
        drop(listener);
    }

    #[tokio::test]
    async fn nothing_is_sent_in_the_clear_where_encryption_is_required() {
        let (address, task) = server("", "").await;
        let error = fails(format!("smtp://user:s3cret@{address}?tls=required"), LONG).await;
        assert!(error.to_string().contains("STARTTLS is not supported"), "{error}");
        assert!(!error.can_pass());
        let told = task.await.unwrap();
        assert!(told.iter().all(|line| line.starts_with("EHLO") || line == "QUIT"), "{told:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_encrypted_gets_nothing_where_it_should_be() {
        let (address, task) = server("", "").await;
        let error = fails(format!("smtps://user:s3cret@{address}"), LONG).await;
        assert!(error.can_pass(), "{error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        assert!(task.await.unwrap().iter().all(|line| !line.contains("AUTH")));
    }

    #[tokio::test]
    async fn what_is_configured_wrongly_is_said() {
        let cases = [
            ("s3cret", "nightshift@example.com", "NIGHTSHIFT_SMTP_URL can't be read"),
            (
                "http://user:s3cret@host",
                "nightshift@example.com",
                "NIGHTSHIFT_SMTP_URL can't be read",
            ),
            ("user:s3cret@host:587", "nightshift@example.com", "NIGHTSHIFT_SMTP_URL can't be read"),
            (
                "smtp://host?tls=s3cret",
                "nightshift@example.com",
                "NIGHTSHIFT_SMTP_URL can't be read",
            ),
            ("smtp://127.0.0.1:9", "nobody", "NIGHTSHIFT_SMTP_FROM is no address"),
            ("smtp://127.0.0.1:9", "a@b.c\r\nBcc: d@e.f", "NIGHTSHIFT_SMTP_FROM is no address"),
        ];
        for (url, from, expected) in cases {
            let variables = variables(url.to_string(), from);
            let fault = send(TO, &notice(), "id", &variables, LONG).await.unwrap_err();
            let error = told(fault, &Channel::Email(TO.to_string()));
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.is_of_scheduler(), "{error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }
}
