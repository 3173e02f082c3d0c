//! Who the members of the three-member cluster are: names, URLs, IDs, and the flags that start one.
//!
//! Pure: it starts nothing and reads nothing.

use std::path::Path;

use sha1::{Digest, Sha1};

/// Members of the cluster of the walkthrough.
pub const MEMBERS: usize = 3;

/// The token of the walkthrough's cluster; member IDs depend on it.
pub const CLUSTER_TOKEN: &str = "etcd-cluster-1";

/// One member as the others and its clients know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSpec {
    /// `etcd-00`, `etcd-01`, `etcd-02`.
    pub name: String,
    /// The URL its peers reach it at.
    pub peer_url: String,
    /// The URL its clients reach it at.
    pub client_url: String,
}

impl MemberSpec {
    /// The three members on loopback, from (client port, peer port) pairs.
    pub fn loopback(ports: &[(u16, u16); MEMBERS]) -> [MemberSpec; MEMBERS] {
        std::array::from_fn(|i| MemberSpec {
            name: format!("etcd-0{i}"),
            peer_url: format!("http://127.0.0.1:{}", ports[i].1),
            client_url: format!("http://127.0.0.1:{}", ports[i].0),
        })
    }

    /// The three members of `docker-compose.yml`.
    pub fn compose() -> [MemberSpec; MEMBERS] {
        std::array::from_fn(|i| MemberSpec {
            name: format!("etcd-0{i}"),
            peer_url: format!("http://etcd-0{i}:2380"),
            client_url: format!("http://etcd-0{i}:2379"),
        })
    }

    /// The member's ID in a cluster that started with it: see [`member_id`].
    pub fn id(&self) -> u64 {
        member_id(&[self.peer_url.as_str()], CLUSTER_TOKEN)
    }

    /// The line that `etcdctl member list` prints for it under `ETCDCTL_API=2`.
    pub fn list_line(&self, leads: bool) -> String {
        format!(
            "{:x}: name={} peerURLs={} clientURLs={} isLeader={leads}",
            self.id(),
            self.name,
            self.peer_url,
            self.client_url,
        )
    }

    /// The command line of `etcd` for this member of `all`.
    pub fn etcd_args(&self, all: &[MemberSpec], data_dir: &Path) -> Vec<String> {
        let initial: Vec<String> = all
            .iter()
            .map(|m| format!("{}={}", m.name, m.peer_url))
            .collect();
        vec![
            format!("--name={}", self.name),
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-peer-urls={}", self.peer_url),
            format!("--initial-advertise-peer-urls={}", self.peer_url),
            format!("--listen-client-urls={}", self.client_url),
            format!("--advertise-client-urls={}", self.client_url),
            format!("--initial-cluster={}", initial.join(",")),
            format!("--initial-cluster-token={CLUSTER_TOKEN}"),
            "--initial-cluster-state=new".to_owned(),
        ]
    }
}

/// etcd's rule for the ID of a member that starts with the cluster: the first eight bytes, big-endian,
/// of SHA-1 over its sorted peer URLs joined without a separator, followed by the cluster token.
pub fn member_id(peer_urls: &[&str], token: &str) -> u64 {
    let mut sorted = peer_urls.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(token);
    let digest = hash.finalize();
    digest
        .iter()
        .take(8)
        .fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// Every line that `member list` must print, in its order (by ID), when member `leader` leads.
pub fn member_list(specs: &[MemberSpec], leader: usize) -> Vec<String> {
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by_key(|&i| specs[i].id());
    order
        .into_iter()
        .map(|i| specs[i].list_line(i == leader))
        .collect()
}

/// Which member leads according to the output of `member list`, if that output is, to the letter, what
/// [`member_list`] gives for that leader. `Ok(None)`: every line is right but none leads.
///
/// # Errors
/// A description of the first difference.
pub fn read_member_list(specs: &[MemberSpec], output: &str) -> Result<Option<usize>, String> {
    let lines: Vec<&str> = output.lines().collect();
    for leader in 0..specs.len() {
        if lines == member_list(specs, leader) {
            return Ok(Some(leader));
        }
    }
    let nobody: Vec<String> = member_list(specs, usize::MAX);
    if lines == nobody {
        return Ok(None);
    }
    let at = lines.iter().zip(&nobody).position(|(got, want)| {
        got.strip_suffix("isLeader=true")
            .or_else(|| got.strip_suffix("isLeader=false"))
            != want.strip_suffix("isLeader=false")
    });
    Err(match at {
        Some(at) => format!(
            "line {} is {:?}, expected {:?}",
            at + 1,
            lines[at],
            nobody[at]
        ),
        None => format!(
            "expected {} lines of which one says isLeader=true, got {:?}",
            specs.len(),
            output
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_document_names_these_lines() {
        let text = "\
9772fa935aee2fcb: name=etcd-02 peerURLs=http://etcd-02:2380 clientURLs=http://etcd-02:2379 isLeader=false
dc6856a29b285c1c: name=etcd-01 peerURLs=http://etcd-01:2380 clientURLs=http://etcd-01:2379 isLeader=false
f9bb7dc32e4429fd: name=etcd-00 peerURLs=http://etcd-00:2380 clientURLs=http://etcd-00:2379 isLeader=true
";
        let specs = MemberSpec::compose();
        assert_eq!(text.lines().collect::<Vec<_>>(), member_list(&specs, 0));
        assert_eq!(read_member_list(&specs, text), Ok(Some(0)));
        let nobody = text.replace("true", "false");
        assert_eq!(read_member_list(&specs, &nobody), Ok(None));
        let two = text.replace("false", "true");
        assert!(read_member_list(&specs, &two).is_err());
        let wrong = text.replace("name=etcd-01", "name=etcd-1");
        let words = read_member_list(&specs, &wrong).expect_err("a wrong name");
        assert!(words.starts_with("line 2 is"), "{words}");
        assert!(read_member_list(&specs, "").is_err());
    }

    #[test]
    fn ids_do_not_depend_on_the_order_of_urls() {
        let one = member_id(&["http://b:1", "http://a:1"], "t");
        assert_eq!(one, member_id(&["http://a:1", "http://b:1"], "t"));
        assert_ne!(one, member_id(&["http://a:1", "http://b:1"], "u"));
    }
}
