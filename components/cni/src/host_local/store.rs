//! Reservations on disk, in the reference plugin's layout, so that either can take over from the other:
//!
//! ```text
//! <dataDir>/<network>/lock                  flock(2) of whoever reads or writes here
//! <dataDir>/<network>/10.1.0.7              "<container id>\r\n<ifname>"
//! <dataDir>/<network>/last_reserved_ip.0    the address last handed out from range set 0
//! ```
//!
//! A reservation is written beside and renamed: after a crash it is there or not, never half. One that a power
//! failure left empty names no owner and counts as free.

use crate::protocol::{
    error::{CniError, Code},
    request::Attachment,
};
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const LINE_BREAK: &str = "\r\n";

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: {source}", path.display())]
pub struct StoreError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl From<StoreError> for CniError {
    fn from(error: StoreError) -> Self {
        Self::new(Code::Io, error.to_string())
    }
}

type Result<T> = std::result::Result<T, StoreError>;

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError { doing, path, source }
}

/// A network's directory.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    lock: File,
}

/// The directory, while nobody else may touch it.
#[derive(Debug)]
pub struct LockedStore(Store);

impl Store {
    /// Makes the directory, if need be.
    pub fn open(directory: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(failed("creating", directory))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed("opening", &path))?;
        Ok(Self { directory: directory.to_owned(), lock })
    }

    /// Waits for its turn.
    pub fn lock(self) -> Result<LockedStore> {
        rustix::io::retry_on_intr(|| flock(&self.lock, FlockOperation::LockExclusive))
            .map_err(|e| failed("locking", &self.directory)(e.into()))?;
        Ok(LockedStore(self))
    }
}

impl LockedStore {
    /// Reserves an address. False if somebody has it.
    pub fn reserve(&self, address: IpAddr, owner: &Attachment, set: usize) -> Result<bool> {
        let path = self.path(&address.to_string());
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("reading", &path)(error)),
        }
        self.write(&address.to_string(), &record(owner))?;
        if let Err(error) = self.write(&last_reserved(set), &address.to_string()) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(true)
    }

    /// The address last handed out from a range set; unreadable is as good as none.
    pub fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.path(&last_reserved(set))).ok()?.trim().parse().ok()
    }

    /// Addresses that are reserved. No file is read: there may be thousands.
    pub fn taken(&self) -> Result<HashSet<IpAddr>> {
        let mut addresses: HashSet<IpAddr> = self.addresses()?.into_iter().collect();
        addresses.retain(|ip| fs::metadata(self.path(&ip.to_string())).map_or(true, |file| file.len() > 0));
        Ok(addresses)
    }

    /// Addresses of an attachment, in order.
    pub fn held_by(&self, owner: &Attachment) -> Result<Vec<IpAddr>> {
        let records = self.records()?;
        let mut held: Vec<IpAddr> =
            records.into_iter().filter(|(_, text)| belongs(text, owner)).map(|(ip, _)| ip).collect();
        held.sort();
        Ok(held)
    }

    /// Frees one address.
    pub fn release(&self, address: IpAddr) -> Result<()> {
        let path = self.path(&address.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Frees all addresses of an attachment.
    pub fn release_all(&self, owner: &Attachment) -> Result<()> {
        self.held_by(owner)?.into_iter().try_for_each(|address| self.release(address))
    }

    /// Frees what no valid attachment holds.
    pub fn retain(&self, valid: &[Attachment]) -> Result<()> {
        self.records()?
            .into_iter()
            .filter(|(_, text)| !valid.iter().any(|owner| belongs(text, owner)))
            .try_for_each(|(address, _)| self.release(address))
    }

    fn records(&self) -> Result<Vec<(IpAddr, String)>> {
        let mut records = Vec::new();
        for address in self.addresses()? {
            let path = self.path(&address.to_string());
            records.push((address, fs::read_to_string(&path).map_err(failed("reading", &path))?));
        }
        Ok(records)
    }

    fn addresses(&self) -> Result<Vec<IpAddr>> {
        let directory = &self.0.directory;
        let mut addresses = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed("listing", directory))? {
            let name = entry.map_err(failed("listing", directory))?.file_name();
            // `lock`, `last_reserved_ip.N` and what a crash left half-written are no addresses.
            addresses.extend(name.to_str().and_then(|name| name.parse::<IpAddr>().ok()));
        }
        Ok(addresses)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        // The lock is ours, so the temporary name needs nothing unique.
        let fresh = self.path(".fresh");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&fresh).map_err(failed("creating", &fresh))?;
        file.write_all(text.as_bytes()).map_err(failed("writing", &fresh))?;
        let path = self.path(name);
        fs::rename(&fresh, &path).map_err(failed("creating", &path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.directory.join(name)
    }
}

fn last_reserved(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

fn record(owner: &Attachment) -> String {
    format!("{}{LINE_BREAK}{}", owner.container_id, owner.ifname)
}

/// Early versions of the reference plugin wrote the container id alone.
fn belongs(text: &str, owner: &Attachment) -> bool {
    let text = text.trim();
    text == record(owner) || text == owner.container_id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment { container_id: id.into(), ifname: "eth0".into() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn files_are_those_of_the_reference_plugin() {
        let directory = tempfile::tempdir().unwrap();
        let network = directory.path().join("networks/pods");
        let store = Store::open(&network).unwrap().lock().unwrap();
        assert!(store.reserve(ip("10.0.0.7"), &attachment("c1"), 0).unwrap());
        assert!(store.reserve(ip("fd00::7"), &attachment("c1"), 1).unwrap());
        assert!(!store.reserve(ip("10.0.0.7"), &attachment("c2"), 0).unwrap());
        assert_eq!(fs::read_to_string(network.join("10.0.0.7")).unwrap(), "c1\r\neth0");
        assert_eq!(fs::read_to_string(network.join("last_reserved_ip.1")).unwrap(), "fd00::7");
        let mut names: Vec<_> = fs::read_dir(&network).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["10.0.0.7", "fd00::7", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
        assert_eq!(store.held_by(&attachment("c1")).unwrap(), [ip("10.0.0.7"), ip("fd00::7")]);
        store.release_all(&attachment("c1")).unwrap();
        store.release_all(&attachment("c1")).unwrap();
        assert!(store.taken().unwrap().is_empty());
    }

    #[test]
    fn empty_and_old_records_are_understood() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap().lock().unwrap();
        fs::write(directory.path().join("10.0.0.1"), "").unwrap();
        fs::write(directory.path().join("10.0.0.2"), "old").unwrap();
        fs::write(directory.path().join("10.0.0.3"), "gone\r\neth0").unwrap();
        assert_eq!(store.held_by(&attachment("old")).unwrap(), [ip("10.0.0.2")]);
        assert!(store.reserve(ip("10.0.0.1"), &attachment("new"), 0).unwrap());
        store.retain(&[attachment("new"), attachment("old")]).unwrap();
        assert_eq!(store.taken().unwrap(), HashSet::from([ip("10.0.0.1"), ip("10.0.0.2")]));
    }

    #[test]
    fn a_hundred_at_once_get_a_hundred_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::thread::scope(|scope| {
            for worker in 0..10 {
                scope.spawn(move || {
                    for round in 0..10 {
                        let store = Store::open(path).unwrap().lock().unwrap();
                        let taken = store.taken().unwrap();
                        let free =
                            (1..=100u8).map(|n| IpAddr::from([10, 0, 0, n])).find(|ip| !taken.contains(ip));
                        assert!(
                            store
                                .reserve(free.unwrap(), &attachment(&format!("{worker}-{round}")), 0)
                                .unwrap()
                        );
                    }
                });
            }
        });
        let store = Store::open(path).unwrap().lock().unwrap();
        let owners: HashSet<String> = store.records().unwrap().into_iter().map(|(_, text)| text).collect();
        assert_eq!(owners.len(), 100);
    }
}
