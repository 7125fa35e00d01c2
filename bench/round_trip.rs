//! How long an empty job takes from client to scheduler to executor and back, beside a scheduler as
//! Ballista ships it: `cargo run --release --example round_trip`.

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::SessionStateExt;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::execution::SessionState;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use nightshift_catalog::storage::Stores;
use nightshift_executor::ExecutorOptions;
use nightshift_executor::memory::Memory;
use nightshift_scheduler::{Scheduler, SchedulerOptions, connect};
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

/// Jobs of each kind; the two kinds take turns.
const JOBS: usize = 200;

type Failure = Box<dyn Error + Send + Sync>;

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn start_executor(scheduler: SocketAddr, work_dir: &tempfile::TempDir) -> Result<(), Failure> {
    let options = ExecutorOptions {
        host: "127.0.0.1".to_string(),
        port: free_port()?,
        task_port: free_port()?,
        scheduler_host: scheduler.ip().to_string(),
        scheduler_port: scheduler.port(),
        cores: 1,
        work_dir: work_dir.path().to_path_buf(),
        memory: Memory { tasks: 1 << 30, resident: 1 << 20 },
        connect_seconds: 10,
        stores: Stores::default(),
    };
    tokio::spawn(nightshift_executor::run(options));
    Ok(())
}

async fn milliseconds(state: &SessionState) -> Result<f64, Failure> {
    let started = Instant::now();
    SessionContext::new_with_state(state.clone()).sql("SELECT 1").await?.collect().await?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let work_dir = tempfile::tempdir()?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let scheduler = Scheduler::bind(&SchedulerOptions {
        listen,
        advertise: None,
        executor_timeout: 60,
        stores: Stores::default(),
    })
    .await?;
    let (ours, ready) = (scheduler.address(), scheduler.executors_ready(1));
    tokio::spawn(scheduler.serve());
    start_executor(ours, &work_dir)?;
    ready.await;
    let nightshift = connect(&format!("grpc://{ours}"), &Stores::default()).await?;

    let theirs = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let config = SchedulerConfig {
        bind_port: theirs.port(),
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        ..Default::default()
    };
    let cluster = BallistaCluster::new_from_config(&config).await?;
    tokio::spawn(start_server(cluster, theirs, Arc::new(config)));
    start_executor(theirs, &work_dir)?;
    let state = SessionStateBuilder::new().with_default_features().build();
    let ballista = state.upgrade_for_ballista(format!("http://{theirs}"))?;

    let (mut with_ours, mut with_theirs) = (Vec::new(), Vec::new());
    for job in 0..JOBS + 20 {
        let pair = (milliseconds(&nightshift).await?, milliseconds(&ballista).await?);
        // The first jobs open connections.
        if job >= 20 {
            with_ours.push(pair.0);
            with_theirs.push(pair.1);
        }
    }
    with_ours.sort_by(f64::total_cmp);
    with_theirs.sort_by(f64::total_cmp);
    println!("| milliseconds, {JOBS} jobs | median | 99 % |");
    println!("| --- | --- | --- |");
    for (name, times) in [("nightshift", &with_ours), ("ballista as shipped", &with_theirs)] {
        println!("| {name} | {:.1} | {:.1} |", quantile(times, 0.5), quantile(times, 0.99));
    }
    let ratio = quantile(&with_theirs, 0.5) / quantile(&with_ours, 0.5);
    println!("| ratio of the medians | {ratio:.1} | |");
    Ok(())
}
