//! CPU time, memory and disk writes of a process, read from /proc.

use serde::Serialize;

use crate::error::{Error, Result};

/// The figures of one moment.
#[derive(Clone, Copy, Default)]
pub struct Sample {
    /// User and system time of all threads, in seconds (resolution: one tick, 10 ms).
    pub cpu_s: f64,
    /// Resident memory.
    pub rss_kib: u64,
    /// The most it ever was.
    pub peak_rss_kib: u64,
    /// Bytes sent to the block layer.
    pub write_bytes: u64,
}

/// What one server used between two samples.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Its process ID.
    pub pid: u32,
    /// CPU time in seconds.
    pub cpu_s: f64,
    /// Resident memory at the end.
    pub rss_mib: f64,
    /// The most it ever was.
    pub peak_rss_mib: f64,
    /// Written to the block layer in between.
    pub written_mib: f64,
}

impl Usage {
    /// The difference of two samples.
    pub fn between(pid: u32, before: Sample, after: Sample) -> Self {
        Self {
            pid,
            cpu_s: after.cpu_s - before.cpu_s,
            rss_mib: after.rss_kib as f64 / 1024.0,
            peak_rss_mib: after.peak_rss_kib as f64 / 1024.0,
            written_mib: after.write_bytes.saturating_sub(before.write_bytes) as f64
                / (1024.0 * 1024.0),
        }
    }
}

/// Reads a process's figures.
///
/// # Errors
/// There is no such process (any more).
pub fn sample(pid: u32) -> Result<Sample> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(Error::io(format!("reading {path}")))?;
    let unreadable = || Error::told(format!("cannot make sense of {path}"));
    // The command name may hold spaces: count the fields from its closing ')'.
    let rest = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest)
        .ok_or_else(unreadable)?;
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    // SAFETY: sysconf takes a number and has no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;

    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(Error::io(format!("reading {path}")))?;
    let field = |text: &str, name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|value| value.split_whitespace().next())
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // /proc/PID/io is readable only by the process's owner.
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    Ok(Sample {
        cpu_s: ticks as f64 / per_second,
        rss_kib: field(&status, "VmRSS:"),
        peak_rss_kib: field(&status, "VmHWM:"),
        write_bytes: field(&io, "write_bytes:"),
    })
}

/// Samples of some processes and of this one, taken at the start of a measurement.
pub struct Meter {
    pids: Vec<u32>,
    before: Vec<Sample>,
    own_before: f64,
}

impl Meter {
    /// Takes the first samples.
    ///
    /// # Errors
    /// One of the processes is gone.
    pub fn start(pids: &[u32]) -> Result<Self> {
        Ok(Self {
            pids: pids.to_vec(),
            before: pids.iter().map(|&pid| sample(pid)).collect::<Result<_>>()?,
            own_before: sample(std::process::id())?.cpu_s,
        })
    }

    /// CPU seconds of this process, and what the others used, since the start.
    ///
    /// # Errors
    /// One of the processes is gone.
    pub fn stop(&self) -> Result<(f64, Vec<Usage>)> {
        let own = sample(std::process::id())?.cpu_s - self.own_before;
        let servers = self
            .pids
            .iter()
            .zip(&self.before)
            .map(|(&pid, &before)| Ok(Usage::between(pid, before, sample(pid)?)))
            .collect::<Result<_>>()?;
        Ok((own, servers))
    }
}
