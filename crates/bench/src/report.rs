//! The figures of one run, and how they are shown. The only place that writes to standard output.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;

use crate::procstat::Usage;

/// Prints one line.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nothing can be told to a reader that has closed the pipe.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// Mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    /// Percentiles of durations in nanoseconds; none of none.
    pub fn of(mut nanos: Vec<u64>) -> Option<Self> {
        if nanos.is_empty() {
            return None;
        }
        nanos.sort_unstable();
        let at = |q: f64| {
            let rank = (q * nanos.len() as f64).ceil() as usize;
            nanos[rank.clamp(1, nanos.len()) - 1] as f64 / 1e3
        };
        let sum: u128 = nanos.iter().map(|&n| u128::from(n)).sum();
        Some(Self {
            mean_us: sum as f64 / nanos.len() as f64 / 1e3,
            p50_us: at(0.50),
            p90_us: at(0.90),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: at(1.0),
        })
    }
}

/// What one run measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Free text of the user.
    pub label: String,
    /// What was done.
    pub workload: String,
    /// Operations in flight.
    pub clients: usize,
    /// Connections they shared.
    pub connections: usize,
    /// Operations that succeeded.
    pub ops: u64,
    /// Operations that did not.
    pub errors: u64,
    /// The first failure's words.
    pub first_error: Option<String>,
    /// How long the run took.
    pub seconds: f64,
    /// Rate.
    pub ops_per_s: f64,
    /// Of the operations (watch: of the events).
    pub latency: Option<Latency>,
    /// Watch only: time until the last watcher saw a put.
    pub fan_out: Option<Latency>,
    /// CPU of the load generator.
    pub client_cpu_us_per_op: f64,
    /// CPU of all given servers together.
    pub server_cpu_us_per_op: Option<f64>,
    /// Each server's.
    pub servers: Vec<Usage>,
}

impl Report {
    /// Resident memory of all servers together.
    pub fn rss_mib(&self) -> f64 {
        self.servers.iter().map(|server| server.rss_mib).sum()
    }

    /// Prints the report, as one JSON object or for people.
    pub fn print(&self, json: bool) {
        if json {
            match serde_json::to_string(self) {
                Ok(text) => say(&text),
                Err(why) => eprintln!("cannot write JSON: {why}"),
            }
            return;
        }
        say(self.text().trim_end());
    }

    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        if !self.label.is_empty() {
            let _ = write!(out, "[{}] ", self.label);
        }
        let _ = writeln!(
            out,
            "{}: clients={} conns={} ops={} errors={} {:.2}s  {:.0} ops/s",
            self.workload,
            self.clients,
            self.connections,
            self.ops,
            self.errors,
            self.seconds,
            self.ops_per_s
        );
        if let Some(error) = &self.first_error {
            let _ = writeln!(out, "  first error: {error}");
        }
        for (name, latency) in [("latency", &self.latency), ("fan-out", &self.fan_out)] {
            if let Some(l) = latency {
                let _ = writeln!(
                    out,
                    "  {name} us: mean {:.0} p50 {:.0} p90 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}",
                    l.mean_us, l.p50_us, l.p90_us, l.p99_us, l.p999_us, l.max_us
                );
            }
        }
        let _ = write!(out, "  cpu us/op: client {:.1}", self.client_cpu_us_per_op);
        if let Some(servers) = self.server_cpu_us_per_op {
            let _ = write!(out, ", servers {servers:.1}");
        }
        out.push('\n');
        for s in &self.servers {
            let _ = writeln!(
                out,
                "  pid {}: cpu {:.2}s rss {:.1} MiB (peak {:.1}) written {:.1} MiB",
                s.pid, s.cpu_s, s.rss_mib, s.peak_rss_mib, s.written_mib
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks_of_the_sorted_durations() {
        let latency = Latency::of((1..=1000).rev().map(|n| n * 1000).collect());
        let latency = latency.expect("there are durations");
        assert_eq!(
            (latency.p50_us, latency.p99_us, latency.p999_us),
            (500.0, 990.0, 999.0)
        );
        assert_eq!(latency.max_us, 1000.0);
        assert!(Latency::of(vec![]).is_none());
    }
}
