//! Rows and columns, and the table form with its frame of box-drawing characters.

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

/// Draws the frame: the header in capitals and centred, the cells to the right.
pub fn render(rows: &Rows) -> String {
    let header: Vec<String> = rows
        .header
        .iter()
        .map(|h| h.to_uppercase().replace(['_', '.'], " "))
        .collect();
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            rows.cells
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(cell))
                .chain([width(name)])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let rule = |left: char, middle: &str, right: char| {
        let parts: Vec<String> = widths.iter().map(|w| "─".repeat(w + 2)).collect();
        format!("{left}{}{right}\n", parts.join(middle))
    };
    let row = |cells: Vec<String>| format!("│{}│\n", cells.join("│"));
    let mut out = rule('┌', "┬", '┐');
    out.push_str(&row(header
        .iter()
        .zip(&widths)
        .map(|(name, &w)| {
            let gap = w - width(name);
            let left = gap / 2;
            format!(" {}{name}{} ", " ".repeat(left), " ".repeat(gap - left))
        })
        .collect()));
    if !rows.cells.is_empty() {
        out.push_str(&rule('├', "┼", '┤'));
    }
    for cells in &rows.cells {
        out.push_str(&row(cells
            .iter()
            .zip(&widths)
            .map(|(cell, &w)| format!(" {}{cell} ", " ".repeat(w.saturating_sub(width(cell)))))
            .collect()));
    }
    out.push_str(&rule('└', "┴", '┘'));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_centred_and_cells_stand_right() {
        let rows = Rows {
            header: vec!["endpoint", "hash", "hash_revision"],
            cells: vec![
                vec!["127.0.0.1:2379".into(), "1084519789".into(), "3".into()],
                vec!["é:1".into(), "7".into(), String::new()],
            ],
        };
        assert_eq!(
            render(&rows),
            "\
┌────────────────┬────────────┬───────────────┐
│    ENDPOINT    │    HASH    │ HASH REVISION │
├────────────────┼────────────┼───────────────┤
│ 127.0.0.1:2379 │ 1084519789 │             3 │
│            é:1 │          7 │               │
└────────────────┴────────────┴───────────────┘
"
        );
    }

    #[test]
    fn an_odd_gap_leaves_its_extra_space_on_the_right() {
        let rows = Rows {
            header: vec!["id"],
            cells: vec![vec!["12345".into()]],
        };
        assert_eq!(
            render(&rows),
            "┌───────┐\n│  ID   │\n├───────┤\n│ 12345 │\n└───────┘\n"
        );
    }

    #[test]
    fn an_empty_database_divides_nothing_by_zero() {
        let rows = status(&[At {
            endpoint: "e".into(),
            response: pb::StatusResponse::default(),
        }]);
        assert_eq!(rows.cells[0][6], "0%");
    }
}
