//! `etcdserverpb.Cluster`. Headers carry revision 0, as etcd's do.

use std::time::{SystemTime, UNIX_EPOCH};

use ferrite_membership::{Member as ClusterMember, member_id};
use ferrite_node::{Error, Node};
use ferrite_peer::HttpClient;
use ferrite_proto::etcdserverpb::cluster_server::Cluster;
use ferrite_proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use super::Context;
use crate::auth::Caller;
use crate::errors;
use crate::flags::urls_of;

/// The largest answer of a leader to a promotion: a list of members.
const PROMOTE_ANSWER_MAX: usize = 1 << 20;

/// The service.
#[derive(Clone)]
pub struct ClusterService(pub Context);

/// A member as the client API shows it.
pub fn to_proto(member: &ClusterMember) -> Member {
    Member {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

/// The URLs of a request, checked and in order.
fn peer_urls(given: &[String]) -> Result<Vec<String>, Status> {
    match urls_of(given.iter().map(String::as_str)) {
        Ok(urls) if !urls.is_empty() => Ok(urls.iter().map(ToString::to_string).collect()),
        _ => Err(errors::bad_urls()),
    }
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn refused(error: &Error) -> Status {
    errors::status(error)
}

impl ClusterService {
    /// Promotes here if this member leads, otherwise asks the leader.
    async fn promote(&self, id: u64) -> Result<Vec<Member>, Status> {
        let node = &self.0.node;
        let deadline = tokio::time::Instant::now() + node.config().request_timeout();
        while tokio::time::Instant::now() < deadline {
            match node.promote_member(id).await {
                Err(Error::NotLeader) => {}
                other => return other.map_err(|error| refused(&error)),
            }
            if let Some(answer) = ask_leader_to_promote(node, id).await {
                return answer;
            }
            // No leader known, or it did not answer: look again after a tick.
            tokio::time::sleep(node.config().tick).await;
        }
        Err(refused(&Error::Timeout))
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        if request.get_ref().linearizable {
            self.0
                .node
                .linearizable()
                .await
                .map_err(|error| errors::status(&error))?;
        }
        self.0.require_user(&Caller::of(&request)).await?;
        let cluster = self.0.node.published().get_cluster();
        Ok(Response::new(MemberListResponse {
            header: Some(self.0.header(0)),
            members: cluster.members.values().map(to_proto).collect(),
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let peer_urls = peer_urls(&request.peer_urls)?;
        self.0.require_admin(&caller).await?;
        let id = member_id(&peer_urls, "", Some(unix_seconds()));
        let member = ClusterMember {
            id,
            peer_urls,
            is_learner: request.is_learner,
            ..ClusterMember::default()
        };
        let shown = to_proto(&member);
        let members = self
            .0
            .node
            .add_member(member)
            .await
            .map_err(|error| refused(&error))?;
        Ok(Response::new(MemberAddResponse {
            header: Some(self.0.header(0)),
            member: Some(shown),
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        let members = self
            .0
            .node
            .remove_member(request.get_ref().id)
            .await
            .map_err(|error| refused(&error))?;
        Ok(Response::new(MemberRemoveResponse {
            header: Some(self.0.header(0)),
            members,
        }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        let request = request.into_inner();
        let members = self
            .0
            .node
            .update_member(request.id, request.peer_urls)
            .await
            .map_err(|error| refused(&error))?;
        Ok(Response::new(MemberUpdateResponse {
            header: Some(self.0.header(0)),
            members,
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.0.admit(request.metadata(), false)?;
        self.0.require_admin(&Caller::of(&request)).await?;
        let members = self.promote(request.get_ref().id).await?;
        Ok(Response::new(MemberPromoteResponse {
            header: Some(self.0.header(0)),
            members,
        }))
    }
}

/// `None` when there is nobody to ask, or no usable answer.
async fn ask_leader_to_promote(node: &Node, id: u64) -> Option<Result<Vec<Member>, Status>> {
    let cluster = node.published().get_cluster();
    let leader = cluster.member(node.status().leader())?;
    let client = HttpClient::new(
        &node.config().dialer,
        node.config().request_timeout(),
        PROMOTE_ANSWER_MAX,
    );
    for url in &leader.peer_urls {
        let path = format!("/members/promote/{id}");
        let Ok(reply) = client
            .request(url, ::http::Method::POST, &path, &[], bytes::Bytes::new())
            .await
        else {
            continue;
        };
        let text = String::from_utf8_lossy(&reply.body);
        let error = match reply.status.as_u16() {
            200 => {
                let members: Vec<ClusterMember> = serde_json::from_slice(&reply.body).ok()?;
                return Some(Ok(members.iter().map(to_proto).collect()));
            }
            404 => membership(ferrite_membership::Error::IdNotFound),
            412 if text.contains("in sync") => Error::LearnerNotReady,
            412 => membership(ferrite_membership::Error::MemberNotLearner),
            408 => Error::Timeout,
            _ => continue,
        };
        return Some(Err(refused(&error)));
    }
    None
}

fn membership(error: ferrite_membership::Error) -> Error {
    Error::Apply(ferrite_apply::ApplyError::Membership(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_members_are_those_that_a_flag_takes_each_by_itself() {
        let read = |urls: &[&str]| {
            let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
            peer_urls(&urls).ok()
        };
        let two = ["http://a:1".to_owned(), "http://b:2".to_owned()];
        assert_eq!(read(&["http://b:2", "HTTP://a:1"]), Some(two.to_vec()));
        for bad in ["http://a:1/", "http://a:1,http://b:2", "", "a:1"] {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
        assert_eq!(read(&[]), None);
    }
}
