//! Wires between members that a test can cut.
//!
//! Each member advertises the address of a relay in this process, which passes on what comes to the
//! member's real port. Members name themselves in a header of every request, so a relay knows whose
//! connection it holds, and a pair can be parted in both directions while both go on serving clients.
//! Probes name nobody and always pass: they carry no raft.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The header that names the sender.
const FROM: &str = "x-server-from:";
/// No request's head is longer.
const HEAD_MAX: usize = 64 << 10;

/// Member IDs in text, the smaller first.
type Pair = (String, String);

/// All relays of a cluster.
#[derive(Debug)]
pub(crate) struct Wires {
    cut: watch::Sender<BTreeSet<Pair>>,
    /// Which member is behind which relay; learned once the cluster runs.
    owners: watch::Sender<Vec<String>>,
}

fn pair(a: &str, b: &str) -> Pair {
    let mut pair = [a.to_owned(), b.to_owned()];
    pair.sort();
    let [low, high] = pair;
    (low, high)
}

impl Wires {
    pub(crate) fn new() -> Self {
        Self {
            cut: watch::Sender::new(BTreeSet::new()),
            owners: watch::Sender::new(Vec::new()),
        }
    }

    /// Passes on what comes to `port` to member `index`, which listens on `real`.
    pub(crate) fn relay(&self, index: usize, port: u16, real: u16) {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is held for us");
        listener.set_nonblocking(true).expect("a socket's mode");
        let listener = tokio::net::TcpListener::from_std(listener).expect("inside a runtime");
        let (cut, owners) = (self.cut.clone(), self.owners.clone());
        tokio::spawn(async move {
            let real = SocketAddr::from(([127, 0, 0, 1], real));
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, real, index, cut.clone(), owners.clone()));
            }
        });
    }

    /// Says who is who: IDs in the order of the members.
    pub(crate) fn name(&self, ids: Vec<String>) {
        self.owners.send_replace(ids);
    }

    /// Parts every pair of which one is in `some` and the other is not.
    pub(crate) fn part(&self, some: &[usize]) {
        let owners = self.owners.borrow().clone();
        let mut pairs = BTreeSet::new();
        for (a, first) in owners.iter().enumerate() {
            for (b, second) in owners.iter().enumerate() {
                if some.contains(&a) && !some.contains(&b) {
                    pairs.insert(pair(first, second));
                }
            }
        }
        self.cut.send_replace(pairs);
    }

    /// Joins all again.
    pub(crate) fn join(&self) {
        self.cut.send_replace(BTreeSet::new());
    }
}

/// Who sends, by the head of the first request on a connection, and that head.
async fn head(stream: &mut TcpStream) -> Option<(Option<String>, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.ok()?;
        bytes.extend_from_slice(&piece[..read]);
        if read == 0 || bytes.len() > HEAD_MAX {
            return None;
        }
        if bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes).to_lowercase();
    let from = text.lines().find_map(|line| line.strip_prefix(FROM));
    Some((from.map(|id| id.trim().to_owned()), bytes))
}

async fn pass(
    mut stream: TcpStream,
    real: SocketAddr,
    index: usize,
    cut: watch::Sender<BTreeSet<Pair>>,
    owners: watch::Sender<Vec<String>>,
) {
    let Some((from, head)) = head(&mut stream).await else {
        return;
    };
    let mut changes = cut.subscribe();
    let parted = || {
        let owners = owners.borrow();
        match (&from, owners.get(index)) {
            (Some(from), Some(to)) => cut.borrow().contains(&pair(from, to)),
            _ => false,
        }
    };
    if parted() {
        return;
    }
    let Ok(mut behind) = TcpStream::connect(real).await else {
        return;
    };
    let _ = (stream.set_nodelay(true), behind.set_nodelay(true));
    if behind.write_all(&head).await.is_err() {
        return;
    }
    let passing = copy_bidirectional(&mut stream, &mut behind);
    tokio::pin!(passing);
    loop {
        tokio::select! {
            _ended = &mut passing => return,
            changed = changes.changed() => {
                if changed.is_err() || parted() {
                    return;
                }
            }
        }
    }
}
