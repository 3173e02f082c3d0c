//! HashKV values of etcd 3.5.1 for the operations in `data/hashkv-3.5.1.txt`.
//!
//! Lines: `put key value [lease]`, `del key [end]`, `txn p:key:value d:key …`, `grant id`,
//! `revoke id`, `compact revision`, `hashkv revision = hash compact-revision current-revision` or
//! `hashkv revision ! error`.

mod common;

use common::Member;
use ferrite_mvcc::{Error, RestoreOptions};

const GOLDEN: &str = include_str!("data/hashkv-3.5.1.txt");

/// 3.5.1 knows no hashes kept from compactions.
const OPTIONS: RestoreOptions = RestoreOptions {
    resume_compaction: true,
    compaction_hash: false,
};

fn replay(mut between: impl FnMut(usize, &mut Member)) {
    let mut member = Member::with(OPTIONS);
    let mut compared = 0;
    for (number, line) in GOLDEN.lines().enumerate() {
        let words: Vec<&str> = line.split(' ').collect();
        let context = format!("line {}: {line}", number + 1);
        match words[..] {
            ["put", key, value] => {
                member.put(key, value);
            }
            ["put", key, value, lease] => {
                let lease = lease.parse().expect("a lease");
                let mut txn = member.store.write();
                txn.put(key.as_bytes(), value.as_bytes(), lease, &mut member.leases);
                txn.end();
            }
            ["del", key, ref end @ ..] => {
                let end = end.first().map_or("", |e| e);
                let mut txn = member.store.write();
                txn.delete_range(key.as_bytes(), end.as_bytes(), &mut member.leases);
                txn.end();
            }
            ["txn", ref ops @ ..] => {
                let mut txn = member.store.write();
                for op in ops {
                    let parts: Vec<&str> = op.split(':').collect();
                    match parts[..] {
                        ["p", key, value] => {
                            txn.put(key.as_bytes(), value.as_bytes(), 0, &mut member.leases);
                        }
                        ["d", key] => {
                            txn.delete_range(key.as_bytes(), &[], &mut member.leases);
                        }
                        _ => panic!("{context}"),
                    }
                }
                txn.end();
            }
            ["grant", id] => {
                member.leases.granted.insert(id.parse().expect("a lease"));
            }
            ["revoke", id] => {
                let id = id.parse().expect("a lease");
                let attached = member.leases.attached.clone();
                let mut txn = member.store.write();
                for (key, _) in attached.iter().filter(|(_, l)| **l == id) {
                    txn.delete_range(key, &[], &mut member.leases);
                }
                txn.end();
                member.leases.granted.remove(&id);
            }
            ["compact", revision] => {
                let revision = revision.parse().expect("a revision");
                member.store.compact(revision).expect(&context);
            }
            ["hashkv", revision, "=", hash, compacted, current] => {
                let revision = revision.parse().expect("a revision");
                let got = member.store.hash_kv(revision).expect(&context);
                assert_eq!(got.hash.to_string(), hash, "{context}");
                assert_eq!(got.compact_revision.to_string(), compacted, "{context}");
                assert_eq!(got.current_revision.to_string(), current, "{context}");
                compared += 1;
            }
            ["hashkv", revision, "!", error] => {
                let revision: i64 = revision.parse().expect("a revision");
                let got = member.store.hash_kv(revision);
                if revision == member.store.compact_revision() {
                    // later releases answer at the compacted revision itself
                    assert!(got.is_ok(), "{context}");
                } else if error == "compacted" {
                    assert_eq!(got, Err(Error::Compacted), "{context}");
                } else {
                    assert_eq!(got, Err(Error::FutureRevision), "{context}");
                }
            }
            _ => panic!("{context}"),
        }
        between(number, &mut member);
    }
    assert!(compared > 60);
}

#[test]
fn hashes_equal_etcds_with_compactions_finished_at_once() {
    replay(|_, member| member.finish_compactions());
}

#[test]
fn hashes_equal_etcds_whatever_the_physical_state() {
    // garbage left lying, commits and restarts in between
    for period in [2, 3, 5, 11] {
        replay(|line, member| match line % (period * 4) {
            n if n == period => member.freeze(),
            n if n == period * 2 => member.commit_done(),
            n if n == period * 3 => {
                member.store.compaction_step(3).expect("sound");
            }
            0 => member.restart(),
            _ => {}
        });
    }
}
