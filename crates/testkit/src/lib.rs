//! Clusters of real processes for tests: Ferrite's server and the original's, over real sockets and
//! disks, alone or mixed.
//!
//! The kit owns starting, killing and pausing members, a load that remembers what was acknowledged,
//! and the checks of what a cluster may never lose. It holds no opinion on any one feature; tests
//! do. It is never shipped. What goes wrong in it is a panic that names the thing, since every caller
//! is a test; when a test panics, the end of each member's log is printed, and with `FERRITE_KEEP` set
//! data and logs stay on disk.
//!
//! Other variables: `FERRITE_BIN_DIR` (our programs), `ETCD_ORACLE_DIR` (the original's),
//! `FERRITE_SOAK_SECONDS` (length of the kill loops), `FERRITE_SEED` (their randomness).
//!
//! ```no_run
//! # async fn demo() {
//! use ferrite_testkit::{Cluster, Workload};
//! let cluster = Cluster::builder().members(3).start().await;
//! let load = Workload::new().writers(4).start(&cluster);
//! load.wait_for(100).await;
//! cluster.member(0).kill9();
//! cluster.member(0).start();
//! let history = load.stop().await;
//! history.check(&cluster).await;
//! # }
//! ```

mod cluster;
mod contents;
mod everything;
mod member;
mod name_server;
mod pki;
mod ports;
mod programs;
mod random;
mod run;
mod running;
mod tree;
mod wire;
mod workload;

pub use cluster::{Builder, Cluster};
pub use contents::{Contents, dump};
pub use everything::{Asked, Everything};
pub use ferrite_client::tls;
pub use ferrite_client::{Client, Config as ClientConfig, pb};
pub use ferrite_proto::grpc_health_v1 as health;
pub use member::Member;
pub use name_server::NameServer;
pub use pki::{Paper, Pki, Wanted};
pub use ports::Ports;
pub use programs::{Kind, etcd34, oracle, our_program};
pub use random::Random;
pub use run::{Outcome, run};
pub use running::Running;
pub use tree::Tree;
pub use workload::{History, Load, Workload, Write, accepted};

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything a test waits for may take, unless the test says otherwise. Generous: a debug
/// build on a busy machine; what has a tighter limit is measured where it is asserted.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again every few milliseconds until there is an answer.
///
/// # Panics
/// When `within` has passed; `what` names what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, within: Duration, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Seconds that the kill loops run for: `FERRITE_SOAK_SECONDS`, or `default`.
#[must_use]
pub fn soak(default: u64) -> Duration {
    let seconds = std::env::var("FERRITE_SOAK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(default))
}
