//! The kernel's list of mounts, proc_pid_mountinfo(5).

use rustix::fs::makedev;

/// What a line of it says of one mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed<'i> {
    /// Number of the mount.
    pub(super) id: u64,
    /// Device number of its file system.
    pub(super) device: u64,
    /// The file system's kind, `xfs`.
    pub(super) kind: &'i str,
}

/// The mounts in `info`; lines of another form are none.
pub(super) fn mounts(info: &str) -> impl Iterator<Item = Listed<'_>> {
    info.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        Some(Listed { id, device: makedev(major.parse().ok()?, minor.parse().ok()?), kind })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_optional_fields() {
        let info = "2 1 254:1 / / rw - ext4 /dev/vda rw\n\
                    21 2 0:50 /a /a\\040b rw shared:1 master:2 - xfs /dev/b rw\n\
                    nonsense\n";
        let found: Vec<Listed<'_>> = mounts(info).collect();
        let expected = [
            Listed { id: 2, device: makedev(254, 1), kind: "ext4" },
            Listed { id: 21, device: makedev(0, 50), kind: "xfs" },
        ];
        assert_eq!(found, expected);
    }
}
