//! Rows and columns.

use ferrite_client::pb;

use super::{At, Health};
use crate::gofmt;

/// A header and rows below it.
pub struct Rows {
    /// Names of the columns.
    pub header: Vec<&'static str>,
    /// One list of cells a row.
    pub cells: Vec<Vec<String>>,
}

/// Members, a row each.
pub fn members(members: &[pb::Member]) -> Rows {
    Rows {
        header: vec![
            "ID",
            "Status",
            "Name",
            "Peer Addrs",
            "Client Addrs",
            "Is Learner",
        ],
        cells: members
            .iter()
            .map(|m| {
                let status = if m.name.is_empty() {
                    "unstarted"
                } else {
                    "started"
                };
                vec![
                    format!("{:x}", m.id),
                    status.to_owned(),
                    m.name.clone(),
                    m.peer_urls.join(","),
                    m.client_urls.join(","),
                    m.is_learner.to_string(),
                ]
            })
            .collect(),
    }
}

/// Health, a row an endpoint.
pub fn health(list: &[Health]) -> Rows {
    Rows {
        header: vec!["endpoint", "health", "took", "error"],
        cells: list
            .iter()
            .map(|h| {
                vec![
                    h.endpoint.clone(),
                    h.healthy.to_string(),
                    h.took.clone(),
                    h.error.clone(),
                ]
            })
            .collect(),
    }
}

/// Status, a row an endpoint.
pub fn status(list: &[At<pb::StatusResponse>]) -> Rows {
    // Sizes are signed on the wire; a negative one is nonsense and shows as nothing.
    let size = |bytes: i64| gofmt::size(u64::try_from(bytes).unwrap_or(0));
    Rows {
        header: vec![
            "endpoint",
            "ID",
            "version",
            "storage version",
            "db size",
            "in use",
            "percentage not in use",
            "quota",
            "is leader",
            "is learner",
            "raft term",
            "raft index",
            "raft applied index",
            "errors",
            "downgrade target version",
            "downgrade enabled",
        ],
        cells: list
            .iter()
            .map(|at| {
                let r = &at.response;
                let member = r.header.as_ref().map_or(0, |h| h.member_id);
                let used = r
                    .db_size_in_use
                    .saturating_mul(100)
                    .checked_div(r.db_size)
                    .unwrap_or(100);
                let downgrade = r.downgrade_info.clone().unwrap_or_default();
                vec![
                    at.endpoint.clone(),
                    format!("{member:x}"),
                    r.version.clone(),
                    r.storage_version.clone(),
                    size(r.db_size),
                    size(r.db_size_in_use),
                    format!("{}%", 100 - used),
                    size(r.db_size_quota),
                    (r.leader == member).to_string(),
                    r.is_learner.to_string(),
                    r.raft_term.to_string(),
                    r.raft_index.to_string(),
                    r.raft_applied_index.to_string(),
                    r.errors.join(", "),
                    downgrade.target_version,
                    downgrade.enabled.to_string(),
                ]
            })
            .collect(),
    }
}

/// Hashes, a row an endpoint.
pub fn hash_kv(list: &[At<pb::HashKvResponse>]) -> Rows {
    Rows {
        header: vec!["endpoint", "hash", "hash_revision"],
        cells: list
            .iter()
            .map(|at| {
                vec![
                    at.endpoint.clone(),
                    at.response.hash.to_string(),
                    at.response.hash_revision.to_string(),
                ]
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_database_divides_nothing_by_zero() {
        let rows = status(&[At {
            endpoint: "e".into(),
            response: pb::StatusResponse::default(),
        }]);
        assert_eq!(rows.cells[0][6], "0%");
    }
}
