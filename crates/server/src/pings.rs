//! How often a client may ping: gRPC's policy, at a connection's frames.
//!
//! The HTTP/2 library answers pings by itself and tells nobody. So the frames that come in are walked over
//! beside it. Who pings too often is sent away as gRPC's own server does it, with ENHANCE_YOUR_CALM and
//! `too_many_pings`, at which its clients wait twice as long. That farewell needs the border between two
//! frames, so those that go out are walked over as well. No byte is changed or held back.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

use crate::conn::PREFACE;

/// Pings that come too early before the connection is ended: gRPC's number.
const STRIKES_MAX: u32 = 2;
/// With no call under way nobody needs to ping; this seldom is forgiven.
const IDLE_MIN: Duration = Duration::from_secs(2 * 3600);
/// Time for the farewell to arrive: a socket closed on unread bytes is reset, and it would be lost.
const FAREWELL: Duration = Duration::from_secs(1);
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
const WHY: &[u8] = b"too_many_pings";
/// Bytes read and dropped at a time while the farewell is under way.
const DROPPED: usize = 4 << 10;

/// What a connection is doing, for whoever has to decide about it.
#[derive(Debug)]
pub struct Activity {
    born: Instant,
    calls: AtomicUsize,
    /// Something of an answer has gone out since the last ping.
    answered: AtomicBool,
    /// Milliseconds after its birth at which the last call began; 0 before the first.
    last: AtomicU64,
    /// Its place is wanted for another connection.
    pub unwanted: Notify,
    /// It is not only unwanted, but costs more with every moment.
    evicted: AtomicBool,
}

impl Activity {
    /// Of a connection that begins now.
    pub fn new(now: Instant) -> Self {
        Activity {
            born: now,
            calls: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
            last: AtomicU64::new(0),
            unwanted: Notify::new(),
            evicted: AtomicBool::new(false),
        }
    }

    /// Calls under way.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether there has been a call, and when the last one or the connection began. `None` while one is
    /// under way.
    pub fn idle_since(&self) -> Option<(bool, Instant)> {
        if self.calls() > 0 {
            return None;
        }
        let last = self.last.load(Ordering::Relaxed);
        Some((last > 0, self.born + Duration::from_millis(last)))
    }

    /// Ends the connection at once, with the calls that are under way.
    pub fn evict(&self) {
        self.evicted.store(true, Ordering::Relaxed);
        self.unwanted.notify_one();
    }

    /// Whether it is to end at once.
    pub fn evicted(&self) -> bool {
        self.evicted.load(Ordering::Relaxed)
    }

    /// A call begins; it ends with what is returned.
    pub fn begin(self: &Arc<Self>, now: Instant) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let since = now.saturating_duration_since(self.born).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.last.store(since.max(1), Ordering::Relaxed);
        Call(Arc::clone(self))
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Call(Arc<Activity>);

impl Call {
    /// A part of the answer goes out.
    pub fn answers(&self) {
        // A plain store on every piece would make the line dirty for nothing.
        if !self.0.answered.load(Ordering::Relaxed) {
            self.0.answered.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where in a row of frames a stream of bytes stands.
#[derive(Debug, Default)]
struct Walker {
    /// Bytes before the next frame.
    skip: usize,
    header: [u8; FRAME_HEADER],
    have: usize,
}

impl Walker {
    /// Calls back for each frame's type, flags and stream.
    fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8, u8, u32)) {
        while !bytes.is_empty() {
            let now = self.skip.min(bytes.len());
            self.skip -= now;
            bytes = bytes.get(now..).unwrap_or_default();
            let wanted = (FRAME_HEADER - self.have).min(bytes.len());
            let (more, rest) = bytes.split_at(wanted);
            if let Some(room) = self.header.get_mut(self.have..self.have + wanted) {
                room.copy_from_slice(more);
            }
            self.have += wanted;
            bytes = rest;
            if self.have == FRAME_HEADER {
                let [a, b, c, kind, flags, stream @ ..] = self.header;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
                each(kind, flags, u32::from_be_bytes(stream) & (u32::MAX >> 1));
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.have == 0
    }
}

/// Counts pings.
#[derive(Debug)]
struct Strikes {
    min: Duration,
    last: Option<Instant>,
    count: u32,
}

impl Strikes {
    /// Whether a ping is one too many.
    fn ping(&mut self, activity: &Activity, now: Instant) -> bool {
        let last = self.last.replace(now);
        if activity.answered.swap(false, Ordering::Relaxed) {
            self.count = 0;
            return false;
        }
        let min = if activity.calls() == 0 {
            IDLE_MIN
        } else {
            self.min
        };
        if last.is_some_and(|last| now.saturating_duration_since(last) < min) {
            self.count += 1;
        }
        self.count > STRIKES_MAX
    }
}

/// How a connection ends that pings too often.
struct Farewell {
    frame: Vec<u8>,
    written: usize,
    until: Pin<Box<Sleep>>,
    /// It is out; what still comes in is dropped.
    said: bool,
}

struct Watch {
    activity: Arc<Activity>,
    strikes: Strikes,
    incoming: Walker,
    outgoing: Walker,
    newest_stream: u32,
    ending: Option<Farewell>,
}

impl Watch {
    /// Looks at what came in; `true` when it is enough.
    fn came_in(&mut self, bytes: &[u8]) -> bool {
        let Watch {
            activity,
            strikes,
            incoming,
            newest_stream,
            ..
        } = self;
        let mut now = None;
        let mut enough = false;
        incoming.walk(bytes, |kind, flags, stream| {
            if kind == HEADERS {
                *newest_stream = stream.max(*newest_stream);
            } else if kind == PING && flags & ACK == 0 {
                let now = *now.get_or_insert_with(Instant::now);
                enough |= strikes.ping(activity, now);
            }
        });
        enough
    }

    fn farewell(&self) -> Farewell {
        let mut frame = vec![0, 0, 8 + WHY.len() as u8, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&self.newest_stream.to_be_bytes());
        frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend_from_slice(WHY);
        Farewell {
            frame,
            written: 0,
            until: Box::pin(tokio::time::sleep(FAREWELL)),
            // In the middle of a frame nothing else can be said.
            said: !self.outgoing.is_between_frames(),
        }
    }
}

/// A connection by HTTP/2 on whose pings a policy is kept, or none.
pub struct Paced<S> {
    inner: S,
    watch: Option<Box<Watch>>,
}

impl<S> Paced<S> {
    /// Around a connection that has just begun. `min` is the least time between two pings while calls are
    /// under way; `None` keeps no policy.
    pub fn new(inner: S, min: Option<Duration>, activity: &Arc<Activity>) -> Self {
        let watch = min.map(|min| {
            Box::new(Watch {
                activity: Arc::clone(activity),
                strikes: Strikes {
                    min,
                    last: None,
                    count: 0,
                },
                incoming: Walker {
                    skip: PREFACE.len(),
                    ..Walker::default()
                },
                outgoing: Walker::default(),
                newest_stream: 0,
                ending: None,
            })
        });
        Paced { inner, watch }
    }

    fn is_ending(&self) -> bool {
        self.watch.as_ref().is_some_and(|w| w.ending.is_some())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Paced<S> {
    /// Says farewell; ready when the connection may be closed.
    fn poll_end(inner: &mut S, ending: &mut Farewell, cx: &mut Context<'_>) -> Poll<()> {
        if ending.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        while !ending.said {
            let rest = ending.frame.get(ending.written..).unwrap_or_default();
            if rest.is_empty() {
                if ready!(Pin::new(&mut *inner).poll_flush(cx)).is_err()
                    || ready!(Pin::new(&mut *inner).poll_shutdown(cx)).is_err()
                {
                    return Poll::Ready(());
                }
                ending.said = true;
                break;
            }
            match ready!(Pin::new(&mut *inner).poll_write(cx, rest)) {
                Ok(count) if count > 0 => ending.written += count,
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
        let mut dropped = [0; DROPPED];
        let mut read = ReadBuf::new(&mut dropped);
        match ready!(Pin::new(inner).poll_read(cx, &mut read)) {
            Ok(()) if !read.filled().is_empty() => {
                // Others on this thread have their turn before the next piece.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(()) | Err(_) => Poll::Ready(()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Paced { inner, watch } = self.get_mut();
        let Some(watch) = watch else {
            return Pin::new(inner).poll_read(cx, buf);
        };
        if watch.ending.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut *inner).poll_read(cx, buf))?;
            let fresh = buf.filled().get(before..).unwrap_or_default();
            if !watch.came_in(fresh) {
                return Poll::Ready(Ok(()));
            }
            buf.set_filled(before);
            watch.ending = Some(watch.farewell());
        }
        match &mut watch.ending {
            Some(ending) => Self::poll_end(inner, ending, cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // After the farewell nothing follows.
        if self.is_ending() {
            return Poll::Ready(Ok(buf.len()));
        }
        let Paced { inner, watch } = self.get_mut();
        let written = ready!(Pin::new(inner).poll_write(cx, buf))?;
        if let Some(watch) = watch {
            let out = buf.get(..written).unwrap_or(buf);
            watch.outgoing.walk(out, |_, _, _| {});
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_ending() {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let Paced { inner, watch } = self.get_mut();
        let written = ready!(Pin::new(inner).poll_write_vectored(cx, bufs))?;
        if let Some(watch) = watch {
            let mut left = written;
            for buf in bufs {
                let now = left.min(buf.len());
                let out = buf.get(..now).unwrap_or_default();
                watch.outgoing.walk(out, |_, _, _| {});
                left -= now;
                if left == 0 {
                    break;
                }
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_ending() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_ending() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[test]
    fn frames_are_seen_however_the_bytes_are_cut() {
        let input = [
            PREFACE.to_vec(),
            frame(4, 0, 0, &[0; 6]),
            frame(HEADERS, 4, 7, b"head"),
            frame(0, 1, 7, &[PING; 50]),
            frame(PING, 0, 0, &[0; 8]),
            frame(PING, ACK, 0, &[0; 8]),
        ]
        .concat();
        for step in [1, 2, 9, 10, input.len()] {
            let mut walker = Walker {
                skip: PREFACE.len(),
                ..Walker::default()
            };
            let mut seen = Vec::new();
            for bytes in input.chunks(step) {
                walker.walk(bytes, |kind, flags, stream| {
                    seen.push((kind, flags, stream));
                });
            }
            assert_eq!(
                seen,
                [(4, 0, 0), (1, 4, 7), (0, 1, 7), (6, 0, 0), (6, 1, 0)]
            );
            assert!(walker.is_between_frames());
        }
    }

    #[test]
    fn strikes_are_counted_as_grpc_counts_them() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new(start));
        let min = Duration::from_secs(5);
        let after = |seconds| start + Duration::from_secs(seconds);
        let fresh = || Strikes {
            min,
            last: None,
            count: 0,
        };
        // With nothing under way the second, third and fourth come too early.
        let mut idle = fresh();
        let pings = [0, 60, 120, 180].map(|at| idle.ping(&activity, after(at)));
        assert_eq!(pings, [false, false, false, true]);
        // With a call under way as often as is allowed, for ever.
        let call = activity.begin(start);
        let mut busy = fresh();
        assert!((0..100).all(|n| !busy.ping(&activity, after(5 * n))));
        let mut hasty = fresh();
        let pings = [0, 4, 8, 12].map(|at| hasty.ping(&activity, after(at)));
        assert_eq!(pings, [false, false, false, true]);
        // Whoever is answered in between may.
        let mut answered = fresh();
        assert!((0..100).all(|at| {
            call.answers();
            !answered.ping(&activity, after(at))
        }));
    }
}
