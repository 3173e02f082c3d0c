//! One call to one server, and its answer. Calls on watch streams, and those that may have to wait
//! for others, are the pair's ([`crate::pair`], [`crate::contest`]).

use std::future::Future;
use std::time::{Duration, Instant};

use ferrite_client::{Client, Code, Status, pb};
use ferrite_proto::v3electionpb::{LeaderKey, ProclaimRequest, ResignRequest};
use ferrite_testkit::Kind;

use crate::answer::Answer;
use crate::side::{CALL, Side};
use crate::step::{Call, Claim, Token, Whom};

/// How long a caller with a token from the future waits.
const NO_FUTURE: Duration = Duration::from_millis(60);

/// Of the shape that servers make, at an index that none reaches.
const FUTURE_TOKEN: &str = "abcdefghijklmnop.9000000000000000000";

/// An ID that no member has.
const NOBODY: u64 = 404;

impl Side {
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
            Call::Streamed(request) => self.streamed(&client, request).await,
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

            Call::Lock(_) | Call::Campaign(_) | Call::GiveUp => Answer::Nothing,
            Call::Unlock(request) => said(client.lock().unlock(request), Answer::Unlocked).await,
            Call::Proclaim { claim, value } => {
                let Some(leader) = self.claimed(number, claim) else {
                    return Answer::Nothing;
                };
                let request = ProclaimRequest { leader, value };
                said(client.election().proclaim(request), Answer::Proclaimed).await
            }
            Call::Resign(claim) => {
                let Some(leader) = self.claimed(number, claim) else {
                    return Answer::Nothing;
                };
                let request = ResignRequest { leader };
                said(client.election().resign(request), Answer::Resigned).await
            }
            Call::Leader(request) => said(client.election().leader(request), Answer::Led).await,
            Call::Observe(request) => match client.election().observe(request).await {
                Ok(response) => match response.into_inner().message().await {
                    Ok(Some(response)) => Answer::Led(response),
                    Ok(None) => Answer::Nothing,
                    Err(status) => Answer::refused(&status),
                },
                Err(status) => Answer::refused(&status),
            },

            Call::MemberAdd(request) => {
                said(client.cluster().member_add(request), Answer::Added).await
            }
            Call::MemberRemove(whom) => {
                let id = self.whose_id(&whom).await;
                let request = pb::MemberRemoveRequest { id };
                said(client.cluster().member_remove(request), |response| {
                    Answer::Changed(response.header, response.members)
                })
                .await
            }
            Call::MemberUpdate { whom, peer_urls } => {
                let id = self.whose_id(&whom).await;
                let request = pb::MemberUpdateRequest { id, peer_urls };
                said(client.cluster().member_update(request), |response| {
                    Answer::Changed(response.header, response.members)
                })
                .await
            }
            Call::MemberPromote(whom) => {
                let id = self.whose_id(&whom).await;
                let request = pb::MemberPromoteRequest { id };
                said(client.cluster().member_promote(request), |response| {
                    Answer::Changed(response.header, response.members)
                })
                .await
            }
            Call::MoveLeader(whom) => {
                let target_id = self.whose_id(&whom).await;
                let request = pb::MoveLeaderRequest { target_id };
                said(maintenance.move_leader(request), |response| {
                    Answer::Moved(response.header)
                })
                .await
            }
            Call::Defragment => {
                said(
                    maintenance.defragment(pb::DefragmentRequest {}),
                    |response| Answer::Defragmented(response.header),
                )
                .await
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
            Call::FromTheFuture(request) => {
                let mut request = tonic::Request::new(request);
                request.set_timeout(NO_FUTURE);
                request
                    .metadata_mut()
                    .insert("token", FUTURE_TOKEN.parse().expect("letters and digits"));
                let since = Instant::now();
                match said(kv.range(request), Answer::Range).await {
                    // Whose clock is first says it in its own words; a server calls it invalid then.
                    Answer::Refused { code, .. }
                        if code == Code::DeadlineExceeded
                            || code == Code::Unauthenticated && since.elapsed() >= NO_FUTURE =>
                    {
                        Answer::Silent
                    }
                    other => other,
                }
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

    /// The range in pieces from ours, put together; the plain one from the original.
    async fn streamed(&self, client: &Client, request: pb::RangeRequest) -> Answer {
        let mut kv = client.kv();
        if self.kind != Kind::Ferrite {
            return said(kv.range(request), Answer::Range).await;
        }
        let mut pieces = match kv.range_stream(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Answer::refused(&status),
        };
        let mut whole = pb::RangeResponse::default();
        loop {
            match pieces.message().await {
                Ok(Some(piece)) => {
                    let Some(piece) = piece.range_response else {
                        continue;
                    };
                    whole.kvs.extend(piece.kvs);
                    whole.header = piece.header.or(whole.header);
                    whole.more |= piece.more;
                    whole.count += piece.count;
                }
                Ok(None) => return Answer::Range(whole),
                Err(status) => return Answer::refused(&status),
            }
        }
    }

    /// The leader key to show; `None` if the client has none to show.
    fn claimed(&self, client: usize, claim: Claim) -> Option<Option<LeaderKey>> {
        match claim {
            Claim::None => Some(None),
            Claim::Own => self.claims[client].clone().map(Some),
            Claim::Stale => self.claims[client].clone().map(|key| {
                Some(LeaderKey {
                    rev: key.rev - 1,
                    ..key
                })
            }),
            Claim::Forged(key) => Some(Some(key)),
        }
    }

    /// Who is meant, by this cluster's own numbers.
    async fn whose_id(&self, whom: &Whom) -> u64 {
        if let Whom::Id(id) = whom {
            return *id;
        }
        let request = pb::MemberListRequest {
            linearizable: false,
        };
        let members = self.clients[crate::step::ROOT]
            .cluster()
            .member_list(request)
            .await
            .map(|response| response.into_inner().members)
            .unwrap_or_default();
        members
            .iter()
            .find(|member| match whom {
                Whom::At(url) => member.peer_urls.contains(url),
                _ => !member.name.is_empty(),
            })
            .map_or(NOBODY, |member| member.id)
    }
}

pub(crate) async fn said<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    answer: impl FnOnce(T) -> Answer,
) -> Answer {
    match call.await {
        Ok(response) => answer(response.into_inner()),
        Err(status) => Answer::refused(&status),
    }
}
