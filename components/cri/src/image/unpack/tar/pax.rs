//! Extension headers: what they say about the entry that follows them (POSIX.1-2001 pax).

use super::{MAX_EXTENSION, TarError};

/// Linux lists the names of at most 64 KiB of attributes; real files have a handful.
const MAX_XATTRS: usize = 256;
/// What may hold for all entries is copied to each of them, so it is to be small. Git writes a comment.
pub(super) const MAX_GLOBAL: u64 = 64 << 10;

/// What extension headers say about the entry that follows them.
#[derive(Debug, Clone, Default)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extension {
    /// Bytes held in memory, about.
    pub(super) fn weight(&self) -> u64 {
        let paths = [&self.path, &self.link].into_iter().flatten().map(Vec::len).sum::<usize>();
        let xattrs = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        (paths + xattrs) as u64
    }
}

pub(super) fn global_too_long() -> TarError {
    TarError::Unsupported(format!("global extension headers of more than {MAX_GLOBAL} bytes"))
}

pub(super) fn too_long() -> TarError {
    TarError::Unsupported(format!("extension headers of more than {MAX_EXTENSION} bytes for one entry"))
}

/// `"%d %s=%s\n"` records, POSIX.1-2001 pax extended headers.
pub(super) fn apply_pax(extension: &mut Extension, mut records: &[u8]) -> Result<(), TarError> {
    const MALFORMED: TarError = TarError::Malformed("a PAX record is malformed");
    while records.first().is_some_and(|byte| *byte != 0) {
        let space = records.iter().position(|byte| *byte == b' ').ok_or(MALFORMED)?;
        let length: usize = text(&records[..space])?.parse().map_err(|_| MALFORMED)?;
        if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
            return Err(MALFORMED);
        }
        let record = &records[space + 1..length - 1];
        records = &records[length..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(MALFORMED)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let number = || text(value)?.parse::<u64>().map_err(|_| MALFORMED);
        match key {
            // An empty value takes a global one back.
            b"path" => extension.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => extension.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => extension.size = Some(number()?),
            b"uid" => extension.uid = Some(number()?),
            b"gid" => extension.gid = Some(number()?),
            b"mtime" => extension.mtime = Some(timestamp(text(value)?).ok_or(MALFORMED)?),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(TarError::Unsupported("a sparse file".to_owned()));
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return Err(MALFORMED);
                    }
                    extension.xattrs.retain(|(other, _)| other != name);
                    if extension.xattrs.len() >= MAX_XATTRS {
                        return Err(TarError::Unsupported(format!(
                            "more than {MAX_XATTRS} extended attributes of one entry"
                        )));
                    }
                    extension.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<&str, TarError> {
    std::str::from_utf8(bytes).map_err(|_| TarError::Malformed("a PAX record is not UTF-8"))
}

/// `-12.5` as seconds and nanoseconds, the latter counting upwards.
fn timestamp(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp("5"), Some((5, 0)));
        assert_eq!(timestamp("5.1"), Some((5, 100_000_000)));
        assert_eq!(timestamp("5.1234567891"), Some((5, 123_456_789)));
        assert_eq!(timestamp("-0.5"), Some((-1, 500_000_000)));
        assert_eq!(timestamp("x"), None);
        assert_eq!(timestamp("1.x"), None);
    }

    #[test]
    fn a_header_full_of_tiny_records_is_read_once_and_attributes_are_few() {
        let records = "5 a=\n".repeat(MAX_EXTENSION as usize / 5).into_bytes();
        apply_pax(&mut Extension::default(), &records).unwrap();
        let records: String =
            (0..=MAX_XATTRS).map(|number| format!("29 SCHILY.xattr.user.{number:06}=\n")).collect();
        let result = apply_pax(&mut Extension::default(), records.as_bytes());
        assert!(matches!(result, Err(TarError::Unsupported(_))), "{result:?}");
    }

    proptest! {
        #[test]
        fn any_pax_record_is_survived(records in proptest::collection::vec(any::<u8>(), 0..100), text in "[0-9]{1,3} [a-z.]{0,9}=?[0-9a-z\n]{0,9}") {
            let _ = apply_pax(&mut Extension::default(), &records);
            let _ = apply_pax(&mut Extension::default(), text.as_bytes());
        }
    }
}
