//! A cluster of members, and what one asks of it as a whole.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferrite_client::tls::ClientTls;
use ferrite_client::{Client, Config, pb};

use crate::member::State;
use crate::wire::Wires;
use crate::{Kind, Member, PATIENCE, Ports, eventually};

/// How much of each log a failing test shows.
const TAIL_BYTES: u64 = 4_000;

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct Builder {
    kinds: Vec<Kind>,
    token: String,
    heartbeat_ms: u64,
    election_ms: u64,
    snapshot_count: Option<u64>,
    catchup_entries: Option<u64>,
    extra: Vec<(Option<Kind>, String)>,
    extra_at: Vec<(usize, String)>,
    data_from: Vec<Option<PathBuf>>,
    encrypted_peers: bool,
    tls: Option<Arc<ClientTls>>,
    variables: Vec<(String, String)>,
    descriptors: Option<u64>,
    wires: bool,
}

impl Builder {
    /// This many members of ours.
    #[must_use]
    pub fn members(mut self, count: usize) -> Self {
        self.kinds = vec![Kind::Ferrite; count];
        self
    }

    /// Members of these kinds, in this order.
    #[must_use]
    pub fn kinds(mut self, kinds: &[Kind]) -> Self {
        self.kinds = kinds.to_vec();
        self
    }

    /// The cluster's token.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// Milliseconds between heartbeats.
    #[must_use]
    pub fn heartbeat_ms(mut self, milliseconds: u64) -> Self {
        self.heartbeat_ms = milliseconds;
        self
    }

    /// Milliseconds of an election timeout.
    #[must_use]
    pub fn election_ms(mut self, milliseconds: u64) -> Self {
        self.election_ms = milliseconds;
        self
    }

    /// Entries between two snapshots.
    #[must_use]
    pub fn snapshot_count(mut self, entries: u64) -> Self {
        self.snapshot_count = Some(entries);
        self
    }

    /// Entries kept after one; only members of ours have this flag.
    #[must_use]
    pub fn catchup_entries(mut self, entries: u64) -> Self {
        self.catchup_entries = Some(entries);
        self
    }

    /// More arguments for every member.
    #[must_use]
    pub fn extra_args(mut self, arguments: &[&str]) -> Self {
        let all = arguments.iter().map(|text| (None, (*text).to_owned()));
        self.extra.extend(all);
        self
    }

    /// More arguments for members of one kind.
    #[must_use]
    pub fn extra_args_of(mut self, kind: Kind, arguments: &[&str]) -> Self {
        let some = arguments
            .iter()
            .map(|text| (Some(kind), (*text).to_owned()));
        self.extra.extend(some);
        self
    }

    /// More arguments for one member.
    #[must_use]
    pub fn extra_args_at(mut self, index: usize, arguments: &[&str]) -> Self {
        let some = arguments.iter().map(|text| (index, (*text).to_owned()));
        self.extra_at.extend(some);
        self
    }

    /// A variable in every member's environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Open files that each member may have.
    #[must_use]
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Members talk to each other at `https://`; certificates come with [`Builder::extra_args`].
    #[must_use]
    pub fn encrypted_peers(mut self) -> Self {
        self.encrypted_peers = true;
        self
    }

    /// Clients talk to members at `https://`, ours in this way.
    #[must_use]
    pub fn encrypted_clients(mut self, tls: Arc<ClientTls>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Members talk to each other over wires that [`Cluster::part`] cuts. Not with encrypted peers.
    #[must_use]
    pub fn wires(mut self) -> Self {
        self.wires = true;
        self
    }

    /// Puts a copy of a data folder in place before the first start.
    #[must_use]
    pub fn data_from(mut self, index: usize, dir: &Path) -> Self {
        if self.data_from.len() <= index {
            self.data_from.resize(index + 1, None);
        }
        self.data_from[index] = Some(dir.to_owned());
        self
    }

    /// Makes folders and ports; nothing runs yet.
    ///
    /// # Panics
    /// If the folders cannot be made; with [`Builder::wires`], outside a tokio runtime.
    #[must_use]
    pub fn build(self) -> Cluster {
        let dir = tempfile::Builder::new()
            .prefix("ferrite-testkit-")
            .tempdir()
            .expect("a temporary folder can be made");
        let mut ports = Ports::default();
        let wires = self.wires.then(Wires::new);
        // For clients, for members to listen on, and where other members reach it.
        let urls: Vec<(String, String, String)> = (0..self.kinds.len())
            .map(|index| {
                let clients = loopback(ports.take(), self.tls.is_some());
                let real = ports.take();
                let advertised = match &wires {
                    Some(wires) => {
                        let port = ports.take();
                        wires.relay(index, port, real);
                        port
                    }
                    None => real,
                };
                (
                    clients,
                    loopback(real, self.encrypted_peers),
                    loopback(advertised, self.encrypted_peers),
                )
            })
            .collect();
        let initial: Vec<String> = urls
            .iter()
            .enumerate()
            .map(|(index, (_, _, peer))| format!("m{index}={peer}"))
            .collect();
        let members = self
            .kinds
            .iter()
            .zip(&urls)
            .enumerate()
            .map(|(index, (kind, (client, listen, peer)))| {
                let name = format!("m{index}");
                let data_dir = dir.path().join(&name);
                if let Some(Some(from)) = self.data_from.get(index) {
                    crate::Tree::copy(from, &data_dir);
                }
                let mut arguments: Vec<(Option<Kind>, String)> = [
                    format!("--name={name}"),
                    format!("--data-dir={}", data_dir.display()),
                    format!("--listen-client-urls={client}"),
                    format!("--advertise-client-urls={client}"),
                    format!("--listen-peer-urls={listen}"),
                    format!("--initial-advertise-peer-urls={peer}"),
                    format!("--initial-cluster={}", initial.join(",")),
                    "--initial-cluster-state=new".to_owned(),
                    format!("--initial-cluster-token={}", self.token),
                    format!("--heartbeat-interval={}", self.heartbeat_ms),
                    format!("--election-timeout={}", self.election_ms),
                ]
                .into_iter()
                .map(|argument| (None, argument))
                .collect();
                if let Some(entries) = self.snapshot_count {
                    arguments.push((None, format!("--snapshot-count={entries}")));
                }
                if let Some(entries) = self.catchup_entries {
                    let argument = format!("--snapshot-catchup-entries={entries}");
                    arguments.push((Some(Kind::Ferrite), argument));
                }
                arguments.extend(self.extra.iter().cloned());
                let own = self.extra_at.iter().filter(|(at, _)| *at == index);
                arguments.extend(own.map(|(_, argument)| (None, argument.clone())));
                Member {
                    index,
                    name,
                    client_url: client.clone(),
                    peer_url: peer.clone(),
                    data_dir,
                    log_dir: dir.path().to_owned(),
                    variables: self.variables.clone(),
                    descriptors: self.descriptors,
                    arguments,
                    state: Mutex::new(State {
                        kind: *kind,
                        child: None,
                        paused: false,
                        runs: 0,
                        more: Vec::new(),
                    }),
                }
            })
            .collect();
        Cluster {
            members,
            dir,
            tls: self.tls,
            wires,
            _ports: ports,
        }
    }

    /// Builds the cluster, starts every member and waits until each serves clients.
    ///
    /// # Panics
    /// If one does not within [`PATIENCE`].
    pub async fn start(self) -> Cluster {
        let cluster = self.build();
        cluster.start_all().await;
        cluster
    }
}

fn loopback(port: u16, encrypted: bool) -> String {
    let scheme = if encrypted { "https" } else { "http" };
    format!("{scheme}://127.0.0.1:{port}")
}

/// Members on loopback, killed when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    dir: tempfile::TempDir,
    tls: Option<Arc<ClientTls>>,
    wires: Option<Wires>,
    _ports: Ports,
}

impl Cluster {
    /// One member of ours, unless told otherwise; timings as the server's defaults.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            kinds: vec![Kind::Ferrite],
            token: "testkit".to_owned(),
            heartbeat_ms: 100,
            election_ms: 1000,
            snapshot_count: None,
            catchup_entries: None,
            extra: Vec::new(),
            extra_at: Vec::new(),
            data_from: Vec::new(),
            encrypted_peers: false,
            tls: None,
            variables: Vec::new(),
            descriptors: None,
            wires: false,
        }
    }

    /// A member, by its place.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// Every member.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A folder for the test's own files, gone with the cluster.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Every client endpoint.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|m| m.client_url.clone()).collect()
    }

    /// Starts every member that is down and waits until all serve clients.
    ///
    /// # Panics
    /// If one does not within [`PATIENCE`].
    pub async fn start_all(&self) {
        for member in &self.members {
            if member.pid().is_none() {
                member.start();
            }
        }
        for member in &self.members {
            member.ready(PATIENCE).await;
        }
    }

    /// A client of one member alone.
    #[must_use]
    pub fn client(&self, index: usize) -> Client {
        client_of(self.config(vec![self.members[index].client_url.clone()]))
    }

    /// A client of all members, which fails over.
    #[must_use]
    pub fn client_all(&self) -> Client {
        client_of(self.config(self.endpoints()))
    }

    /// A client's settings for some of the members.
    pub(crate) fn config(&self, endpoints: Vec<String>) -> Config {
        let mut config = Config::new(endpoints);
        config.tls.clone_from(&self.tls);
        config
    }

    /// Asks each serving member for its status; a member that does not answer is missing.
    pub async fn statuses(&self) -> Vec<(usize, pb::StatusResponse)> {
        let mut statuses = Vec::new();
        for member in self.members.iter().filter(|member| member.serving()) {
            let asked = self.client(member.index);
            let mut maintenance = asked.maintenance();
            let call = maintenance.status(pb::StatusRequest {});
            if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(1), call).await {
                statuses.push((member.index, status.into_inner()));
            }
        }
        statuses
    }

    /// Waits until every serving member names the same leader in the same term, and that leader
    /// itself agrees; returns its place.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub async fn leader(&self) -> usize {
        self.leader_and_term().await.0
    }

    /// As [`Cluster::leader`], with the term.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub async fn leader_and_term(&self) -> (usize, u64) {
        eventually(
            "all serving members agree on a leader",
            PATIENCE,
            async || {
                let serving = self.members.iter().filter(|m| m.serving()).count();
                let statuses = self.statuses().await;
                let (_, first) = statuses.first()?;
                let agreed = statuses.len() == serving
                    && first.leader != 0
                    && statuses.iter().all(|(_, status)| {
                        status.leader == first.leader && status.raft_term == first.raft_term
                    });
                let leader = statuses.iter().find(|(_, status)| {
                    status.header.as_ref().map(|header| header.member_id) == Some(first.leader)
                })?;
                agreed.then_some((leader.0, first.raft_term))
            },
        )
        .await
    }

    /// Hands leadership to a member and waits until all agree on it.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn move_leader(&self, to: usize) {
        eventually("leadership moves", PATIENCE, async || {
            let leader = self.leader().await;
            if leader == to {
                return Some(());
            }
            let target_id = self
                .statuses()
                .await
                .into_iter()
                .find(|(index, _)| *index == to)
                .and_then(|(_, status)| status.header)?
                .member_id;
            let request = pb::MoveLeaderRequest { target_id };
            let _ = self.client(leader).maintenance().move_leader(request).await;
            None
        })
        .await;
    }

    /// Parts these members from the others, in both directions; clients still reach everybody.
    ///
    /// # Panics
    /// Without [`Builder::wires`], or if not all members answer.
    pub async fn part(&self, some: &[usize]) {
        let wires = self.wires.as_ref().expect("built with wires");
        let ids = eventually("every member says who it is", PATIENCE, async || {
            let statuses = self.statuses().await;
            (statuses.len() == self.members.len()).then_some(statuses)
        })
        .await
        .into_iter()
        .map(|(_, status)| format!("{:x}", status.header.expect("a header").member_id))
        .collect();
        wires.name(ids);
        wires.part(some);
    }

    /// Joins what [`Cluster::part`] has parted.
    ///
    /// # Panics
    /// Without [`Builder::wires`].
    pub fn join(&self) {
        self.wires.as_ref().expect("built with wires").join();
    }

    /// Waits until each serving member answers a linearizable read; returns the newest revision seen.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub async fn wait_healthy(&self) -> i64 {
        let mut newest = 0;
        for member in self.members.iter().filter(|member| member.serving()) {
            let what = format!("member {} answers a linearizable read", member.index);
            let client = self.client(member.index);
            let revision = eventually(&what, PATIENCE, async || {
                if let Some(status) = member.exited() {
                    panic!("member {} ended with {status}", member.index);
                }
                let request = pb::RangeRequest {
                    key: "health".into(),
                    ..Default::default()
                };
                let response = client.kv().range(request).await.ok()?.into_inner();
                response.header.map(|header| header.revision)
            })
            .await;
            newest = newest.max(revision);
        }
        newest
    }

    /// The hash of the key space at a revision (0: the newest), equal on every serving member.
    ///
    /// # Panics
    /// If members differ, or one does not answer.
    pub async fn hash_kv_all(&self, revision: i64) -> u32 {
        let newest = self.wait_healthy().await;
        let revision = if revision == 0 { newest } else { revision };
        let mut hashes = Vec::new();
        for member in self.members.iter().filter(|member| member.serving()) {
            let request = pb::HashKvRequest { revision };
            let response = self
                .client(member.index)
                .maintenance()
                .hash_kv(request)
                .await;
            let response = response
                .unwrap_or_else(|status| panic!("HashKV of member {}: {status}", member.index))
                .into_inner();
            hashes.push((member.index, member.kind(), response.hash));
        }
        let first = hashes.first().expect("a member serves").2;
        assert!(
            hashes.iter().all(|(_, _, hash)| *hash == first),
            "HashKV at revision {revision} differs: {hashes:?}"
        );
        first
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                let state = match (member.pid(), member.serving()) {
                    (None, _) => "down",
                    (_, true) => "running",
                    (_, false) => "paused",
                };
                eprintln!(
                    "--- member {} ({:?}, {state}), end of its log:\n{}",
                    member.index,
                    member.kind(),
                    member.log_tail(TAIL_BYTES)
                );
            }
            if std::env::var_os("FERRITE_KEEP").is_some() {
                for member in &self.members {
                    member.kill9();
                }
                self.dir.disable_cleanup(true);
                eprintln!(
                    "--- data and logs are kept in {}",
                    self.dir.path().display()
                );
            }
        }
    }
}

fn client_of(config: Config) -> Client {
    Client::new(config).expect("loopback endpoints are good")
}
