//! A proxy of connections: bytes are passed on, nothing is understood.
//!
//! Every connection goes to one endpoint: among those of the best priority that are not known to be down
//! by weight, and in turn where nobody has one. An endpoint that cannot be reached is left alone until a
//! connection to it succeeds, which is tried every so often. It looks into no byte that passes.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// What an interval of nothing means, as in the original.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(5 * 60);
/// Of a hundred connections, how many go to endpoints without weight where others have some.
const UNWEIGHTED_PERCENT: u64 = 1;
/// How long an endpoint may take to accept. The original waits for as long as the system does, minutes,
/// while another endpoint could have answered.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a connection that could not be accepted: there are no descriptors left, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// One endpoint, as DNS or a flag gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// The lower, the sooner.
    pub priority: u16,
    /// Its share among those of the same priority.
    pub weight: u16,
}

#[derive(Debug)]
struct Remote {
    target: Target,
    inactive: AtomicBool,
}

impl Remote {
    fn is_active(&self) -> bool {
        !self.inactive.load(Ordering::Relaxed)
    }
}

/// The endpoints, and whose turn it is.
#[derive(Debug)]
struct Remotes {
    all: Vec<Arc<Remote>>,
    turn: AtomicUsize,
}

impl Remotes {
    fn new(targets: Vec<Target>) -> Self {
        let all = targets.into_iter().map(|target| {
            Arc::new(Remote {
                target,
                inactive: AtomicBool::new(false),
            })
        });
        Remotes {
            all: all.collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The one for the next connection; `dice` is any number, the same for nobody.
    fn pick(&self, dice: u64) -> Option<Arc<Remote>> {
        let active: Vec<&Arc<Remote>> = self.all.iter().filter(|r| r.is_active()).collect();
        let best = active.iter().map(|remote| remote.target.priority).min()?;
        let (weighted, unweighted): (Vec<&Arc<Remote>>, Vec<&Arc<Remote>>) = active
            .into_iter()
            .filter(|remote| remote.target.priority == best)
            .partition(|remote| remote.target.weight > 0);
        let seldom = dice % 100 < UNWEIGHTED_PERCENT;
        if !weighted.is_empty() && (unweighted.is_empty() || !seldom) {
            let total: u64 = weighted.iter().map(|r| u64::from(r.target.weight)).sum();
            let mut left = (dice / 100) % total;
            for remote in &weighted {
                let weight = u64::from(remote.target.weight);
                if left < weight {
                    return Some(Arc::clone(remote));
                }
                left -= weight;
            }
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let at = turn.checked_rem(unweighted.len())?;
        unweighted.get(at).map(|remote| Arc::clone(remote))
    }
}

/// Passes connections on.
#[derive(Debug)]
pub struct Proxy {
    remotes: Remotes,
    interval: Duration,
    /// Endpoints that are being tried again, so that no two do it at once.
    trying: Mutex<Vec<usize>>,
}

impl Proxy {
    /// To these endpoints; those that are down are tried again every `interval`.
    #[must_use]
    pub fn new(targets: Vec<Target>, interval: Duration) -> Arc<Self> {
        Arc::new(Proxy {
            remotes: Remotes::new(targets),
            interval: match interval {
                Duration::ZERO => INTERVAL_DEFAULT,
                interval => interval,
            },
            trying: Mutex::default(),
        })
    }

    /// Serves until the future is dropped; connections under way end with their tasks.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let endpoints: Vec<&str> = self
            .remotes
            .all
            .iter()
            .map(|remote| remote.target.address.as_str())
            .collect();
        tracing::info!(?endpoints, "ready to proxy client requests");
        let mut look = tokio::time::interval(self.interval);
        // The first tick is at once.
        look.tick().await;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => {
                        tokio::spawn(Arc::clone(&self).serve(client));
                    }
                    Err(error) => {
                        tracing::warn!(error = %error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = look.tick() => self.try_again(),
            }
        }
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream) {
        let Some(mut server) = self.dial().await else {
            return;
        };
        // Small messages are not to wait for each other.
        let _kept = client.set_nodelay(true).and(server.set_nodelay(true));
        // Either side may go whenever it likes.
        let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }

    /// A connection to some endpoint; `None` when all are down.
    async fn dial(&self) -> Option<TcpStream> {
        loop {
            // Without randomness any choice is as good.
            let remote = self.remotes.pick(getrandom::u64().unwrap_or(0))?;
            let error = match dial(&remote.target.address).await {
                Ok(stream) => return Some(stream),
                Err(error) => error,
            };
            remote.inactive.store(true, Ordering::Relaxed);
            tracing::warn!(
                address = remote.target.address,
                interval = ?self.interval,
                error,
                "deactivated endpoint"
            );
        }
    }

    fn try_again(self: &Arc<Self>) {
        for (index, remote) in self.remotes.all.iter().enumerate() {
            let mut trying = self.trying.lock().unwrap_or_else(PoisonError::into_inner);
            if remote.is_active() || trying.contains(&index) {
                continue;
            }
            trying.push(index);
            drop(trying);
            let (proxy, remote) = (Arc::clone(self), Arc::clone(remote));
            tokio::spawn(async move {
                let address = remote.target.address.as_str();
                match dial(address).await {
                    Ok(_) => {
                        remote.inactive.store(false, Ordering::Relaxed);
                        tracing::info!(address, "activated");
                    }
                    Err(error) => tracing::warn!(
                        address,
                        interval = ?proxy.interval,
                        error,
                        "failed to activate endpoint (stay inactive for another interval)"
                    ),
                }
                let mut trying = proxy.trying.lock().unwrap_or_else(PoisonError::into_inner);
                trying.retain(|one| *one != index);
            });
        }
    }
}

async fn dial(address: &str) -> Result<TcpStream, String> {
    match tokio::time::timeout(DIAL_TIMEOUT, ferrite_client::connect_tcp(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("dial tcp {address}: {error}")),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remotes(targets: &[(&str, u16, u16)]) -> Remotes {
        let targets = targets.iter().map(|(address, priority, weight)| Target {
            address: (*address).to_owned(),
            priority: *priority,
            weight: *weight,
        });
        Remotes::new(targets.collect())
    }

    /// How often each is picked in a thousand turns, with dice that are spread evenly.
    fn picked(remotes: &Remotes) -> Vec<usize> {
        let mut counts = vec![0; remotes.all.len()];
        for turn in 0..10_000_u64 {
            let Some(remote) = remotes.pick(turn.wrapping_mul(7_919)) else {
                continue;
            };
            let at = remotes.all.iter().position(|one| Arc::ptr_eq(one, &remote));
            counts[at.expect("one of them")] += 1;
        }
        counts
    }

    #[test]
    fn endpoints_without_weight_take_turns_and_those_that_are_down_are_left_out() {
        let all = remotes(&[("a:1", 0, 0), ("b:1", 0, 0), ("c:1", 0, 0)]);
        let counts = picked(&all);
        assert!(
            counts.iter().all(|count| count.abs_diff(3_333) < 2),
            "{counts:?}"
        );
        all.all[1].inactive.store(true, Ordering::Relaxed);
        let counts = picked(&all);
        assert_eq!(counts, [5_000, 0, 5_000]);
        all.all[0].inactive.store(true, Ordering::Relaxed);
        all.all[2].inactive.store(true, Ordering::Relaxed);
        assert!(all.pick(0).is_none());
    }

    #[test]
    fn the_best_priority_goes_first_and_weight_gives_the_share() {
        let all = remotes(&[
            ("a:1", 1, 30),
            ("b:1", 1, 10),
            ("c:1", 1, 0),
            ("d:1", 2, 99),
        ]);
        let counts = picked(&all);
        assert_eq!(counts[3], 0);
        assert_eq!(counts[2], 100, "a hundredth");
        assert!(counts[0].abs_diff(3 * counts[1]) < 500, "{counts:?}");
        for remote in &all.all[..3] {
            remote.inactive.store(true, Ordering::Relaxed);
        }
        assert_eq!(picked(&all), [0, 0, 0, 10_000]);
    }
}
