//! `takeover`: replaces the members of a running cluster one by one, the original's by ours and back.
//!
//! Four commands over the same parts: [`look`] asks a cluster (by [`peers`] where only members ask each other), [`judge`] says whether a step is safe, [`folder`] looks
//! at a member's data while nobody uses it, [`act`] runs the operator's commands and waits for what they bring about.
//! It lives in this program, and not in `etcdctl`, because half of what it must know lies in files at rest. It manages
//! no process itself: whoever does (systemd, compose, a script) is given as a command. It never writes to a folder,
//! and changes of a cluster only what the step says: who leads, and with `replace` who belongs to it.

mod act;
mod folder;
mod judge;
mod look;
mod peers;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ferrite_cli::flags::Values;
use ferrite_cli::report;
use ferrite_membership::Version;

use crate::error::{BAD_ARGS, ERROR, Failure};
use act::{Commands, Step};
use judge::Unsafe;
use look::{Cluster, Picture};

/// Which of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Looks, and says what would stand against a step.
    Check,
    /// One member of the original's to ours, in place.
    Step,
    /// One member of ours to the original's, in place.
    Back,
    /// A new member for an old one.
    Replace,
}

/// Runs one.
///
/// # Errors
/// What stands against it, or went wrong on the way, in a sentence that says what was left how.
pub fn run(what: What, values: &Values) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ERROR, format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let cluster = Cluster::of(values)?;
        let patience = values.duration("wait");
        match what {
            What::Check => check(&cluster, values, patience).await,
            What::Step | What::Back => step(what, &cluster, values, patience).await,
            What::Replace => replace(&cluster, values, patience).await,
        }
    })
}

fn refuse(message: impl Into<String>) -> Failure {
    Failure::new(ERROR, message)
}

/// A line for whoever watches.
fn say(text: &str) {
    report::line(text);
}

fn refused(reasons: &[Unsafe]) -> Failure {
    let lines: Vec<String> = reasons.iter().map(|reason| format!("  {reason}")).collect();
    refuse(format!(
        "not safe now; nothing was done:\n{}",
        lines.join("\n")
    ))
}

/// Looks until the picture stands against nothing; members that have just come back need a moment.
async fn sound(
    cluster: &Cluster,
    patience: Duration,
    judge: impl Fn(&Picture) -> Vec<Unsafe>,
) -> Result<Picture, Vec<Unsafe>> {
    let start = Instant::now();
    loop {
        let picture = cluster.look().await;
        let mut reasons = judge(&picture);
        if reasons.is_empty() {
            match cluster.hashes(&picture).await {
                Ok(hash) => {
                    say(&format!(
                        "hash {} at revision {} is the same on all {} members",
                        hash.hash,
                        hash.revision,
                        picture.members.len()
                    ));
                    return Ok(picture);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        // Members whose data differs will not agree by waiting.
        let hopeless = reasons.iter().any(Unsafe::is_lasting);
        if hopeless || start.elapsed() >= patience {
            return Err(reasons);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn check(cluster: &Cluster, values: &Values, patience: Duration) -> Result<(), Failure> {
    let picture = cluster.look().await;
    for line in picture.lines() {
        say(&line);
    }
    let target = values.text("member");
    let judged = sound(cluster, patience, |picture| {
        let mut reasons = judge::health(picture);
        reasons.extend(judge::version_unknown(picture));
        if !target.is_empty() {
            match picture.find(&target) {
                Ok(member) => reasons.extend(judge::without(picture, member.id)),
                Err(reason) => reasons.push(reason),
            }
        }
        reasons
    })
    .await;
    judged.map_err(|reasons| refused(&reasons))?;
    let data_dir = values.text("data-dir");
    if !data_dir.is_empty() {
        let found = folder::look(&PathBuf::from(data_dir), wal_dir(values).as_deref())?;
        say(&found.line());
    }
    say("nothing stands against the next step");
    Ok(())
}

fn wal_dir(values: &Values) -> Option<PathBuf> {
    Some(values.text("wal-dir"))
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}

/// The program to come back to, for `back`.
fn target_version(values: &Values) -> Result<Version, Failure> {
    let text = values.text("to");
    let wrong = || {
        Failure::new(
            BAD_ARGS,
            format!(
                "--to must be the version of the program to come back to, as 3.5 (set to {text:?})"
            ),
        )
    };
    let version: Version = format!("{text}.0").parse().map_err(|_| wrong())?;
    if version < judge::OLDEST {
        return Err(wrong());
    }
    Ok(version)
}

async fn step(
    what: What,
    cluster: &Cluster,
    values: &Values,
    patience: Duration,
) -> Result<(), Failure> {
    let to = match what {
        What::Back => Some(target_version(values)?),
        _ => None,
    };
    let name = values.text("member");
    let downtime = values.bool("allow-downtime");
    let judged = |picture: &Picture| {
        let mut reasons = judge::health(picture);
        match picture.find(&name) {
            Ok(member) => {
                let without = judge::without(picture, member.id);
                reasons.extend(
                    without
                        .into_iter()
                        .filter(|reason| !(downtime && matches!(reason, Unsafe::Quorum { .. }))),
                );
                match to {
                    None => reasons.extend(judge::forth(picture, member, values.bool("last"))),
                    Some(to) => reasons.extend(judge::back(picture, member, to)),
                }
            }
            Err(reason) => reasons.push(reason),
        }
        reasons
    };
    let before = sound(cluster, patience, judged)
        .await
        .map_err(|reasons| refused(&reasons))?;
    let Ok(member) = before.find(&name) else {
        return Err(refuse("the member went away while it was looked at"));
    };
    let step = Step {
        cluster,
        before: &before,
        member,
        data_dir: PathBuf::from(values.text("data-dir")),
        wal_dir: wal_dir(values),
        to,
        patience,
        commands: Commands {
            stop: values.text("stop"),
            start: values.text("start"),
            fallback: values.text("fallback"),
        },
    };
    step.run().await?;
    let after = sound(cluster, patience, judge::health)
        .await
        .map_err(|reasons| step.came_back_wrong(&reasons))?;
    for line in after.lines() {
        say(&line);
    }
    say("done: all members are healthy and hold the same");
    Ok(())
}

async fn replace(cluster: &Cluster, values: &Values, patience: Duration) -> Result<(), Failure> {
    let name = values.text("member");
    let to = match values.text("to") {
        text if text.is_empty() => None,
        _ => Some(target_version(values)?),
    };
    let judged = |picture: &Picture| {
        let mut reasons = judge::health(picture);
        match picture.find(&name) {
            Ok(member) => reasons.extend(match to {
                None => judge::forth(picture, member, values.bool("last")),
                Some(to) => judge::back(picture, member, to),
            }),
            Err(reason) => reasons.push(reason),
        }
        reasons
    };
    let before = sound(cluster, patience, judged)
        .await
        .map_err(|reasons| refused(&reasons))?;
    let Ok(member) = before.find(&name) else {
        return Err(refuse("the member went away while it was looked at"));
    };
    let new = act::NewMember {
        peer_urls: values.list("new-peer-urls"),
        endpoint: values.text("new-endpoint"),
        start: values.text("start"),
        stop: values.text("stop"),
    };
    let cluster = act::replace(cluster, member, &new, patience).await?;
    let after = sound(&cluster, patience, judge::health)
        .await
        .map_err(|reasons| {
            let lines: Vec<String> = reasons.iter().map(|reason| format!("  {reason}")).collect();
            refuse(format!(
                "the members were exchanged, but now:\n{}",
                lines.join("\n")
            ))
        })?;
    for line in after.lines() {
        say(&line);
    }
    say("done: all members are healthy and hold the same");
    Ok(())
}
