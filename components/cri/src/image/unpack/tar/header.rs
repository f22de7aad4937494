//! The 512 bytes in front of an entry: ustar (POSIX.1-1988) with GNU's extensions.

use super::{BLOCK, Entry, Kind, TarError, pax::Extension, until_nul};

/// One header block, not yet checked.
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

impl Header<'_> {
    /// Octal text, or GNU's base-256 when the first bit is set. Negative numbers come out as 0: they occur only
    /// in time stamps before 1970, which PAX headers then give right.
    pub(super) fn number(&self, range: std::ops::Range<usize>) -> Result<u64, TarError> {
        let field = &self.0[range];
        if field[0] & 0x80 != 0 {
            if field[0] & 0x40 != 0 {
                return Ok(0);
            }
            return field.iter().enumerate().try_fold(0_u64, |value, (index, byte)| {
                let byte = if index == 0 { byte & 0x3f } else { *byte };
                value
                    .checked_mul(256)
                    .and_then(|value| value.checked_add(u64::from(byte)))
                    .ok_or(TarError::Malformed("a number is too large"))
            });
        }
        let text = field.trim_ascii_start();
        let digits = text.iter().take_while(|byte| matches!(byte, b'0'..=b'7'));
        let count = digits.clone().count();
        if text.get(count).is_some_and(|end| !matches!(end, 0 | b' ')) {
            return Err(TarError::Malformed("a number is not octal"));
        }
        Ok(digits.fold(0, |value, digit| value * 8 + u64::from(digit - b'0')))
    }

    fn text(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        until_nul(&self.0[range]).to_vec()
    }

    fn small(&self, range: std::ops::Range<usize>) -> Result<u32, TarError> {
        u32::try_from(self.number(range)?).map_err(|_| TarError::Malformed("a number is too large"))
    }

    pub(super) fn entry(&self, extension: Extension, size: u64) -> Result<Entry, TarError> {
        let mut path = match extension.path {
            Some(path) => path,
            None => {
                let name = self.text(0..100);
                // GNU's variant of the magic has other things where ustar has the prefix.
                let prefix = if &self.0[257..263] == b"ustar\0" { self.text(345..500) } else { Vec::new() };
                if prefix.is_empty() { name } else { [prefix, b"/".to_vec(), name].concat() }
            }
        };
        let link = extension.link.unwrap_or_else(|| self.text(157..257));
        let kind = match self.0[156] {
            0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => Kind::Character { major: self.small(329..337)?, minor: self.small(337..345)? },
            b'4' => Kind::Block { major: self.small(329..337)?, minor: self.small(337..345)? },
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(TarError::Unsupported("a sparse file".to_owned())),
            other => return Err(TarError::Unsupported(format!("an entry of type {:?}", char::from(other)))),
        };
        while path.ends_with(b"/") {
            path.pop();
        }
        if path.contains(&0)
            || matches!(&kind, Kind::HardLink(link) | Kind::Symlink(link) if link.contains(&0))
        {
            return Err(TarError::Malformed("a path contains NUL"));
        }
        let id = |extension: Option<u64>, range| -> Result<u32, TarError> {
            let value = extension.map_or_else(|| self.number(range), Ok)?;
            // 2^32 - 1 means "leave as it is" to the kernel.
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or(TarError::Malformed("a user or group id is out of range"))
        };
        let size = if kind == Kind::File { extension.size.unwrap_or(size) } else { 0 };
        let seconds = || self.number(136..148).map(|seconds| (i64::try_from(seconds).unwrap_or(0), 0));
        Ok(Entry {
            path,
            kind,
            mode: self.small(100..108)? & 0o7777,
            uid: id(extension.uid, 108..116)?,
            gid: id(extension.gid, 116..124)?,
            size,
            mtime: extension.mtime.map_or_else(seconds, Ok)?,
            xattrs: extension.xattrs,
        })
    }
}
