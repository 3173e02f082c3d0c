//! How much memory this process may use, as its control group says, and in pages of which size it gets it.

use std::path::Path;
use std::time::Duration;

/// Limits from here on mean "none": version 1 writes the largest page-aligned number.
const UNLIMITED: u64 = 1 << 60;

/// From here on huge pages are worth what they cost: a few of them, each touched in one place, are more than
/// all that an idle member needs, and make a large one some per cent faster.
const LARGE_BYTES: u64 = 32 << 20;
/// How often an idle member looks whether it has grown.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks after which a member that is still small has started for good.
const LOOKS_OF_A_START: u32 = 3;

/// Allows huge pages, which the program begins without, once the process is large, and ends then. Of a small
/// one, what only its start needed of the program file leaves memory.
pub async fn watch_growth() {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looked = 0u32;
    loop {
        looks.tick().await;
        // Whoever cannot be asked is taken to be large.
        if own_bytes().is_none_or(|bytes| bytes >= LARGE_BYTES) {
            let _kept = rustix::thread::disable_transparent_huge_pages(false);
            return;
        }
        looked = looked.saturating_add(1);
        if looked == LOOKS_OF_A_START {
            unload_code();
        }
    }
}

/// Takes the pages of the program's own file out of this process: those still used come back from the page
/// cache when they are touched, some microseconds each, and those that only the start used do not. Where the
/// kernel says no, as of locked memory, nothing changes.
fn unload_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    let Ok(program) = std::fs::read_link("/proc/self/exe") else {
        return;
    };
    for (start, end) in unwritten(&maps, &program.to_string_lossy()) {
        // SAFETY: the range is one mapping of this program's file, as the kernel has just named it, that nobody may write to and
        // of which no page differs from the file (a debugger's breakpoints and relocated tables are anonymous pages). Nothing
        // unmaps the program. For such a mapping DONTNEED means that the next access reads the same bytes of the file
        // again (madvise(2)), at any moment, for any thread: what is there does not change, only how soon it is there.
        let _left = unsafe {
            rustix::mm::madvise(
                std::ptr::with_exposed_provenance_mut(start),
                end - start,
                rustix::mm::Advice::LinuxDontNeed,
            )
        };
    }
}

/// Where in memory the unchanged, unwritable mappings of the file `program` begin and end, by the text of
/// `/proc/self/smaps`.
fn unwritten(smaps: &str, program: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        if first == "Anonymous:" {
            found.extend(candidate.take().filter(|_| second == "0"));
        } else if !first.ends_with(':') {
            let unwritable = second.starts_with("r-") && second.ends_with('p');
            candidate = range_of(first).filter(|_| unwritable && path_of(line) == program);
        }
    }
    found
}

/// The sixth column: a path, which may hold spaces.
fn path_of(line: &str) -> &str {
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.trim_start();
        rest = rest.split_once(' ').map_or("", |(_, rest)| rest);
    }
    rest.trim_start()
}

/// `1000-2000`, hexadecimal.
fn range_of(text: &str) -> Option<(usize, usize)> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    );
    (start < end).then_some((start, end))
}

/// Resident memory that is not backed by files, in bytes.
fn own_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').skip(1).map(str::parse::<u64>);
    let (Some(Ok(resident)), Some(Ok(shared))) = (pages.next(), pages.next()) else {
        return None;
    };
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(resident.saturating_sub(shared).saturating_mul(page))
}

/// What this process may use at most, in bytes: its limit, if it has one, and never more than the machine has.
pub fn usable(limit: Option<u64>) -> Option<u64> {
    let info = rustix::system::sysinfo();
    let all = (info.totalram as u64).checked_mul(u64::from(info.mem_unit));
    match (limit, all.filter(|bytes| *bytes > 0)) {
        (Some(limit), Some(all)) => Some(limit.min(all)),
        (limit, all) => limit.or(all),
    }
}

/// The tightest limit found, in bytes; `None` when there is none, or none can be read.
pub fn limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    candidates(&groups)
        .iter()
        .filter_map(|file| read(Path::new(file)))
        .min()
}

fn read(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
}

/// Files that may hold the limit. Inside a container the group's own folder is often mounted as the
/// root, so the path of the group is tried and the root as well.
fn candidates(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let path = path.trim_end_matches('/');
        if controllers.is_empty() {
            files.push(format!("/sys/fs/cgroup{path}/memory.max"));
            files.push("/sys/fs/cgroup/memory.max".to_owned());
        } else if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            files.push(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
            files.push("/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned());
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55e0 r--p 00000000 fe:00 531                    /usr/bin/etcd
Size:               1332 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
55e0-55f0 r-xp 002c7000 fe:00 531                    /usr/bin/etcd
Anonymous:             0 kB
5600-5610 r--p 00e02000 fe:00 531                    /usr/bin/etcd
Anonymous:           424 kB
5610-5620 rw-p 00e02000 fe:00 531                    /usr/bin/etcd
Anonymous:             0 kB
7f00-7f10 r-xp 00000000 fe:00 777                    /lib/libc.so.6
Anonymous:             0 kB
7f20-7f30 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f30-7f40 r-xp 00000000 fe:00 778                    /opt/usr/bin/etcd
Anonymous:             0 kB
7f50-7f60 r--s 00000000 fe:00 531                    /usr/bin/etcd
Anonymous:             0 kB
";

    #[test]
    fn only_what_equals_the_programs_file_is_unloaded() {
        assert_eq!(
            unwritten(SMAPS, "/usr/bin/etcd"),
            [(0x55d0, 0x55e0), (0x55e0, 0x55f0)]
        );
    }

    /// Code and constants go on working while they are taken away, again and again, under threads that use them.
    #[test]
    #[cfg(target_os = "linux")]
    fn code_that_is_unloaded_is_there_when_it_is_used() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux tells");
        let program = std::fs::read_link("/proc/self/exe").expect("Linux tells");
        assert!(!unwritten(&smaps, &program.to_string_lossy()).is_empty());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let users: Vec<_> = (0..3u32)
                .map(|seed| {
                    let over = &over;
                    scope.spawn(move || {
                        let mut rounds = 0u32;
                        while !over.load(Ordering::Relaxed) {
                            let text = format!("{{\"{seed}\": [{rounds}, 1.5, null]}}");
                            let value: serde_json::Value =
                                serde_json::from_str(&text).expect("it is JSON");
                            assert_eq!(value[seed.to_string()][0], rounds);
                            rounds += 1;
                        }
                        rounds
                    })
                })
                .collect();
            for _ in 0..300 {
                unload_code();
            }
            over.store(true, Ordering::Relaxed);
            for user in users {
                assert!(user.join().expect("no user panics") > 0);
            }
        });
    }

    #[test]
    fn both_versions_of_control_groups_are_looked_at() {
        assert_eq!(
            candidates("12:memory:/docker/abc\n5:cpu,cpuacct:/\n0::/user.slice\n"),
            [
                "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/user.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
    }
}
