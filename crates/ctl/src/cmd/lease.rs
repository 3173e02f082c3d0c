//! `lease …`.

use std::time::{Duration, Instant};

use ferrite_client::{Client, Status, pb};

use super::{Words, text};
use crate::exit::{self, Failure};
use crate::gofmt::parse_int;
use crate::output::Form;
use crate::output::simple::lease_id;
use crate::report;
use crate::session::Session;

/// The least pause between two renewals.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(500);

/// What the server says of a lease it does not know.
const NOT_FOUND: &str = "etcdserver: requested lease not found";

fn id(words: &Words, missing: &str) -> Result<i64, Failure> {
    let [word] = words else {
        return Err(Failure::args(missing));
    };
    parse_int(&text(word), 16)
        .map_err(|e| Failure::args(format!("bad lease ID arg ({e}), expecting ID in Hex")))
}

/// The request of `lease grant`.
pub fn grant_request(words: &Words) -> Result<pb::LeaseGrantRequest, Failure> {
    let [ttl] = words else {
        return Err(Failure::args("lease grant command needs TTL argument"));
    };
    let ttl = parse_int(&text(ttl), 10).map_err(|e| Failure::args(format!("bad TTL ({e})")))?;
    Ok(pb::LeaseGrantRequest { id: 0, ttl })
}

/// The lease of `lease revoke`.
pub fn revoke_id(words: &Words) -> Result<i64, Failure> {
    id(words, "lease revoke command needs 1 argument")
}

/// The lease of `lease timetolive`.
pub fn time_to_live_id(words: &Words) -> Result<i64, Failure> {
    id(words, "lease timetolive command needs lease ID as argument")
}

/// The lease of `lease keep-alive`.
pub fn keep_alive_id(words: &Words) -> Result<i64, Failure> {
    id(words, "lease keep-alive command needs lease ID as argument")
}

fn failed(what: &str, status: &Status) -> Failure {
    Failure::new(
        exit::ERROR,
        format!(
            "failed to {what} lease ({})",
            ferrite_client::describe(status)
        ),
    )
}

fn unanswered(status: Status) -> Failure {
    Failure {
        code: exit::BAD_CONNECTION,
        ..status.into()
    }
}

/// `lease grant`.
pub async fn grant(session: &Session, request: pb::LeaseGrantRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client.lease().lease_grant(request).await;
    let response = response.map_err(|status| failed("grant", &status))?;
    session.printer.lease_grant(response.get_ref())
}

/// `lease revoke`.
pub async fn revoke(session: &Session, id: i64) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client
        .lease()
        .lease_revoke(pb::LeaseRevokeRequest { id })
        .await;
    let response = response.map_err(|status| failed("revoke", &status))?;
    session.printer.lease_revoke(id, response.get_ref())
}

/// `lease timetolive`.
pub async fn time_to_live(session: &Session, id: i64) -> Result<(), Failure> {
    let keys = session.values.bool("keys");
    let client = session.client().await?;
    let request = pb::LeaseTimeToLiveRequest { id, keys };
    let response = client.lease().lease_time_to_live(request).await;
    let response = response.map_err(unanswered)?;
    session.printer.lease_time_to_live(response.get_ref(), keys)
}

/// `lease list`.
pub async fn list(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client.lease().lease_leases(pb::LeaseLeasesRequest {}).await;
    let response = response.map_err(unanswered)?;
    session.printer.lease_list(response.get_ref())
}

/// One renewal.
async fn renew(client: &Client, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
    let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = client.lease().lease_keep_alive(request).await?.into_inner();
    match answers.message().await? {
        Some(answer) => Ok(answer),
        None => Err(Status::new(
            ferrite_client::Code::Unavailable,
            "the server ended the stream without an answer",
        )),
    }
}

/// Renewals that fail in this way may succeed with another member, or a moment later.
fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        ferrite_client::Code::Unavailable | ferrite_client::Code::Internal
    )
}

/// Renews a lease until it is gone. `over` is when it is gone unless renewed before; `answered` is told
/// of each renewal.
pub async fn hold(
    client: &Client,
    id: i64,
    mut over: Instant,
    mut answered: impl FnMut(&pb::LeaseKeepAliveResponse) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let pause = match renew(client, id).await {
            Ok(answer) if answer.ttl <= 0 => return Ok(()),
            Ok(answer) => {
                answered(&answer)?;
                let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
                over = Instant::now() + ttl;
                ttl / 3
            }
            Err(status) if passes(&status) && Instant::now() < over => RENEW_PAUSE_MIN,
            Err(_) => return Ok(()),
        };
        tokio::time::sleep(pause.max(RENEW_PAUSE_MIN)).await;
    }
}

/// `lease keep-alive`: renews until the lease is gone, or once.
pub async fn keep_alive(session: &Session, id: i64) -> Result<(), Failure> {
    let client = session.client().await?;
    if session.values.bool("once") {
        return keep_alive_once(session, &client, id).await;
    }
    // Until the first answer nobody knows how long the lease lives.
    let over = Instant::now() + session.values.duration("dial-timeout") + Duration::from_secs(1);
    hold(&client, id, over, |answer| {
        session.printer.lease_keep_alive(answer)
    })
    .await?;
    if session.printer.form == Form::Simple {
        let text = format!("lease {} expired or revoked.\n", lease_id(id));
        report::out(text.as_bytes());
    }
    Ok(())
}

async fn keep_alive_once(session: &Session, client: &Client, id: i64) -> Result<(), Failure> {
    loop {
        match renew(client, id).await {
            Ok(answer) if answer.ttl <= 0 => {
                return Err(Failure::new(exit::BAD_CONNECTION, NOT_FOUND));
            }
            Ok(answer) => return session.printer.lease_keep_alive(&answer),
            Err(status) if passes(&status) => tokio::time::sleep(RENEW_PAUSE_MIN).await,
            Err(status) => return Err(unanswered(status)),
        }
    }
}
