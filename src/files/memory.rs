//! How much memory this process may use: the limit of its cgroup, or the machine's memory.
//!
//! Reads `/proc` and the cgroup file systems, version 2 and version 1. What a limit says applies to all below it, so the
//! lowest one on the way up counts. Never fails: what cannot be read is no limit.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// Bytes that this process may use; `None` if the system says nothing.
pub(super) fn limit() -> Option<u64> {
    limit_below(Path::new("/"))
}

/// The same, with another root of the file system.
fn limit_below(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let machine = total(&read("proc/meminfo"));
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let hierarchies = mounts.lines().filter_map(Hierarchy::read);
    let limits = hierarchies.filter_map(|hierarchy| hierarchy.limit(root, &groups));
    limits.chain(machine).min()
}

/// `MemTotal`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A mounted hierarchy of cgroups that limits memory.
struct Hierarchy {
    /// The cgroup that is mounted.
    root: PathBuf,
    mounted_at: PathBuf,
    /// Controller in `/proc/self/cgroup`; empty for version 2.
    controller: &'static str,
    /// File with the limit.
    file: &'static str,
}

impl Hierarchy {
    /// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
    fn read(line: &str) -> Option<Self> {
        let (mount, source) = line.split_once(" - ")?;
        let (mut mount, mut source) = (mount.split(' ').skip(3), source.split(' '));
        let (root, mounted_at) = (mount.next()?.into(), mount.next()?.into());
        let (controller, file) = match (source.next()?, source.nth(1)?) {
            ("cgroup2", _) => ("", "memory.max"),
            ("cgroup", options) if options.split(',').any(|it| it == "memory") => ("memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        Some(Hierarchy { root, mounted_at, controller, file })
    }

    /// The lowest limit of the process's cgroup and those above it, as far as they are mounted.
    fn limit(&self, root: &Path, groups: &str) -> Option<u64> {
        let group = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == self.controller).then_some(path)
        })?;
        // A path outside of what is mounted belongs to another cgroup namespace.
        let below = Path::new(group).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let below =
            if below.components().all(|part| matches!(part, Component::Normal(_))) { below } else { Path::new("") };
        let mounted_at = self.mounted_at.strip_prefix("/").unwrap_or(&self.mounted_at);
        let limit = |group: &Path| {
            let text = fs::read_to_string(root.join(mounted_at).join(group).join(self.file)).ok()?;
            text.trim().parse().ok()
        };
        below.ancestors().filter_map(limit).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system with these files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 5 kB\n");
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        limit_below(system(files).path())
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts() {
        let v2 = [MEMINFO, ("proc/self/mountinfo", V2), ("proc/self/cgroup", "0::/a/b\n")];
        assert_eq!(limit(&v2), Some(1_024_000), "no limit: the machine's memory");
        let own = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        let above = ("sys/fs/cgroup/a/memory.max", "700000\n");
        assert_eq!(limit(&[&v2[..], &[own, above]].concat()), Some(700_000));
        let own = ("sys/fs/cgroup/a/b/memory.max", "300000\n");
        assert_eq!(limit(&[&v2[..], &[own, above]].concat()), Some(300_000));
        assert_eq!(limit(&[&v2[..], &[("sys/fs/cgroup/a/memory.max", "9000000\n")]].concat()), Some(1_024_000));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory() {
        let v1 = [MEMINFO, ("proc/self/mountinfo", V1), ("proc/self/cgroup", "5:cpu:/x\n4:memory:/a\n0::/\n")];
        let unlimited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(&[&v1[..], &[unlimited]].concat()), Some(1_024_000));
        let own = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "500000\n");
        assert_eq!(limit(&[&v1[..], &[unlimited, own]].concat()), Some(500_000));
    }

    #[test]
    fn a_container_sees_its_own_cgroup_as_the_root_or_by_the_path_of_its_host() {
        let limited = ("sys/fs/cgroup/memory.max", "400000\n");
        let mounted = "30 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup ro\n";
        for (mount, group) in
            [(V2, "0::/\n"), (mounted, "0::/docker/1\n"), (V2, "0::/../outside\n"), (mounted, "0::/\n")]
        {
            let files = [MEMINFO, limited, ("proc/self/mountinfo", mount), ("proc/self/cgroup", group)];
            assert_eq!(limit(&files), Some(400_000), "{mount} {group}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_limit() {
        assert_eq!(limit(&[]), None);
        assert_eq!(limit(&[("proc/meminfo", "MemTotal: x kB"), ("proc/self/mountinfo", "- - -\n\n")]), None);
        assert!(super::limit().is_some_and(|bytes| bytes > 1 << 20), "this machine");
    }
}
