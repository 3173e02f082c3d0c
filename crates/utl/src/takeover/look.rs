//! What a cluster says of itself, asked of every member. Changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrite_cli::flags::Values;
use ferrite_client::{Client, Config, describe, pb};
use ferrite_membership::Version;

use super::judge::Unsafe;
use super::peers::{Given, Peers, Unasked, client_tls};
use crate::error::{BAD_ARGS, ERROR, Failure};

/// How long one member may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// A compaction may come between two members' hashes: how often to try again.
const TRIES: usize = 20;

/// A cluster that can be asked.
pub struct Cluster {
    endpoints: Vec<String>,
    base: Config,
    peers: Peers,
    user: Option<(String, String)>,
}

/// One member, as it and the others see it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its ID.
    pub id: u64,
    /// Its name; empty if it never started.
    pub name: String,
    /// Whether it has no vote.
    pub learner: bool,
    /// Where clients reach it; empty if nobody answers for it.
    pub endpoint: String,
    /// What it says; `Err` says why it does not.
    pub answer: Result<Answer, String>,
}

/// What a member says of itself.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its program.
    pub program: Option<Version>,
    /// The cluster it belongs to.
    pub cluster_id: u64,
    /// Whom it takes for the leader; 0 for nobody.
    pub leader: u64,
    /// In which term.
    pub term: u64,
    /// Its newest revision.
    pub revision: i64,
    /// How far it has applied.
    pub applied: u64,
    /// Sentences of its own about what is wrong.
    pub errors: Vec<String>,
    /// The layout of its database, where it says.
    pub storage: String,
    /// The cluster's version, and the one it gives to whoever decides on that; `Err` says why it cannot be asked.
    pub versions: Result<Given, Unasked>,
}

/// All members at about the same time.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Every member of the list.
    pub members: Vec<Seen>,
    /// Alarms that are on.
    pub alarms: Vec<String>,
    /// Why there is no list of members.
    pub trouble: Option<String>,
    /// Endpoints that belong to another cluster, or to no member.
    pub strangers: Vec<String>,
}

/// A hash that all members gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    /// At which revision.
    pub revision: i64,
    /// The hash.
    pub hash: u32,
    /// Compacted up to here.
    pub compacted: i64,
}

impl Cluster {
    /// Reads the flags.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn of(values: &Values) -> Result<Self, Failure> {
        let bad = |message: String| Failure::new(BAD_ARGS, message);
        let mut base = Config::new(Vec::<String>::new());
        base.call_timeout = Some(ANSWER);
        base.tls = client_tls(values)?.map(Arc::new);
        let peers = Peers::of(values)?;
        let user = match values.text("user") {
            user if user.is_empty() => None,
            user => {
                let (name, password) = user
                    .split_once(':')
                    .ok_or_else(|| bad("--user must be name:password".to_owned()))?;
                Some((name.to_owned(), password.to_owned()))
            }
        };
        let endpoints = values.list("endpoints");
        Client::new(Config {
            endpoints: endpoints.clone(),
            ..base.clone()
        })
        .map_err(|error| bad(error.to_string()))?;
        Ok(Self {
            endpoints,
            base,
            peers,
            user,
        })
    }

    /// The same cluster with other endpoints.
    pub fn at(&self, endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            base: self.base.clone(),
            peers: self.peers.clone(),
            user: self.user.clone(),
        }
    }

    /// Where it is asked.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// A client of these endpoints.
    ///
    /// # Errors
    /// Nobody lets it in.
    pub async fn client(&self, endpoints: &[String]) -> Result<Client, String> {
        let client = Client::new(Config {
            endpoints: endpoints.to_vec(),
            ..self.base.clone()
        })
        .map_err(|error| error.to_string())?;
        if let Some((name, password)) = &self.user {
            client
                .login(name, password)
                .await
                .map_err(|status| describe(&status))?;
        }
        Ok(client)
    }

    /// Asks one endpoint for its status.
    ///
    /// # Errors
    /// Why it does not answer.
    pub async fn status(&self, endpoint: &str) -> Result<pb::StatusResponse, String> {
        let client = self.client(&[endpoint.to_owned()]).await?;
        let answer = client.maintenance().status(pb::StatusRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| describe(&status))
    }

    /// Asks everybody.
    pub async fn look(&self) -> Picture {
        let mut picture = Picture::default();
        let list = match self.list().await {
            Ok(list) => list,
            Err(trouble) => {
                picture.trouble = Some(trouble);
                return picture;
            }
        };
        let mut answers = BTreeMap::new();
        for endpoint in &self.endpoints {
            match self.status(endpoint).await {
                Ok(status) => {
                    let id = status.header.as_ref().map_or(0, |header| header.member_id);
                    if !list.iter().any(|member| member.id == id) {
                        picture
                            .strangers
                            .push(format!("{endpoint} is member {id:x}"));
                    }
                    answers.insert(id, (endpoint.clone(), status));
                }
                // Whose it is will show: one of the list has no answer.
                Err(_) => continue,
            }
        }
        for member in list {
            let (endpoint, answer) = match answers.remove(&member.id) {
                Some((endpoint, status)) => {
                    let versions = self.peers.versions(&member.peer_urls, ANSWER).await;
                    (endpoint, Ok(heard(status, versions)))
                }
                None => (
                    String::new(),
                    Err("none of the endpoints given answers for it".to_owned()),
                ),
            };
            picture.members.push(Seen {
                id: member.id,
                name: member.name,
                learner: member.is_learner,
                endpoint,
                answer,
            });
        }
        match self.alarms().await {
            Ok(alarms) => picture.alarms = alarms,
            Err(trouble) => picture.trouble = Some(trouble),
        }
        picture
    }

    /// Every member of the cluster, linearizably.
    ///
    /// # Errors
    /// Nobody can tell.
    pub async fn list(&self) -> Result<Vec<pb::Member>, String> {
        let client = self.client(&self.endpoints).await?;
        let request = pb::MemberListRequest { linearizable: true };
        let list = client.cluster().member_list(request).await;
        let list = list.map_err(|status| format!("the list of members: {}", describe(&status)))?;
        let mut members = list.into_inner().members;
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    async fn alarms(&self) -> Result<Vec<String>, String> {
        let client = self.client(&self.endpoints).await?;
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Get.into(),
            ..Default::default()
        };
        let alarms = client.maintenance().alarm(request).await;
        let alarms = alarms.map_err(|status| format!("the alarms: {}", describe(&status)))?;
        let name = |alarm: &pb::AlarmMember| {
            format!(
                "{} of member {:x}",
                alarm.alarm().as_str_name(),
                alarm.member_id
            )
        };
        Ok(alarms.into_inner().alarms.iter().map(name).collect())
    }

    /// The hash that all members give for one revision; compactions meanwhile are waited out.
    ///
    /// # Errors
    /// They differ, or one does not answer.
    pub async fn hashes(&self, picture: &Picture) -> Result<Hash, Unsafe> {
        let answers = || {
            picture
                .members
                .iter()
                .filter_map(|member| member.answer.as_ref().ok())
        };
        let mut revision = answers().map(|answer| answer.revision).min().unwrap_or(0);
        let mut last = None;
        for _ in 0..TRIES {
            let mut found: Vec<(String, Hash)> = Vec::new();
            let mut silent = None;
            for member in &picture.members {
                match self.hash(&member.endpoint, revision).await {
                    Ok(hash) => found.push((member.title(), hash)),
                    Err(why) => silent = Some((member.title(), why)),
                }
            }
            if let Some((who, why)) = silent {
                last = Some(Unsafe::Silent { who, why });
            } else if found.iter().all(|(_, hash)| hash.hash == found[0].1.hash) {
                return found
                    .first()
                    .map(|(_, hash)| *hash)
                    .ok_or(Unsafe::Trouble("the cluster has no member".to_owned()));
            } else {
                // Where one is compacted further than another, their hashes may differ.
                let even = found
                    .iter()
                    .all(|(_, hash)| hash.compacted == found[0].1.compacted);
                last = Some(Unsafe::Differs {
                    revision,
                    hashes: found
                        .iter()
                        .map(|(who, hash)| format!("{who}: {}", hash.hash))
                        .collect(),
                    lasting: even,
                });
                if even {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            // It may have been compacted meanwhile.
            let newest = self.look_at_revisions(picture).await;
            revision = revision.max(newest.unwrap_or(revision));
        }
        Err(last.unwrap_or(Unsafe::Trouble("no hash could be compared".to_owned())))
    }

    async fn look_at_revisions(&self, picture: &Picture) -> Option<i64> {
        let mut lowest = None;
        for member in &picture.members {
            let status = self.status(&member.endpoint).await.ok()?;
            let revision = status.header?.revision;
            lowest = Some(lowest.map_or(revision, |lowest: i64| lowest.min(revision)));
        }
        lowest
    }

    async fn hash(&self, endpoint: &str, revision: i64) -> Result<Hash, String> {
        let client = self.client(&[endpoint.to_owned()]).await?;
        let request = pb::HashKvRequest { revision };
        let answer = client.maintenance().hash_kv(request).await;
        let answer = answer.map_err(|status| describe(&status))?.into_inner();
        Ok(Hash {
            revision,
            hash: answer.hash,
            compacted: answer.compact_revision,
        })
    }

    /// Hands leadership from one member to another.
    ///
    /// # Errors
    /// It refuses.
    pub async fn move_leader(&self, from: &str, to: u64) -> Result<(), Failure> {
        let moved = async {
            let client = self.client(&[from.to_owned()]).await?;
            let request = pb::MoveLeaderRequest { target_id: to };
            let answer = client.maintenance().move_leader(request).await;
            answer.map(drop).map_err(|status| describe(&status))
        };
        moved.await.map_err(|why| {
            Failure::new(
                ERROR,
                format!("leadership could not be handed on, nothing was done: {why}"),
            )
        })
    }
}

fn heard(status: pb::StatusResponse, versions: Result<Given, Unasked>) -> Answer {
    let header = status.header.unwrap_or_default();
    Answer {
        program: status.version.parse().ok(),
        cluster_id: header.cluster_id,
        leader: status.leader,
        term: status.raft_term,
        revision: header.revision,
        applied: status.raft_applied_index,
        errors: status.errors,
        storage: status.storage_version,
        versions,
    }
}

impl Seen {
    /// How to name it to a person.
    pub fn title(&self) -> String {
        format!("{} ({:x})", self.name, self.id)
    }
}

impl Picture {
    /// The member of this name or ID.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<&Seen, Unsafe> {
        self.members
            .iter()
            .find(|member| member.name == name || format!("{:x}", member.id) == name)
            .ok_or_else(|| Unsafe::NoSuchMember(name.to_owned()))
    }

    /// The cluster's version: the highest that a member says.
    pub fn cluster_version(&self) -> Option<Version> {
        let answers = self.members.iter().filter_map(|m| m.answer.as_ref().ok());
        let from = |answer: &Answer| {
            let stored = answer.storage.parse().ok();
            let given = answer.versions.as_ref().ok();
            given.and_then(|given| given.cluster).max(stored)
        };
        answers.filter_map(from).max()
    }

    /// A line for each member.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for member in &self.members {
            lines.push(match &member.answer {
                Ok(answer) => format!(
                    "{}: version {}, {}{}, revision {}, applied {}",
                    member.title(),
                    answer
                        .program
                        .map_or("?".to_owned(), |version| version.to_string()),
                    if answer.leader == member.id {
                        "leader"
                    } else {
                        "follower"
                    },
                    if member.learner {
                        " without a vote"
                    } else {
                        ""
                    },
                    answer.revision,
                    answer.applied,
                ),
                Err(why) => format!("{}: {why}", member.title()),
            });
        }
        for member in &self.members {
            if let Ok(answer) = &member.answer
                && let Err(why) = &answer.versions
            {
                lines.push(format!(
                    "{} cannot be asked on its peer port: {why}",
                    member.title()
                ));
            }
        }
        if let Some(version) = self.cluster_version() {
            lines.push(format!("the cluster's version is {version}"));
        }
        lines
    }
}
