//! cpio archives in the `newc` form: the initramfs.
//!
//! Each member is a header of hexadecimal numbers, its path, and its content, both padded to four bytes; a member
//! called `TRAILER!!!` ends the archive. Inode numbers count up from 1, so the same tree always gives the same
//! bytes. Source: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.

use super::contents::{CopyError, OpenFiles, ReadError};
use crate::tree::{Kind, Metadata, Node};
use std::io::{self, Write};
use zstd::zstd_safe::CParameter;

/// File type bits of a mode.
mod file_type {
    pub(super) const FIFO: u32 = 0o010_000;
    pub(super) const CHAR_DEVICE: u32 = 0o020_000;
    pub(super) const DIRECTORY: u32 = 0o040_000;
    pub(super) const BLOCK_DEVICE: u32 = 0o060_000;
    pub(super) const REGULAR: u32 = 0o100_000;
    pub(super) const SYMLINK: u32 = 0o120_000;
}

/// The archive's length is a multiple of this, as cpio itself makes it.
const ALIGNMENT: u64 = 512;
/// Uncompressed bytes a compressing thread takes at a time: fixed, so that the frame does not depend on how many
/// threads there are.
const COMPRESSION_JOB: u32 = 8 << 20;

/// The archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// cpio, or the kernel's unpacker, cannot have this inode.
    #[error("{path} cannot be in a cpio archive: {reason}")]
    Unrepresentable {
        /// Path in the archive.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A file's content could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing, or compressing on the way, failed.
    #[error("cannot write the cpio archive: {0}")]
    Write(#[from] io::Error),
}

impl From<CopyError> for Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Read(error) => Self::Read(error),
            CopyError::Write(error) => Self::Write(error),
        }
    }
}

/// Writes the tree under `root`, every inode with the time `timestamp` (seconds since 1970), and returns the
/// archive's length in bytes.
///
/// # Errors
/// [`Error`]. Extended attributes are refused: the form has no place for them.
pub fn write(root: &Node, timestamp: u32, out: &mut dyn Write) -> Result<u64, Error> {
    let mut archive = Archive { out, timestamp, inode: 0, position: 0, open_files: OpenFiles::default() };
    archive.node(root, b".")?;
    archive.trailer()?;
    Ok(archive.position)
}

/// Writes the tree as [`write`] does, compressed with zstd at `level` on `threads` threads, and returns the
/// archive's length before compression. Level 10 is a good middle: 19 takes minutes on kernel modules.
///
/// # Errors
/// [`Error`].
pub fn write_zstd(
    root: &Node,
    timestamp: u32,
    level: i32,
    threads: u32,
    out: &mut dyn Write,
) -> Result<u64, Error> {
    let mut encoder = zstd::stream::Encoder::new(out, level)?;
    // At least one worker: with none, zstd takes another path and gives other bytes.
    encoder.set_parameter(CParameter::NbWorkers(threads.max(1)))?;
    encoder.set_parameter(CParameter::JobSize(COMPRESSION_JOB))?;
    let length = write(root, timestamp, &mut encoder)?;
    encoder.finish()?;
    Ok(length)
}

/// What differs from member to member besides path and content.
struct Header {
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    length: u32,
    device: (u32, u32),
}

struct Archive<'o> {
    out: &'o mut dyn Write,
    timestamp: u32,
    inode: u32,
    position: u64,
    open_files: OpenFiles,
}

impl Archive<'_> {
    fn node(&mut self, node: &Node, path: &[u8]) -> Result<(), Error> {
        let because =
            |reason| Error::Unrepresentable { path: String::from_utf8_lossy(path).into_owned(), reason };
        let Metadata { mode, uid, gid, xattrs } = &node.meta;
        if !xattrs.is_empty() {
            return Err(because("it has extended attributes"));
        }
        if path.contains(&0) || path == b"TRAILER!!!" {
            return Err(because("the name is not one a member can have"));
        }
        let directory = |entries: &crate::tree::Entries| {
            2 + entries.values().filter(|child| matches!(child.kind, Kind::Directory(_))).count() as u32
        };
        let (kind, links, length, device) = match &node.kind {
            Kind::Directory(entries) => (file_type::DIRECTORY, directory(entries), 0, (0, 0)),
            Kind::File(content) => (file_type::REGULAR, 1, content.len(), (0, 0)),
            Kind::Symlink(target) => (file_type::SYMLINK, 1, target.len() as u64, (0, 0)),
            Kind::CharDevice { major, minor } => (file_type::CHAR_DEVICE, 1, 0, (*major, *minor)),
            Kind::BlockDevice { major, minor } => (file_type::BLOCK_DEVICE, 1, 0, (*major, *minor)),
            Kind::Fifo => (file_type::FIFO, 1, 0, (0, 0)),
        };
        let length = u32::try_from(length).map_err(|_| because("it has 4 GiB or more"))?;
        let mode = kind | u32::from(*mode & 0o7777);
        self.header(&Header { mode, uid: *uid, gid: *gid, links, length, device }, path)?;
        match &node.kind {
            Kind::File(content) => {
                self.open_files.copy(content, self.out)?;
                self.position += u64::from(length);
            }
            Kind::Symlink(target) => self.append(target)?,
            _ => {}
        }
        self.pad(4)?;
        if let Kind::Directory(entries) = &node.kind {
            for (name, child) in entries {
                let child_path = if path == b"." { name.clone() } else { [path, b"/", name].concat() };
                self.node(child, &child_path)?;
            }
        }
        Ok(())
    }

    fn trailer(&mut self) -> Result<(), Error> {
        self.timestamp = 0;
        let nothing = Header { mode: 0, uid: 0, gid: 0, links: 1, length: 0, device: (0, 0) };
        self.header(&nothing, b"TRAILER!!!")?;
        self.pad(ALIGNMENT)
    }

    fn header(&mut self, header: &Header, path: &[u8]) -> Result<(), Error> {
        self.inode += 1;
        let (major, minor) = header.device;
        let fields = [
            self.inode,
            header.mode,
            header.uid,
            header.gid,
            header.links,
            self.timestamp,
            header.length,
            0,
            0,
            major,
            minor,
            path.len() as u32 + 1,
            0,
        ];
        let mut bytes = b"070701".to_vec();
        for field in fields {
            write!(bytes, "{field:08X}")?;
        }
        bytes.extend_from_slice(path);
        bytes.push(0);
        self.append(&bytes)?;
        self.pad(4)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> Result<(), Error> {
        let padding = self.position.next_multiple_of(alignment) - self.position;
        self.append(&[0; ALIGNMENT as usize][..padding as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Entries};
    use std::{
        collections::BTreeMap,
        process::{Command, Stdio},
        sync::Arc,
    };

    fn node(mode: u16, uid: u32, gid: u32, kind: Kind) -> Node {
        Node { meta: Metadata { mode, uid, gid, xattrs: BTreeMap::new() }, kind }
    }

    fn tree() -> Node {
        let file = |bytes: &[u8]| node(0o755, 0, 0, Kind::File(Content::Bytes(Arc::from(bytes))));
        let directory = |entries: Vec<(&str, Node)>| {
            let entries: Entries =
                entries.into_iter().map(|(name, node)| (name.as_bytes().to_vec(), node)).collect();
            node(0o755, 0, 0, Kind::Directory(entries))
        };
        let many = (0..50_000u32).flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        directory(vec![
            ("init", file(b"#!/not/really")),
            ("lib", directory(vec![("modules.bin", file(&many)), ("empty", file(b""))])),
            ("dev", directory(vec![("console", node(0o600, 0, 5, Kind::CharDevice { major: 5, minor: 1 }))])),
            ("bin", node(0o777, 0, 0, Kind::Symlink(b"usr/bin".to_vec()))),
        ])
    }

    #[test]
    fn cpio_lists_and_unpacks_it() {
        let mut archive = Vec::new();
        let length = write(&tree(), 1_750_000_000, &mut archive).unwrap();
        assert_eq!((length, length % 512), (archive.len() as u64, 0));
        let folder = tempfile::tempdir().unwrap();
        let cpio = |arguments: &[&str]| {
            let mut child = Command::new("cpio")
                .args(arguments)
                .current_dir(&folder)
                .env("TZ", "UTC")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .ok()?;
            child.stdin.take().unwrap().write_all(&archive).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let Some(list) = cpio(&["-itvn"]) else {
            println!("skipped: no cpio here");
            return;
        };
        let names: Vec<_> = list.lines().map(|line| line.split(" 2025 ").nth(1).unwrap_or(line)).collect();
        assert_eq!(
            names,
            [".", "bin -> usr/bin", "dev", "dev/console", "init", "lib", "lib/empty", "lib/modules.bin"]
        );
        assert!(list.contains("crw-------   1 0        5          5,   1"), "{list}");
        cpio(&["-id", "--quiet", "init", "lib/*", "bin"]).unwrap();
        assert_eq!(std::fs::read(folder.path().join("init")).unwrap(), b"#!/not/really");
        assert_eq!(std::fs::read(folder.path().join("lib/modules.bin")).unwrap().len(), 200_000);
        assert_eq!(std::fs::read_link(folder.path().join("bin")).unwrap().to_str(), Some("usr/bin"));
    }

    #[test]
    fn compression_is_the_same_on_any_number_of_threads() {
        let big: Vec<u8> = (0..6_000_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let root = node(
            0o755,
            0,
            0,
            Kind::Directory(
                [(b"big".to_vec(), node(0o644, 0, 0, Kind::File(Content::Bytes(Arc::from(big)))))].into(),
            ),
        );
        let mut plain = Vec::new();
        write(&root, 7, &mut plain).unwrap();
        let packed = [0, 1, 2, 5].map(|threads| {
            let mut out = Vec::new();
            assert_eq!(write_zstd(&root, 7, 4, threads, &mut out).unwrap(), plain.len() as u64);
            out
        });
        assert!(packed.iter().all(|other| *other == packed[0]));
        assert!(zstd::stream::decode_all(&packed[0][..]).unwrap() == plain);
    }

    #[test]
    fn attributes_are_refused_rather_than_lost() {
        let mut root = tree();
        let Kind::Directory(entries) = &mut root.kind else { panic!() };
        entries.get_mut(&b"init"[..]).unwrap().meta.xattrs.insert(b"security.capability".to_vec(), vec![1]);
        let message = write(&root, 0, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(message, "init cannot be in a cpio archive: it has extended attributes");
    }
}
