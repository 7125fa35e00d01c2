//! Notices as the input of a program.
//!
//! It is run without a shell, as the user and in the folder of this process, and with its environment, which
//! `NIGHTSHIFT_EVENT`, `NIGHTSHIFT_PIPELINE` and `NIGHTSHIFT_RUN` are added to.

use super::{Fault, Notice, json, one_line};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// What a program may take.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// How long is waited for words of a program that has ended: something that it has started may hold on to its output.
const REST: Duration = Duration::from_secs(1);

/// Bytes of a program's words that are kept: only its last line is shown.
const KEPT: usize = 4096;

/// Runs a program that reads a notice.
pub(super) async fn run(command: &[String], notice: &Notice, limit: Duration) -> Result<(), Fault> {
    let [program, arguments @ ..] = command else {
        return Err(Fault::Unusable("no program is named".to_string()));
    };
    let notice_json = json(notice)?;
    let child = Command::new(program)
        .args(arguments)
        .env("NIGHTSHIFT_EVENT", notice.about.as_str())
        .env("NIGHTSHIFT_PIPELINE", one_line(&notice.pipeline))
        .env("NIGHTSHIFT_RUN", one_line(&notice.run))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| not_started(&error))?;
    let mut group = Group::of(&child);
    let ended = timeout(limit, talk(&mut child, &notice_json)).await;
    match ended {
        Ok(ended) => {
            group.0 = None;
            match ended {
                Ok((status, _)) if status.success() => Ok(()),
                Ok((status, said)) => Err(Fault::Failed { status: status.to_string(), said }),
                Err(error) => Err(Fault::Failed { status: error.to_string(), said: String::new() }),
            }
        }
        Err(_) => Err(Fault::TimedOut(limit)),
    }
}

/// A program with all that it has started, which is killed when it is no longer waited for.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::warn!(%error, "a program that has taken too long can't be killed");
        }
    }
}

/// A program that isn't there, or isn't allowed, may be when somebody has mended that.
fn not_started(error: &io::Error) -> Fault {
    let reason = format!("it can't be started: {error}");
    match error.kind() {
        io::ErrorKind::InvalidInput => Fault::Unusable(reason),
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory => Fault::Lacking(reason),
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            Fault::Lacking(reason)
        }
        _ => Fault::Unreachable(reason),
    }
}

/// Gives a program its input, and waits until it has ended: how it has, and its last words.
async fn talk(child: &mut Child, input: &str) -> io::Result<(ExitStatus, String)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let mut said = Vec::new();
    let status = {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program need not read what it is told.
                stdin.write_all(input.as_bytes()).await.ok();
            }
        };
        let read = async {
            if let Some(stderr) = stderr {
                read_end(stderr, &mut said).await;
            }
        };
        let mut talking = pin!(async { tokio::join!(write, read) });
        tokio::select! {
            _ = &mut talking => child.wait().await?,
            status = child.wait() => {
                timeout(REST, talking).await.ok();
                status?
            }
        }
    };
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().map(one_line).rfind(|line| !line.is_empty());
    Ok((status, last.unwrap_or_default()))
}

/// Reads everything, and keeps the end of it.
async fn read_end(mut from: impl AsyncRead + Unpin, end: &mut Vec<u8>) {
    while matches!(from.read_buf(end).await, Ok(1..)) {
        end.drain(..end.len().saturating_sub(KEPT));
    }
}

#[cfg(test)]
mod tests {
    use super::super::NotifyError;
    use super::super::tests::{notice, told};
    use super::*;
    use nightshift_jobs::pipeline::Channel;
    use tokio::io::AsyncReadExt;
    use tokio::net::unix::pipe;

    const LONG: Duration = Duration::from_secs(60);

    /// A script with arguments.
    fn shell(script: &str, arguments: &[&str]) -> Vec<String> {
        let command = ["sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied());
        command.map(str::to_string).collect()
    }

    async fn fails(command: &[String], limit: Duration) -> NotifyError {
        let fault = run(command, &notice(), limit).await.unwrap_err();
        told(fault, &Channel::Command(command.to_vec()))
    }

    #[tokio::test]
    async fn a_program_reads_what_has_happened() {
        let folder = tempfile::tempdir().unwrap();
        let [input, about] = ["input", "about"].map(|name| folder.path().join(name));
        let script = "cat > \"$1\"; \
            echo \"$NIGHTSHIFT_EVENT $NIGHTSHIFT_PIPELINE $NIGHTSHIFT_RUN $3\" > \"$2\"";
        // Nothing is a word of a shell.
        let arguments = [input.to_str().unwrap(), about.to_str().unwrap(), "$(exit 1); *"];
        run(&shell(script, &arguments), &notice(), LONG).await.unwrap();
        assert_eq!(std::fs::read_to_string(input).unwrap(), json(&notice()).unwrap());
        let about = std::fs::read_to_string(about).unwrap();
        assert_eq!(about, "failure movielens 20260301T020000 $(exit 1); *\n");
    }

    #[tokio::test]
    async fn how_a_program_fails_is_told() {
        let cases = [
            ("echo one >&2; echo ' no\tpager ' >&2; echo >&2; exit 3", "exit status: 3: no pager"),
            ("exit 4", "exit status: 4"),
            ("kill -9 $$", "signal: 9 (SIGKILL)"),
        ];
        for (script, expected) in cases {
            let error = fails(&shell(script, &["s3cret"]), LONG).await;
            assert_eq!(error.to_string(), format!("command sh: {expected}"));
            assert!(error.can_pass());
            assert!(!format!("{error:?}").contains("s3cret"));
        }
    }

    #[tokio::test]
    async fn a_program_may_say_much_and_read_nothing() {
        let reason = "x".repeat(1 << 20);
        let notice = Notice { reason, ..notice() };
        run(&shell("exec <&-; seq 100000 >&2", &[]), &notice, LONG).await.unwrap();
        let fault = run(&shell("seq 100000 >&2; exit 1", &[]), &notice, LONG).await.unwrap_err();
        assert_eq!(fault.to_string(), "exit status: 1: 100000");
    }

    #[tokio::test]
    async fn a_program_that_can_not_be_started_waits_for_somebody_to_mend_that() {
        for (command, expected, can_be_mended) in [
            (vec!["/no/such/program".to_string()], "it can't be started: No such file", true),
            (vec!["/".to_string()], "it can't be started: Permission denied", true),
            (vec!["sh".to_string(), "\0".to_string()], "it can't be started: nul byte", false),
            (Vec::new(), "no program is named", false),
        ] {
            let error = fails(&command, LONG).await;
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.is_of_scheduler(), can_be_mended, "{error}");
            assert_eq!(error.can_pass(), can_be_mended, "{error}");
        }
    }

    #[tokio::test]
    async fn a_program_is_killed_with_all_that_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("alive");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let mut alive = pipe::OpenOptions::new().read_write(true).open_receiver(&fifo).unwrap();
        let command =
            shell("exec 3> \"$1\"; echo begun >&3; sleep 1000 & wait", &[fifo.to_str().unwrap()]);
        // It is left when it has surely begun.
        let mut line = [0; 6];
        let notice = notice();
        let ran = run(&command, &notice, LONG);
        tokio::select! {
            ended = ran => panic!("{ended:?}"),
            read = alive.read_exact(&mut line) => assert_eq!(read.unwrap(), 6),
        }
        assert_eq!(&line, b"begun\n");
        // The end of the pipe is seen when none of them has it open.
        let mut alive = {
            let only_reads = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
            drop(alive);
            only_reads
        };
        let mut rest = Vec::new();
        timeout(LONG, alive.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());

        let error = fails(&shell("sleep 1000 & wait", &[]), Duration::from_millis(50)).await;
        assert_eq!(error.to_string(), "command sh: it has taken more than 50ms");
        assert!(error.can_pass());
    }

    #[tokio::test]
    async fn what_a_program_leaves_running_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let process = folder.path().join("process");
        let command = shell("sleep 1000 & echo $! > \"$1\"", &[process.to_str().unwrap()]);
        run(&command, &notice(), LONG).await.unwrap();
        let left: i32 = std::fs::read_to_string(process).unwrap().trim().parse().unwrap();
        // It is there to be ended.
        rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
    }
}
