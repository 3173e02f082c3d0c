//! What two looks at a cluster come to, as text for people and as JSON for scripts. No terminal is known here.

use std::time::Duration;

use super::sample::{Answer, Member, Metrics, Sample};
use crate::diagnosis;
use crate::gofmt;
use crate::metrics;
use crate::output::At;
use crate::output::json::escape;

/// The part of the syncs that took no longer than what is shown.
const SYNC_PART: f64 = 0.99;

const COLUMNS: [&str; 13] = [
    "NAME",
    "ID",
    "ROLE",
    "READ",
    "REQ/S",
    "FSYNC P99",
    "INDEX",
    "BEHIND",
    "DB",
    "IN USE",
    "QUOTA",
    "MEMORY",
    "VERSION",
];

/// What both looks say of the whole.
struct Whole<'a> {
    cluster: u64,
    leader: Option<&'a Member>,
    term: u64,
    revision: i64,
    index: u64,
    writes: f64,
    entries: f64,
}

fn answers(sample: &Sample) -> impl Iterator<Item = &Answer> {
    sample.members.iter().filter_map(|m| m.answer.as_ref().ok())
}

fn index(answer: &Answer) -> u64 {
    answer
        .status
        .raft_index
        .max(answer.status.raft_applied_index)
}

/// So much more a second; nothing is counted backwards.
fn rate(before: f64, now: f64, between: Duration) -> f64 {
    let seconds = between.as_secs_f64();
    if seconds > 0.0 {
        ((now - before) / seconds).max(0.0)
    } else {
        0.0
    }
}

fn whole<'a>(before: &Sample, now: &'a Sample) -> Whole<'a> {
    let newest = answers(now).max_by_key(|a| a.status.raft_term);
    let (term, leader) = newest.map_or((0, 0), |a| (a.status.raft_term, a.status.leader));
    let revision = |sample| answers(sample).map(|a| a.revision).max();
    let highest = |sample| answers(sample).map(index).max();
    let between = now.at - before.at;
    let per_second = |before: Option<f64>, now: Option<f64>| match (before, now) {
        (Some(before), Some(now)) => rate(before, now, between),
        _ => 0.0,
    };
    Whole {
        cluster: newest
            .and_then(|a| a.status.header.as_ref())
            .map_or(0, |h| h.cluster_id),
        leader: now.members.iter().find(|m| leader != 0 && m.id == leader),
        term,
        revision: revision(now).unwrap_or(0),
        index: highest(now).unwrap_or(0),
        writes: per_second(
            revision(before).map(|r| r as f64),
            revision(now).map(|r| r as f64),
        ),
        entries: per_second(
            highest(before).map(|i| i as f64),
            highest(now).map(|i| i as f64),
        ),
    }
}

/// The metrics of a member at both looks.
fn both<'a>(before: &'a Sample, member: &'a Member) -> Option<(&'a Metrics, &'a Metrics)> {
    let now = member.answer.as_ref().ok()?.metrics.as_ref()?;
    let earlier = before
        .members
        .iter()
        .find(|m| m.endpoint == member.endpoint)?;
    Some((earlier.answer.as_ref().ok()?.metrics.as_ref()?, now))
}

fn requests(before: &Sample, now: &Sample, member: &Member) -> Option<f64> {
    let (earlier, later) = both(before, member)?;
    Some(rate(earlier.requests?, later.requests?, now.at - before.at))
}

/// In seconds.
fn sync(before: &Sample, member: &Member) -> Option<f64> {
    let (earlier, later) = both(before, member)?;
    metrics::quantile(&earlier.syncs, &later.syncs, SYNC_PART)
}

fn role(whole: &Whole<'_>, answer: &Answer, member: &Member) -> &'static str {
    if whole.leader.is_some_and(|leader| leader.id == member.id) {
        "leader"
    } else if answer.status.is_learner {
        "learner"
    } else {
        "follower"
    }
}

fn name(member: &Member) -> String {
    if member.name.is_empty() {
        member.endpoint.clone()
    } else {
        member.name.clone()
    }
}

fn size(bytes: i64) -> String {
    gofmt::size(u64::try_from(bytes).unwrap_or(0))
}

/// Two digits that matter are enough for a person.
fn short(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros < 1000 {
        format!("{micros}µs")
    } else if micros < 1_000_000 {
        format!("{:.1}ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{:.1}s", duration.as_secs_f64())
    }
}

fn known(figure: Option<String>) -> String {
    figure.unwrap_or_else(|| "-".to_owned())
}

fn row(before: &Sample, now: &Sample, whole: &Whole<'_>, member: &Member) -> Vec<String> {
    let id = if member.id == 0 {
        "-".to_owned()
    } else {
        format!("{:x}", member.id)
    };
    let answer = match &member.answer {
        Ok(answer) => answer,
        Err(_) => return vec![name(member), id, "AWAY".to_owned()],
    };
    let status = &answer.status;
    let memory = answer.metrics.as_ref().and_then(|m| m.resident);
    vec![
        name(member),
        id,
        role(whole, answer, member).to_owned(),
        answer
            .read
            .as_ref()
            .map_or("FAILS".to_owned(), |d| short(*d)),
        known(requests(before, now, member).map(|r| format!("{r:.0}"))),
        known(sync(before, member).map(|s| short(Duration::from_secs_f64(s)))),
        status.raft_applied_index.to_string(),
        whole
            .index
            .saturating_sub(status.raft_applied_index)
            .to_string(),
        size(status.db_size),
        size(status.db_size_in_use),
        if status.db_size_quota > 0 {
            size(status.db_size_quota)
        } else {
            "-".to_owned()
        },
        known(memory.map(|bytes| gofmt::size(bytes as u64))),
        status.version.clone(),
    ]
}

/// What is wrong, a sentence each.
fn notes(now: &Sample) -> Vec<String> {
    let said: Vec<At<_>> = now
        .members
        .iter()
        .filter_map(|member| {
            Some(At {
                endpoint: name(member),
                response: member.answer.as_ref().ok()?.status.clone(),
            })
        })
        .collect();
    let mut notes = diagnosis::of(now.members.len(), &said);
    for member in &now.members {
        match &member.answer {
            Err(why) => notes.push(format!("{} ({}): {why}", name(member), member.endpoint)),
            Ok(answer) => {
                if let Err(why) = &answer.read {
                    notes.push(format!("{} cannot be read from: {why}", name(member)));
                }
            }
        }
    }
    notes
}

/// For people: a line about the whole, a table, and what is wrong.
pub fn text(before: &Sample, now: &Sample) -> String {
    let whole = whole(before, now);
    let leader = whole.leader.map_or_else(|| "NONE".to_owned(), name);
    let mut out = format!(
        "cluster {:x}   {} of {} members answer   leader {leader}   term {}   revision {}\n\
         writes {:.1}/s   log entries {:.1}/s\n\n",
        whole.cluster,
        now.answering(),
        now.members.len(),
        whole.term,
        whole.revision,
        whole.writes,
        whole.entries,
    );
    let mut rows = vec![COLUMNS.map(str::to_owned).to_vec()];
    rows.extend(
        now.members
            .iter()
            .map(|member| row(before, now, &whole, member)),
    );
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    let notes = notes(now);
    if !notes.is_empty() {
        out.push('\n');
    }
    for note in notes {
        out.push_str(&format!("Note: {note}\n"));
    }
    out
}

fn number(figure: Option<f64>) -> String {
    figure.map_or_else(|| "null".to_owned(), |figure| format!("{figure:.6}"))
}

/// For scripts: one object in one line. IDs are hexadecimal, as everywhere else.
pub fn json(before: &Sample, now: &Sample) -> String {
    let whole = whole(before, now);
    let members: Vec<String> = now
        .members
        .iter()
        .map(|member| member_json(before, now, &whole, member))
        .collect();
    let notes: Vec<String> = notes(now).iter().map(|note| escape(note)).collect();
    format!(
        "{{\"cluster\":\"{:x}\",\"leader\":{},\"term\":{},\"revision\":{},\"writesPerSecond\":{:.3},\
         \"entriesPerSecond\":{:.3},\"members\":[{}],\"notes\":[{}]}}\n",
        whole.cluster,
        whole.leader.map_or("null".to_owned(), |l| escape(&name(l))),
        whole.term,
        whole.revision,
        whole.writes,
        whole.entries,
        members.join(","),
        notes.join(","),
    )
}

fn member_json(before: &Sample, now: &Sample, whole: &Whole<'_>, member: &Member) -> String {
    let start = format!(
        "{{\"name\":{},\"id\":\"{:x}\",\"endpoint\":{}",
        escape(&member.name),
        member.id,
        escape(&member.endpoint)
    );
    let answer = match &member.answer {
        Ok(answer) => answer,
        Err(why) => return format!("{start},\"answers\":false,\"error\":{}}}", escape(why)),
    };
    let status = &answer.status;
    let read = answer.read.as_ref().ok().map(Duration::as_secs_f64);
    let memory = answer.metrics.as_ref().and_then(|m| m.resident);
    format!(
        "{start},\"answers\":true,\"role\":\"{}\",\"readSeconds\":{},\"requestsPerSecond\":{},\
         \"fsyncP99Seconds\":{},\"appliedIndex\":{},\"behind\":{},\"dbSize\":{},\"dbSizeInUse\":{},\
         \"dbSizeQuota\":{},\"memoryBytes\":{},\"version\":{}}}",
        role(whole, answer, member),
        number(read),
        number(requests(before, now, member)),
        number(sync(before, member)),
        status.raft_applied_index,
        whole.index.saturating_sub(status.raft_applied_index),
        status.db_size,
        status.db_size_in_use,
        status.db_size_quota,
        memory.map_or("null".to_owned(), |bytes| format!("{bytes:.0}")),
        escape(&status.version),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ferrite_client::pb;

    use super::*;

    fn member(name: &str, id: u64, applied: u64, revision: i64, requests: f64) -> Member {
        Member {
            name: name.to_owned(),
            id,
            endpoint: format!("http://{name}:2379"),
            answer: Ok(Answer {
                status: pb::StatusResponse {
                    header: Some(pb::ResponseHeader {
                        cluster_id: 0xabc,
                        member_id: id,
                        revision,
                        raft_term: 4,
                    }),
                    version: "3.7.1".to_owned(),
                    db_size: 20_480,
                    db_size_in_use: 16_384,
                    db_size_quota: 2_147_483_648,
                    leader: 1,
                    raft_index: applied,
                    raft_term: 4,
                    raft_applied_index: applied,
                    ..Default::default()
                },
                read: Ok(Duration::from_micros(1234)),
                revision,
                metrics: Some(Metrics {
                    requests: Some(requests),
                    syncs: vec![(0.001, requests), (f64::INFINITY, requests)],
                    resident: Some(3e7),
                }),
            }),
        }
    }

    fn looks() -> (Sample, Sample) {
        let at = Instant::now();
        let before = Sample {
            at,
            members: vec![member("a", 1, 100, 10, 50.0), member("b", 2, 100, 10, 0.0)],
        };
        let now = Sample {
            at: at + Duration::from_secs(2),
            members: vec![
                member("a", 1, 300, 110, 150.0),
                member("b", 2, 290, 110, 0.0),
            ],
        };
        (before, now)
    }

    #[test]
    fn people_read_a_table() {
        let (before, mut now) = looks();
        assert_eq!(
            text(&before, &now),
            "cluster abc   2 of 2 members answer   leader a   term 4   revision 110\n\
             writes 50.0/s   log entries 100.0/s\n\
             \n\
             NAME  ID  ROLE      READ   REQ/S  FSYNC P99  INDEX  BEHIND  DB     IN USE  QUOTA   MEMORY  VERSION\n\
             a     1   leader    1.2ms  50     1.0ms      300    0       20 kB  16 kB   2.1 GB  30 MB   3.7.1\n\
             b     2   follower  1.2ms  0      -          290    10      20 kB  16 kB   2.1 GB  30 MB   3.7.1\n"
        );
        now.members[0].answer = Err("connection refused".to_owned());
        let text = text(&before, &now);
        assert!(text.contains("1 of 2 members answer   leader a"), "{text}");
        assert!(text.contains("\na     1   AWAY\n"), "{text}");
        assert!(
            text.contains("Note: 1 of 2 members did not answer: no quorum"),
            "{text}"
        );
        assert!(
            text.contains("Note: a (http://a:2379): connection refused\n"),
            "{text}"
        );
    }

    #[test]
    fn scripts_read_one_object() {
        let (before, mut now) = looks();
        now.members[1].answer = Err("gone \"away\"".to_owned());
        let json: String = json(&before, &now);
        assert!(
            json.starts_with(
                "{\"cluster\":\"abc\",\"leader\":\"a\",\"term\":4,\"revision\":110,\
                 \"writesPerSecond\":50.000,\"entriesPerSecond\":100.000,\"members\":[{\"name\":\"a\",\
                 \"id\":\"1\",\"endpoint\":\"http://a:2379\",\"answers\":true,\"role\":\"leader\",\
                 \"readSeconds\":0.001234,\"requestsPerSecond\":50.000000,\"fsyncP99Seconds\":0.001000,"
            ),
            "{json}"
        );
        assert!(
            json.contains(
                "{\"name\":\"b\",\"id\":\"2\",\"endpoint\":\"http://b:2379\",\"answers\":false,\
                 \"error\":\"gone \\\"away\\\"\"}"
            ),
            "{json}"
        );
        assert!(json.ends_with("]}\n") && json.lines().count() == 1);
    }
}
