//! `endpoint …`: each endpoint asked by itself.

use std::time::{Duration, Instant};

use ferrite_client::{Client, Status, describe, pb};
use tokio::task::JoinSet;

use crate::diagnosis;
use crate::exit::{self, Failure};
use crate::gofmt;
use crate::output::{At, Health};
use crate::report;
use crate::session::Session;

/// The endpoints given, or with `--cluster` those of all members.
pub async fn endpoints(session: &Session) -> Result<Vec<String>, Failure> {
    if !session.values.bool("cluster") {
        return Ok(session.endpoints.clone());
    }
    let client = session.client().await?;
    let request = pb::MemberListRequest { linearizable: true };
    let response = client
        .cluster()
        .member_list(request)
        .await
        .map_err(|status| {
            Failure::new(
                exit::ERROR,
                format!(
                    "failed to fetch endpoints from etcd cluster member list: {}",
                    describe(&status)
                ),
            )
        })?;
    let members = response.into_inner().members;
    Ok(members.into_iter().flat_map(|m| m.client_urls).collect())
}

/// `endpoint health`.
pub async fn health(session: &Session) -> Result<(), Failure> {
    let mut checks = JoinSet::new();
    for (index, endpoint) in endpoints(session).await?.into_iter().enumerate() {
        let client = match session.client_at(&endpoint).await {
            Ok(client) => Ok(client),
            Err(failure) if failure.code == exit::BAD_CONNECTION => {
                Err(failure.message.unwrap_or_default())
            }
            Err(failure) => return Err(failure),
        };
        let timeout = session.command_timeout();
        checks.spawn(async move {
            let health = match client {
                Ok(client) => check(endpoint, &client, timeout).await,
                Err(error) => Health {
                    endpoint,
                    healthy: false,
                    took: String::new(),
                    error,
                },
            };
            (index, health)
        });
    }
    let mut list = checks.join_all().await;
    list.sort_by_key(|(index, _)| *index);
    let list: Vec<Health> = list.into_iter().map(|(_, health)| health).collect();
    session.printer.health(&list)?;
    if list.iter().any(|h| !h.error.is_empty()) {
        return Err(Failure::new(exit::ERROR, "unhealthy cluster"));
    }
    Ok(())
}

/// Reads a key through a quorum, then looks for alarms, both within one timeout.
async fn check(endpoint: String, client: &Client, timeout: Duration) -> Health {
    let start = Instant::now();
    let request = pb::RangeRequest {
        key: "health".into(),
        ..Default::default()
    };
    let read = client.kv().range(request).await;
    let took = gofmt::duration(start.elapsed());
    let mut error = match read {
        Ok(_) => String::new(),
        Err(status) if is_denied(&status) => String::new(),
        Err(status) => describe(&status),
    };
    if error.is_empty() {
        let request = pb::AlarmRequest::default();
        let left = timeout.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, client.maintenance().alarm(request)).await {
            Ok(Ok(response)) if response.get_ref().alarms.is_empty() => {}
            Ok(Ok(response)) => {
                error.push_str("Active Alarm(s): ");
                for alarm in &response.get_ref().alarms {
                    error.push_str(match alarm.alarm() {
                        pb::AlarmType::Nospace => "NOSPACE ",
                        pb::AlarmType::Corrupt => "CORRUPT ",
                        pb::AlarmType::None => "UNKNOWN ",
                    });
                }
            }
            Ok(Err(_)) | Err(_) => error.push_str("Unable to fetch the alarm list"),
        }
    }
    Health {
        endpoint,
        healthy: error.is_empty(),
        took,
        error,
    }
}

/// A refusal comes out of a quorum too.
pub fn is_denied(status: &Status) -> bool {
    status.message() == "etcdserver: permission denied"
}

/// `endpoint status`.
pub async fn status(session: &Session) -> Result<(), Failure> {
    let mut list = Vec::new();
    let mut failed = false;
    let mut asked = 0;
    for endpoint in endpoints(session).await? {
        asked += 1;
        let client = session.client_at(&endpoint).await?;
        match client.maintenance().status(pb::StatusRequest {}).await {
            Ok(response) => list.push(At {
                endpoint,
                response: response.into_inner(),
            }),
            Err(status) => {
                failed = true;
                report::err(&format!(
                    "Failed to get the status of endpoint {endpoint} ({})",
                    describe(&status)
                ));
            }
        }
    }
    session.printer.status(&list)?;
    if session.values.bool("cluster") {
        for sentence in diagnosis::of(asked, &list) {
            report::err(&format!("Note: {sentence}"));
        }
    }
    if failed {
        return Err(Failure::silent(exit::ERROR));
    }
    Ok(())
}

/// `endpoint hashkv`.
pub async fn hash_kv(session: &Session) -> Result<(), Failure> {
    let request = pb::HashKvRequest {
        revision: session.values.int("rev"),
    };
    let mut list = Vec::new();
    let mut failed = None;
    for endpoint in endpoints(session).await? {
        let client = session.client_at(&endpoint).await?;
        match client.maintenance().hash_kv(request).await {
            Ok(response) => list.push(At {
                endpoint,
                response: response.into_inner(),
            }),
            Err(status) => {
                let error = describe(&status);
                report::err(&format!(
                    "Failed to get the hash of endpoint {endpoint} ({error})"
                ));
                failed = Some(error);
            }
        }
    }
    session.printer.hash_kv(&list)?;
    match failed {
        Some(error) => Err(Failure::new(exit::ERROR, error)),
        None => Ok(()),
    }
}
