//! The part of a scheduler that runs deployed pipelines: at their times, again after a fault, and once.
//!
//! Of the schedulers that share a warehouse one leads, by a lease. It goes on with the runs that another has left, and
//! begins those that are due. All that it knows is in the warehouse, so that the next leader knows it too.

mod leader;
mod lineage;
mod notices;
mod notify;
mod telling;
mod told;

use crate::lineage::LineageReceiver;
use futures::future::BoxFuture;
use leader::Leading;
use nightshift_catalog::lease::{Candidate, Lease};
use nightshift_jobs::pipeline::AllDeployed;
use nightshift_jobs::session::Session;
use std::time::Duration;
use tokio::sync::watch;

/// The time between two looks for the first pipeline.
const LOOK: Duration = Duration::from_secs(2);

/// The pause after a store that could not be reached.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs pipelines as long as this process leads.
pub struct Control {
    session: Session,
    candidate: Candidate,
    /// The lease that it has already.
    lease: Option<Lease>,
    /// Whether pipelines can have programs run by this process.
    commands: bool,
    /// Who is told of runs.
    lineage: Option<LineageReceiver>,
}

impl Control {
    /// Something that runs pipelines in a session, as soon as `candidate` leads, which it does already if there is a
    /// lease.
    pub fn new(session: Session, candidate: Candidate, lease: Option<Lease>) -> Self {
        Self { session, candidate, lease, commands: false, lineage: None }
    }

    /// The same, in which pipelines can have programs run by this process, to tell somebody of their runs.
    pub fn with_commands(self, commands: bool) -> Self {
        Self { commands, ..self }
    }

    /// The same, which tells of runs.
    pub fn with_lineage(self, lineage: Option<LineageReceiver>) -> Self {
        Self { lineage, ..self }
    }

    /// Leads until another process does, or may. When it is to stop, gives up what it leads.
    pub fn lead(
        mut self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> BoxFuture<'static, Self> {
        Box::pin(async move {
            let (stopping, stopped) = watch::channel(false);
            let mut stop = std::pin::pin!(stop);
            let lease = match self.lease.take() {
                Some(lease) => lease,
                None => tokio::select! {
                    lease = async {
                        // Nothing is written to a warehouse in which there is nothing to lead.
                        wait_for_pipelines(&self.session).await;
                        wait_to_lead(&mut self.candidate).await
                    } => lease,
                    () = &mut stop => return self,
                },
            };
            let term = lease.number();
            tracing::info!(term, "this scheduler leads");
            let mut renewing = tokio::spawn(renew(lease, stopped));
            tokio::select! {
                () = Leading::new(self.session.clone(), self.commands)
                    .with_lineage(self.lineage.clone())
                    .lead() => {}
                _ = &mut renewing => {
                    tracing::warn!(term, "this scheduler leads no more: another does, or may");
                    return self;
                }
                () = &mut stop => {}
            }
            stopping.send_replace(true);
            if let Err(error) = renewing.await {
                tracing::warn!(term, %error, "the lease is not given up");
            }
            self
        })
    }
}

/// Waits until a pipeline was deployed.
async fn wait_for_pipelines(session: &Session) {
    loop {
        match AllDeployed::were_any(session.warehouse()).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "it is not known whether pipelines are deployed"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until this process leads.
pub async fn wait_to_lead(candidate: &mut Candidate) -> Lease {
    loop {
        match candidate.attempt().await {
            Ok(Some(lease)) => return lease,
            Ok(None) => tokio::time::sleep(candidate.pause()).await,
            Err(error) => {
                tracing::warn!(%error, "it is not known who leads");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Renews a lease as long as that is possible, and gives it up when it is to stop.
async fn renew(mut lease: Lease, mut stopped: watch::Receiver<bool>) {
    while lease.is_valid() {
        tokio::select! {
            () = tokio::time::sleep(lease.pause()) => {}
            () = told(&mut stopped) => {
                if let Err(error) = lease.give_up().await {
                    tracing::warn!(%error, "the lease is not given up: others wait until it ends");
                }
                return;
            }
        }
        let left = lease.left();
        match tokio::time::timeout(left, lease.renew()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return,
            Ok(Err(error)) => tracing::warn!(%error, "the lease is not renewed"),
        }
    }
}

/// Waits until it is told to stop, or nobody is there any more who could tell it.
async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
