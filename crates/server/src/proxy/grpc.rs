//! `etcd grpc-proxy start`: from flags to what serves, and the life of the process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ferrite_cli::flags::Values;
use ferrite_client::{Client, Config, Noticed, Observer, describe, pb};
use ferrite_metrics::Metrics;
use ferrite_proxy::cluster::Advertised;
use ferrite_proxy::services::{Services, Settings};
use ferrite_tls::{ClientTls, ServerTls, TlsInfo, Version, check_names, common_name, self_signed};
use tokio::net::TcpListener;

use super::discover::{Asked, members};
use super::door::{self, Server, Threads};
use super::pages::Pages;
use super::{Refused, bind, split_host_port, start_log};
use crate::door::Loads;
use crate::listen::{Calls, PING_INTERVAL_MIN, PING_MIN_DEFAULT, Traffic};
use crate::signals::{self, Signals, Subjects};
use crate::{log, notify};

/// Time to connect to a member, or to the proxy itself: the original's.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to give back what this proxy owns.
const LEAVE: Duration = Duration::from_secs(1);
/// How long a call without a limit of its own goes on while no member serves it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs until a signal.
pub(super) fn start(values: &Values) -> Result<i32, Refused> {
    check(values)?;
    start_log(match values.bool("debug") {
        true => log::Severity::Debug,
        false => log::Severity::Info,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Refused::Err(error.to_string()))?;
    runtime.block_on(life(values))
}

/// What cannot be, in the original's words.
fn check(values: &Values) -> Result<(), Refused> {
    let refused = |text: String| Err(Refused::Err(text));
    let (prefix, ttl) = (values.text("resolver-prefix"), values.int("resolver-ttl"));
    if !prefix.is_empty() && ttl < 1 {
        return refused(format!("invalid resolver-ttl {ttl}"));
    }
    if prefix.is_empty() && ttl > 0 {
        return refused(format!("invalid resolver-prefix {prefix:?}"));
    }
    if !prefix.is_empty() && values.text("advertise-client-url").is_empty() {
        return refused("invalid advertise-client-url \"\"".into());
    }
    if values.bool("auto-tls") && values.uint("self-signed-cert-validity") == 0 {
        return refused("selfSignedCertValidity is invalid,it should be greater than 0".into());
    }
    let (min, max) = (
        values.text("tls-min-version"),
        values.text("tls-max-version"),
    );
    let parse = |name: &str, text: &str| {
        Version::parse(text).map_err(|error| Refused::Err(format!("{name} is invalid: {error}")))
    };
    parse("tls-min-version", &min)?;
    parse("tls-max-version", &max)?;
    check_names(&min, &max, &values.list("listen-cipher-suites"))
        .map_err(|error| Refused::Err(error.to_string()))?;
    if values.uint("max-concurrent-streams") > u64::from(u32::MAX) {
        let given = values.uint("max-concurrent-streams");
        return refused(format!(
            "invalid argument \"{given}\" for \"--max-concurrent-streams\" flag: strconv.ParseUint: parsing \"{given}\": value out of range"
        ));
    }
    Ok(())
}

async fn life(values: &Values) -> Result<i32, Refused> {
    let said = |error: std::io::Error| Refused::Err(error.to_string());
    let mut signals = Signals::new().map_err(said)?;
    let subjects = Subjects::default();
    signals::attend(subjects.clone()).map_err(said)?;
    let started = OnceLock::new();
    let number = tokio::select! {
        ended = serve(values, &subjects, &started) => match ended {
            Ok(never) => match never {},
            Err(refused) => return Err(refused),
        },
        number = signals.recv() => number,
    };
    if let Some(services) = started.get() {
        // Who is not asked again does not wait for ever.
        let _late = tokio::time::timeout(LEAVE, Services::leave(services)).await;
    }
    Ok(number)
}

async fn serve(
    values: &Values,
    subjects: &Subjects,
    started: &OnceLock<Services>,
) -> Result<std::convert::Infallible, Refused> {
    let said = |error: std::io::Error| Refused::Err(error.to_string());
    let listen = values.text("listen-addr");
    let shown = shown_tls(values, &listen)?;
    let listener = bind(&listen).map_err(Refused::Err)?;
    listener.set_nonblocking(true).map_err(said)?;
    let listener = TcpListener::from_std(listener).map_err(said)?;
    let tls = match &shown {
        None => None,
        Some(info) => {
            let tls = ServerTls::new(info, &["h2", "http/1.1"]);
            let tls = tls.map_err(|error| {
                Refused::Fatal("failed to create TLS listener", error.to_string())
            })?;
            let tls = Arc::new(tls);
            subjects.add_certificates(&tls);
            Some(tls)
        }
    };
    tracing::info!(address = listen, "listening for gRPC proxy client requests");
    let metrics_listener = match &values.text("metrics-addr")[..] {
        "" => None,
        url => Some(metrics_listener(url, tls.is_some())?),
    };
    let dialed = dialed_tls(values)?;
    let client = client(values, dialed.as_ref()).await?;
    let endpoints = client.channel().config().endpoints.clone();
    let sync = values.duration("endpoints-auto-sync-interval");
    if !sync.is_zero() {
        tokio::spawn(follow_members(client.clone(), sync));
    }
    let own = own(values, shown.as_ref())?;
    let metrics = Arc::new(Metrics::default());
    let settings = Settings {
        namespace: values.text("namespace"),
        ordering: values.bool("experimental-serializable-ordering"),
        leasing: values.text("experimental-leasing-prefix"),
        advertised: Advertised {
            address: values.text("advertise-client-url"),
            prefix: values.text("resolver-prefix"),
            ttl: values.int("resolver-ttl"),
            name: host_name(),
        },
    };
    let services = Services::start(client, settings, &metrics).await;
    let services = started.get_or_init(|| services).clone();
    let fetching = match &dialed {
        None => None,
        Some(info) => Some(
            ClientTls::new(info, &["http/1.1"]).map_err(|error| Refused::Err(error.to_string()))?,
        ),
    };
    if values.bool("enable-pprof") {
        tracing::info!(path = "/debug/pprof", "gRPC proxy enabled pprof");
    }
    let loads: Loads = subjects.loads().clone();
    let server = Arc::new(Server {
        pages: Pages {
            services: services.clone(),
            own,
            endpoints,
            tls: fetching,
            metrics: Arc::clone(&metrics),
            profiles: values.bool("enable-pprof"),
            loads: loads.clone(),
        },
        services,
        calls: calls(values),
        metrics,
        log_calls: values.bool("experimental-enable-grpc-logging"),
        load: loads.add("proxy"),
    });
    let threads = Threads::start().map_err(said)?;
    let mut watched = None;
    if let Some((listener, encrypted)) = metrics_listener {
        let tls = tls.clone().filter(|_| encrypted);
        let server = Arc::clone(&server);
        tracing::info!("gRPC proxy server metrics URL serving");
        watched = Some(tokio::spawn(door::serve(
            listener,
            tls,
            Traffic::Metrics,
            server,
            Arc::clone(&threads),
        )));
    }
    tracing::info!(address = listen, "started gRPC proxy");
    notify::ready();
    door::serve(listener, tls, Traffic::Both, server, threads).await;
    drop(watched);
    Err(Refused::Err("the listener has ended".into()))
}

/// The certificate that clients are shown; `None` for none.
fn shown_tls(values: &Values, listen: &str) -> Result<Option<TlsInfo>, Refused> {
    let text = |name: &str| values.text(name);
    let said = |error: ferrite_tls::TlsError| Refused::Err(error.to_string());
    let given = TlsInfo {
        cert_file: text("cert-file"),
        key_file: text("key-file"),
        trusted_ca_file: text("trusted-ca-file"),
        ..TlsInfo::default()
    };
    let info = if given != TlsInfo::default() {
        given
    } else if values.bool("auto-tls") {
        let folder = text("data-dir");
        let folder = Path::new(&folder).join("fixtures").join("proxy");
        let (host, _) = split_host_port(listen).unwrap_or((listen, ""));
        let years = values.uint("self-signed-cert-validity");
        self_signed(&folder, &[host.to_owned()], years).map_err(said)?
    } else {
        return Ok(None);
    };
    let info = TlsInfo {
        crl_file: text("client-crl-file"),
        cipher_suites: values.list("listen-cipher-suites"),
        min_version: Version::parse(&text("tls-min-version")).map_err(said)?,
        max_version: Version::parse(&text("tls-max-version")).map_err(said)?,
        ..info
    };
    tracing::info!("tls-info" = %info, "gRPC proxy server TLS");
    Ok(Some(info))
}

/// How members are dialled; `None` for the system's authorities where an endpoint asks for TLS.
fn dialed_tls(values: &Values) -> Result<Option<TlsInfo>, Refused> {
    let info = TlsInfo {
        cert_file: values.text("cert"),
        key_file: values.text("key"),
        trusted_ca_file: values.text("cacert"),
        insecure_skip_verify: values.bool("insecure-skip-tls-verify"),
        ..TlsInfo::default()
    };
    if info == TlsInfo::default() {
        return Ok(None);
    }
    if !info.is_empty() {
        // Members would take every client of this proxy for the user of that name.
        let name = common_name(&info.cert_file).map_err(|error| Refused::Err(error.to_string()))?;
        if !name.is_empty() {
            return Err(Refused::Err(format!(
                "cert has non empty Common Name ({name}): {}",
                info.cert_file
            )));
        }
    }
    if info.insecure_skip_verify {
        tracing::warn!(
            "--insecure-skip-tls-verify was given, this grpc proxy process skips authentication of etcd server TLS certificates. This option should be enabled only for testing purposes."
        );
    }
    tracing::info!("tls-info" = %info, "gRPC proxy client TLS");
    Ok(Some(info))
}

/// The members, found and spoken to as the flags say.
async fn client(values: &Values, tls: Option<&TlsInfo>) -> Result<Client, Refused> {
    let authorities = values.text("cacert");
    let asked = Asked {
        domain: &values.text("discovery-srv"),
        suffix: &values.text("discovery-srv-name"),
        insecure: values.bool("insecure-discovery"),
        authorities: &authorities,
    };
    let found = members(&asked).await?;
    let mut endpoints: Vec<String> = found.into_iter().map(|(url, _)| url).collect();
    if endpoints.is_empty() {
        endpoints = values.list("endpoints");
    }
    let mut config = Config::new(endpoints);
    config.dial_timeout = DIAL_TIMEOUT;
    // Every call has its caller's limit, and no other.
    config.call_timeout = None;
    config.patience = Some(PATIENCE);
    config.observer = Observer::new(unreached());
    let bytes = |name: &str| {
        usize::try_from(values.int(name))
            .ok()
            .filter(|bytes| *bytes > 0)
    };
    if let Some(most) = bytes("max-send-bytes") {
        config.max_send_bytes = most;
    }
    if let Some(most) = bytes("max-recv-bytes") {
        config.max_recv_bytes = most;
    }
    config.keepalive_time = values.duration("dial-keepalive-time");
    config.keepalive_timeout = values.duration("dial-keepalive-timeout");
    config.keepalive_idle = values.bool("permit-without-stream");
    if let Some(info) = tls {
        let tls = ClientTls::new(info, &["h2"]).map_err(|error| Refused::Err(error.to_string()))?;
        config.tls = Some(Arc::new(tls));
    }
    Client::new(config).map_err(|error| Refused::Err(error.to_string()))
}

/// A line for each endpoint that is not reached, and no more of it for a while.
fn unreached() -> impl Fn(&Noticed) + Send + Sync + 'static {
    const SILENCE: Duration = Duration::from_secs(60);
    let told: Mutex<BTreeMap<String, Instant>> = Mutex::default();
    move |noticed| {
        let Noticed::Dial { error } = noticed else {
            return;
        };
        let endpoint = error.split(": ").next().unwrap_or_default();
        let endpoint = endpoint.trim_start_matches("dial ");
        let now = Instant::now();
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        // Members that are there no more are not kept.
        told.retain(|_, at| now.duration_since(*at) < SILENCE);
        if told.contains_key(endpoint) {
            return;
        }
        told.insert(endpoint.to_owned(), now);
        tracing::warn!(endpoint, error, "a member cannot be reached");
    }
}

/// The proxy as its clients see it, to look after itself.
fn own(values: &Values, shown: Option<&TlsInfo>) -> Result<Option<Client>, Refused> {
    let address = values.text("advertise-client-url");
    if address.is_empty() {
        return Ok(None);
    }
    let mut config = Config::new([&address]);
    config.dial_timeout = DIAL_TIMEOUT;
    if let Some(info) = shown {
        let tls = ClientTls::new(info, &["h2"]).map_err(|error| Refused::Err(error.to_string()))?;
        config.tls = Some(Arc::new(tls));
    }
    let client = Client::new(config).map_err(|error| Refused::Err(error.to_string()))?;
    tracing::info!(
        "grpcProxyAdvertiseClientURL" = address,
        "create proxy client"
    );
    Ok(Some(client))
}

/// Calls go to the members that the cluster has now.
async fn follow_members(client: Client, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let asked = pb::MemberListRequest { linearizable: true };
        let mut stub = client.cluster();
        let listed = stub.member_list(asked);
        let listed = match tokio::time::timeout(interval.max(PATIENCE), listed).await {
            Ok(Ok(listed)) => listed.into_inner(),
            Ok(Err(status)) => {
                let error = describe(&status);
                tracing::warn!(error, "auto sync endpoints failed");
                continue;
            }
            Err(_) => continue,
        };
        let endpoints: Vec<String> = listed
            .members
            .into_iter()
            // One without a name has not started yet.
            .filter(|member| !member.name.is_empty() && !member.is_learner)
            .flat_map(|member| member.client_urls)
            .collect();
        if let Err(error) = client.channel().set_endpoints(&endpoints) {
            tracing::warn!(%error, "auto sync endpoints failed");
        }
    }
}

fn calls(values: &Values) -> Calls {
    let interval = values.duration("grpc-keepalive-interval");
    let timeout = values.duration("grpc-keepalive-timeout");
    let pings = !interval.is_zero() && !timeout.is_zero();
    Calls {
        max: match u32::try_from(values.uint("max-concurrent-streams")) {
            Ok(0) | Err(_) => u32::MAX,
            Ok(max) => max,
        },
        ping_min: match values.duration("grpc-keepalive-min-time") {
            Duration::ZERO => PING_MIN_DEFAULT,
            min => min,
        },
        ping: pings.then(|| (interval.max(PING_INTERVAL_MIN), timeout)),
    }
}

/// A socket for metrics, and whether it speaks TLS.
fn metrics_listener(url: &str, can_encrypt: bool) -> Result<(TcpListener, bool), Refused> {
    let cannot = || Refused::Err(format!("cannot parse {url:?}"));
    let (scheme, address) = url.split_once("://").ok_or_else(cannot)?;
    let encrypted = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(cannot()),
    };
    if encrypted && !can_encrypt {
        return Err(Refused::Err(format!(
            "cannot listen on TLS for {address}: KeyFile and CertFile are not presented"
        )));
    }
    let listener = bind(address.trim_end_matches('/')).map_err(Refused::Err)?;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|error| Refused::Err(error.to_string()))?;
    tracing::info!(address = url, "gRPC proxy listening for metrics");
    Ok((listener, encrypted))
}

/// The machine's name.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
