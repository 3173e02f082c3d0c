//! The life of the process: bind, recover, join, publish, serve, stop.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use ferrite_node::config::ETCD_VERSION;
use ferrite_node::{
    Node, OnFatal, StartError, compactor, corruption, hex, recover, tasks, versions,
};
use ferrite_peer::Acceptor;
use ferrite_tls::{TlsInfo, Use};
use tokio::sync::{Notify, oneshot};

use crate::config::Config;
use crate::door::{ClientServer, ServeError, client_threads};
use crate::features::Feature;
use crate::listen::{ClientPort, SocketOptions, bind, client_ports, metrics_ports};
use crate::room::{Room, Shares, descriptors, shares};
use crate::serve::peer_body;
use crate::service::leader::LeaderLost;
use crate::service::{Context, Serving};
use crate::signals::{self, Signals, Subjects};
use crate::spans::Tracer;
use crate::{discovery, http, log, memory, metrics, notify, srv, system, tls};

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By this signal.
    Signal(i32),
    /// The member was removed from the cluster.
    Removed,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("{0}")]
    Listen(String),
    /// A certificate of its own cannot be made.
    #[error("{error}")]
    SelfSigned {
        /// For whom.
        what: &'static str,
        /// Why.
        error: ferrite_tls::TlsError,
    },
    /// The members did not meet.
    #[error("failed to join discovery cluster ({0})")]
    Discovery(#[from] discovery::DiscoveryError),
    /// The member cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Clients cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// There are too few descriptors.
    #[error(
        "the limit of open files is {limit}, and more than {} are needed: raise it (LimitNOFILE, ulimit -n)",
        crate::room::RESERVED
    )]
    Descriptors {
        /// The limit.
        limit: u64,
    },
    /// The runtime cannot be made.
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
}

/// Runs a member until a signal or its removal.
///
/// # Errors
/// [`RunError`]; once it serves, a failure that it cannot go on with ends the process.
pub fn run(config: &Config) -> Result<Outcome, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(life(config))
}

async fn life(config: &Config) -> Result<Outcome, RunError> {
    let mut signals = Signals::new().map_err(RunError::Runtime)?;
    let subjects = Subjects::of(config.values.config_file());
    signals::attend(subjects.clone()).map_err(RunError::Runtime)?;
    tokio::spawn(memory::watch_growth());
    // Addresses first: if they are taken, nothing on disk has been touched.
    tracing::info!("listen-peer-urls" = ?urls(&config.listen_peer), "configuring peer listeners");
    let own = |what: &'static str| move |error| RunError::SelfSigned { what, error };
    let data_dir = &config.node.data_dir;
    let peer_tls = config
        .tls
        .for_peers(data_dir, &config.listen_peer)
        .map_err(own("failed to get peer self-signed certs"))?;
    let peer_listeners = bind_all(&config.listen_peer, config.listen.sockets, &peer_tls)?;
    tracing::info!("listen-client-urls" = ?urls(&config.listen_client), "configuring client listeners");
    let client_tls = config
        .tls
        .for_clients(data_dir, &config.listen_client)
        .map_err(own("failed to get client self-signed certs"))?;
    let client_ports = client_ports(&config.listen_client, &config.listen, &client_tls)
        .map_err(RunError::Listen)?;
    let metrics_ports = metrics_ports(&config.listen, &client_tls).map_err(RunError::Listen)?;
    for port in client_ports.iter().chain(&metrics_ports) {
        if let Some(tls) = &port.speech.tls {
            subjects.add_certificates(tls);
        }
    }
    // A certificate that a member makes itself is checked by nobody.
    let advertised = |flag: &str, info: &TlsInfo| match info.self_signed {
        true => Vec::new(),
        false => signals::encrypted_hosts(&config.values.urls(flag)),
    };
    subjects.examine(
        &client_tls,
        Use {
            hosts: advertised("advertise-client-urls", &client_tls),
            between_members: false,
        },
    );
    subjects.examine(
        &peer_tls,
        Use {
            hosts: advertised("initial-advertise-peer-urls", &peer_tls),
            between_members: !peer_tls.self_signed,
        },
    );
    let shares = room()?;
    let room = Room::new(shares.clients);
    subjects.set_room(&room);
    let mut node_config = config.node.clone();
    node_config.peer_connections_max = shares.peers;
    let dialed_tls = tokio::select! {
        listed = ask_dns(config, &mut node_config, &peer_tls) => listed?,
        number = signals.recv() => return Ok(Outcome::Signal(number)),
    };
    node_config.dialer =
        tls::peer_dialer(&dialed_tls, config.local_address).map_err(RunError::Listen)?;
    let tracer = match &config.tracing {
        Some(settings) => Some(Tracer::start(settings).map_err(RunError::Runtime)?),
        None => None,
    };
    if tracer.is_some() {
        tracing::info!("distributed tracing setup enabled");
    }
    system::banner(config);
    system::limits(config);
    let recovered = tokio::select! {
        recovered = async {
            let recovered = prepare(config, &node_config).await?;
            check_data(&node_config, &recovered).await?;
            Ok::<_, RunError>(recovered)
        } => recovered?,
        number = signals.recv() => return Ok(Outcome::Signal(number)),
    };
    let on_fatal =
        OnFatal::new(|reason| log::fatal("the member cannot go on", &[("error", &reason)]));
    let runtime = tokio::runtime::Handle::current();
    let (node, events) = Node::start(node_config, recovered, &runtime, on_fatal)?;
    subjects.set_node(&node);
    metrics::prepare(&node, &config.features, &config.metrics);
    tracing::info!(
        "local-member-id" = %hex(node.member_id()),
        "local-server-version" = ETCD_VERSION,
        "cluster-id" = %hex(node.cluster_id()),
        "cluster-version" = %version_of(&node),
        "starting etcd server"
    );
    node.announce_held_version();
    // Messages of other members arrive on this thread.
    tokio::spawn(node.clone().serve_port());
    let stop_peers = Arc::new(Notify::new());
    let peers = serve_peers(&node, peer_listeners, &stop_peers)?;
    tracing::info!(
        "local-member-id" = %hex(node.member_id()),
        "initial-advertise-peer-urls" = ?config.node.peer_urls,
        "listen-peer-urls" = ?urls(&config.listen_peer),
        "advertise-client-urls" = ?config.node.client_urls,
        "listen-client-urls" = ?urls(&config.listen_client),
        "listen-metrics-urls" = ?urls(&config.listen.metrics),
        "now serving peer/client/metrics"
    );
    let context = Context {
        node: node.clone(),
        gate: Arc::clone(&config.gate),
        progress_interval: config.watch_progress_interval,
        warn_unary: config.warn_unary,
        leader_lost: LeaderLost::watch(&node),
        tracer: tracer.clone(),
        serving: Serving::new(config.features.enabled(Feature::StopGRPCServiceOnDefrag)),
        rules: Arc::clone(&config.rules),
        calls: config.listen.calls,
        room,
        loads: subjects.loads().clone(),
    };
    // Whoever watches over members wants to see one that has not found the others yet.
    let watched = serve_metrics(metrics_ports, config, &context)?;
    let (removed_sender, mut removed) = oneshot::channel();
    tokio::spawn(tasks::watch(node.clone(), events, move || {
        // Nobody listens when the stop has begun already.
        let _stopping = removed_sender.send(());
    }));
    tokio::spawn(tasks::tell_leaderless(node.clone()));
    tokio::spawn(versions::watch_downgrade(node.clone()));
    tokio::spawn(corruption::watch_newest(node.clone()));
    tokio::spawn(corruption::watch_compactions(node.clone()));
    tokio::spawn(compactor::watch(node.clone()));
    let first_election = node.clone();
    tokio::spawn(async move { tasks::advance_first_election(&first_election).await });

    let mut clients = None;
    let outcome = tokio::select! {
        served = publish_and_serve(client_ports, &context) => {
            clients = Some(served?);
            tokio::select! {
                number = signals.recv() => Outcome::Signal(number),
                Ok(()) = &mut removed => Outcome::Removed,
            }
        }
        number = signals.recv() => Outcome::Signal(number),
        Ok(()) = &mut removed => Outcome::Removed,
    };
    if outcome == Outcome::Removed {
        tracing::warn!(
            "local-member-id" = %hex(node.member_id()),
            "the member has been permanently removed from the cluster; where `etcdctl member list` shows that it is, its data folder must be removed"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (name, folder) = (&config.node.name, config.node.data_dir.display());
    let (peer_urls, client_urls) = (&config.node.peer_urls, &config.node.client_urls);
    tracing::info!(name, "data-dir" = %folder, "advertise-peer-urls" = ?peer_urls, "advertise-client-urls" = ?client_urls, "closing etcd server");
    node.hand_over().await;
    let stopping = node.clone();
    let stopped = tokio::task::spawn_blocking(move || {
        // Streams of watchers would hold up the end of their connections.
        stopping.watch_hub().close();
        if let Some(clients) = clients {
            clients.stop();
        }
        if let Some(watched) = watched {
            watched.stop();
        }
        if let Some(tracer) = tracer {
            tracer.stop();
        }
        stopping.stop();
    });
    if stopped.await.is_err() {
        tracing::warn!("the member did not stop cleanly");
    }
    stop_peers.notify_waiters();
    for task in peers {
        task.abort();
    }
    tracing::info!(name, "data-dir" = %folder, "advertise-peer-urls" = ?peer_urls, "advertise-client-urls" = ?client_urls, "closed etcd server");
    Ok(outcome)
}

/// The members that DNS lists, where it is to be asked: before there is anything on disk, and never again.
/// Returns how other members are dialled.
async fn ask_dns(
    config: &Config,
    node_config: &mut ferrite_node::Config,
    peer_tls: &TlsInfo,
) -> Result<TlsInfo, RunError> {
    let mut dialed = peer_tls.clone();
    let Some(settings) = &config.srv else {
        return Ok(dialed);
    };
    if recover::is_initialized(node_config)? {
        return Ok(dialed);
    }
    let advertised = config.values.urls("initial-advertise-peer-urls");
    let listed = srv::members(settings, &node_config.name, &advertised)
        .await
        .map_err(|why| StartError::Config(format!("error setting up initial cluster: {why}")))?;
    // Without authorities of their own, members are known by a certificate for the domain.
    if listed.encrypted && dialed.trusted_ca_file.is_empty() {
        dialed.server_name.clone_from(&settings.domain);
    }
    node_config.initial_cluster = listed.cluster;
    Ok(dialed)
}

/// Recovery reads files and may wait for a lock: off the runtime, so that a signal still ends it.
async fn prepare(
    config: &Config,
    node_config: &ferrite_node::Config,
) -> Result<recover::Recovered, RunError> {
    let initialized = recover::is_initialized(node_config)?;
    if !initialized && config.discovery.is_none() {
        // What is wrong with the list itself is told before anybody in it is waited for.
        recover::check_list(node_config)?;
    }
    let remote = if initialized {
        None
    } else {
        // As in the original, whoever founds a cluster finds nobody, which is no news.
        let tell = !node_config.new_cluster;
        tasks::ask_cluster(&node_config.dialer, &others(node_config), tell).await
    };
    if let Some(found) = &remote
        && !config.node.new_cluster
        && !versions::may_join(&found.cluster, &config.node.peer_urls, &node_config.dialer).await
    {
        return Err(StartError::Config(
            "incompatible with current running cluster: its version is not one that this program can join, or a downgrade is under way (see etcdctl endpoint status)".into(),
        )
        .into());
    }
    let mut node_config = node_config.clone();
    match &config.discovery {
        Some(meeting) if initialized => tracing::warn!(
            "discovery-token" = meeting.token,
            "discovery-endpoints" = ?meeting.endpoints,
            "discovery token is ignored since cluster already initialized; valid logs are found"
        ),
        Some(meeting) if node_config.new_cluster => {
            tracing::info!("Bootstrapping cluster using v3 discovery.");
            node_config.initial_cluster =
                discovery::join(meeting, &node_config.initial_cluster).await?;
        }
        Some(_) | None => {}
    }
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("recover".into())
        .spawn(move || {
            let recovered = recover::make_folders(&node_config)
                .and_then(|()| recover::recover(&node_config, remote));
            // A signal came first.
            let _nobody = sender.send(recovered);
        })
        .map_err(RunError::Runtime)?;
    match receiver.await {
        Ok(recovered) => Ok(recovered?),
        Err(_) => Err(RunError::Runtime(std::io::Error::other(
            "recovery ended without a word",
        ))),
    }
}

/// With the gate on, a member that existed before serves only if its data is the others'.
async fn check_data(
    config: &ferrite_node::Config,
    recovered: &recover::Recovered,
) -> Result<(), RunError> {
    if !recovered.restarted || !config.upkeep.initial_corrupt_check {
        return Ok(());
    }
    let asker = corruption::Asker {
        member_id: recovered.member_id,
        cluster: recovered.applier.cluster(),
        dialer: &config.dialer,
        timeout: config.request_timeout(),
    };
    corruption::check_at_start(&asker, recovered.applier.store())
        .await
        .map_err(|error| {
            tracing::error!(error, "checkInitialHashKV failed");
            StartError::Inconsistent(error).into()
        })
}

/// Peer URLs of the other members in `--initial-cluster`.
fn others(config: &ferrite_node::Config) -> Vec<String> {
    config
        .initial_cluster
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| name.trim() != config.name)
        .map(|(_, url)| url.trim().to_owned())
        .collect()
}

/// How many connections there may be, of clients and of members.
fn room() -> Result<Shares, RunError> {
    let limit = descriptors().unwrap_or(u64::MAX);
    shares(limit).ok_or(RunError::Descriptors { limit })
}

fn serve_metrics(
    ports: Vec<ClientPort>,
    config: &Config,
    context: &Context,
) -> Result<Option<ClientServer>, RunError> {
    if ports.is_empty() {
        return Ok(None);
    }
    let server = ClientServer::start(ports, context, "metrics", 1)?;
    for url in &config.listen.metrics {
        tracing::info!(address = %url, "serving metrics");
    }
    Ok(Some(server))
}

/// A member answers no client before its own attributes have been committed and applied.
async fn publish_and_serve(
    ports: Vec<ClientPort>,
    context: &Context,
) -> Result<ClientServer, RunError> {
    if tasks::publish(&context.node).await.is_err() {
        // Stopping: the caller's other branch says why.
        std::future::pending::<()>().await;
    }
    let served: Vec<_> = ports
        .iter()
        .map(|port| {
            let speech = Arc::clone(&port.speech);
            (port.address.clone(), speech, port.traffic.name())
        })
        .collect();
    let server = ClientServer::start(ports, context, "client", client_threads())?;
    for (address, speech, traffic) in served {
        if speech.plain {
            tracing::info!(
                traffic,
                address,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        if speech.tls.is_some() {
            tracing::info!(traffic, address, "serving client traffic securely");
        }
    }
    tracing::info!("ready to serve client requests");
    notify::ready();
    Ok(server)
}

fn serve_peers(
    node: &Node,
    listeners: Vec<PeerPort>,
    stop: &Arc<Notify>,
) -> Result<Vec<tokio::task::JoinHandle<()>>, RunError> {
    let mut tasks = Vec::new();
    for (listener, acceptor) in listeners {
        let address = address(&listener);
        listener.set_nonblocking(true).map_err(RunError::Runtime)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(RunError::Runtime)?;
        tracing::info!(address, "serving peer traffic");
        let answering = node.clone();
        let fallback: ferrite_peer::Fallback = Arc::new(move |request| {
            let node = answering.clone();
            Box::pin(async move { http::peer(&node, request).await.map(peer_body) })
        });
        let transport = node.transport().clone();
        let stop = Arc::clone(stop);
        tasks.push(tokio::spawn(async move {
            ferrite_peer::serve_with(listener, transport, fallback, acceptor, stop.notified())
                .await;
        }));
    }
    Ok(tasks)
}

/// A socket for other members.
type PeerPort = (TcpListener, Arc<dyn Acceptor>);

/// The sockets for other members, each with what is spoken there.
fn bind_all(
    urls: &[crate::flags::Url],
    options: SocketOptions,
    info: &TlsInfo,
) -> Result<Vec<PeerPort>, RunError> {
    urls.iter()
        .map(|url| {
            let listener = bind(url, options)?;
            let acceptor = tls::peer_acceptor(url, &address(&listener), info)?;
            Ok((listener, acceptor))
        })
        .collect::<Result<_, String>>()
        .map_err(RunError::Listen)
}

fn address(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|error| error.to_string(), |address| address.to_string())
}

fn urls(urls: &[crate::flags::Url]) -> Vec<String> {
    urls.iter().map(ToString::to_string).collect()
}

fn version_of(node: &Node) -> String {
    node.published()
        .get_cluster()
        .version
        .map_or_else(|| "to_be_decided".to_owned(), |version| version.to_string())
}

/// The commit this was built from, when the build knew it.
pub const GIT_SHA: &str = match option_env!("FERRITE_GIT_SHA") {
    Some(sha) => sha,
    None => "unknown",
};
