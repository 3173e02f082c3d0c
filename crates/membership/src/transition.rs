//! Which versions a cluster may go to, and which programs may be part of it.
//!
//! A cluster's version has no patch. It rises to its members' lowest, and goes down by one minor version at a
//! time, when a downgrade is enabled; then the members' programs are replaced one by one.

use crate::cluster::Cluster;
use crate::version::{DowngradeInfo, Version};

/// The cluster's version as long as not every member's is known.
pub const UNDECIDED: Version = Version::new(3, 0, 0);
/// From this version on the database says which version its layout has.
pub const STORAGE_VERSION_SINCE: Version = Version::new(3, 6, 0);
/// The layout of a database that does not say so.
pub const STORAGE_VERSION_BEFORE: Version = Version::new(3, 5, 0);

/// Why a downgrade is refused. The texts are etcd's, without its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DowngradeError {
    /// The target is no version.
    #[error("wrong downgrade target version format")]
    WrongFormat,
    /// The target is not one minor version below the cluster's.
    #[error("invalid downgrade target version")]
    InvalidTarget,
    /// The cluster's version is not decided yet.
    #[error("cluster version not found during downgrade")]
    VersionUnknown,
    /// Another one is under way.
    #[error("cluster has a downgrade job in progress")]
    InProgress,
    /// None is under way.
    #[error("no inflight downgrade job")]
    NotInProgress,
}

/// A downgrade that was enabled and cannot come about: it has to be cancelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster cannot go down to {target:?}: it has version {cluster}, its members {lowest} or newer; cancel the downgrade"
)]
pub struct StuckDowngrade {
    /// The target as it was given.
    pub target: String,
    /// The cluster's version.
    pub cluster: Version,
    /// The lowest version of a member.
    pub lowest: Version,
}

/// A program older than the cluster's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid downgrade; server version is lower than determined cluster version: this is {own}, the cluster has {cluster}. Start this member with a program of at least that version, or downgrade the cluster first"
)]
pub struct TooOld {
    /// The program's version.
    pub own: Version,
    /// The cluster's version.
    pub cluster: Version,
}

/// A layout of the database that this program cannot read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("version \"{0}\" is not supported")]
pub struct UnsupportedStorage(pub Version);

/// Reads the target of a downgrade: `3.6` or `3.6.z`.
///
/// # Errors
/// [`DowngradeError::WrongFormat`].
pub fn parse_target(text: &str) -> Result<Version, DowngradeError> {
    text.parse::<Version>()
        .or_else(|_| format!("{text}.0").parse())
        .map(Version::without_patch)
        .map_err(|_| DowngradeError::WrongFormat)
}

/// Whether a downgrade to `target` may begin.
///
/// # Errors
/// [`DowngradeError`]; a bad target is told before a running downgrade is.
pub fn check_downgrade(cluster: &Cluster, target: Version) -> Result<(), DowngradeError> {
    let Some(version) = cluster.version else {
        return Err(DowngradeError::VersionUnknown);
    };
    if version.downgrade_target() != Some(target) {
        return Err(DowngradeError::InvalidTarget);
    }
    match running(cluster) {
        Some(_) => Err(DowngradeError::InProgress),
        None => Ok(()),
    }
}

/// The downgrade under way.
pub fn running(cluster: &Cluster) -> Option<&DowngradeInfo> {
    cluster.downgrade.as_ref().filter(|info| info.enabled)
}

/// The version the cluster is to get now; `None` when it stays as it is. `lowest` is that of its members'
/// programs, if every one is known.
///
/// # Errors
/// [`StuckDowngrade`].
pub fn next_cluster_version(
    cluster: &Cluster,
    lowest: Option<Version>,
) -> Result<Option<Version>, StuckDowngrade> {
    let lowest = lowest.map(Version::without_patch);
    let Some(now) = cluster.version else {
        return Ok(Some(lowest.unwrap_or(UNDECIDED)));
    };
    let Some(lowest) = lowest else {
        return Ok(None);
    };
    if let Some(info) = running(cluster) {
        let target = info.target_version.parse::<Version>().ok();
        if target == Some(now) {
            return Ok(None);
        }
        if target.is_none()
            || now.downgrade_target() != target
            || lowest.downgrade_target() != target
        {
            return Err(StuckDowngrade {
                target: info.target_version.clone(),
                cluster: now,
                lowest,
            });
        }
        return Ok(target);
    }
    let rises = now < lowest && now.major == lowest.major;
    Ok(rises.then_some(lowest))
}

/// The version that a program of version `own` gives to whoever decides on the cluster's: its own, or the one
/// that is to be held. A cluster's version never rises above its members' lowest, whoever leads, so one member
/// that gives less holds it. Of a cluster that is above it already, the cluster's: giving less would take nothing
/// back and pass for an older program.
pub fn given_version(own: Version, held: Option<Version>, cluster: Option<Version>) -> Version {
    match held {
        Some(held) if held < own.without_patch() => match cluster {
            Some(cluster) if cluster > held => cluster.min(own),
            _ => held,
        },
        _ => own,
    }
}

/// Whether every member runs a program of the version the cluster was to be downgraded to. `None` stands for a
/// member that does not say.
pub fn is_downgraded(target: &str, members: impl IntoIterator<Item = Option<Version>>) -> bool {
    let Ok(target) = target.parse::<Version>() else {
        return false;
    };
    members
        .into_iter()
        .all(|version| version.map(Version::without_patch) == Some(target.without_patch()))
}

/// Whether a program of version `own` may be part of a cluster of this version.
///
/// # Errors
/// [`TooOld`].
pub fn check_program(own: Version, cluster: Version) -> Result<(), TooOld> {
    if own.without_patch() < cluster {
        Err(TooOld { own, cluster })
    } else {
        Ok(())
    }
}

/// Whether a program of version `own` may join a cluster whose members say that it has these versions: at least
/// one says so, and none says what does not do. While a downgrade is under way only programs of its target may.
pub fn may_join(own: Version, downgrading: bool, clusters: &[Version]) -> bool {
    let own = own.without_patch();
    let (least, most) = if downgrading {
        let above = Version::new(own.major, own.minor + 1, 0);
        (above, above)
    } else {
        (UNDECIDED, own)
    };
    !clusters.is_empty()
        && clusters
            .iter()
            .all(|version| (least..=most).contains(version))
}

/// The layout that a database of layout `stored` must get in a cluster of this version; `None` when it has it.
///
/// # Errors
/// [`UnsupportedStorage`], also when the cluster is older than any layout that is known.
pub fn next_storage_version(
    own: Version,
    stored: Version,
    cluster: Version,
) -> Result<Option<Version>, UnsupportedStorage> {
    let (stored, cluster) = (stored.without_patch(), cluster.without_patch());
    if stored == cluster {
        return Ok(None);
    }
    let known = STORAGE_VERSION_BEFORE..=own.without_patch();
    for version in [stored, cluster] {
        if !known.contains(&version) {
            return Err(UnsupportedStorage(version));
        }
    }
    Ok(Some(cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn v(minor: u64) -> Version {
        Version::new(3, minor, 0)
    }

    fn cluster(minor: u64, downgrade: Option<&str>) -> Cluster {
        Cluster {
            version: Some(v(minor)),
            downgrade: downgrade.map(|target| DowngradeInfo {
                target_version: target.into(),
                enabled: true,
            }),
            ..Cluster::default()
        }
    }

    #[test]
    fn targets_are_read_as_etcd_reads_them() {
        assert_eq!(parse_target("3.6"), Ok(v(6)));
        assert_eq!(parse_target("3.6.9"), Ok(v(6)));
        assert_eq!(parse_target("3.6.0-rc.1"), Ok(v(6)));
        for bad in ["", "3", "v3.6", "3.6.1.2", "3.x"] {
            assert_eq!(parse_target(bad), Err(DowngradeError::WrongFormat), "{bad}");
        }
    }

    #[test]
    fn a_downgrade_goes_one_minor_version_and_one_at_a_time() {
        let check = |cluster: &Cluster, minor| check_downgrade(cluster, v(minor));
        assert_eq!(check(&cluster(7, None), 6), Ok(()));
        for minor in [5, 7, 8] {
            let refused = Err(DowngradeError::InvalidTarget);
            assert_eq!(check(&cluster(7, None), minor), refused);
            assert_eq!(check(&cluster(7, Some("3.6.0")), minor), refused);
        }
        let running = Err(DowngradeError::InProgress);
        assert_eq!(check(&cluster(7, Some("3.6.0")), 6), running);
        let unknown = Err(DowngradeError::VersionUnknown);
        assert_eq!(check(&Cluster::default(), 6), unknown);
    }

    #[test]
    fn the_clusters_version_follows_its_members_and_a_downgrade() {
        let next = |cluster: &Cluster, lowest| next_cluster_version(cluster, lowest);
        assert_eq!(next(&Cluster::default(), None), Ok(Some(UNDECIDED)));
        let program = Version::new(3, 7, 1);
        assert_eq!(next(&Cluster::default(), Some(program)), Ok(Some(v(7))));
        assert_eq!(next(&cluster(0, None), Some(program)), Ok(Some(v(7))));
        assert_eq!(next(&cluster(7, None), Some(program)), Ok(None));
        assert_eq!(next(&cluster(7, None), Some(v(5))), Ok(None));
        assert_eq!(next(&cluster(6, None), None), Ok(None));
        // A downgrade lowers it while the members still run the newer program, and keeps it there.
        let down = Some("3.6.0");
        assert_eq!(next(&cluster(7, down), Some(program)), Ok(Some(v(6))));
        assert_eq!(next(&cluster(6, down), Some(program)), Ok(None));
        assert_eq!(next(&cluster(6, None), Some(program)), Ok(Some(v(7))));
        assert!(next(&cluster(8, down), Some(v(8))).is_err());
        assert!(next(&cluster(7, down), Some(v(8))).is_err());
        assert!(next(&cluster(7, Some("x")), Some(v(7))).is_err());
    }

    #[test]
    fn a_held_version_is_given_until_the_cluster_is_above_it() {
        let own = Version::new(3, 7, 1);
        assert_eq!(given_version(own, None, Some(v(5))), own);
        assert_eq!(given_version(own, Some(v(5)), None), v(5));
        assert_eq!(given_version(own, Some(v(5)), Some(v(0))), v(5));
        assert_eq!(given_version(own, Some(v(5)), Some(v(5))), v(5));
        assert_eq!(given_version(own, Some(v(5)), Some(v(6))), v(6));
        assert_eq!(given_version(own, Some(v(5)), Some(v(7))), v(7));
        assert_eq!(given_version(own, Some(v(7)), Some(v(5))), own);
        // A downgrade takes it down step by step, and there it stays: no member gives more.
        let down = cluster(7, Some("3.6.0"));
        let given = given_version(own, Some(v(5)), down.version);
        assert_eq!(next_cluster_version(&down, Some(given)), Ok(Some(v(6))));
        let given = given_version(own, Some(v(5)), Some(v(6)));
        assert!(is_downgraded("3.6.0", [Some(given)]));
        assert_eq!(
            next_cluster_version(&cluster(6, None), Some(given)),
            Ok(None)
        );
    }

    #[test]
    fn a_downgrade_is_over_when_every_member_has_the_target() {
        let old = Some(Version::new(3, 6, 4));
        assert!(is_downgraded("3.6.0", [old, Some(v(6))]));
        assert!(!is_downgraded("3.6.0", [old, Some(v(7))]));
        assert!(!is_downgraded("3.6.0", [old, None]));
    }

    #[test]
    fn programs_join_what_they_understand() {
        let own = Version::new(3, 7, 1);
        assert!(may_join(own, false, &[v(5), v(7)]));
        assert!(!may_join(own, false, &[v(7), v(8)]));
        assert!(!may_join(own, false, &[]));
        assert!(may_join(own, true, &[v(8)]));
        assert!(!may_join(own, true, &[v(7)]));
        assert_eq!(check_program(own, v(7)), Ok(()));
        assert!(check_program(own, v(8)).is_err());
    }

    #[test]
    fn the_databases_layout_follows_the_cluster() {
        let next = |stored, cluster| next_storage_version(v(7), v(stored), v(cluster));
        assert_eq!(next(5, 7), Ok(Some(v(7))));
        assert_eq!(next(7, 7), Ok(None));
        assert_eq!(next(7, 6), Ok(Some(v(6))));
        assert_eq!(next(6, 5), Ok(Some(v(5))));
        assert_eq!(next(5, 4), Err(UnsupportedStorage(v(4))));
        assert_eq!(next(8, 7), Err(UnsupportedStorage(v(8))));
    }
}
