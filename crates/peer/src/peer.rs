//! One other member: its queues, its tasks, and the choice of the channel a message takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use ferrite_proto::raftpb::{Message, MessageType};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::config::{Config, Handler, Refused};
use crate::conn::Connector;
use crate::headers::OwnHeaders;
use crate::logfmt::{hex, type_name};
use crate::pipeline::{self, PipelineQueue};
use crate::prober::{self, RttCell};
use crate::queue::Queued;
use crate::stats::{Counters, RateLimited, add};
use crate::status::PeerStatus;
use crate::stream_in;
use crate::stream_out::StreamSlot;
use crate::url::{PeerUrl, UrlPicker};

/// What every part of the transport shares.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) headers: OwnHeaders,
    /// Databases being sent to all members.
    pub(crate) sending_snapshots: AtomicU64,
}

/// The two kinds of stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    App,
    Message,
}

impl StreamKind {
    /// etcd's name in log lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            StreamKind::App => "stream MsgApp v2",
            StreamKind::Message => "stream Message",
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            StreamKind::App => "/raft/stream/msgapp",
            StreamKind::Message => "/raft/stream/message",
        }
    }
}

pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) core: Arc<Core>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) picker: UrlPicker,
    pub(crate) status: PeerStatus,
    pub(crate) app: StreamSlot,
    pub(crate) message: StreamSlot,
    pub(crate) pipeline: PipelineQueue,
    pub(crate) rtt: RttCell,
    pub(crate) sending_snapshot: std::sync::atomic::AtomicBool,
    send_dropped: RateLimited,
    receive_dropped: RateLimited,
    /// A remote is only answered, by the pipeline; it has no streams, probes or snapshots.
    pub(crate) is_remote: bool,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What came of handing a received message on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Removed,
    Mismatch,
    Refused(Refused),
}

/// The checks every received message passes before raft sees it.
pub(crate) fn receive(core: &Core, msg: Message) -> Result<(), Rejected> {
    check_receiver(core, &msg)?;
    core.handler.receive(msg).map_err(Rejected::Refused)
}

pub(crate) fn check_receiver(core: &Core, msg: &Message) -> Result<(), Rejected> {
    if core.handler.is_removed(msg.from) {
        tracing::warn!(
            "local-member-id" = hex(core.config.member_id),
            "removed-member-id" = hex(msg.from),
            "rejected Raft message from removed member"
        );
        return Err(Rejected::Removed);
    }
    if msg.to != core.config.member_id {
        tracing::warn!(
            "local-member-id" = hex(core.config.member_id),
            "mismatch-member-id" = hex(msg.to),
            "rejected Raft message to mismatch member"
        );
        return Err(Rejected::Mismatch);
    }
    Ok(())
}

impl Peer {
    pub(crate) fn start(
        core: Arc<Core>,
        id: u64,
        urls: Vec<Arc<PeerUrl>>,
        counters: Arc<Counters>,
        is_remote: bool,
    ) -> Arc<Peer> {
        if !is_remote {
            tracing::info!("remote-peer-id" = hex(id), "starting remote peer");
        }
        let peer = Arc::new(Peer {
            id,
            counters: counters.clone(),
            picker: UrlPicker::new(urls),
            status: PeerStatus::new(id, counters),
            app: StreamSlot::new(StreamKind::App),
            message: StreamSlot::new(StreamKind::Message),
            pipeline: PipelineQueue::new(),
            rtt: RttCell::default(),
            sending_snapshot: std::sync::atomic::AtomicBool::new(false),
            send_dropped: RateLimited::default(),
            receive_dropped: RateLimited::default(),
            is_remote,
            tasks: Mutex::new(Vec::new()),
            core,
        });
        for worker in 0..pipeline::WORKERS {
            peer.spawn(pipeline::run(peer.clone(), worker));
        }
        if !is_remote {
            for kind in [StreamKind::App, StreamKind::Message] {
                peer.spawn(stream_in::run(peer.clone(), kind));
            }
            for tripper in [
                prober::RoundTripper::RaftMessage,
                prober::RoundTripper::Snapshot,
            ] {
                peer.spawn(prober::run(peer.clone(), tripper));
            }
            tracing::info!("remote-peer-id" = hex(id), "started remote peer");
        }
        peer
    }

    /// Starts a task that ends with the peer.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.core.runtime.spawn(task).abort_handle();
        let mut tasks = self.tasks.lock();
        tasks.retain(|t| !t.is_finished());
        tasks.push(handle);
    }

    pub(crate) fn stop(&self) {
        let id = hex(self.id);
        if !self.is_remote {
            tracing::info!("remote-peer-id" = id, "stopping remote peer");
        }
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        self.app.close();
        self.message.close();
        self.pipeline.close();
        if !self.is_remote {
            tracing::info!("remote-peer-id" = id, "stopped remote peer");
        }
    }

    pub(crate) fn slot(&self, kind: StreamKind) -> &StreamSlot {
        match kind {
            StreamKind::App => &self.app,
            StreamKind::Message => &self.message,
        }
    }

    /// Queues a message on the best channel there is. Gives back a waker to call once the whole batch is queued;
    /// `Err` when the message was dropped.
    pub(crate) fn enqueue(&self, msg: Message) -> Result<Option<Waker>, ()> {
        let is_app = msg.msg_type == MessageType::MsgApp as i32;
        let mut item = Queued::new(msg);
        let mut channel = "pipeline";
        let kinds: &[StreamKind] = if is_app {
            &[StreamKind::App, StreamKind::Message]
        } else {
            &[StreamKind::Message]
        };
        if !self.is_remote {
            for &kind in kinds {
                match self.slot(kind).push(item) {
                    Ok(waker) => return Ok(waker),
                    Err((back, attached)) => {
                        item = back;
                        if attached {
                            channel = match kind {
                                StreamKind::App => "streamMsgAppV2",
                                StreamKind::Message => "streamMsg",
                            };
                            return self.drop_unsent(&item.msg, channel);
                        }
                    }
                }
            }
        }
        match self.pipeline.push(item) {
            Ok(()) => Ok(None),
            Err(item) => self.drop_unsent(&item.msg, channel),
        }
    }

    fn drop_unsent(&self, msg: &Message, channel: &str) -> Result<Option<Waker>, ()> {
        add(&self.counters.sent_failures, 1);
        if let Some(others) = self.send_dropped.allow() {
            tracing::warn!(
                "message-type" = type_name(msg.msg_type),
                "local-member-id" = hex(self.core.config.member_id),
                from = hex(msg.from),
                "remote-peer-id" = hex(self.id),
                "remote-peer-name" = channel,
                "remote-peer-active" = self.status.is_active(),
                "dropped-since-last-line" = others,
                "dropped internal Raft message since sending buffer is full"
            );
        }
        Err(())
    }

    /// Hands over a message that came on a stream.
    pub(crate) fn received(&self, msg: Message) {
        let (msg_type, from, to) = (msg.msg_type, msg.from, msg.to);
        match receive(&self.core, msg) {
            Ok(()) => {}
            Err(Rejected::Refused(Refused::Full)) => {
                add(&self.counters.received_failures, 1);
                if let Some(others) = self.receive_dropped.allow() {
                    tracing::warn!(
                        "message-type" = type_name(msg_type),
                        "local-member-id" = hex(self.core.config.member_id),
                        from = hex(from),
                        "remote-peer-id" = hex(to),
                        "remote-peer-active" = self.status.is_active(),
                        "dropped-since-last-line" = others,
                        "dropped internal Raft message since receiving buffer is full (overloaded network)"
                    );
                }
            }
            Err(Rejected::Refused(Refused::Stopped) | Rejected::Removed | Rejected::Mismatch) => {
                add(&self.counters.received_failures, 1);
            }
        }
    }

    pub(crate) fn queued(&self) -> usize {
        self.app.len() + self.message.len() + self.pipeline.len()
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.counters.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
