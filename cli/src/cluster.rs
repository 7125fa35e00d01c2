//! Clusters on this machine: one embedded in this process, one of several processes, and the
//! processes themselves.

use crate::Failure;
use crate::anew::{begin_anew, has_begun_anew};
use crate::arguments::{ExecutorArguments, SchedulerArguments, UpArguments};
use crate::settings::Settings;
use datafusion::execution::SessionState;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use nightshift_catalog::lease::{Candidate, Lease};
use nightshift_catalog::storage::Stores;
use nightshift_catalog::warehouse::Warehouse;
use nightshift_executor::memory::{Memory, share_of_the_machine};
use nightshift_executor::{ExecutorOptions, told_to_stop};
use nightshift_jobs::cluster::ClusterView;
use nightshift_jobs::counted;
use nightshift_jobs::session::Session;
use nightshift_scheduler::{
    Control, FlightSql, Http, Scheduler, SchedulerError, SchedulerOptions, connect,
    first_reachable, until_gone, wait_to_lead,
};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long child processes may take to end by themselves.
const GRACE: Duration = Duration::from_secs(5);

/// A cluster in this process, which ends with it.
pub struct Embedded {
    /// The session that runs plans on it.
    pub state: SessionState,
    /// What it can tell of its executors.
    pub cluster: Arc<dyn ClusterView>,
    /// Where its executor keeps intermediate results, if that is in this process.
    _work_dir: Option<TempDir>,
}

/// Where the executor of an embedded cluster runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executing {
    /// In this process.
    Within,
    /// In a process of its own, which ends with this one. Ctrl-C is not for it: an executor that hears
    /// of it stops, and a process can't have another then.
    Beside,
}

/// Starts a scheduler in this process, and an executor.
pub async fn embedded(stores: &Stores, executing: Executing) -> Result<Embedded, Failure> {
    let listen = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0);
    let scheduler = Scheduler::bind(&SchedulerOptions {
        listen,
        advertise: None,
        executor_timeout: 60,
        stores: stores.clone(),
    })
    .await?;
    let address = scheduler.address();
    let ready = scheduler.executors_ready(1);
    let cluster = scheduler.cluster();
    tokio::spawn(scheduler.serve());
    let (work_dir, executor) = match executing {
        Executing::Within => {
            let work_dir = tempfile::Builder::new().prefix("nightshift-").tempdir()?;
            let executor = within(address, work_dir.path(), stores)?;
            (Some(work_dir), executor)
        }
        Executing::Beside => (None, beside(address)?),
    };
    let mut executor = tokio::spawn(executor);
    tokio::select! {
        () = ready => {}
        ended = &mut executor => {
            ended??;
            return Err("the embedded executor has stopped".into());
        }
    }
    tokio::spawn(async move {
        if let Ok(Err(error)) = executor.await {
            match executing {
                Executing::Beside => {
                    eprintln!("error: {error}; leave the shell and start it again")
                }
                Executing::Within => {
                    // Whatever is executed would wait for ever.
                    eprintln!("error: {error}");
                    std::process::exit(1);
                }
            }
        }
    });
    let state = connect(&format!("grpc://{address}"), stores).await?;
    Ok(Embedded { state, cluster, _work_dir: work_dir })
}

/// An executor in this process, until it ends.
fn within(
    scheduler: SocketAddr,
    work_dir: &Path,
    stores: &Stores,
) -> Result<BoxFuture<'static, Result<(), Failure>>, Failure> {
    let host = scheduler.ip();
    let run = nightshift_executor::run(ExecutorOptions {
        host: host.to_string(),
        port: free_port(host)?,
        task_port: free_port(host)?,
        scheduler_host: host.to_string(),
        scheduler_port: scheduler.port(),
        cores: 0,
        work_dir: work_dir.to_path_buf(),
        memory: Memory::divide(None, None)?,
        connect_seconds: 10,
        stores: stores.clone(),
    });
    Ok(run.map_err(Failure::from).boxed())
}

/// An executor in a process of its own, until it ends.
fn beside(scheduler: SocketAddr) -> Result<BoxFuture<'static, Result<(), Failure>>, Failure> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["executor", "--scheduler", &format!("grpc://{scheduler}"), "--with-parent"]);
    // The child sees its standard input closed when this process ends, however it ends.
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    // Signals of the terminal go to the group of the shell's process.
    command.process_group(0);
    if std::env::var_os("NIGHTSHIFT_LOG").is_none() {
        command.env("NIGHTSHIFT_LOG", "error,ballista=off,datafusion=off");
    }
    let mut child = command.spawn()?;
    let input = child.stdin.take();
    Ok(async move {
        let status = child.wait().await?;
        drop(input);
        Err(format!("the executor has ended: {status}").into())
    }
    .boxed())
}

/// Ports that systems don't give to connections.
const QUIET_PORTS: Range<u16> = 12_000..32_000;

/// A port that nobody listens on now, and that no connection of another process gets before it is used.
fn free_port(host: IpAddr) -> Result<u16, Failure> {
    let random = RandomState::new().hash_one(Instant::now());
    let first = (random % QUIET_PORTS.len() as u64) as u16;
    let ports = (QUIET_PORTS.start + first..QUIET_PORTS.end).chain(QUIET_PORTS);
    let free = |port: &u16| TcpListener::bind((host, *port)).is_ok();
    match ports.take(100).find(free) {
        Some(port) => Ok(port),
        None => Ok(TcpListener::bind((host, 0))?.local_addr()?.port()),
    }
}

/// Connections are neither encrypted nor authenticated yet, so listening beyond this machine must be
/// asked for.
fn check_host(host: &str, insecure: bool) -> Result<IpAddr, Failure> {
    let address: IpAddr = host.parse().map_err(|_| format!("--host {host}: not an IP address"))?;
    if address.is_loopback() || insecure {
        return Ok(address);
    }
    Err(format!(
        "--host {host}: connections are neither encrypted nor authenticated, so only this machine may \
         connect; on a network that is private otherwise, add --insecure"
    )
    .into())
}

/// Runs a scheduler.
pub async fn scheduler(arguments: SchedulerArguments) -> Result<(), Failure> {
    let host = check_host(&arguments.host, arguments.insecure)?;
    let listen = SocketAddr::new(host, arguments.port);
    let executor_timeout = arguments.executor_timeout;
    if listen.ip().is_unspecified() && arguments.advertise.is_none() {
        return Err(format!("--host {host}: say with --advertise where executors reach it").into());
    }
    let settings = Settings::read()?;
    let stores = settings.stores()?;
    let warehouse = Warehouse::open(&settings.warehouse(arguments.warehouse.as_deref())?, &stores)?;
    loop {
        match warehouse.check_writable().await {
            // Who may only read can still be served.
            Err(error) if error.is_permission() => tracing::warn!("{error}"),
            Err(error) if has_begun_anew() => {
                tracing::warn!(%error, "the warehouse can't be written yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            checked => checked?,
        }
        break;
    }
    let locations = settings.locations(None)?;
    let lineage = settings.lineage(&arguments.lineage)?;
    let flight_port = port_after(arguments.flight_port, arguments.port, "--flight-port")?;
    let http_port = port_after(arguments.http_port, flight_port, "--http-port")?;
    let http_address = SocketAddr::new(host, http_port);
    let advertised = arguments.advertise.clone().unwrap_or_else(|| host.to_string());
    let address = format!("grpc://{advertised}:{}", arguments.port);
    let mut candidate = Candidate::new(&warehouse, address, Duration::from_secs(arguments.lease));
    let lease = match arguments.stand_by {
        true => match stand_by(&mut candidate, http_address, &warehouse).await? {
            Some(lease) => Some(lease),
            None => return Ok(()),
        },
        false => None,
    };
    let names = arguments.advertise.iter().cloned().collect();
    let options = SchedulerOptions {
        listen,
        advertise: arguments.advertise,
        executor_timeout,
        stores: stores.clone(),
    };
    let scheduler = Scheduler::bind(&options).await?;
    let flight = FlightSql::bind(SocketAddr::new(host, flight_port))?;
    let http = Http::bind(http_address)?;
    let (address, cluster) = (scheduler.address(), scheduler.cluster());
    println!("scheduler grpc://{address}");
    let clients = async {
        let state = connect_to(address, &stores).await?;
        println!("flight grpc://{}", flight.address());
        println!("http http://{}", http.address());
        let session = Session::new(state, warehouse, locations).with_cluster(cluster);
        let control = Control::new(session.clone(), candidate, lease);
        let control = control.with_commands(arguments.notify_commands).with_lineage(lineage);
        let control = lead(control, arguments.stand_by);
        tokio::select! {
            served = flight.serve(session.clone()) => Ok::<_, Failure>(served?),
            served = http.serve(session, names) => Ok(served?),
            led = control => led,
        }
    };
    tokio::select! {
        served = scheduler.serve() => Ok(served?),
        served = clients => served,
        () = parent_gone(arguments.with_parent) => Ok(()),
    }
}

/// Waits until this process leads, and answers meanwhile that another does; `None` if it is to stop.
async fn stand_by(
    candidate: &mut Candidate,
    http: SocketAddr,
    warehouse: &Warehouse,
) -> Result<Option<Lease>, Failure> {
    // Whoever leads already need not answer otherwise first.
    if let Some(lease) = candidate.attempt().await? {
        return Ok(Some(lease));
    }
    let http = Http::bind(http)?;
    println!("standing by http://{}", http.address());
    let (leads, led) = tokio::sync::oneshot::channel::<()>();
    let waiting = async {
        let lease = wait_to_lead(candidate).await;
        drop(leads);
        lease
    };
    let serving = http.stand_by(warehouse.clone(), async {
        let _ = led.await;
    });
    tokio::select! {
        both = async { tokio::join!(waiting, serving) } => {
            let (lease, served) = both;
            served?;
            Ok(Some(lease))
        }
        () = told_to_stop() => Ok(None),
    }
}

/// Runs deployed pipelines whenever this process leads, until it is told to stop. One that stands by for others begins
/// anew when it leads no more: executors and clients find the other then.
async fn lead(mut control: Control, stand_by: bool) -> Result<(), Failure> {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        told_to_stop().await;
        stop.send_replace(true);
    });
    loop {
        let mut stopping = stopped.clone();
        let stop = async move {
            let _ = stopping.wait_for(|stopped| *stopped).await;
        };
        control = control.lead(stop).await;
        if *stopped.borrow() {
            return Ok(());
        }
        if stand_by {
            return Err(begin_anew().into());
        }
    }
}

/// A port of a scheduler: the one that is given, or the one after another of its ports.
fn port_after(given: Option<u16>, port: u16, flag: &str) -> Result<u16, Failure> {
    match given {
        Some(given) => Ok(given),
        None if port == 0 => Ok(0),
        None => port
            .checked_add(1)
            .ok_or_else(|| format!("there is no port after {port}: choose one with {flag}").into()),
    }
}

/// A session on the scheduler of this process, for clients, whose statements run like those of any other
/// session.
async fn connect_to(scheduler: SocketAddr, stores: &Stores) -> Result<SessionState, Failure> {
    let host = match scheduler.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(host, scheduler.port());
    Ok(connect(&format!("grpc://{address}"), stores).await?)
}

/// Runs an executor.
pub async fn executor(arguments: ExecutorArguments) -> Result<(), Failure> {
    let host = check_host(&arguments.host, arguments.insecure)?;
    let stores = Settings::read()?.stores()?;
    let bytes = |megabytes: Option<u64>| megabytes.map(|megabytes| megabytes << 20);
    let memory = Memory::divide(bytes(arguments.memory), bytes(arguments.resident_memory))?;
    let several = arguments.scheduler.len() > 1;
    let (scheduler_host, scheduler_port) = find_scheduler(&arguments.scheduler).await?;
    let port = |port: u16| if port == 0 { free_port(host) } else { Ok(port) };
    let (results, tasks) = (port(arguments.port)?, port(arguments.task_port)?);
    let temporary = match arguments.work_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("nightshift-").tempdir()?),
    };
    let work_dir: Option<PathBuf> =
        arguments.work_dir.or_else(|| temporary.as_ref().map(|folder| folder.path().to_path_buf()));
    println!("executor {host}:{results}");
    let run = nightshift_executor::run(ExecutorOptions {
        host: host.to_string(),
        port: results,
        task_port: tasks,
        scheduler_host: scheduler_host.clone(),
        scheduler_port,
        cores: arguments.cores,
        work_dir: work_dir.unwrap_or_default(),
        memory,
        connect_seconds: 30,
        stores,
    });
    tokio::select! {
        ended = run => match ended {
            // It ends when its scheduler is gone. Another may have taken its place.
            Err(error) if several => {
                tracing::warn!(%error, "looks for another scheduler");
                drop(temporary);
                Err(begin_anew().into())
            }
            ended => Ok(ended?),
        },
        // One that was stopped keeps its connections, and answers nothing.
        () = until_gone(&scheduler_host, scheduler_port), if several => {
            tracing::warn!("the scheduler is silent; looks for another");
            drop(temporary);
            Err(begin_anew().into())
        }
        () = parent_gone(arguments.with_parent) => Ok(()),
    }
}

/// How long an executor waits for a scheduler at its start.
const FIND: Duration = Duration::from_secs(30);

/// Host and port of a scheduler that is there, of those that stand by for each other. They may be about to start, or
/// to take each other's place.
async fn find_scheduler(addresses: &[String]) -> Result<(String, u16), Failure> {
    let deadline = Instant::now() + FIND;
    loop {
        match first_reachable(addresses.iter().map(String::as_str)).await {
            Err(error @ SchedulerError::Unreachable { .. })
                if Instant::now() >= deadline && !has_begun_anew() =>
            {
                return Err(error.into());
            }
            Err(SchedulerError::Unreachable { .. }) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            found => return Ok(found?),
        }
    }
}

/// Waits until standard input is closed, if that is how this process learns that its parent has
/// ended; for ever if not.
async fn parent_gone(with_parent: bool) {
    if !with_parent {
        std::future::pending::<()>().await;
    }
    let (gone, told) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // Whatever ends the reading, nobody is there any more.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(gone);
    });
    let _ = told.await;
}

/// Child processes that end with this one.
struct Processes(Vec<(String, Child)>);

impl Drop for Processes {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            drop(child.stdin.take());
        }
        let deadline = Instant::now() + GRACE;
        for (_, child) in &mut self.0 {
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            // One that has ended already needs no ending.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a cluster of several processes until it is interrupted or one of them ends.
pub async fn up(arguments: UpArguments) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    // Dropped after the processes that use it.
    let work_dir = tempfile::Builder::new().prefix("nightshift-").tempdir()?;
    let mut processes = Processes(Vec::new());
    let mut start = |name: String, arguments: Vec<String>| -> Result<(), Failure> {
        let mut command = Command::new(&program);
        // The child sees its standard input closed when this process ends, however it ends.
        command.args(&arguments).arg("--with-parent").stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn()?;
        processes.0.push((name, child));
        Ok(())
    };
    let free = |port| match port {
        0 => free_port(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port => Ok(port),
    };
    let flight_port = port_after(arguments.flight_port, arguments.port, "--flight-port")?;
    let http_port = free(port_after(arguments.http_port, flight_port, "--http-port")?)?;
    let flight_port = free(flight_port)?;
    let port = arguments.port.to_string();
    let (flight, http) = (flight_port.to_string(), http_port.to_string());
    let scheduler = ["scheduler", "--port", &port, "--flight-port", &flight, "--http-port", &http];
    let mut scheduler = scheduler.map(String::from).to_vec();
    if let Some(warehouse) = arguments.warehouse {
        scheduler.extend(["--warehouse".into(), warehouse]);
    }
    if arguments.notify_commands {
        scheduler.push("--notify-commands".into());
    }
    start("the scheduler".into(), scheduler)?;
    let address = format!("grpc://127.0.0.1:{}", arguments.port);
    let machine = std::thread::available_parallelism()?.get();
    let executors = usize::from(arguments.executors);
    let cores = arguments.cores.unwrap_or((machine / executors).max(1));
    let shared = work_dir.path().to_string_lossy();
    let memory = share_of_the_machine() / executors as u64;
    Memory::divide(Some(memory), None)
        .map_err(|error| format!("--executors {executors}: {error}"))?;
    let (of_each, memory) = (cores.to_string(), (memory >> 20).to_string());
    for number in 1..=executors {
        let cores = ["--cores", &of_each, "--memory", &memory];
        let arguments = ["executor", "--scheduler", &address, "--work-dir", &shared];
        let arguments = arguments.into_iter().chain(cores).map(String::from);
        start(format!("executor {number}"), arguments.collect())?;
    }
    let (executors, cores) = (counted(executors, "executor"), counted(cores, "core"));
    println!("cluster {address}: 1 scheduler, {executors} with {cores} each");
    println!("flight grpc://127.0.0.1:{flight_port}");
    println!("http http://127.0.0.1:{http_port}");
    println!("run something on it:  nightshift run FOLDER --cluster {address}");
    let mut check = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            () = told_to_stop() => return Ok(()),
            _ = check.tick() => {
                for (name, child) in &mut processes.0 {
                    if let Some(status) = child.try_wait()? {
                        return Err(format!("{name} has ended: {status}").into());
                    }
                }
            }
        }
    }
}
