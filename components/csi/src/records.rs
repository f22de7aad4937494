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
    /// Reads the records in `directory`, which is made if absent. What a crash left beside them is removed. A record that
    /// cannot be read is kept aside (`<key>.damaged`) and named in the log: what it was of is not known, all else is.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, Fault> {
        let directory = directory.into();
        fs::create_dir_all(&directory).during(|| format!("make {}", directory.display()))?;
        let mut held = BTreeMap::new();
        for entry in fs::read_dir(&directory).during(|| format!("read {}", directory.display()))? {
            let path = entry.during(|| format!("read {}", directory.display()))?.path();
            match path.extension().and_then(|end| end.to_str()) {
                Some("json") => {
                    let key = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                    match record::load(&path) {
                        Ok(loaded) => held.extend(loaded.map(|loaded| (key.to_owned(), loaded))),
                        Err(error) => keep_aside(&path, &error)?,
                    }
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

    /// Removes all records.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn clear(&self) -> Result<(), Fault> {
        let keys: Vec<String> = self.lock().keys().cloned().collect();
        keys.iter().try_for_each(|key| self.remove(key))
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

fn keep_aside(path: &Path, why: &io::Error) -> Result<(), Fault> {
    let aside = path.with_extension("damaged");
    tracing::error!(path = %aside.display(), "a record cannot be read and is kept aside: {why}");
    fs::rename(path, &aside).during(|| format!("rename {} to {}", path.display(), aside.display()))
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
        again.clear().unwrap();
        assert_eq!(again.count(), 0);
    }

    #[test]
    fn a_damaged_record_is_not_the_others_end() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("good.json"), "1").unwrap();
        for (key, held) in [("empty", ""), ("torn", "{\"id\":"), ("zeros", "\0\0\0")] {
            fs::write(at(&format!("{key}.json")), held).unwrap();
        }
        for _ in 0..2 {
            let records: Records<u32> = Records::open(directory.path()).unwrap();
            assert_eq!((records.get("good"), records.count()), (Some(1), 1));
        }
        assert_eq!(fs::read_to_string(at("torn.damaged")).unwrap(), "{\"id\":");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
    }
}
