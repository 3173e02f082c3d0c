//! IDs of members and clusters: the first eight bytes of a SHA-1, the same in every implementation.

use sha1::{Digest, Sha1};

/// A member's ID from its peer URLs and the cluster token; with the time of the call, in seconds since
/// 1970, for a member added to a running cluster (whose token is empty then).
pub fn member_id(peer_urls: &[String], token: &str, unix_seconds: Option<i64>) -> u64 {
    let mut sorted: Vec<&String> = peer_urls.iter().collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    if let Some(seconds) = unix_seconds {
        hash.update(seconds.to_string().as_bytes());
    }
    first_eight(hash)
}

/// A cluster's ID from those of its first members, in any order.
pub fn cluster_id(ids: &[u64]) -> u64 {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest: [u8; 20] = hash.finalize().into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

/// Parses an ID as etcd writes it: hexadecimal, lower case, without leading zeros.
pub fn parse_id(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walkthroughs_three_ids() {
        let ids: Vec<u64> = (0..3)
            .map(|n| member_id(&[format!("http://etcd-0{n}:2380")], "etcd-cluster-1", None))
            .collect();
        assert_eq!(
            ids,
            [
                0xf9bb_7dc3_2e44_29fd,
                0xdc68_56a2_9b28_5c1c,
                0x9772_fa93_5aee_2fcb
            ]
        );
    }

    #[test]
    fn urls_are_sorted_first_and_time_is_decimal_text() {
        let urls = |list: [&str; 2]| list.map(str::to_owned);
        let one = member_id(&urls(["http://a:1", "http://b:2"]), "t", None);
        assert_eq!(
            one,
            member_id(&urls(["http://b:2", "http://a:1"]), "t", None)
        );
        assert_eq!(
            member_id(&urls(["http://a:1", "http://b:2"]), "", Some(12)),
            member_id(&urls(["http://a:1", "http://b:2"]), "12", None)
        );
    }

    #[test]
    fn ids_parse_strictly() {
        assert_eq!(parse_id("9772fa935aee2fcb"), Some(0x9772_fa93_5aee_2fcb));
        assert_eq!(parse_id("0"), Some(0));
        for bad in ["", "+1", "0x1", "g", "11111111111111111"] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }
}
