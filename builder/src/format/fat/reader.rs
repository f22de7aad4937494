//! Reading a volume: the list of its files, and their contents.

use super::{
    CLUSTER_MASK, END_OF_CHAIN, ENTRY, FIRST_CLUSTER, LEAST_CLUSTERS, SECTOR, attribute,
    name::{self, LongName, ShortName},
};
use crate::format::extent::ReadAt;
use std::{collections::HashSet, io};

/// Directories nested deeper than this are taken for a loop.
const DEEPEST: usize = 32;
/// More entries than this on a volume are taken for damage.
const MOST_ENTRIES: usize = 100_000;

/// The volume cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidVolume {
    /// Its bytes make no sense.
    #[error("not a sound FAT32 volume: {0}")]
    Nonsense(String),
    /// It could not be read from its file.
    #[error("cannot read the FAT32 volume: {0}")]
    Read(#[from] io::Error),
}

fn nonsense(what: impl Into<String>) -> InvalidVolume {
    InvalidVolume::Nonsense(what.into())
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path with `/` between names, without a leading one.
    pub path: String,
    /// Length in bytes; `None` for a directory.
    pub length: Option<u32>,
    cluster: u32,
}

/// An opened volume.
pub struct Reader<'a> {
    volume: &'a dyn ReadAt,
    label: String,
    cluster_size: u64,
    data_start: u64,
    clusters: u32,
    root: u32,
    table: Vec<u8>,
}

impl<'a> Reader<'a> {
    /// Reads the boot sector and both allocation tables, which must be the same.
    ///
    /// # Errors
    /// [`InvalidVolume`].
    pub fn open(volume: &'a dyn ReadAt) -> Result<Self, InvalidVolume> {
        if volume.size() < SECTOR as u64 {
            return Err(nonsense(format!("{} bytes are less than a boot sector", volume.size())));
        }
        let mut boot = [0; SECTOR];
        volume.read_exact_at(&mut boot, 0)?;
        let half = |at: usize| u16::from_le_bytes([boot[at], boot[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        if boot[510..] != [0x55, 0xaa] {
            return Err(nonsense("the boot sector's signature is missing"));
        }
        let sector = u64::from(half(11));
        if sector != SECTOR as u64 {
            return Err(nonsense(format!("sectors of {sector} bytes")));
        }
        let cluster_sectors = u64::from(boot[13]);
        let (reserved, tables) = (u64::from(half(14)), u64::from(boot[16]));
        if !cluster_sectors.is_power_of_two() || reserved == 0 || tables == 0 {
            return Err(nonsense("the boot sector's parameters are impossible"));
        }
        let (sectors, table_sectors, root) = (u64::from(word(32)), u64::from(word(36)), word(44));
        if half(22) != 0 || half(17) != 0 || table_sectors == 0 {
            return Err(nonsense("it is FAT12 or FAT16"));
        }
        if sectors * sector > volume.size() {
            return Err(nonsense(format!(
                "it should have {} bytes but is cut off at {}",
                sectors * sector,
                volume.size()
            )));
        }
        let data_sector = reserved + tables * table_sectors;
        let clusters = sectors.checked_sub(data_sector).map_or(0, |sectors| sectors / cluster_sectors);
        if clusters < LEAST_CLUSTERS || clusters + u64::from(FIRST_CLUSTER) > table_sectors * sector / 4 {
            return Err(nonsense(format!(
                "{clusters} clusters with allocation tables of {table_sectors} sectors"
            )));
        }
        let clusters = u32::try_from(clusters).map_err(|_| nonsense("too many clusters"))?;
        let table_length = (clusters as usize + FIRST_CLUSTER as usize) * 4;
        let mut table = vec![0; table_length];
        volume.read_exact_at(&mut table, reserved * sector)?;
        let mut copy = vec![0; table_length];
        for number in 1..tables {
            volume.read_exact_at(&mut copy, (reserved + number * table_sectors) * sector)?;
            if copy != table {
                return Err(nonsense("its allocation tables differ"));
            }
        }
        Ok(Self {
            volume,
            label: String::from_utf8_lossy(&boot[71..82]).trim_end().to_owned(),
            cluster_size: cluster_sectors * sector,
            data_start: data_sector * sector,
            clusters,
            root,
            table,
        })
    }

    /// The label in the boot sector.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// All files and directories, each directory before what is in it, as they are on the volume.
    ///
    /// # Errors
    /// [`InvalidVolume`]: a broken or looping chain, or two files that claim one cluster.
    pub fn entries(&self) -> Result<Vec<Entry>, InvalidVolume> {
        let mut found = Vec::new();
        let mut claimed = HashSet::new();
        self.walk("", self.root, 0, &mut claimed, &mut found)?;
        Ok(found)
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`InvalidVolume`].
    pub fn read(&self, entry: &Entry) -> Result<Vec<u8>, InvalidVolume> {
        let length = u64::from(entry.length.unwrap_or(0));
        if length > self.volume.size() {
            return Err(nonsense(format!("{} has {length} bytes", entry.path)));
        }
        let chain = self.chain(entry.cluster, &entry.path)?;
        if (chain.len() as u64) < length.div_ceil(self.cluster_size) {
            return Err(nonsense(format!("{} has fewer clusters than its length needs", entry.path)));
        }
        let mut bytes = vec![0; length as usize];
        for (cluster, piece) in chain.iter().zip(bytes.chunks_mut(self.cluster_size as usize)) {
            self.volume.read_exact_at(piece, self.cluster_start(*cluster))?;
        }
        Ok(bytes)
    }

    /// The file at `path`, upper and lower case being the same; `None` when there is none.
    ///
    /// # Errors
    /// [`InvalidVolume`].
    pub fn find(&self, path: &str) -> Result<Option<Entry>, InvalidVolume> {
        Ok(self.entries()?.into_iter().find(|entry| entry.path.eq_ignore_ascii_case(path)))
    }

    fn cluster_start(&self, cluster: u32) -> u64 {
        self.data_start + u64::from(cluster - FIRST_CLUSTER) * self.cluster_size
    }

    /// The clusters of a file; empty for cluster 0.
    fn chain(&self, first: u32, path: &str) -> Result<Vec<u32>, InvalidVolume> {
        let mut chain = Vec::new();
        let mut cluster = first;
        while cluster != 0 && cluster < END_OF_CHAIN {
            if cluster < FIRST_CLUSTER || cluster - FIRST_CLUSTER >= self.clusters {
                return Err(nonsense(format!("/{path} is in cluster {cluster}, which there is not")));
            }
            if chain.len() >= self.clusters as usize {
                return Err(nonsense(format!("the clusters of /{path} go round in a circle")));
            }
            chain.push(cluster);
            let at = cluster as usize * 4;
            let entry = [self.table[at], self.table[at + 1], self.table[at + 2], self.table[at + 3]];
            cluster = u32::from_le_bytes(entry) & CLUSTER_MASK;
            if cluster == 0 {
                return Err(nonsense(format!("the clusters of /{path} end in a free one")));
            }
        }
        Ok(chain)
    }

    fn walk(
        &self,
        path: &str,
        first: u32,
        depth: usize,
        claimed: &mut HashSet<u32>,
        found: &mut Vec<Entry>,
    ) -> Result<(), InvalidVolume> {
        if depth > DEEPEST {
            return Err(nonsense("directories are nested without end"));
        }
        let chain = self.chain(first, path)?;
        self.claim(&chain, path, claimed)?;
        let mut long = LongName::default();
        let mut cluster_bytes = vec![0; self.cluster_size as usize];
        for cluster in chain {
            self.volume.read_exact_at(&mut cluster_bytes, self.cluster_start(cluster))?;
            for raw in cluster_bytes.chunks_exact(ENTRY) {
                let mut entry = [0; ENTRY];
                entry.copy_from_slice(raw);
                match (entry[0], entry[11]) {
                    (0, _) => return Ok(()),
                    (0xe5, _) => long = LongName::default(),
                    (_, attribute::LONG_NAME) => long.push(&entry),
                    (_, attributes) if attributes & attribute::VOLUME_LABEL != 0 => {
                        long = LongName::default()
                    }
                    (b'.', _) => long = LongName::default(),
                    _ => self.take(&entry, &mut long, path, depth, claimed, found)?,
                }
            }
        }
        Ok(())
    }

    fn claim(&self, chain: &[u32], path: &str, claimed: &mut HashSet<u32>) -> Result<(), InvalidVolume> {
        match chain.iter().find(|cluster| !claimed.insert(**cluster)) {
            Some(cluster) => {
                Err(nonsense(format!("cluster {cluster} of /{path} belongs to something else too")))
            }
            None => Ok(()),
        }
    }

    fn take(
        &self,
        entry: &[u8; ENTRY],
        long: &mut LongName,
        path: &str,
        depth: usize,
        claimed: &mut HashSet<u32>,
        found: &mut Vec<Entry>,
    ) -> Result<(), InvalidVolume> {
        if found.len() >= MOST_ENTRIES {
            return Err(nonsense("it has too many files to be true"));
        }
        let mut short: ShortName = [0; 11];
        short.copy_from_slice(&entry[..11]);
        let name = long.take(&short).unwrap_or_else(|| name::display(&short));
        if name::fault(&name).is_some() {
            return Err(nonsense(format!("a file in /{path} is called {name:?}")));
        }
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        let cluster = u32::from(u16::from_le_bytes([entry[20], entry[21]])) << 16
            | u32::from(u16::from_le_bytes([entry[26], entry[27]]));
        let length = u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]);
        if entry[11] & attribute::DIRECTORY != 0 {
            found.push(Entry { path: path.clone(), length: None, cluster });
            return self.walk(&path, cluster, depth + 1, claimed, found);
        }
        let chain = self.chain(cluster, &path)?;
        if chain.len() as u64 != u64::from(length).div_ceil(self.cluster_size) {
            return Err(nonsense(format!("/{path} has {length} bytes in {} clusters", chain.len())));
        }
        self.claim(&chain, &path, claimed)?;
        found.push(Entry { path, length: Some(length), cluster });
        Ok(())
    }
}
