//! Ctrl-C and requests to terminate, from when a command begins to listen: none is lost between two
//! statements.

use futures::FutureExt;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What has been asked for and not been seen yet.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    terminated: bool,
}

impl Interrupts {
    /// Begins to listen. From then on neither ends the process.
    pub fn listen() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())?, terminated: false })
    }

    /// Waits for either.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => self.terminated = true,
        }
    }

    /// Waits for a request to terminate.
    pub async fn terminate(&mut self) {
        self.terminate.recv().await;
        self.terminated = true;
    }

    /// Whether either has come since it was last asked for.
    pub fn take(&mut self) -> bool {
        self.next().now_or_never().is_some()
    }

    /// Whether the process is to end.
    pub fn is_terminated(&self) -> bool {
        self.terminated
    }
}
