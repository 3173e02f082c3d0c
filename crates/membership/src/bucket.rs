//! Keys and values of the buckets `members`, `members_removed` and `cluster` of the database.

use crate::cluster::Cluster;
use crate::error::Error;
use crate::gojson;
use crate::id::parse_id;
use crate::member::Member;
use crate::version::{DowngradeInfo, Version};

/// Bucket of the members.
pub const MEMBERS: &str = "members";
/// Bucket of the removed IDs.
pub const MEMBERS_REMOVED: &str = "members_removed";
/// Bucket of the cluster's version and downgrade.
pub const CLUSTER: &str = "cluster";
/// Key of the cluster's version.
pub const CLUSTER_VERSION_KEY: &str = "clusterVersion";
/// Key of the downgrade.
pub const DOWNGRADE_KEY: &str = "downgrade";
/// Value under each removed ID.
pub const REMOVED_VALUE: &str = "removed";

/// Key of a member, in `members` and in `members_removed`.
pub fn member_key(id: u64) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

/// Value of a member.
pub fn member_value(member: &Member) -> Vec<u8> {
    member.to_json().into_bytes()
}

/// Value of the cluster's version.
pub fn version_value(version: Version) -> Vec<u8> {
    version.to_string().into_bytes()
}

/// Value of the downgrade.
pub fn downgrade_value(downgrade: &DowngradeInfo) -> Vec<u8> {
    gojson::to_string(downgrade).into_bytes()
}

fn key_id(bucket: &'static str, key: &[u8]) -> Result<u64, Error> {
    std::str::from_utf8(key)
        .ok()
        .and_then(parse_id)
        .ok_or_else(|| Error::BadKey {
            bucket,
            key: String::from_utf8_lossy(key).into_owned(),
        })
}

fn malformed(bucket: &str, key: &[u8], detail: &dyn std::fmt::Display) -> Error {
    Error::Malformed {
        place: format!("bucket {bucket}, key {:?}", String::from_utf8_lossy(key)),
        detail: detail.to_string(),
    }
}

/// Reads one pair of `members`.
pub fn decode_member(key: &[u8], value: &[u8]) -> Result<Member, Error> {
    let id = key_id(MEMBERS, key)?;
    let member = Member::from_json(value).map_err(|error| malformed(MEMBERS, key, &error))?;
    // The key decides; the two differ only in a damaged file.
    if member.id != id && member.id != 0 {
        return Err(malformed(
            MEMBERS,
            key,
            &format!("the value describes member {:x}", member.id),
        ));
    }
    Ok(Member { id, ..member })
}

/// Reads one key of `members_removed`.
pub fn decode_removed(key: &[u8]) -> Result<u64, Error> {
    key_id(MEMBERS_REMOVED, key)
}

/// Fills a cluster from scans of the three buckets; its ID stays what it was.
pub fn load<'a>(
    cluster: &mut Cluster,
    members: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    removed: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    attributes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<(), Error> {
    let mut loaded = Cluster {
        id: cluster.id,
        max_learners: cluster.max_learners,
        ..Cluster::default()
    };
    for (key, value) in members {
        let member = decode_member(key, value)?;
        loaded.members.insert(member.id, member);
    }
    for (key, _) in removed {
        loaded.removed.insert(decode_removed(key)?);
    }
    for (key, value) in attributes {
        if key == CLUSTER_VERSION_KEY.as_bytes() {
            let text =
                std::str::from_utf8(value).map_err(|error| malformed(CLUSTER, key, &error))?;
            loaded.version = Some(
                text.parse()
                    .map_err(|error| malformed(CLUSTER, key, &error))?,
            );
        } else if key == DOWNGRADE_KEY.as_bytes() {
            let downgrade: DowngradeInfo =
                serde_json::from_slice(value).map_err(|error| malformed(CLUSTER, key, &error))?;
            if downgrade.enabled {
                downgrade
                    .target_version
                    .parse::<Version>()
                    .map_err(|error| malformed(CLUSTER, key, &error))?;
            }
            loaded.downgrade = Some(downgrade);
        }
    }
    *cluster = loaded;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_gos_bytes_and_read_back() {
        let member = Member {
            id: 0xabc,
            peer_urls: vec!["http://a:1".into()],
            name: "a".into(),
            ..Member::default()
        };
        assert_eq!(member_key(0xabc), b"abc");
        let downgrade = DowngradeInfo {
            target_version: "3.6.0".into(),
            enabled: true,
        };
        assert_eq!(
            downgrade_value(&downgrade),
            br#"{"target-version":"3.6.0","enabled":true}"#
        );
        let mut cluster = Cluster {
            id: 9,
            ..Cluster::default()
        };
        load(
            &mut cluster,
            [(&b"abc"[..], &member_value(&member)[..])],
            [(&b"def"[..], &b"removed"[..])],
            [
                (&b"clusterVersion"[..], &b"3.7.0"[..]),
                (&b"downgrade"[..], &downgrade_value(&downgrade)[..]),
            ],
        )
        .expect("loads");
        assert_eq!(cluster.id, 9);
        assert_eq!(cluster.member(0xabc), Some(&member));
        assert!(cluster.is_removed(0xdef));
        assert_eq!(cluster.version, Some(Version::new(3, 7, 0)));
        assert_eq!(cluster.downgrade, Some(downgrade));
    }

    #[test]
    fn damage_is_named_and_changes_nothing() {
        let mut cluster = Cluster {
            id: 9,
            ..Cluster::default()
        };
        let before = cluster.clone();
        assert!(matches!(
            load(&mut cluster, [(&b"zz"[..], &b"{}"[..])], [], []),
            Err(Error::BadKey { .. })
        ));
        assert!(matches!(
            load(&mut cluster, [(&b"a"[..], &b"{"[..])], [], []),
            Err(Error::Malformed { .. })
        ));
        assert!(matches!(
            load(&mut cluster, [(&b"a"[..], &b"{\"id\":11}"[..])], [], []),
            Err(Error::Malformed { .. })
        ));
        assert!(load(&mut cluster, [], [], [(&b"clusterVersion"[..], &b"3"[..])]).is_err());
        assert_eq!(cluster, before);
    }
}
