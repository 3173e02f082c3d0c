//! `migrate`: changes the storage version of a data folder, up or down, while no server uses it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrite_bolt::Db;
use ferrite_cli::gofmt;
use ferrite_membership::Version;
use ferrite_mvcc::schema::{self, Bucket};
use ferrite_proto::etcdserverpb::InternalRaftRequest;
use ferrite_proto::raftpb::{Entry, EntryType};
use ferrite_wal::Wal;
use prost::Message;

use crate::defrag::database_of;
use crate::error::{BAD_ARGS, Error, Failure};
use crate::file;
use crate::log::{self, Field};

/// The oldest schema there is.
const OLDEST: Version = Version::new(3, 5, 0);
/// The first that has its version written down.
const FIRST_WRITTEN: Version = Version::new(3, 6, 0);
/// The newest known.
const NEWEST: Version = Version::new(3, 7, 0);

/// What to migrate, and where to.
#[derive(Debug)]
pub struct Migration {
    /// The data folder.
    pub data_dir: PathBuf,
    /// The version wanted.
    pub target: Version,
    /// Set the version even when the way there is not known.
    pub force: bool,
}

/// Reads `--target-version`.
///
/// # Errors
/// Anything but `X.Y` from 3.5 on.
pub fn parse_target(text: &str) -> Result<Version, Failure> {
    let bad = |message: String| Failure::new(BAD_ARGS, message);
    let parts: Vec<&str> = text.split('.').collect();
    let [major, minor] = parts[..] else {
        return Err(bad(format!(
            "wrong target version format, expected \"X.Y\", got {}",
            gofmt::quote(text.as_bytes())
        )));
    };
    let number = |part: &str| {
        gofmt::parse_int(part, 10)
            .and_then(|n| u64::try_from(n).map_err(|_| format!("{n} is negative")))
            .map_err(|error| bad(format!("failed to parse target version: {error}")))
    };
    let target = Version::new(number(major)?, number(minor)?, 0);
    if target < OLDEST {
        return Err(bad(format!(
            "target version \"{}\" not supported. Minimal \"3.5\"",
            short(target)
        )));
    }
    Ok(target)
}

fn short(version: Version) -> String {
    format!("{}.{}", version.major, version.minor)
}

impl Migration {
    /// Does it.
    ///
    /// # Errors
    /// Files that are missing, in use or damaged; a version that there is no way to; a log with entries
    /// that the target cannot read.
    pub fn run(&self, timeout: Duration) -> Result<(), Error> {
        let path = database_of(&self.data_dir);
        file::must_exist(&path)?;
        let db = file::open_to_write(&path, timeout)?;
        let current = current(&db, &path).inspect_err(|_| {
            log::error(
                "failed to detect storage version. Please make sure you are using data dir from etcd v3.5 and older",
                &[],
            );
        })?;
        if current == self.target {
            log::info(
                "storage version up-to-date",
                &[("storage-version", Field::Text(&short(current)))],
            );
            return Ok(());
        }
        let needed = needed_by_log(&self.data_dir.join("member").join("wal"))?;
        match self.plan(current, needed) {
            Ok(steps) => {
                store(&db, &path, self.target)?;
                for step in steps {
                    log::info(
                        "updated storage version",
                        &[("new-storage-version", Field::Text(&step.to_string()))],
                    );
                }
            }
            Err(error) if self.force => {
                log::info(
                    "normal migrate failed, trying with force",
                    &[("error", Field::Text(&error.to_string()))],
                );
                store(&db, &path, self.target)?;
                if self.target < FIRST_WRITTEN {
                    log::warn("forcefully cleared storage version", &[]);
                } else {
                    log::warn(
                        "forcefully set storage version",
                        &[("storage-version", Field::Text(&short(self.target)))],
                    );
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The versions on the way.
    fn plan(&self, current: Version, needed: Option<Version>) -> Result<Vec<Version>, Error> {
        let target = self.target;
        if current.major != target.major {
            return Err(Error::Content(
                "cannot create migration plan: changing major storage version is not supported"
                    .into(),
            ));
        }
        let unknown = |version: Version| {
            Error::Content(format!(
                "cannot create migration plan: version \"{version}\" is not supported"
            ))
        };
        let mut steps = Vec::new();
        let mut at = current.without_patch();
        while at != target {
            let up = at < target;
            let higher = if up {
                Version::new(at.major, at.minor + 1, 0)
            } else {
                at
            };
            if !(FIRST_WRITTEN..=NEWEST).contains(&higher) {
                return Err(unknown(higher));
            }
            at = if up {
                higher
            } else {
                at.downgrade_target().ok_or_else(|| unknown(at))?
            };
            steps.push(at);
        }
        match needed {
            Some(found) if target < current && target < found => {
                Err(Error::WalTooNew { target, found })
            }
            _ => Ok(steps),
        }
    }
}

fn current(db: &Db, path: &Path) -> Result<Version, Error> {
    let damage = Error::database(path);
    let tx = db.begin_read().map_err(&damage)?;
    let meta = tx.bucket(Bucket::Meta.name().as_bytes()).map_err(&damage)?;
    let get = |name: &str| match &meta {
        Some(meta) => meta.get(name.as_bytes()).map_err(&damage),
        None => Ok(None),
    };
    if let Some(text) = get(schema::STORAGE_VERSION)?.filter(|text| !text.is_empty()) {
        return Ok(String::from_utf8_lossy(&text).parse()?);
    }
    match get(schema::TERM)? {
        Some(term) if term.iter().any(|&byte| byte != 0) => Ok(OLDEST),
        _ => Err(Error::Content("missing term information".into())),
    }
}

fn store(db: &Db, path: &Path, target: Version) -> Result<(), Error> {
    let damage = Error::database(path);
    let mut tx = db.begin_write().map_err(&damage)?;
    let meta = Bucket::Meta.name().as_bytes();
    let key = schema::STORAGE_VERSION.as_bytes();
    if target < FIRST_WRITTEN {
        tx.delete(meta, key)
    } else {
        tx.put(meta, key, target.to_string().as_bytes())
    }
    .and_then(|()| tx.commit())
    .map(drop)
    .map_err(&damage)
}

/// The version that the entries after the last snapshot need, if that is more than every schema's.
fn needed_by_log(wal_dir: &Path) -> Result<Option<Version>, Error> {
    let snapshots = Wal::valid_snapshots(wal_dir)?;
    let from = snapshots.last().cloned().unwrap_or_default();
    let log = Wal::read(wal_dir, &from)?;
    Ok(log.entries.iter().filter_map(needed_by).max())
}

/// Of what goes through the log, only one request is newer than the oldest schema: it exists to test this.
fn needed_by(entry: &Entry) -> Option<Version> {
    if entry.entry_type != EntryType::EntryNormal as i32 {
        return None;
    }
    // What does not decode is older than this form of requests.
    let request = InternalRaftRequest::decode(&entry.data[..]).ok()?;
    let test = request.downgrade_version_test?;
    let named: Option<Version> = test.ver.parse().ok();
    named.max(Some(FIRST_WRITTEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse_target(text).err().map_or_else(String::new, |f| {
            assert_eq!(f.code, BAD_ARGS);
            f.message
        })
    }

    #[test]
    fn targets() {
        assert_eq!(parse_target("3.7").ok(), Some(Version::new(3, 7, 0)));
        assert_eq!(
            message("3.a"),
            r#"failed to parse target version: strconv.ParseInt: parsing "a": invalid syntax"#
        );
        for bad in ["3", "3.6.0", "abc"] {
            assert_eq!(
                message(bad),
                format!("wrong target version format, expected \"X.Y\", got \"{bad}\"")
            );
        }
        assert_eq!(
            message("3.4"),
            "target version \"3.4\" not supported. Minimal \"3.5\""
        );
    }

    #[test]
    fn ways_up_and_down() {
        let to = |minor| Migration {
            data_dir: PathBuf::new(),
            target: Version::new(3, minor, 0),
            force: false,
        };
        let v = |minor| Version::new(3, minor, 0);
        assert_eq!(to(5).plan(v(7), None).unwrap(), [v(6), v(5)]);
        assert_eq!(to(7).plan(v(5), None).unwrap(), [v(6), v(7)]);
        assert_eq!(
            to(8).plan(v(7), None).unwrap_err().to_string(),
            "cannot create migration plan: version \"3.8.0\" is not supported"
        );
        assert!(matches!(
            to(5).plan(v(7), Some(v(6))),
            Err(Error::WalTooNew { .. })
        ));
        assert!(to(6).plan(v(7), Some(v(6))).is_ok());
        let other = Migration {
            target: Version::new(4, 0, 0),
            ..to(0)
        };
        assert!(other.plan(v(7), None).is_err());
    }
}
