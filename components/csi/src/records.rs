//! Records of one kind: a file each in a directory, and a copy in memory.

use crate::error::{During, Fault};
use cairn_daemon::record;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Records by key. What [`Self::put`] returned from is on disk; a crash leaves the old record or the new one.
#[derive(Debug)]
pub struct Records<T> {
    directory: PathBuf,
    held: Mutex<BTreeMap<String, T>>,
}

impl<T: Serialize + DeserializeOwned + Clone> Records<T> {
    /// Reads the records in `directory`, which is made if absent. What a crash left beside them is removed.
    ///
    /// # Errors
    /// If the directory or a record in it cannot be read.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, Fault> {
        let directory = directory.into();
        fs::create_dir_all(&directory).during(|| format!("make {}", directory.display()))?;
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(&directory).during(|| format!("read {}", directory.display()))? {
            let path = entry.during(|| format!("read {}", directory.display()))?.path();
            match path.extension().and_then(|end| end.to_str()) {
                Some("json") => {
                    let loaded =
                        record::load(&path).during(|| format!("read the record {}", path.display()))?;
                    let key = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                    held.extend(loaded.map(|loaded| (key.to_owned(), loaded)));
                }
                Some("new") => {
                    fs::remove_file(&path).during(|| format!("remove {}", path.display()))?;
                }
                _ => {}
            }
        }
        Ok(Self { directory, held: Mutex::new(held) })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One record.
    pub fn get(&self, key: &str) -> Option<T> {
        self.lock().get(key).cloned()
    }

    /// All records, by key.
    pub fn all(&self) -> Vec<T> {
        self.lock().values().cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Writes a record. `key` is a file name.
    ///
    /// # Errors
    /// If it cannot be written; then the old one stands.
    pub fn put(&self, key: &str, value: T) -> Result<(), Fault> {
        let path = self.path(key);
        record::save(&path, &value).during(|| format!("write the record {}", path.display()))?;
        self.lock().insert(key.to_owned(), value);
        Ok(())
    }

    /// Removes a record; none is fine.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, key: &str) -> Result<(), Fault> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).during(|| format!("remove the record {}", path.display()));
            }
            _ => {}
        }
        sync(&self.directory)?;
        self.lock().remove(key);
        Ok(())
    }
}

/// Flushes a directory: names made in it, or removed, are so after a power cut, too.
///
/// # Errors
/// If the disk fails.
pub fn sync(directory: &Path) -> Result<(), Fault> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .during(|| format!("flush {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let records: Records<u32> = Records::open(directory.path().join("r")).unwrap();
        records.put("a", 1).unwrap();
        records.put("b", 2).unwrap();
        records.put("a", 3).unwrap();
        records.remove("b").unwrap();
        records.remove("c").unwrap();
        fs::write(directory.path().join("r/d.new"), "{").unwrap();
        let again: Records<u32> = Records::open(directory.path().join("r")).unwrap();
        assert_eq!((again.get("a"), again.get("b"), again.count()), (Some(3), None, 1));
        assert!(!directory.path().join("r/d.new").exists());
    }
}
