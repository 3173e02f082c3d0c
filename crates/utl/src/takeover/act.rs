//! The steps themselves: the operator's commands, and waiting for what they bring about.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_client::{describe, pb};
use ferrite_membership::Version;

use super::judge::{self, Unsafe};
use super::look::{Cluster, Picture, Seen};
use super::{folder, refuse, say};
use crate::error::Failure;

/// How the operator stops and starts a member, each a line for the shell.
#[derive(Debug)]
pub struct Commands {
    /// Stops the program that runs.
    pub stop: String,
    /// Starts the other one.
    pub start: String,
    /// Starts what ran before, if the other one must not start; may be empty.
    pub fallback: String,
}

/// One member to get another program, in place.
pub struct Step<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// As it was.
    pub before: &'a Picture,
    /// The member.
    pub member: &'a Seen,
    /// Its folder.
    pub data_dir: PathBuf,
    /// Its log, if elsewhere.
    pub wal_dir: Option<PathBuf>,
    /// The version to come back to; `None` on the way to ours.
    pub to: Option<Version>,
    /// How long to wait for anything.
    pub patience: Duration,
    /// The operator's.
    pub commands: Commands,
}

impl Step<'_> {
    /// Does it, up to a member that serves again.
    ///
    /// # Errors
    /// A sentence that says where it stands.
    pub async fn run(&self) -> Result<(), Failure> {
        self.hand_over().await?;
        let title = self.member.title();
        let program = self.program();
        if self.to.is_none() && judge::loses_when_killed(program) {
            say(
                "this program loses its last write if it is killed (etcd issue 13766): --stop must end it by SIGTERM and wait",
            );
        }
        say(&format!("stopping {title}"));
        shell(&self.commands.stop).map_err(|why| {
            refuse(format!(
                "the command given by --stop failed: {why}. Nothing else was done; look whether member {title} still runs"
            ))
        })?;
        self.silent().await?;
        if let Err(why) = self.folder() {
            return Err(self.fall_back(&why));
        }
        say(&format!("starting {title}"));
        shell(&self.commands.start).map_err(|why| {
            refuse(format!(
                "the command given by --start failed: {why}. Member {title} is down, its folder is as it was stopped; start either program"
            ))
        })?;
        self.serving(program).await
    }

    fn program(&self) -> Option<Version> {
        self.member.answer.as_ref().ok()?.program
    }

    /// Whoever leads hands on first, so that nobody waits for an election.
    async fn hand_over(&self) -> Result<(), Failure> {
        let Ok(answer) = &self.member.answer else {
            return Ok(());
        };
        if answer.leader != self.member.id {
            return Ok(());
        }
        let applied = |seen: &&Seen| seen.answer.as_ref().map_or(0, |answer| answer.applied);
        let others = self.before.members.iter();
        let next = others
            .filter(|seen| seen.id != self.member.id && !seen.learner)
            .max_by_key(applied);
        match next {
            Some(next) => {
                say(&format!("handing leadership to {}", next.title()));
                self.cluster
                    .move_leader(&self.member.endpoint, next.id)
                    .await
            }
            None => Ok(()),
        }
    }

    async fn silent(&self) -> Result<(), Failure> {
        let start = Instant::now();
        while self.cluster.status(&self.member.endpoint).await.is_ok() {
            if start.elapsed() >= self.patience {
                return Err(refuse(format!(
                    "member {} still answers at {} after the command given by --stop; nothing else was done",
                    self.member.title(),
                    self.member.endpoint
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Whether the other program may have the folder.
    fn folder(&self) -> Result<(), String> {
        let found = folder::look(&self.data_dir, self.wal_dir.as_deref())
            .map_err(|error| error.to_string())?;
        say(&found.line());
        let cluster_id = self.member.answer.as_ref().map_or(0, |a| a.cluster_id);
        if (found.member_id, found.cluster_id) != (self.member.id, cluster_id) {
            return Err(format!(
                "{} is the folder of member {:x} of cluster {:x}, not of member {} of cluster {cluster_id:x}",
                self.data_dir.display(),
                found.member_id,
                found.cluster_id,
                self.member.title()
            ));
        }
        let most = self.to.unwrap_or(Version::new(3, 7, 0));
        for (what, version) in [("database", found.storage), ("cluster", found.version)] {
            if let Some(version) = version.filter(|version| *version > most) {
                return Err(format!(
                    "the {what} in {} has version {version}, above {most}: the program to come would refuse it",
                    self.data_dir.display()
                ));
            }
        }
        Ok(())
    }

    fn fall_back(&self, why: &str) -> Failure {
        let title = self.member.title();
        if self.commands.fallback.is_empty() {
            return refuse(format!(
                "the other program must not start on this folder: {why}. Member {title} is down, and its folder untouched: start again what you stopped"
            ));
        }
        match shell(&self.commands.fallback) {
            Ok(()) => refuse(format!(
                "the other program must not start on this folder: {why}. Its folder is untouched, and what ran before was started again"
            )),
            Err(failed) => refuse(format!(
                "the other program must not start on this folder: {why}. Member {title} is down, its folder untouched, and the command given by --fallback failed: {failed}"
            )),
        }
    }

    /// Waits until the member serves, by the program that was meant.
    async fn serving(&self, before: Option<Version>) -> Result<(), Failure> {
        let title = self.member.title();
        let start = Instant::now();
        loop {
            let why = match self.cluster.status(&self.member.endpoint).await {
                Ok(status) => {
                    let id = status.header.as_ref().map_or(0, |header| header.member_id);
                    if id != self.member.id {
                        return Err(refuse(format!(
                            "member {id:x} answers at {}, not {title}: look at the command given by --start",
                            self.member.endpoint
                        )));
                    }
                    let version: Option<Version> = status.version.parse().ok();
                    let meant = match self.to {
                        None => version.is_some_and(|version| version >= Version::new(3, 7, 0)),
                        Some(to) => version.is_some_and(|version| version.without_patch() <= to),
                    };
                    if !meant {
                        return Err(refuse(format!(
                            "member {title} serves again, but by version {} (before: {}): look at the command given by --start",
                            status.version,
                            before.map_or("?".to_owned(), |version| version.to_string())
                        )));
                    }
                    if status.leader != 0 {
                        say(&format!("{title} serves by version {}", status.version));
                        return Ok(());
                    }
                    "it knows no leader yet".to_owned()
                }
                Err(why) => why,
            };
            if start.elapsed() >= self.patience {
                return Err(refuse(format!(
                    "member {title} does not serve {} seconds after the command given by --start: {why}. Look into its log; the folder is its own, and either program can be started on it",
                    self.patience.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// After the step the cluster is not as it should be.
    pub fn came_back_wrong(&self, reasons: &[Unsafe]) -> Failure {
        let lines: Vec<String> = reasons.iter().map(|reason| format!("  {reason}")).collect();
        refuse(format!(
            "member {} serves again, but:\n{}\nTake no further step before this is understood",
            self.member.title(),
            lines.join("\n")
        ))
    }
}

/// Runs a line as the shell does, its output going where ours does.
fn shell(line: &str) -> Result<(), String> {
    let status = Command::new("/bin/sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("/bin/sh: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{line:?} ended with {status}"))
    }
}

/// A member to come in another's place.
#[derive(Debug)]
pub struct NewMember {
    /// Where others will reach it.
    pub peer_urls: Vec<String>,
    /// Where we will.
    pub endpoint: String,
    /// Starts it.
    pub start: String,
    /// Stops the one that goes.
    pub stop: String,
}

/// Adds a learner, gives it a vote once it has caught up, and only then removes the other. The cluster without the
/// other's endpoint.
///
/// # Errors
/// A sentence that says where it stands.
pub async fn replace(
    cluster: &Cluster,
    old: &Seen,
    new: &NewMember,
    patience: Duration,
) -> Result<Cluster, Failure> {
    let all = cluster.endpoints().to_vec();
    let client = cluster.client(&all).await.map_err(refuse)?;
    let request = pb::MemberAddRequest {
        peer_urls: new.peer_urls.clone(),
        is_learner: true,
    };
    let start = Instant::now();
    // A cluster that has just changed takes no new member for some seconds.
    let added = loop {
        match client.cluster().member_add(request.clone()).await {
            Ok(added) => break added.into_inner().member.unwrap_or_default().id,
            Err(status) if start.elapsed() >= patience => {
                return Err(refuse(format!(
                    "the new member could not be added, nothing was done: {}",
                    describe(&status)
                )));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
        // A call without an answer may have had its effect all the same.
        if let Ok(list) = cluster.list().await
            && let Some(there) = list.iter().find(|member| member.peer_urls == new.peer_urls)
        {
            break there.id;
        }
    };
    say(&format!("added learner {added:x}"));
    let undo = format!(
        "Take the new member back by: etcdctl member remove {added:x}. The old one serves as before"
    );
    shell(&new.start).map_err(|why| {
        refuse(format!(
            "the command given by --start failed: {why}. {undo}"
        ))
    })?;
    let start = Instant::now();
    loop {
        let why = match cluster.status(&new.endpoint).await {
            Ok(status) => {
                let id = status.header.as_ref().map_or(0, |header| header.member_id);
                if id != added {
                    return Err(refuse(format!(
                        "member {id:x} answers at {}, not {added:x}: look at the command given by --start. {undo}",
                        new.endpoint
                    )));
                }
                let promoted = promote(cluster, added).await;
                match promoted {
                    Ok(()) => break,
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        if start.elapsed() >= patience {
            return Err(refuse(format!(
                "the new member has no vote yet: {why}. {undo}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    say(&format!("{added:x} has caught up and votes"));
    let remaining: Vec<String> = all
        .iter()
        .filter(|endpoint| **endpoint != old.endpoint)
        .chain([&new.endpoint])
        .cloned()
        .collect();
    let after = cluster.at(remaining.clone());
    let start = Instant::now();
    loop {
        let gone = async {
            let client = after.client(&remaining).await?;
            let request = pb::MemberRemoveRequest { id: old.id };
            let answer = client.cluster().member_remove(request).await;
            answer.map(drop).map_err(|status| describe(&status))
        };
        let why = match gone.await {
            Ok(()) => break,
            Err(why) => why,
        };
        if let Ok(list) = after.list().await
            && !list.iter().any(|member| member.id == old.id)
        {
            break;
        }
        if start.elapsed() >= patience {
            return Err(refuse(format!(
                "the new member votes, but the old one, {}, could not be removed: {why}. Remove it by etcdctl member remove {:x}",
                old.title(),
                old.id
            )));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    say(&format!("removed {}", old.title()));
    shell(&new.stop).map_err(|why| {
        refuse(format!(
            "the members were exchanged, but the command given by --stop failed: {why}. The old member is no longer part of the cluster: stop it by hand"
        ))
    })?;
    Ok(after)
}

/// Only the leader can, and only it knows when.
async fn promote(cluster: &Cluster, id: u64) -> Result<(), String> {
    let list = cluster.list().await?;
    if list
        .iter()
        .any(|member| member.id == id && !member.is_learner)
    {
        return Ok(());
    }
    let client = cluster.client(cluster.endpoints()).await?;
    let request = pb::MemberPromoteRequest { id };
    let answer = client.cluster().member_promote(request).await;
    answer.map(drop).map_err(|status| describe(&status))
}
