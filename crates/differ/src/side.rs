//! One server of the pair, and the clients that speak to it. What they ask is in [`crate::ask`].

use std::collections::BTreeMap;
use std::time::Duration;

use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, Config, pb};
use ferrite_proto::v3electionpb::LeaderKey;
use ferrite_testkit::{Cluster, Kind};

use crate::step::{CLIENTS, ROOT, ROOT_PASSWORD};
use crate::streams::WatchStream;

/// How long one call may take before it counts as not answered: more than anything waits inside a
/// server, on a busy machine.
pub(crate) const CALL: Duration = Duration::from_secs(30);

/// More than either server receives, so that it is the server that refuses.
const SEND_BYTES_MAX: usize = 8 << 20;

/// What both servers take in a request: little, so that what is about limits costs little.
pub(crate) const REQUEST_BYTES_MAX: usize = 64 << 10;

const TICK_MS: u64 = 20;

/// A server of one member and its clients.
#[derive(Debug)]
pub(crate) struct Side {
    pub kind: Kind,
    cluster: Cluster,
    pub clients: Vec<Client>,
    /// The token that each client was given last.
    pub tokens: Vec<Option<String>>,
    /// The leader key that each client was given last.
    pub claims: Vec<Option<LeaderKey>>,
    pub streams: BTreeMap<usize, WatchStream>,
}

impl Side {
    /// Starts a server of this kind on an empty folder.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(kind: Kind) -> Self {
        let limit = format!("--max-request-bytes={REQUEST_BYTES_MAX}");
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&["--bcrypt-cost=4", &limit])
            .extra_args_of(Kind::Ferrite, &["--unsafe-no-fsync"])
            .extra_args_of(Kind::Etcd351, &["--unsafe-no-fsync"])
            // A member alone is elected as soon as it may be, and by nobody else.
            .heartbeat_ms(TICK_MS)
            .election_ms(TICK_MS * 10)
            .start()
            .await;
        let clients = (0..CLIENTS)
            .map(|_| {
                let mut config = Config::new([cluster.member(0).endpoint()]);
                config.call_timeout = Some(CALL);
                config.max_send_bytes = SEND_BYTES_MAX;
                // Who is given a token from outside does not try again with it: what is refused
                // is to be seen, and seen once.
                config.token = Some("none yet".to_owned());
                let client = Client::new(config).expect("loopback endpoints are good");
                client.channel().set_token(None);
                client
            })
            .collect();
        let side = Self {
            kind,
            cluster,
            clients,
            tokens: vec![None; CLIENTS],
            claims: vec![None; CLIENTS],
            streams: BTreeMap::new(),
        };
        side.wait_capable().await;
        side
    }

    /// A member serves a moment before it knows the cluster's version, and refuses watches till then.
    async fn wait_capable(&self) {
        ferrite_testkit::eventually(
            "the cluster version is known",
            ferrite_testkit::PATIENCE,
            async || {
                let request = pb::MemberListRequest { linearizable: true };
                let members = self.clients[0].cluster().member_list(request).await.ok()?;
                let published = !members.get_ref().members.first()?.name.is_empty();
                self.clients[0]
                    .lease()
                    .lease_leases(pb::LeaseLeasesRequest {})
                    .await
                    .ok()?;
                let stream = WatchStream::open(&self.clients[0]);
                stream.send(RequestUnion::CreateRequest(pb::WatchCreateRequest {
                    key: "capable".into(),
                    ..Default::default()
                }));
                let open = tokio::time::timeout(Duration::from_secs(5), async {
                    while stream.created(0).is_none() && !stream.ended() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    stream.created(0).is_some()
                });
                (published && open.await.unwrap_or(false)).then_some(())
            },
        )
        .await;
    }

    /// The end of the server's log, for a report.
    pub fn log_tail(&self) -> String {
        self.cluster.member(0).log_tail(1_000)
    }

    /// The stream of this number, opened if it is not.
    pub fn stream(&mut self, stream: usize) -> &WatchStream {
        let client = &self.clients[stream % CLIENTS];
        self.streams
            .entry(stream)
            .or_insert_with(|| WatchStream::open(client))
    }

    /// Turns authentication off and removes every user and role, whatever a sequence left.
    pub async fn forget_users(&mut self) {
        let root = self.clients[ROOT].clone();
        root.channel().set_token(None);
        let _ = root.authenticate("root", ROOT_PASSWORD).await;
        let mut auth = root.auth();
        let _ = auth.auth_disable(pb::AuthDisableRequest {}).await;
        for client in &self.clients {
            client.channel().set_token(None);
        }
        let users = auth.user_list(pb::AuthUserListRequest {}).await;
        for name in users
            .map(|users| users.into_inner().users)
            .unwrap_or_default()
        {
            let _ = auth.user_delete(pb::AuthUserDeleteRequest { name }).await;
        }
        let roles = auth.role_list(pb::AuthRoleListRequest {}).await;
        for role in roles
            .map(|roles| roles.into_inner().roles)
            .unwrap_or_default()
        {
            let _ = auth.role_delete(pb::AuthRoleDeleteRequest { role }).await;
        }
        self.tokens.fill(None);
    }
}
