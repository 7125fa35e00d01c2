//! A process that begins again as one that has just been started, under the same id.

use nix::unistd::execve;
use std::ffi::{CString, NulError, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;

/// Set in the environment of a process that was another before.
const ANEW: &str = "NIGHTSHIFT_BEGUN_ANEW";

/// Whether this process was another before: it has worked, so whom it needs is expected to come back.
pub fn has_begun_anew() -> bool {
    std::env::var_os(ANEW).is_some()
}

/// Replaces this process by one that has just been started; says what went wrong, and what to do, if that fails.
///
/// Other threads run until the last moment, and may write to whom has gone away. The standard library's `exec` makes
/// that deadly (SIGPIPE) before it begins.
pub fn begin_anew() -> String {
    let replaced = || -> io::Result<_> {
        let text = |text: OsString| CString::new(text.into_vec());
        let program = text(std::env::current_exe()?.into_os_string())?;
        let arguments: Vec<_> = std::env::args_os().map(text).collect::<Result<_, _>>()?;
        let others = std::env::vars_os().filter(|(name, _)| name != ANEW);
        let variables = others.chain([(ANEW.into(), "1".into())]).map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        });
        let variables: Vec<_> = variables.collect::<Result<_, NulError>>()?;
        Ok(execve(&program, &arguments, &variables)?)
    };
    match replaced() {
        Ok(never) => match never {},
        Err(error) => format!(
            "this process can't begin anew: its program is not started: {error}; start it again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;
    use std::sync::Barrier;

    const ROLE: &str = "NIGHTSHIFT_TEST_BEGINS_ANEW";

    /// The test starts itself, as a process that replaces itself.
    #[test]
    fn threads_may_write_to_whom_has_gone_away() {
        if has_begun_anew() {
            return;
        }
        if std::env::var_os(ROLE).is_none() {
            let this = std::env::current_exe().unwrap();
            let name = "anew::tests::threads_may_write_to_whom_has_gone_away";
            for _ in 0..20 {
                let mut command = Command::new(&this);
                let out = command.args(["--exact", name]).env(ROLE, "1").output().unwrap();
                assert!(out.status.success(), "{out:?}");
                // It was not left out.
                assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"), "{out:?}");
            }
            return;
        }
        let write = Barrier::new(2);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let (gone, mut pipe) = io::pipe().unwrap();
                drop(gone);
                write.wait();
                loop {
                    assert_eq!(pipe.write(&[0]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
                }
            });
            write.wait();
            panic!("{}", begin_anew());
        });
    }
}
