//! One server of the pair, and the clients that speak to it.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, Config, Status, pb};
use ferrite_testkit::{Cluster, Kind};

use crate::answer::Answer;
use crate::step::{CLIENTS, Call, ROOT, ROOT_PASSWORD, Token};
use crate::streams::WatchStream;

/// How long one call may take before it counts as not answered: more than anything waits inside a
/// server, on a busy machine.
const CALL: Duration = Duration::from_secs(30);

/// More than either server receives, so that it is the server that refuses.
const SEND_BYTES_MAX: usize = 8 << 20;

/// A server of one member and its clients.
#[derive(Debug)]
pub(crate) struct Side {
    cluster: Cluster,
    clients: Vec<Client>,
    /// The token that each client was given last.
    tokens: Vec<Option<String>>,
    pub streams: BTreeMap<usize, WatchStream>,
}

impl Side {
    /// Starts a server of this kind on an empty folder.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(kind: Kind, auth: bool) -> Self {
        let mut arguments = vec!["--unsafe-no-fsync"];
        if auth {
            arguments.push("--bcrypt-cost=4");
        }
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&arguments)
            .start()
            .await;
        let clients = (0..CLIENTS)
            .map(|_| {
                let mut config = Config::new([cluster.member(0).endpoint()]);
                config.call_timeout = Some(CALL);
                config.max_send_bytes = SEND_BYTES_MAX;
                Client::new(config).expect("loopback endpoints are good")
            })
            .collect();
        let side = Self {
            cluster,
            clients,
            tokens: vec![None; CLIENTS],
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

    /// Sends the call and waits for its answer. Calls on watch streams are the pair's.
    pub async fn ask(&mut self, client: usize, call: &Call) -> Answer {
        match tokio::time::timeout(CALL * 2, self.answer(client, call)).await {
            Ok(answer) => answer.level(),
            Err(_) => Answer::Silent,
        }
    }

    async fn answer(&mut self, number: usize, call: &Call) -> Answer {
        let client = self.clients[number].clone();
        let (mut kv, mut lease, mut auth) = (client.kv(), client.lease(), client.auth());
        let mut maintenance = client.maintenance();
        match call.clone() {
            Call::Range(request) => said(kv.range(request), Answer::Range).await,
            Call::Put(request) => said(kv.put(request), Answer::Put).await,
            Call::DeleteRange(request) => said(kv.delete_range(request), Answer::Delete).await,
            Call::Txn(request) => said(kv.txn(request), Answer::Txn).await,
            Call::Compact(request) => {
                said(kv.compact(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }

            Call::Grant(request) => said(lease.lease_grant(request), Answer::Grant).await,
            Call::GrantForAMoment(request) => {
                let picked = request.id == 0;
                let mut answer = said(lease.lease_grant(request), Answer::Grant).await;
                if let Answer::Grant(response) = &mut answer {
                    // It may be over already, so what comes of this is not compared.
                    let revoke = pb::LeaseRevokeRequest { id: response.id };
                    let _ = lease.lease_revoke(revoke).await;
                    if picked {
                        response.id = response.id.signum();
                    }
                }
                answer
            }
            Call::Revoke(request) => {
                said(lease.lease_revoke(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::TimeToLive(request) => {
                said(lease.lease_time_to_live(request), Answer::TimeToLive).await
            }
            Call::Leases => {
                said(
                    lease.lease_leases(pb::LeaseLeasesRequest {}),
                    Answer::Leases,
                )
                .await
            }
            Call::KeepAlive(request) => {
                match lease.lease_keep_alive(tokio_stream::once(request)).await {
                    Ok(response) => match response.into_inner().message().await {
                        Ok(Some(response)) => Answer::KeepAlive(response),
                        Ok(None) => Answer::Nothing,
                        Err(status) => Answer::refused(&status),
                    },
                    Err(status) => Answer::refused(&status),
                }
            }

            Call::Members(request) => {
                said(client.cluster().member_list(request), Answer::Members).await
            }
            Call::Status => {
                said(maintenance.status(pb::StatusRequest {}), |response| {
                    Answer::Status {
                        has_leader: response.leader != 0,
                        is_learner: response.is_learner,
                        errors: response.errors,
                        revision: response.header.map_or(0, |header| header.revision),
                    }
                })
                .await
            }
            Call::HashKv(request) => said(maintenance.hash_kv(request), Answer::HashKv).await,
            Call::Alarm(request) => said(maintenance.alarm(request), Answer::Alarms).await,

            Call::Token(token) => {
                let token = match token {
                    Token::None => None,
                    Token::Own => self.tokens[number].clone(),
                    Token::Of(other) => self.tokens[other].clone(),
                    Token::Text(text) => Some(text),
                };
                client.channel().set_token(token);
                Answer::Nothing
            }
            Call::AuthEnable => {
                said(auth.auth_enable(pb::AuthEnableRequest {}), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::AuthDisable => {
                said(auth.auth_disable(pb::AuthDisableRequest {}), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::AuthStatus => {
                said(
                    auth.auth_status(pb::AuthStatusRequest {}),
                    Answer::AuthStatus,
                )
                .await
            }
            Call::Authenticate(request) => {
                let answer = said(auth.authenticate(request), Answer::Authenticated).await;
                if let Answer::Authenticated(response) = &answer {
                    self.tokens[number] = Some(response.token.clone());
                    client.channel().set_token(Some(response.token.clone()));
                }
                answer
            }
            Call::UserAdd(request) => {
                said(auth.user_add(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::UserGet(request) => said(auth.user_get(request), Answer::User).await,
            Call::UserList => said(auth.user_list(pb::AuthUserListRequest {}), Answer::Users).await,
            Call::UserDelete(request) => {
                said(auth.user_delete(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::UserChangePassword(request) => {
                said(auth.user_change_password(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::UserGrantRole(request) => {
                said(auth.user_grant_role(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::UserRevokeRole(request) => {
                said(auth.user_revoke_role(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::RoleAdd(request) => {
                said(auth.role_add(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::RoleGet(request) => said(auth.role_get(request), Answer::Role).await,
            Call::RoleList => said(auth.role_list(pb::AuthRoleListRequest {}), Answer::Roles).await,
            Call::RoleDelete(request) => {
                said(auth.role_delete(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::RoleGrantPermission(request) => {
                said(auth.role_grant_permission(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }
            Call::RoleRevokePermission(request) => {
                said(auth.role_revoke_permission(request), |response| {
                    Answer::Done(response.header)
                })
                .await
            }

            Call::Watch { .. }
            | Call::CancelWatch { .. }
            | Call::Progress { .. }
            | Call::CloseStream { .. }
            | Call::Sync => Answer::Nothing,
        }
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

async fn said<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    answer: impl FnOnce(T) -> Answer,
) -> Answer {
    match call.await {
        Ok(response) => answer(response.into_inner()),
        Err(status) => Answer::refused(&status),
    }
}
