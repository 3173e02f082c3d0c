//! `move-leader`, `alarm …`, `defrag`, `snapshot save`.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferrite_cli::progress::{Progress, Unit};
use ferrite_client::pb::alarm_request::AlarmAction;
use ferrite_client::{Client, describe, pb};

use super::{Words, endpoint, text};
use crate::exit::{self, Failure};
use crate::gofmt::{self, duration, parse_uint};
use crate::report;
use crate::session::Session;

/// How often a terminal sees that something goes on.
const TICK: Duration = Duration::from_millis(250);
/// A snapshot ends with a SHA-256 sum; the database before it is whole sectors.
const SECTOR_BYTES: u64 = 512;
const SUM_BYTES: u64 = 32;

/// The member that `move-leader` names.
pub fn move_leader_target(words: &Words) -> Result<u64, Failure> {
    let [target] = words else {
        return Err(Failure::args("move-leader command needs 1 argument"));
    };
    parse_uint(&text(target), 16).map_err(Failure::args)
}

/// `move-leader`.
pub async fn move_leader(session: &Session, target: u64) -> Result<(), Failure> {
    let endpoints = session.members().await?;
    for endpoint in &endpoints {
        let client = session.client_at(endpoint).await?;
        let status = client
            .maintenance()
            .status(pb::StatusRequest {})
            .await?
            .into_inner();
        let member = status.header.as_ref().map_or(0, |h| h.member_id);
        if status.leader == member {
            let request = pb::MoveLeaderRequest { target_id: target };
            let response = client.maintenance().move_leader(request).await?;
            return session
                .printer
                .move_leader(member, target, response.get_ref());
        }
    }
    Err(Failure::args(format!(
        "no leader endpoint given at [{}]",
        endpoints.join(" ")
    )))
}

/// Refuses arguments of `alarm …`.
pub fn check_alarm(words: &Words, name: &str) -> Result<(), Failure> {
    if words.is_empty() {
        return Ok(());
    }
    Err(Failure::args(format!(
        "alarm {name} command accepts no arguments"
    )))
}

async fn alarms(client: &Client) -> Result<pb::AlarmResponse, Failure> {
    let request = pb::AlarmRequest::default();
    Ok(client.maintenance().alarm(request).await?.into_inner())
}

/// `alarm list`.
pub async fn alarm_list(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    session.printer.alarms(&alarms(&client).await?)
}

/// `alarm disarm`: every alarm that is listed.
pub async fn alarm_disarm(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    let mut all = pb::AlarmResponse::default();
    for alarm in alarms(&client).await?.alarms {
        let request = pb::AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        let response = client.maintenance().alarm(request).await?.into_inner();
        all.alarms.extend(response.alarms);
    }
    session.printer.alarms(&all)
}

/// `defrag`.
pub async fn defrag(session: &Session) -> Result<(), Failure> {
    let mut failed = false;
    for endpoint in endpoint::endpoints(session).await? {
        let client = session.client_at(&endpoint).await?;
        let start = Instant::now();
        let mut maintenance = client.maintenance();
        let call = maintenance.defragment(pb::DefragmentRequest {});
        let result = watched(&format!("defragmenting {endpoint}"), call).await;
        let took = duration(start.elapsed());
        match result {
            Ok(_) => report::line(&format!(
                "Finished defragmenting etcd member[{endpoint}]. took {took}"
            )),
            Err(status) => {
                failed = true;
                report::err(&format!(
                    "Failed to defragment etcd member[{endpoint}]. took {took}. ({})",
                    describe(&status)
                ));
            }
        }
    }
    if failed {
        return Err(Failure::silent(exit::ERROR));
    }
    Ok(())
}

/// Waits for something, and lets a terminal see that it goes on.
async fn watched<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut progress = Progress::new(what, Unit::Count, None);
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(TICK, &mut work).await {
            Ok(result) => return result,
            Err(_) => progress.set(0),
        }
    }
}

/// Where `snapshot save` writes.
pub fn snapshot_path(words: &Words) -> Result<PathBuf, Failure> {
    let [path] = words else {
        return Err(Failure::args(
            "snapshot save expects one argument <filename>",
        ));
    };
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}

/// `snapshot save`; `limited` says that the user set a time limit. The file appears under its name only once it is whole and on disk.
pub async fn snapshot_save(session: &Session, path: &Path, limited: bool) -> Result<(), Failure> {
    let failure = |text: String| Failure::new(exit::INTERRUPTED, text);
    let endpoints = session.members().await?;
    let [endpoint] = &endpoints[..] else {
        return Err(failure(format!(
            "snapshot must be requested to one selected node, not multiple [{}]",
            endpoints.join(" ")
        )));
    };
    let client = session.client_at(endpoint).await?;
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let receive = receive(&client, endpoint, &part);
    let result = if limited {
        match tokio::time::timeout(session.command_timeout(), receive).await {
            Ok(result) => result,
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
    } else {
        receive.await
    };
    let result = result.and_then(|version| {
        fs::rename(&part, path)
            .and_then(|()| sync_parent(path))
            .map_err(|e| {
                format!(
                    "could not rename {} to {} ({})",
                    part.display(),
                    path.display(),
                    gofmt::system(&e)
                )
            })?;
        report::log("info", "saved", &[("path", &path.display().to_string())]);
        Ok(version)
    });
    let version = result.map_err(|error| {
        // Whatever was received is of no use; that it may not exist does not matter.
        let _ = fs::remove_file(&part);
        failure(error)
    })?;
    report::line(&format!("Snapshot saved at {}", path.display()));
    if !version.is_empty() {
        report::line(&format!("Server version {version}"));
    }
    Ok(())
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::File::open(parent)?.sync_all()
}

/// Receives a database into a file and syncs it; the version of the server that sent it.
async fn receive(client: &Client, endpoint: &str, part: &Path) -> Result<String, String> {
    let begun = Instant::now();
    let name = part.display();
    let open = |e| format!("could not open {name} (open {name}: {})", gofmt::system(&e));
    let write = |e| {
        format!(
            "could not write snapshot: write {name}: {}",
            gofmt::system(&e)
        )
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(part)
        .map_err(open)?;
    let created = [("path", &*part.to_string_lossy())];
    report::log("info", "created temporary db file", &created);
    let mut progress = Progress::new("saving", Unit::Bytes, None);
    if progress.is_seen() {
        // Only for the bar: what is sent may be a little more or less.
        let status = client.maintenance().status(pb::StatusRequest {}).await;
        let size = status.ok().map(|s| s.into_inner().db_size);
        let size = size.and_then(|size| u64::try_from(size).ok());
        progress = Progress::new("saving", Unit::Bytes, size);
    }
    let mut stream = client
        .maintenance()
        .snapshot(pb::SnapshotRequest {})
        .await
        .map_err(|s| describe(&s))?
        .into_inner();
    report::log("info", "fetching snapshot", &[("endpoint", endpoint)]);
    let mut version = String::new();
    let mut size = 0u64;
    while let Some(piece) = stream.message().await.map_err(|s| describe(&s))? {
        file.write_all(&piece.blob).map_err(write)?;
        size += piece.blob.len() as u64;
        progress.set(size);
        version = piece.version;
    }
    if size % SECTOR_BYTES != SUM_BYTES {
        return Err(format!("sha256 checksum not found [bytes: {size}]"));
    }
    file.sync_all().map_err(|e| {
        format!(
            "could not fsync snapshot: sync {name}: {}",
            gofmt::system(&e)
        )
    })?;
    drop(progress);
    report::log(
        "info",
        "fetched snapshot",
        &[
            ("endpoint", endpoint),
            ("size", &gofmt::size(size)),
            ("took", &duration(begun.elapsed())),
            ("etcd-version", &version),
        ],
    );
    Ok(version)
}
