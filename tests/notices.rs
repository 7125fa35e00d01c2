//! Whom a scheduler tells of runs: at least once, whatever the receiver does meanwhile.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use support::*;

/// A request: its headers, by names in lower case, and its body.
type Request = (Vec<(String, String)>, Value);

/// A receiver of webhooks, which says to each request what `answer` says to its number.
fn receiver(answer: fn(usize) -> &'static str) -> (SocketAddr, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, requests) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut headers = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let Some((name, value)) = line.trim().split_once(": ") else {
                    match line.trim().is_empty() {
                        true => break,
                        false => continue,
                    }
                };
                headers.push((name.to_lowercase(), value.to_string()));
            }
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
            reader.read_exact(&mut body).unwrap();
            let answer = answer(number);
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .unwrap();
            if send.send((headers, serde_json::from_slice(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

fn next(requests: &Receiver<Request>) -> Request {
    requests.recv_timeout(Duration::from_secs(120)).unwrap()
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    request.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str()).unwrap()
}

/// A scheduler that knows the key, and an executor.
fn cluster(folder: &Path, arguments: &[&str]) -> [Process; 2] {
    let mut command = nightshift(folder);
    command.args(["scheduler", "--port", "0", "--executor-timeout", "3"]).args(arguments);
    command.env("HOOK_KEY", "key");
    let log = std::fs::File::create(folder.join("scheduler.log")).unwrap();
    let (scheduler, line) = Process::start_logging(&mut command, log);
    let address = line.strip_prefix("scheduler ").unwrap();
    let mut command = nightshift(folder);
    command.args(["executor", "--scheduler", address, "--cores", "2"]);
    let executor = Process::start(command.arg("--work-dir").arg(folder.join("work"))).0;
    [scheduler, executor]
}

fn publish(folder: &Path) {
    let sql = "CREATE OR REPLACE TABLE x.trigger AS SELECT 1 AS y";
    succeed(nightshift(folder).args(["sql", "-c", sql]));
}

fn deploy(folder: &Path, toml: &str, sql: &str) {
    let files = [("pipeline.toml", toml), ("a.sql", sql)];
    let p = pipeline(folder, "p", &files);
    succeed(nightshift(folder).arg("deploy").arg(p));
}

#[test]
fn failures_and_recoveries_are_told_until_somebody_has_heard_it() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // The first request is refused, so the first notice comes twice.
    let (address, requests) = receiver(|number| if number == 0 { "503 Busy" } else { "200 OK" });
    let _cluster = cluster(here, &["--notify-commands"]);
    publish(here);
    succeed(nightshift(here).args(["sql", "-c", "CREATE TABLE x.zero AS SELECT 0 AS y"]));
    let told = here.join("told");
    let toml = format!(
        "owner = 'ann'\n[schedule]\nwhen = 'x.trigger'\n\
         [[notify]]\nwebhook = 'http://{address}/secret'\nsecret_env = 'HOOK_KEY'\n\
         [[notify]]\ncommand = ['sh', '-c', 'cat >> {}']\non = ['recovery']\n",
        told.display()
    );
    deploy(here, &toml, "CREATE OR REPLACE TABLE x.a AS SELECT 1 / y AS z FROM x.zero");
    publish(here);
    let first = next(&requests);
    let again = next(&requests);
    for request in [&first, &again] {
        let (_, body) = request;
        assert_eq!(
            (&body["event"], &body["pipeline"], &body["owner"]),
            (&"failure".into(), &"p".into(), &"ann".into())
        );
        assert!(body["reason"].as_str().unwrap().contains("division by zero"), "{body}");
        assert!(header(request, "x-nightshift-signature").starts_with("t="));
    }
    assert_eq!(header(&first, "x-nightshift-delivery"), header(&again, "x-nightshift-delivery"));
    // That it was delivered is known to whoever leads next.
    let waiting = here.join("warehouse/_nightshift/notices/waiting");
    wait_for(|| contents(&waiting).is_empty(), "the notice still waits");

    deploy(here, &toml, "CREATE OR REPLACE TABLE x.a AS SELECT y AS z FROM x.zero");
    publish(here);
    let recovered = next(&requests);
    assert_eq!(recovered.1["event"], "recovery");
    wait_for(
        || std::fs::read_to_string(&told).is_ok_and(|text| text.ends_with('}')),
        "the command was not run",
    );
    let told: Value = serde_json::from_str(&std::fs::read_to_string(&told).unwrap()).unwrap();
    assert_eq!((&told["event"], &told["run"]), (&"recovery".into(), &recovered.1["run"]));
}

/// What a scheduler lacks is said before there is anything to tell, and waits for one that has it; what a receiver
/// refuses is kept for people to look at.
#[test]
fn nothing_that_could_not_be_delivered_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let (address, requests) = receiver(|_| "410 Gone");
    let first = cluster(here, &[]);
    publish(here);
    succeed(nightshift(here).args(["sql", "-c", "CREATE TABLE x.zero AS SELECT 0 AS y"]));
    let told = here.join("told");
    let toml = format!(
        "[schedule]\nwhen = 'x.trigger'\n\
         [[notify]]\nwebhook = 'http://{address}/s3cret'\n\
         [[notify]]\nwebhook = 'http://{address}/other'\nsecret_env = 'NO_SUCH_KEY'\n\
         [[notify]]\ncommand = ['sh', '-c', 'cat > {}', 's3cret']\n",
        told.display()
    );
    deploy(here, &toml, "CREATE OR REPLACE TABLE x.a AS SELECT 1 / y AS z FROM x.zero");
    let log = || std::fs::read_to_string(here.join("scheduler.log")).unwrap();
    let lacking = |what: &str| {
        log().lines().any(|line| line.contains("will have to wait") && line.contains(what))
    };
    wait_for(|| lacking("NO_SUCH_KEY is not set"), "the variable is not missed");
    wait_for(|| lacking("--notify-commands"), "the flag is not missed");
    assert!(!here.join("warehouse/_nightshift/notices").exists());

    publish(here);
    let sql = "SELECT pipeline, event, receiver, status, attempts, error FROM system.notices \
               ORDER BY receiver, status";
    let notices = || query(here, sql);
    let all_tried = || {
        let found = notices();
        found.len() == 3 && found.iter().all(|row| row["attempts"].as_u64().unwrap() > 0)
    };
    wait_for(all_tried, "not all notices were tried");
    let found = notices();
    assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
    let webhook = format!("webhook http://{address}/…");
    let expected = [
        ("command sh", "waiting", "--notify-commands"),
        (webhook.as_str(), "undeliverable", "it answers 410 Gone"),
        (webhook.as_str(), "waiting", "the environment variable NO_SUCH_KEY is not set"),
    ];
    for (row, (receiver, status, error)) in found.iter().zip(expected) {
        assert_eq!((&row["pipeline"], &row["event"]), (&"p".into(), &"failure".into()));
        assert_eq!((&row["receiver"], &row["status"]), (&receiver.into(), &status.into()));
        assert!(row["error"].as_str().unwrap().contains(error), "{row}");
    }
    drop(first);

    let _second = cluster(here, &["--notify-commands"]);
    wait_for(
        || std::fs::read_to_string(&told).is_ok_and(|text| text.ends_with('}')),
        "the command was not run",
    );
    wait_for(|| notices().len() == 2, "it was not noted that the command was run");
    assert!(notices().iter().all(|row| row["receiver"] == webhook.as_str()));
    // It was asked once, by the first of them.
    next(&requests);
    assert!(requests.try_recv().is_err());
}

/// A receiver that never answers holds up no run, and hears of it from the next leader.
#[test]
fn a_notice_outlives_the_scheduler_that_could_not_deliver_it() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // Nobody accepts its connections.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap();
    let first = cluster(here, &[]);
    publish(here);
    succeed(nightshift(here).args(["sql", "-c", "CREATE TABLE x.zero AS SELECT 0 AS y"]));
    let toml =
        format!("[schedule]\nwhen = 'x.trigger'\n[[notify]]\nwebhook = 'http://{address}'\n");
    deploy(here, &toml, "CREATE OR REPLACE TABLE x.a AS SELECT 1 / y AS z FROM x.zero");
    publish(here);
    let waiting = here.join("warehouse/_nightshift/notices/waiting");
    wait_for(|| !objects(&waiting).is_empty(), "no notice was written down");
    // Others run meanwhile.
    let other = pipeline(
        here,
        "other",
        &[
            ("pipeline.toml", "[schedule]\nwhen = 'x.trigger'\n"),
            ("b.sql", "CREATE OR REPLACE TABLE x.b AS SELECT y FROM x.trigger"),
        ],
    );
    succeed(nightshift(here).arg("deploy").arg(other));
    publish(here);
    let published = || {
        let runs =
            succeed(nightshift(here).args(["runs", "--pipeline", "other", "--format", "json"]));
        runs.contains("\"published\"")
    };
    wait_for(published, "the other pipeline has not run");
    drop(first);
    // What is written down is enough: the run itself may be archived by then.
    let journals = here.join("warehouse/_nightshift/journals/runs");
    std::fs::remove_dir_all(journals).unwrap();
    drop(deaf);
    let again = TcpListener::bind(address).unwrap();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = again.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut text, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let line = line.trim();
            if line.is_empty() {
                break;
            }
            if let Some((_, value)) = line.to_lowercase().split_once("content-length: ") {
                length = value.parse().unwrap();
            }
            text.push_str(line);
            text.push('\n');
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        text
    });
    let _second = cluster(here, &[]);
    wait_for(|| heard.is_finished(), "nobody was told");
    let heard = heard.join().unwrap();
    assert!(heard.starts_with("POST / HTTP/1.1"), "{heard}");
    wait_for(
        || !contents(&here.join("warehouse/_nightshift/notices/told")).is_empty(),
        "it was not noted",
    );
}
