//! Records on disk that survive a crash at any moment.
//!
//! A record is written beside its place, flushed, renamed over it, and the directory flushed: a reader, also one
//! after a power cut, sees the old record or the new one, never half of one.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Writes `value` as JSON to `path`, whose directory must exist.
pub fn save(path: &Path, value: &impl Serialize) -> io::Result<()> {
    save_bytes(path, &serde_json::to_vec(value)?)
}

/// Writes `bytes` to `path`, whose directory must exist.
pub fn save_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("a record needs a directory"))?;
    let beside = path.with_extension("new");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    // Half a file on a full disk is what another record needs.
    write().inspect_err(|_| drop(fs::remove_file(&beside)))?;
    File::open(directory)?.sync_all()
}

/// Reads a record; `None` when there is none.
pub fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), None);
        save(&path, &vec![1, 2, 3]).unwrap();
        save(&path, &vec![4]).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), Some(vec![4]));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
