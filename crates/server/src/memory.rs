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

/// Allows huge pages, which the program begins without, once the process is large, and ends then.
pub async fn watch_growth() {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        // Whoever cannot be asked is taken to be large.
        if own_bytes().is_none_or(|bytes| bytes >= LARGE_BYTES) {
            let _kept = rustix::thread::disable_transparent_huge_pages(false);
            return;
        }
    }
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
