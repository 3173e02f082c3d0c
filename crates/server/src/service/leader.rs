//! Tells the streams of clients that require a leader when this member has been without one for too
//! long. One pair of eyes for all streams: who asks for a leader waits for a word, and looks at nothing.

use ferrite_node::Node;
use tokio::sync::watch;

/// Looks in a row that find no leader before streams are ended.
const LOOKS_MAX: u32 = 3;

/// Hears that the leader has been lost.
#[derive(Clone)]
pub struct LeaderLost(watch::Receiver<()>);

impl LeaderLost {
    /// Looks once every election timeout, for as long as anybody can hear of it.
    pub fn watch(node: &Node) -> Self {
        let (lost, hears) = watch::channel(());
        let node = node.clone();
        tokio::spawn(async move {
            let mut leaderless = 0;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(node.config().election_timeout()) => {}
                    () = lost.closed() => return,
                }
                leaderless = match node.status().leader() {
                    0 => LOOKS_MAX.min(leaderless + 1),
                    _ => 0,
                };
                if leaderless == LOOKS_MAX {
                    lost.send_replace(());
                }
            }
        });
        LeaderLost(hears)
    }

    /// For a stream that begins now: what was said before does not concern it.
    #[must_use]
    pub fn from_now(&self) -> Self {
        let mut hears = self.0.clone();
        hears.mark_unchanged();
        LeaderLost(hears)
    }

    /// Returns when the stream is to end.
    pub async fn wait(&mut self) {
        if self.0.changed().await.is_err() {
            // The member stops, and says so itself.
            std::future::pending().await
        }
    }
}
