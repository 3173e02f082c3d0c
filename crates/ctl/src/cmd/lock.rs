//! `lock`: holds a lock while a command runs, or until a signal comes.

use bytes::Bytes;

use super::{Words, text};
use crate::child;
use crate::concurrency::{Held, Place, Signals, canceled};
use crate::exit::{self, Failure};
use crate::session::Session;

/// The lock's name, and the command to run.
pub fn name(words: &Words) -> Result<(&[u8], &Words), Failure> {
    match words {
        [name, command @ ..] => Ok((name, command)),
        [] => Err(Failure::args(
            "lock takes a lock name argument and an optional command to execute",
        )),
    }
}

/// `lock`.
pub async fn run(session: &Session, name: &[u8], command: &Words) -> Result<(), Failure> {
    let client = session.patient_client().await?;
    let mut held = Held::start(&client, session.values.int("ttl")).await?;
    let mut signals = Signals::new()?;
    let mut place = held.place(name);
    let acquired = tokio::select! {
        acquired = acquire(&mut place) => acquired,
        () = signals.next() => Err(canceled()),
    };
    let revision = match acquired {
        Ok(revision) => revision,
        Err(failure) => {
            // Nobody shall wait for a key that nobody means any more; the lease takes care otherwise.
            let _ = place.leave().await;
            return Err(failure);
        }
    };
    if !command.is_empty() {
        let variables = vec![
            ("ETCD_LOCK_KEY", text(&place.key)),
            ("ETCD_LOCK_REV", revision.to_string()),
        ];
        let result = child::run(command, variables).await;
        let released = place.leave().await;
        return match result {
            Ok(()) => released,
            Err(failed) => Err(Failure::new(failed.code, failed.text)),
        };
    }
    let shown = place.read().await?;
    if shown.kvs.is_empty() {
        return Err(Failure::new(exit::ERROR, "lock lost on init"));
    }
    session.printer.get(&shown)?;
    tokio::select! {
        () = signals.next() => place.leave().await,
        () = held.ended() => Err(Failure::new(exit::ERROR, "session expired")),
    }
}

/// Waits for the lock; the revision at which it was had.
async fn acquire(place: &mut Place) -> Result<i64, Failure> {
    if place.take(Bytes::new()).await? {
        return Ok(place.revision);
    }
    place.wait().await?;
    let now = place.read().await?;
    if now.kvs.is_empty() {
        return Err(Failure::new(exit::ERROR, "mutex: session is expired"));
    }
    Ok(now.header.map_or(0, |h| h.revision))
}
