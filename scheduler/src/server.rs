//! The scheduler itself.

use crate::SchedulerError;
use crate::broadcast::{LIMIT_WHAT_IS_BROADCAST, OUTER_LOOPS_IN_ONE_TASK, with_rules_about_joins};
use crate::cluster_state::StrictClusterState;
use crate::constants::CONSTANTS_IN_MEMORY;
use crate::cooperation::GIVE_WAY;
use crate::executors::Executors;
use crate::file_scans::{with_files_cut, without_cutting_again};
use crate::job_state::{JobIds, WatchedJobState};
use ballista_core::JobId;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::{BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use ballista_core::utils::{default_config_producer, default_session_builder};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::cluster::memory::InMemoryJobState;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use ballista_scheduler::scheduler_server::{SchedulerServer, SessionBuilder};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::future::BoxFuture;
use nightshift_catalog::storage::Stores;
use nightshift_jobs::cluster::{ClusterView, Cores};
use nightshift_jobs::operator::{
    CARRY_COMPRESSION, DeepLogicalPlan, LogicalCodec, OperatorPlanner, PhysicalCodec,
};
use nightshift_jobs::superstep::Resident;
use nightshift_udfs::functions::with_functions;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How a scheduler runs.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// Address and port to listen on; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// The host under which executors reach it; that of `listen` if it is not given.
    pub advertise: Option<String>,
    /// Seconds without a sign of life after which an executor counts as lost.
    pub executor_timeout: u64,
    /// How object stores are reached.
    pub stores: Stores,
}

/// A scheduler that listens and does not serve yet.
pub struct Scheduler {
    address: SocketAddr,
    listener: TcpListener,
    server: SchedulerServer<DeepLogicalPlan, PhysicalPlanNode>,
    damaged: UnboundedReceiver<JobId>,
    abandoned: UnboundedReceiver<JobId>,
}

impl Scheduler {
    /// Binds the address and makes the scheduler.
    ///
    /// This future and the others are boxed so that Ballista's generic servers are compiled once,
    /// here, and not in every program that runs one.
    pub fn bind(options: &SchedulerOptions) -> BoxFuture<'_, Result<Self, SchedulerError>> {
        Box::pin(Self::bind_address(options))
    }

    async fn bind_address(options: &SchedulerOptions) -> Result<Self, SchedulerError> {
        let listen =
            |source| SchedulerError::Listen { address: options.listen.to_string(), source };
        let listener = listener(options.listen).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let start = |source: BallistaError| SchedulerError::Start {
            address: address.to_string(),
            source: Box::new(source),
        };
        let logical = LogicalCodec::new(Arc::new(BallistaLogicalExtensionCodec::default()));
        let physical = PhysicalCodec::new(
            Arc::new(BallistaPhysicalExtensionCodec::default()),
            Resident::default(),
        );
        let config = SchedulerConfig {
            external_host: options.advertise.clone().unwrap_or_else(|| address.ip().to_string()),
            bind_host: address.ip().to_string(),
            bind_port: address.port(),
            scheduling_policy: TaskSchedulingPolicy::PushStaged,
            task_distribution: TaskDistributionPolicy::RoundRobin,
            executor_timeout_seconds: options.executor_timeout,
            expire_dead_executor_interval_seconds: 1,
            no_executors_grace_period_seconds: options.executor_timeout.max(30),
            override_logical_codec: Some(Arc::new(logical)),
            override_physical_codec: Some(Arc::new(physical)),
            job_id_generator: Some(Arc::new(JobIds)),
            ..Default::default()
        };
        config.validate().map_err(start)?;
        let (damage, damaged) = unbounded_channel();
        let executors = StrictClusterState::new(damage);
        let jobs = InMemoryJobState::new(
            config.scheduler_id.clone(),
            session_builder(&options.stores, executors.cores())?,
            Arc::new(default_config_producer),
        );
        let (abandon, abandoned) = unbounded_channel();
        let jobs = WatchedJobState::new(jobs, abandon);
        let cluster = BallistaCluster::new(Arc::new(executors), Arc::new(jobs));
        let server = create_scheduler(cluster, Arc::new(config)).await.map_err(start)?;
        tracing::info!(%address, "scheduler listens");
        Ok(Self { address, listener, server, damaged, abandoned })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What sessions can tell of its executors.
    pub fn cluster(&self) -> Arc<dyn ClusterView> {
        Arc::new(Executors::new(self.server.clone()))
    }

    /// Something that waits until this many executors have registered.
    pub fn executors_ready(&self, count: usize) -> BoxFuture<'static, ()> {
        let server = self.server.clone();
        Box::pin(async move {
            loop {
                let known = server.state.executor_manager.get_executors_state().await;
                if known.is_ok_and(|executors| executors.len() >= count) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }

    /// Serves until the process ends.
    pub fn serve(self) -> BoxFuture<'static, Result<(), SchedulerError>> {
        Box::pin(async move {
            let server = self.server.clone();
            let served = tokio::select! {
                served = start_grpc_service_with_listener(self.listener, self.server) => served,
                failed = cancel(&server, self.damaged, DAMAGED) => failed,
                failed = cancel(&server, self.abandoned, ABANDONED) => failed,
            };
            let address = self.address.to_string();
            served.map_err(|source| SchedulerError::Start { address, source: Box::new(source) })
        })
    }
}

/// Why a job is cancelled that has lost results which Ballista would recover wrongly. Its session sees
/// the job fail as cancelled, and runs it again.
const DAMAGED: &str = "an executor was lost with results of it";

/// Why a job is cancelled that nobody waits for any more.
const ABANDONED: &str = "its client is gone";

/// Cancels the jobs whose ids it is sent.
async fn cancel(
    server: &SchedulerServer<DeepLogicalPlan, PhysicalPlanNode>,
    mut jobs: UnboundedReceiver<JobId>,
    reason: &str,
) -> Result<(), BallistaError> {
    while let Some(job) = jobs.recv().await {
        // A job is named again and again, until it has ended.
        if server.state.task_manager.get_running_job_cache().contains_key(&job) {
            tracing::info!(%job, reason, "a job is cancelled");
            server.cancel_job(job).await?;
        }
    }
    Ok(())
}

/// A listener without Nagle's algorithm, which accepted connections inherit: with it, every small
/// answer of the scheduler waits some 40 ms for the client's delayed acknowledgement.
pub(crate) fn listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sessions that find object stores by their URLs, know Nightshift's functions and plan its operators.
///
/// Each job has its own. All but its configuration is the same for all of them, and takes longer to put
/// together than a small job to run. Plans come optimized from the client, and are not optimized again.
fn session_builder(
    stores: &Stores,
    cores: Arc<AtomicUsize>,
) -> Result<SessionBuilder, DataFusionError> {
    let runtime = RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(stores.clone()))
        .build_arc()?;
    let state = default_session_builder(default_config_producer())?;
    let footers = runtime.cache_manager.get_file_metadata_cache();
    let rules = with_rules_about_joins(state.physical_optimizers());
    let rules = with_files_cut(rules, &footers);
    let builder = SessionStateBuilder::new_from_existing(state)
        .with_runtime_env(runtime)
        .with_query_planner(Arc::new(OperatorPlanner::default()))
        .with_analyzer_rules(vec![])
        .with_optimizer_rules(vec![])
        .with_physical_optimizer_rules(rules)
        .with_physical_optimizer_rule(Arc::new(LIMIT_WHAT_IS_BROADCAST))
        .with_physical_optimizer_rule(Arc::new(OUTER_LOOPS_IN_ONE_TASK))
        .with_physical_optimizer_rule(Arc::new(GIVE_WAY))
        .with_physical_optimizer_rule(Arc::new(CONSTANTS_IN_MEMORY))
        .with_physical_optimizer_rule(Arc::new(CARRY_COMPRESSION));
    let state = with_functions(builder).build();
    Ok(Arc::new(move |config| {
        // One number says what is broadcast. Ballista has one of its own beside the engine's.
        let threshold = config.options().optimizer.hash_join_single_partition_threshold;
        let mut state = state.clone();
        *state.config_mut() = without_cutting_again(config)
            .with_ballista_broadcast_join_threshold_bytes(threshold)
            .with_extension(Arc::new(Cores(cores.load(Ordering::Relaxed))));
        Ok(state)
    }))
}
