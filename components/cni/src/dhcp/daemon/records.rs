//! Leases on disk, so that the next daemon has them: a file an attachment, `<directory>/<hash of its name>.json`, written
//! beside and renamed.
//!
//! They are of use only as long as the pods live, so the directory is one below `/run` by default, and a record of
//! another boot is none.

use super::attachment::Name;
use crate::{
    dhcp::{
        client::Lease,
        terms::{Family, Identity},
    },
    netlink::link::Mac,
    protocol::{error::CniError, request::Attachment},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512};
use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// One attachment's leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) network: String,
    #[serde(flatten)]
    pub(super) attachment: Attachment,
    pub(super) netns: PathBuf,
    pub(super) namespace: (u64, u64),
    pub(super) priority: Option<u32>,
    pub(super) leases: Vec<RecordedLease>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordedLease {
    pub(super) family: Family,
    pub(super) identity: Identity,
    #[serde(flatten)]
    pub(super) lease: Lease,
    pub(super) server: Option<Mac>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    /// The moments in it count from this boot.
    boot: String,
    #[serde(flatten)]
    record: Record,
}

/// The directory of records.
#[derive(Debug)]
pub(super) struct Records {
    directory: PathBuf,
    boot: String,
}

impl Records {
    pub(super) fn open(directory: &Path) -> Result<Self, CniError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|e| CniError::io("creating", directory, &e))?;
        let id = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(id).map_err(|e| CniError::io("reading", id, &e))?.trim().to_owned();
        Ok(Self { directory: directory.to_owned(), boot })
    }

    /// All of this boot. What cannot be read is told and removed.
    pub(super) fn load(&self) -> Result<Vec<Record>, CniError> {
        let failed = |e| CniError::io("listing", &self.directory, &e);
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let read = fs::read(&path).map_err(|e| e.to_string());
            match read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string())) {
                Ok(Document { boot, record }) if boot == self.boot => {
                    records.push(record);
                    continue;
                }
                Ok(_) => eprintln!("{}: of an earlier boot: removed", path.display()),
                Err(why) => eprintln!("{}: not a record of a lease: {why}: removed", path.display()),
            }
            let _ = fs::remove_file(&path);
        }
        Ok(records)
    }

    pub(super) fn keep(&self, record: Record) -> Result<(), CniError> {
        let name = Name { network: record.network.clone(), attachment: record.attachment.clone() };
        let path = self.path(&name);
        let fresh = path.with_extension("fresh");
        let document = Document { boot: self.boot.clone(), record };
        let failed = |e| CniError::io("writing", &fresh, &e);
        let bytes = serde_json::to_vec(&document).map_err(|e| failed(e.into()))?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&fresh).and_then(|mut file| file.write_all(&bytes)).map_err(failed)?;
        fs::rename(&fresh, &path).map_err(|e| CniError::io("creating", &path, &e))
    }

    pub(super) fn forget(&self, name: &Name) {
        let _ = fs::remove_file(self.path(name));
    }

    fn path(&self, name: &Name) -> PathBuf {
        let Attachment { container_id, ifname } = &name.attachment;
        // None of the three can have a slash.
        let digest = Sha512::digest(format!("{container_id}/{}/{ifname}", name.network));
        let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(format!("{digits}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::terms::{Span, Terms};
    use std::time::Duration;

    fn record(id: &str) -> Record {
        let terms = Terms {
            address: "10.0.0.5/24".parse().unwrap(),
            server: vec![10, 0, 0, 1],
            lifetime: Span::Infinite,
            renew: Span::Seconds(50),
            rebind: Span::Seconds(85),
            gateway: None,
            routes: Vec::new(),
        };
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let identity = Identity { mac, client: id.into(), options: vec![(12, vec![1])], broadcast: false };
        let lease = Lease { terms, since: Duration::from_millis(1_500) };
        Record {
            network: "pods".into(),
            attachment: Attachment { container_id: id.into(), ifname: "eth0".into() },
            netns: "/run/netns/x".into(),
            namespace: (4, 5),
            priority: Some(7),
            leases: vec![RecordedLease { family: Family::Ipv4, identity, lease, server: Some(mac) }],
        }
    }

    #[test]
    fn what_is_kept_is_there_for_the_next_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(&directory.path().join("leases")).unwrap();
        records.keep(record("a")).unwrap();
        records.keep(record("a")).unwrap();
        records.keep(record("b")).unwrap();
        let next = Records::open(&directory.path().join("leases")).unwrap();
        let mut loaded = next.load().unwrap();
        loaded.sort_by_key(|record| record.attachment.clone());
        assert_eq!(loaded, [record("a"), record("b")]);
        let name = Name { network: "pods".into(), attachment: record("a").attachment };
        records.forget(&name);
        assert_eq!(next.load().unwrap(), [record("b")]);
    }

    #[test]
    fn what_is_damaged_or_of_another_boot_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).unwrap();
        Records { boot: "other".into(), directory: directory.path().into() }.keep(record("a")).unwrap();
        fs::write(directory.path().join("x.json"), "{").unwrap();
        assert_eq!(records.load().unwrap(), []);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
