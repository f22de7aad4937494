//! Container output as the kubelet reads it: `<RFC 3339 with nanoseconds> <stream> <F|P> <text>`, a line each.
//!
//! `F` ends a line of the container's, `P` is a part of a longer one: lines are cut every [`PART_LIMIT`] bytes, so
//! that neither side ever holds more. The kubelet rotates by renaming the file and asking for [`Log::reopen`].

use jiff::Timestamp;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Longest text in one log line, bytes.
pub const PART_LIMIT: usize = 16 << 10;

/// Which output a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StreamKind {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one stream into log lines.
#[derive(Debug)]
pub struct LineCutter {
    kind: StreamKind,
    pending: Vec<u8>,
}

impl LineCutter {
    /// A cutter with nothing pending.
    pub fn new(kind: StreamKind) -> Self {
        Self { kind, pending: Vec::new() }
    }

    /// Takes bytes as they come and appends the log lines they complete to `out`.
    pub fn push(&mut self, mut bytes: &[u8], now: Timestamp, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = PART_LIMIT - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                self.pending.extend_from_slice(&bytes[..end]);
                self.emit('F', now, out);
                bytes = &bytes[end + 1..];
            } else {
                self.pending.extend_from_slice(window);
                bytes = &bytes[window.len()..];
                // A full part is cut only once more is known to follow: a line of exactly the limit is whole.
                if self.pending.len() == PART_LIMIT && bytes.first().is_some_and(|&byte| byte != b'\n') {
                    self.emit('P', now, out);
                } else if self.pending.len() == PART_LIMIT && !bytes.is_empty() {
                    self.emit('F', now, out);
                    bytes = &bytes[1..];
                } else if self.pending.len() == PART_LIMIT {
                    self.emit('P', now, out);
                }
            }
        }
    }

    /// The stream has ended: what is pending is a line without its newline.
    pub fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.emit('F', now, out);
        }
    }

    fn emit(&mut self, tag: char, now: Timestamp, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{now:.9} {} {tag} ", self.kind.name()).as_bytes());
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

/// An open log file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens for appending; made if absent. The kubelet makes the directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open log file {}: {error}", path.display()))
        })?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Follows the path to the file that is there now, or makes one.
    pub fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Appends whole lines.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let now = Timestamp::from_nanosecond(1_000_000_001).unwrap();
        let (mut cutter, mut out) = (LineCutter::new(StreamKind::Stderr), Vec::new());
        for piece in pieces {
            cutter.push(piece, now, &mut out);
        }
        cutter.finish(now, &mut out);
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_written_as_the_kubelet_parses_them() {
        assert_eq!(
            cut(&[b"one\ntw", b"o\n\nthree"]),
            [
                "1970-01-01T00:00:01.000000001Z stderr F one",
                "1970-01-01T00:00:01.000000001Z stderr F two",
                "1970-01-01T00:00:01.000000001Z stderr F ",
                "1970-01-01T00:00:01.000000001Z stderr F three",
            ]
        );
    }

    #[test]
    fn long_lines_are_cut_into_parts() {
        let long = vec![b'x'; PART_LIMIT * 2 + 5];
        let mut text = long.clone();
        text.push(b'\n');
        let lines = cut(&[&text]);
        let tags: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "P", "F"]);
        let joined: String = lines.iter().map(|line| line.splitn(4, ' ').nth(3).unwrap()).collect();
        assert_eq!(joined.as_bytes(), long);
        let mut exact = vec![b'y'; PART_LIMIT];
        exact.push(b'\n');
        assert_eq!(cut(&[&exact]).len(), 1);
    }

    #[test]
    fn a_renamed_log_is_left_alone_after_reopen() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (directory.path().join("0.log"), directory.path().join("0.log.1"));
        let mut log = Log::open(&path).unwrap();
        log.write(b"old\n").unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        log.reopen().unwrap();
        log.write(b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "old\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }
}
