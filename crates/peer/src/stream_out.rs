//! The sending side of a stream: a queue, and the response body that empties it.
//!
//! The body is polled by the task that writes the connection, so the raft thread wakes exactly one task, which
//! encodes all that is waiting into one buffer and writes it at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::body::BoxError;
use crate::codec::{AppEncoder, encode_message, link_heartbeat};
use crate::conn::{ConnState, ReadMode};
use crate::logfmt::hex;
use crate::peer::{Peer, StreamKind};
use crate::queue::{Lanes, Queued};
use crate::stats::add;

/// Messages waiting on one stream, as in etcd.
const MAX_COUNT: usize = 4096;
/// Their bytes. Raft's window is 512 messages of 1 MiB; this much covers any link's bandwidth-delay product, and
/// the bytes are mostly shared with the log in memory.
const MAX_BYTES: usize = 128 << 20;
/// Bytes encoded at once: what may stand before a heartbeat in the process.
const FRAME_BYTES: usize = 256 << 10;

struct Inner {
    /// Number of the attached connection; 0 when there is none.
    attached: u64,
    connections: u64,
    closed: bool,
    lanes: Lanes,
    waker: Option<Waker>,
}

/// Where messages for one stream wait; a connection may be attached to it or not.
pub(crate) struct StreamSlot {
    kind: StreamKind,
    inner: Mutex<Inner>,
}

impl StreamSlot {
    pub(crate) fn new(kind: StreamKind) -> StreamSlot {
        StreamSlot {
            kind,
            inner: Mutex::new(Inner {
                attached: 0,
                connections: 0,
                closed: false,
                lanes: Lanes::new(MAX_COUNT, MAX_BYTES),
                waker: None,
            }),
        }
    }

    /// Queues a message if a connection is attached. Otherwise, or when there is no room, gives it back with whether one was.
    pub(crate) fn push(&self, item: Queued) -> Result<Option<Waker>, (Queued, bool)> {
        let mut inner = self.inner.lock();
        if inner.attached == 0 {
            return Err((item, false));
        }
        inner.lanes.push(item).map_err(|item| (item, true))?;
        Ok(inner.waker.take())
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.lock().lanes.len()
    }

    /// Ends the attached stream and takes no other.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.attached = 0;
        inner.lanes.clear();
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

enum Encoder {
    App(AppEncoder),
    Message,
}

/// The endless body of one stream's response.
pub(crate) struct StreamBody {
    peer: Arc<Peer>,
    kind: StreamKind,
    number: u64,
    encoder: Encoder,
    drained: Vec<Queued>,
    heartbeat: Pin<Box<Sleep>>,
    conn: Arc<ConnState>,
}

impl StreamBody {
    /// Attaches a new connection. One that was attached before is closed: the newer one is the one the peer reads.
    pub(crate) fn attach(peer: Arc<Peer>, kind: StreamKind, conn: Arc<ConnState>) -> StreamBody {
        let slot = peer.slot(kind);
        let (number, replaced, unsent, waker) = {
            let mut inner = slot.inner.lock();
            let replaced = inner.attached != 0;
            inner.connections += 1;
            if !inner.closed {
                inner.attached = inner.connections;
            }
            let unsent = inner.lanes.len() > 0;
            inner.lanes.clear();
            (inner.connections, replaced, unsent, inner.waker.take())
        };
        if unsent {
            peer.core.handler.report_unreachable(peer.id);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        conn.set_mode(ReadMode::Silent);
        peer.status.activate();
        let local = hex(peer.core.config.member_id);
        if replaced {
            tracing::warn!(
                "stream-writer-type" = kind.name(),
                "local-member-id" = local,
                "remote-peer-id" = hex(peer.id),
                "closed TCP streaming connection with remote peer"
            );
        }
        tracing::info!(
            "stream-writer-type" = kind.name(),
            "local-member-id" = local,
            "remote-peer-id" = hex(peer.id),
            "established TCP streaming connection with remote peer"
        );
        // The peer is there: dial it now, if it is not dialled already.
        peer.status.poke();
        let heartbeat = Box::pin(tokio::time::sleep(peer.core.config.heartbeat_period()));
        let encoder = match kind {
            StreamKind::App => Encoder::App(AppEncoder::default()),
            StreamKind::Message => Encoder::Message,
        };
        StreamBody {
            peer,
            kind,
            number,
            encoder,
            drained: Vec::new(),
            heartbeat,
            conn,
        }
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut beat = false;
        while this.heartbeat.as_mut().poll(cx).is_ready() {
            beat = true;
            let next = Instant::now() + this.peer.core.config.heartbeat_period();
            this.heartbeat.as_mut().reset(next);
        }
        {
            let mut inner = this.peer.slot(this.kind).inner.lock();
            if inner.attached != this.number {
                return Poll::Ready(None);
            }
            inner.lanes.drain_into(&mut this.drained, FRAME_BYTES);
            if this.drained.is_empty() && !beat {
                if !inner
                    .waker
                    .as_ref()
                    .is_some_and(|w| w.will_wake(cx.waker()))
                {
                    inner.waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
        let size: usize = this.drained.iter().map(|q| q.len + 24).sum::<usize>() + 16;
        let mut out = BytesMut::with_capacity(size);
        if beat {
            match &mut this.encoder {
                Encoder::App(app) => app.encode(&link_heartbeat(), &mut out),
                Encoder::Message => encode_message(&link_heartbeat(), &mut out),
            }
        }
        for item in this.drained.drain(..) {
            match &mut this.encoder {
                Encoder::App(app) => app.encode(&item.msg, &mut out),
                Encoder::Message => encode_message(&item.msg, &mut out),
            }
        }
        this.peer.sent(out.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.conn.set_mode(ReadMode::Waiting);
        let slot = self.peer.slot(self.kind);
        let (lost, unsent) = {
            let mut inner = slot.inner.lock();
            if inner.attached == self.number {
                inner.attached = 0;
                inner.waker = None;
                let unsent = inner.lanes.len() > 0;
                inner.lanes.clear();
                (true, unsent)
            } else {
                (false, false)
            }
        };
        if !lost {
            return;
        }
        let peer = &self.peer;
        // Without an error it was the peer that closed; whether it can be reached, the dialling side finds out.
        let error = self.conn.take_error();
        if let Some(error) = &error {
            add(&peer.counters.sent_failures, 1);
            peer.status.deactivate(slot.kind.name(), "write", error);
        }
        if unsent {
            peer.core.handler.report_unreachable(peer.id);
        }
        tracing::warn!(
            "stream-writer-type" = self.kind.name(),
            "local-member-id" = hex(peer.core.config.member_id),
            "remote-peer-id" = hex(peer.id),
            error = error
                .as_deref()
                .unwrap_or("connection closed by the remote peer"),
            "lost TCP streaming connection with remote peer"
        );
        peer.status.poke();
    }
}
