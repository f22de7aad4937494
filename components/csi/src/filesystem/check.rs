//! A file system looked at before it is mounted.
//!
//! XFS replays its log when it is mounted, and refuses what it finds damaged. ext4 replays its journal, and mounts also what it
//! has marked as damaged; so it is checked first, as the kubelet's own volumes are: `e2fsck -p` corrects what can be
//! corrected without a question, and takes a moment where nothing is marked.

use super::FsType;
use crate::{error::Fault, program};
use std::{path::Path, process::Command, time::Duration};

/// Checking a large file system that is damaged takes long, but the kubelet asks again.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Bits of e2fsck's exit code (e2fsck(8), "EXIT CODE"): errors were corrected; errors were left.
const CORRECTED: i32 = 1;
const UNCORRECTED: i32 = 4;

/// Checks what is on a device that is not mounted.
///
/// # Errors
/// [`Fault::Io`] if it is damaged, and not to be corrected without somebody who decides what is lost.
pub fn check(device: &Path, fs_type: FsType) -> Result<(), Fault> {
    if fs_type != FsType::Ext4 {
        return Ok(());
    }
    let ended = match program::run(Command::new("e2fsck").arg("-p").arg(device), b"", PATIENCE) {
        Ok(ended) => ended,
        // It is not installed: mounting is what was done without it.
        Err(fault @ Fault::Io { .. }) => {
            tracing::warn!(device = %device.display(), "mounted unchecked: {fault}");
            return Ok(());
        }
        Err(fault) => return Err(fault),
    };
    match ended.status.code() {
        Some(0) => Ok(()),
        Some(code) if code & UNCORRECTED != 0 => Err(Fault::Io {
            what: format!(
                "the ext4 file system on {} has errors that are not corrected without asking; run e2fsck on it while the \
                 volume is not in use",
                device.display()
            ),
            source: std::io::Error::other(ended.complaint),
        }),
        Some(code) if code & CORRECTED != 0 => {
            tracing::warn!(device = %device.display(), "errors were corrected: {}", ended.complaint);
            Ok(())
        }
        // It cannot say, as of a file system that is newer than it. The kernel may know more.
        _ => {
            tracing::warn!(device = %device.display(), "mounted unchecked: {}", ended.fault());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::unix::fs::FileExt};

    /// Changes a file system behind its back; `false` without the program for that.
    fn damage(image: &Path, request: &str) -> bool {
        // Marked as damaged, or it is not looked at.
        for request in [request, "ssv state 2"] {
            match Command::new("debugfs").args(["-w", "-R", request]).arg(image).output() {
                Ok(done) => assert!(done.status.success(), "{done:?}"),
                Err(_) => return false,
            }
        }
        true
    }

    /// `s_free_blocks_count_lo` of the superblock.
    fn free_blocks(image: &Path) -> u32 {
        let mut held = [0; 4];
        File::open(image).unwrap().read_exact_at(&mut held, 1024 + 12).unwrap();
        u32::from_le_bytes(held)
    }

    #[test]
    fn what_can_be_corrected_is_and_the_rest_is_not_mounted() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(FsType::Ext4.smallest()).unwrap();
        super::super::make(&image, FsType::Ext4).unwrap();
        check(&image, FsType::Ext4).unwrap();
        if !damage(&image, "ssv free_blocks_count 1") {
            println!("skipped: needs debugfs");
            return;
        }
        assert_eq!(free_blocks(&image), 1);
        check(&image, FsType::Ext4).unwrap();
        assert!(free_blocks(&image) > 1000);
        assert!(damage(&image, "clri <2>"));
        let refused = check(&image, FsType::Ext4).unwrap_err().to_string();
        assert!(refused.contains("run e2fsck on it"), "{refused}");
    }

    #[test]
    fn what_it_does_not_know_is_the_kernels_to_judge() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        check(file.path(), FsType::Ext4).unwrap();
        check(Path::new("/no/such"), FsType::Xfs).unwrap();
    }
}
