//! `elect`: stands in an election, or listens to who is elected.

use bytes::Bytes;
use ferrite_client::{Client, Watcher, pb};
use ferrite_proto::mvccpb::{KeyValue, event::EventType};

use super::{Words, kv::prefix_end};
use crate::concurrency::{Held, Signals, TTL_DEFAULT, canceled, next_events, oldest};
use crate::exit::{self, Failure};
use crate::output::Printer;
use crate::session::Session;
use ferrite_cli::flags::Values;

/// The election's name, and what to propose in it unless one only listens.
pub fn arguments<'a>(
    values: &Values,
    words: &'a Words,
) -> Result<(&'a [u8], Option<&'a [u8]>), Failure> {
    let listen = values.bool("listen");
    match words {
        [name] if listen => Ok((name, None)),
        [_] => Err(Failure::args("no proposal argument but -l not set")),
        [_, _] if listen => Err(Failure::args("proposal given but -l is set")),
        [name, proposal] => Ok((name, Some(proposal))),
        _ => Err(Failure::args(
            "elect takes one election name argument and an optional proposal argument",
        )),
    }
}

/// `elect <name> <proposal>`.
pub async fn campaign(session: &Session, name: &[u8], proposal: &[u8]) -> Result<(), Failure> {
    let client = session.patient_client().await?;
    let mut held = Held::start(&client, TTL_DEFAULT).await?;
    let mut signals = Signals::new()?;
    let mut place = held.place(name);
    let proposal = Bytes::copy_from_slice(proposal);
    let elected = tokio::select! {
        elected = async {
            if !place.take(proposal).await? {
                place.wait().await?;
            }
            place.read().await
        } => elected,
        () = signals.next() => Err(canceled()),
    };
    let elected = match elected {
        Ok(elected) => elected,
        Err(failure) => {
            // The others shall not wait for somebody who is gone; the lease takes care otherwise.
            let _ = place.resign().await;
            return Err(failure);
        }
    };
    session.printer.get(&elected)?;
    tokio::select! {
        () = signals.next() => place.resign().await,
        () = held.ended() => Err(Failure::new(exit::ERROR, "elect: session expired")),
    }
}

/// `elect -l <name>`.
pub async fn listen(session: &Session, name: &[u8]) -> Result<(), Failure> {
    let client = session.patient_client().await?;
    let mut signals = Signals::new()?;
    tokio::select! {
        result = observe(&client, name, session.printer) => match result {
            Ok(()) => Err(Failure::new(exit::ERROR, "elect: observer lost")),
            Err(failure) => Err(failure),
        },
        () = signals.next() => Ok(()),
    }
}

fn shown(header: Option<pb::ResponseHeader>, leader: &KeyValue) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: vec![leader.clone()],
        ..Default::default()
    }
}

/// Prints every leader, and whatever a leader proclaims.
async fn observe(client: &Client, name: &[u8], printer: Printer) -> Result<(), Failure> {
    let prefix = [name, b"/"].concat();
    loop {
        let response = client.kv().range(oldest(&prefix)).await?.into_inner();
        let mut header = response.header;
        let leader = match response.kvs.into_iter().next() {
            Some(leader) => leader,
            None => {
                let revision = header.as_ref().map_or(0, |h| h.revision);
                let (at, leader) = first_put(client, &prefix, revision).await?;
                // Several may have been put at once; this one is what the header tells of.
                header = at.map(|h| pb::ResponseHeader {
                    revision: leader.mod_revision,
                    ..h
                });
                leader
            }
        };
        printer.get(&shown(header, &leader))?;
        let mut watcher = Watcher::new(client.clone(), false);
        watcher.add(pb::WatchCreateRequest {
            key: leader.key.clone(),
            start_revision: header.map_or(0, |h| h.revision) + 1,
            ..Default::default()
        });
        'leads: loop {
            let response = next_events(&mut watcher).await?;
            for event in &response.events {
                match &event.kv {
                    Some(pair) if event.r#type() == EventType::Put => {
                        printer.get(&shown(response.header, pair))?;
                    }
                    _ => break 'leads,
                }
            }
        }
    }
}

/// Waits until somebody stands.
async fn first_put(
    client: &Client,
    prefix: &[u8],
    revision: i64,
) -> Result<(Option<pb::ResponseHeader>, KeyValue), Failure> {
    let mut watcher = Watcher::new(client.clone(), false);
    watcher.add(pb::WatchCreateRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: prefix_end(prefix),
        start_revision: revision,
        ..Default::default()
    });
    loop {
        let response = next_events(&mut watcher).await?;
        for event in response.events {
            let put = event.r#type() == EventType::Put;
            if let (true, Some(pair)) = (put, event.kv) {
                return Ok((response.header, pair));
            }
        }
    }
}
