//! How much memory this process may use, as its control group says.

use std::path::Path;

/// Limits from here on mean "none": version 1 writes the largest page-aligned number.
const UNLIMITED: u64 = 1 << 60;

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
