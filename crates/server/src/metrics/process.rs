//! The process as the operating system sees it, and the names under which programs in Go show their runtime.
//!
//! What cannot be read is left out, as in the original's library.

use ferrite_metrics::table::asked;
use ferrite_metrics::{Family, Kind, Page};

/// Where a version of Go is asked for.
pub const NO_GO: &str = "none (Rust)";

/// Clock ticks in a second, as `/proc` counts: the same on every platform that Linux runs servers on.
const TICKS: f64 = 100.0;

const fn family(kind: Kind, name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind }
}

const CPU: Family = family(
    Kind::Counter,
    "process_cpu_seconds_total",
    "Total user and system CPU time spent in seconds.",
);
const MAX_FDS: Family = family(
    Kind::Gauge,
    "process_max_fds",
    "Maximum number of open file descriptors.",
);
const OPEN_FDS: Family = family(
    Kind::Gauge,
    "process_open_fds",
    "Number of open file descriptors.",
);
const RESIDENT: Family = family(
    Kind::Gauge,
    "process_resident_memory_bytes",
    "Resident memory size in bytes.",
);
const STARTED: Family = family(
    Kind::Gauge,
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds.",
);
const VIRTUAL: Family = family(
    Kind::Gauge,
    "process_virtual_memory_bytes",
    "Virtual memory size in bytes.",
);
const VIRTUAL_MAX: Family = family(
    Kind::Gauge,
    "process_virtual_memory_max_bytes",
    "Maximum amount of virtual memory available in bytes.",
);
const RECEIVED: Family = family(
    Kind::Counter,
    "process_network_receive_bytes_total",
    "Number of bytes received by the process over the network.",
);
const SENT: Family = family(
    Kind::Counter,
    "process_network_transmit_bytes_total",
    "Number of bytes sent by the process over the network.",
);

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Shows it all.
pub fn gather(page: &mut Page) {
    let status = read("/proc/self/status").unwrap_or_default();
    let mut show = |family: &Family, number: Option<f64>| {
        if let Some(number) = number {
            page.number(family, &[], number);
        }
    };
    if let Some(stat) = read("/proc/self/stat") {
        show(&CPU, cpu_seconds(&stat));
        let booted = read("/proc/stat").and_then(|text| booted(&text));
        show(&STARTED, booted.zip(started(&stat)).map(|(a, b)| a + b));
    }
    show(&RESIDENT, kilobytes(&status, "VmRSS:"));
    show(&VIRTUAL, kilobytes(&status, "VmSize:"));
    let limits = read("/proc/self/limits").unwrap_or_default();
    let (files, space) = (
        limit(&limits, "Max open files"),
        limit(&limits, "Max address space"),
    );
    show(&MAX_FDS, files);
    show(&VIRTUAL_MAX, space);
    // One of them is the folder that is being read.
    let open = std::fs::read_dir("/proc/self/fd").map(|found| found.count().saturating_sub(1));
    let open = open.ok().map(|count| count as f64);
    show(&OPEN_FDS, open);
    show(&asked::FD_USED, open);
    show(&asked::FD_LIMIT, files);
    if let Some(netstat) = read("/proc/self/net/netstat") {
        show(&RECEIVED, octets(&netstat, "InOctets"));
        show(&SENT, octets(&netstat, "OutOctets"));
    }
    let threads = field(&status, "Threads:").and_then(|text| text.parse().ok());
    let memory = kilobytes(&status, "RssAnon:");
    go(page, threads.unwrap_or(0.0), memory.unwrap_or(0.0));
}

/// Fields of `/proc/self/stat` after the program's name, which may contain anything; the first is the third.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_ascii_whitespace()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = fields(stat).skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

/// Seconds after the machine's start.
fn started(stat: &str) -> Option<f64> {
    let ticks: f64 = fields(stat).nth(19)?.parse().ok()?;
    Some(ticks / TICKS)
}

fn booted(stat: &str) -> Option<f64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()
}

fn kilobytes(status: &str, name: &str) -> Option<f64> {
    let kilobytes: f64 = field(status, name)?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

fn limit(limits: &str, name: &str) -> Option<f64> {
    match field(limits, name)? {
        "unlimited" => Some(u64::MAX as f64),
        number => number.parse().ok(),
    }
}

/// Names and numbers of a kind are on two lines, one under the other.
fn octets(netstat: &str, name: &str) -> Option<f64> {
    let mut lines = netstat
        .lines()
        .filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    names
        .split(' ')
        .zip(numbers.split(' '))
        .find_map(|(found, number)| (found == name).then(|| number.parse().ok())?)
}

/// What the help of those families says.
const NOT_GO: &str = "This program is not in Go: see docs/metrics.md for what stands here.";

/// Gauges of Go's runtime: dashboards and the original's own tests ask for the names.
const GO_GAUGES: &[(&str, Go)] = &[
    ("go_gc_gogc_percent", Go::Nothing),
    ("go_gc_gomemlimit_bytes", Go::Nothing),
    ("go_goroutines", Go::Threads),
    ("go_memstats_alloc_bytes", Go::Memory),
    ("go_memstats_buck_hash_sys_bytes", Go::Nothing),
    ("go_memstats_gc_sys_bytes", Go::Nothing),
    ("go_memstats_heap_alloc_bytes", Go::Memory),
    ("go_memstats_heap_idle_bytes", Go::Nothing),
    ("go_memstats_heap_inuse_bytes", Go::Memory),
    ("go_memstats_heap_objects", Go::Nothing),
    ("go_memstats_heap_released_bytes", Go::Nothing),
    ("go_memstats_heap_sys_bytes", Go::Memory),
    ("go_memstats_last_gc_time_seconds", Go::Nothing),
    ("go_memstats_mcache_inuse_bytes", Go::Nothing),
    ("go_memstats_mcache_sys_bytes", Go::Nothing),
    ("go_memstats_mspan_inuse_bytes", Go::Nothing),
    ("go_memstats_mspan_sys_bytes", Go::Nothing),
    ("go_memstats_next_gc_bytes", Go::Nothing),
    ("go_memstats_other_sys_bytes", Go::Nothing),
    ("go_memstats_stack_inuse_bytes", Go::Nothing),
    ("go_memstats_stack_sys_bytes", Go::Nothing),
    ("go_memstats_sys_bytes", Go::Memory),
    ("go_sched_gomaxprocs_threads", Go::Cores),
    ("go_threads", Go::Threads),
];
const GO_COUNTERS: &[&str] = &[
    "go_memstats_alloc_bytes_total",
    "go_memstats_frees_total",
    "go_memstats_mallocs_total",
];

/// What stands in the place of a figure of Go's runtime.
enum Go {
    /// Nothing here is like it.
    Nothing,
    /// Threads of the process.
    Threads,
    /// Memory of the process that is no file.
    Memory,
    /// Processors it may use.
    Cores,
}

fn go(page: &mut Page, threads: f64, memory: f64) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (name, what) in GO_GAUGES {
        let number = match what {
            Go::Nothing => 0.0,
            Go::Threads => threads,
            Go::Memory => memory,
            Go::Cores => cores as f64,
        };
        page.number(&family(Kind::Gauge, name, NOT_GO), &[], number);
    }
    for name in GO_COUNTERS {
        page.number(&family(Kind::Counter, name, NOT_GO), &[], 0.0);
    }
    let version = [("version", NO_GO.into())];
    page.number(&family(Kind::Gauge, "go_info", NOT_GO), &version, 1.0);
    let pauses = family(Kind::Summary, "go_gc_duration_seconds", NOT_GO);
    let quantiles = [0.0, 0.25, 0.5, 0.75, 1.0].map(|quantile| (quantile, 0.0));
    page.summary(&pauses, &quantiles, 0.0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 12345 1000 20";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(started(stat), Some(123.45));
        assert_eq!(cpu_seconds("7 (x"), None);
    }

    #[test]
    fn tables_are_read_by_name() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 4096                 files     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max address space"), Some(u64::MAX as f64));
        assert_eq!(limit(limits, "Max luck"), None);
        let netstat =
            "TcpExt: A B\nTcpExt: 1 2\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 31 4\n";
        assert_eq!(octets(netstat, "InOctets"), Some(31.0));
        assert_eq!(octets(netstat, "OutOctets"), Some(4.0));
        assert_eq!(octets(netstat, "Nothing"), None);
        assert_eq!(kilobytes("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12288.0));
        assert_eq!(booted("cpu 1\nbtime 99\n"), Some(99.0));
    }
}
