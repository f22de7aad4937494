//! Writing a volume.

use super::{
    BACKUP_SECTOR, CLUSTER_MASK, ENTRY, FIRST_CLUSTER, HINTS_SECTOR, LEAST_CLUSTERS, RESERVED_SECTORS,
    SECTOR, TABLES, attribute,
    name::{self, ShortName},
};
use crate::{
    format::contents::{CopyError, OpenFiles, ReadError},
    tree::Content,
};
use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Seek, SeekFrom, Write},
};

/// The smallest volume that is FAT32: 65525 clusters of a sector, their tables, and the reserved sectors; in
/// whole MiB.
pub const MINIMUM_LENGTH: u64 = 33 << 20;
/// The largest cluster that is chosen; larger ones waste space and gain nothing.
const LARGEST_CLUSTER_SECTORS: u64 = 8;

/// A file to be put on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path with `/` between names, without a leading one. Directories on the way are made.
    pub path: String,
    /// Its bytes, less than 4 GiB.
    pub content: Content,
}

/// A volume to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Length in bytes, whole sectors, at least [`MINIMUM_LENGTH`].
    pub length: u64,
    /// Volume serial number.
    pub id: u32,
    /// Label: up to 11 characters as short names have them, and spaces.
    pub label: String,
    /// Every timestamp, seconds since 1970. FAT begins in 1980 and counts in two seconds.
    pub timestamp: u64,
    /// Sectors on the disk before the volume, as the boot sector tells.
    pub hidden_sectors: u32,
    /// The files, in any order: the volume's order is that of the names.
    pub files: Vec<File>,
}

/// The volume could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its length is no good.
    #[error(
        "a FAT32 volume has whole sectors, at least {MINIMUM_LENGTH} bytes and less than 2 TiB; {0} bytes are none"
    )]
    Length(u64),
    /// Its label is no good.
    #[error("`{0}` is no volume label: 1 to 11 capital letters, digits, spaces and the like")]
    Label(String),
    /// A file cannot be on it.
    #[error("{path} cannot be on a FAT32 volume: {reason}")]
    Unrepresentable {
        /// The path asked for.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// The files are more than the volume.
    #[error("the files need {needed} bytes, and the volume has room for {room}")]
    Full {
        /// Bytes the files take, in whole clusters.
        needed: u64,
        /// Bytes there are.
        room: u64,
    },
    /// A file's content could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing failed.
    #[error("cannot write the FAT32 volume: {0}")]
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

/// Where things are on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Geometry {
    sectors: u32,
    cluster_sectors: u8,
    table_sectors: u32,
    clusters: u32,
}

impl Geometry {
    fn of(length: u64) -> Option<Self> {
        let sectors = u32::try_from(length / SECTOR as u64).ok()?;
        if !length.is_multiple_of(SECTOR as u64) || length < MINIMUM_LENGTH {
            return None;
        }
        let fit = |cluster_sectors: u64| {
            let free = u64::from(sectors) - u64::from(RESERVED_SECTORS);
            // Each cluster costs its sectors and 4 bytes in every table; two entries have no cluster.
            let cost = cluster_sectors * SECTOR as u64 + 4 * u64::from(TABLES);
            let most = (free * SECTOR as u64) / cost;
            let table_sectors = ((most + u64::from(FIRST_CLUSTER)) * 4).div_ceil(SECTOR as u64);
            let clusters = (free - u64::from(TABLES) * table_sectors) / cluster_sectors;
            Self {
                sectors,
                cluster_sectors: cluster_sectors as u8,
                table_sectors: table_sectors as u32,
                clusters: clusters as u32,
            }
        };
        // Some drivers draw the line a few clusters off; keep away from it.
        [LARGEST_CLUSTER_SECTORS, 4, 2, 1]
            .into_iter()
            .map(fit)
            .find(|geometry| u64::from(geometry.clusters) >= LEAST_CLUSTERS + 16)
    }

    fn cluster_size(&self) -> u64 {
        u64::from(self.cluster_sectors) * SECTOR as u64
    }

    fn data_start(&self) -> u64 {
        (u64::from(RESERVED_SECTORS) + u64::from(TABLES) * u64::from(self.table_sectors)) * SECTOR as u64
    }

    fn cluster_start(&self, cluster: u32) -> u64 {
        self.data_start() + u64::from(cluster - FIRST_CLUSTER) * self.cluster_size()
    }
}

/// A directory or file with its place.
enum Item<'a> {
    Directory { children: BTreeMap<String, Item<'a>>, cluster: u32, length: u64 },
    File { content: &'a Content, cluster: u32 },
}

/// Writes the volume from the output's current position on. What no file needs is not written and must read as
/// zeros: a fresh file that was given its length will do.
///
/// # Errors
/// [`Error`]: all but `Read` and `Write` before anything is written.
pub fn write(volume: &Volume, out: &mut (impl Write + Seek)) -> Result<(), Error> {
    let geometry = Geometry::of(volume.length).ok_or(Error::Length(volume.length))?;
    let label = label(&volume.label)?;
    let mut root = arrange(volume)?;
    let mut allocator = Allocator { geometry, table: vec![0x0fff_fff8, CLUSTER_MASK] };
    measure(&mut root, true);
    allocate_directories(&mut root, &mut allocator);
    allocate_files(&mut root, &mut allocator);
    let used = allocator.table.len() as u64 - u64::from(FIRST_CLUSTER);
    if used > u64::from(geometry.clusters) {
        return Err(Error::Full {
            needed: used * geometry.cluster_size(),
            room: u64::from(geometry.clusters) * geometry.cluster_size(),
        });
    }

    let base = out.stream_position()?;
    let boot = boot_sector(volume, geometry, &label);
    let hints = hints_sector(geometry, used as u32);
    for sector in [0, BACKUP_SECTOR] {
        out.seek(SeekFrom::Start(base + u64::from(sector) * SECTOR as u64))?;
        out.write_all(&boot)?;
        out.write_all(&hints)?;
        // The third boot sector has nothing but the signature.
        out.write_all(&signed([0; SECTOR]))?;
    }
    let table: Vec<u8> = allocator.table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    for copy in 0..u64::from(TABLES) {
        let start = u64::from(RESERVED_SECTORS) + copy * u64::from(geometry.table_sectors);
        out.seek(SeekFrom::Start(base + start * SECTOR as u64))?;
        out.write_all(&table)?;
    }
    let stamp = Stamp::from_unix(volume.timestamp);
    let mut sink = Sink { out, base, geometry, stamp, open_files: OpenFiles::default() };
    sink.write_directory(&root, None, Some(&label))?;
    sink.out.flush()?;
    Ok(())
}

fn label(label: &str) -> Result<ShortName, Error> {
    let fits =
        |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b" $%'-_@~`!(){}^#&".contains(&byte);
    if label.is_empty() || label.len() > 11 || !label.bytes().all(fits) || label.starts_with(' ') {
        return Err(Error::Label(label.to_owned()));
    }
    let mut padded = [b' '; 11];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    Ok(padded)
}

/// The files as a tree.
fn arrange(volume: &Volume) -> Result<Item<'_>, Error> {
    let mut root = BTreeMap::new();
    for File { path, content } in &volume.files {
        let because = |reason| Error::Unrepresentable { path: path.clone(), reason };
        if u32::try_from(content.len()).is_err() {
            return Err(because("it has 4 GiB or more"));
        }
        let mut names: Vec<&str> = path.split('/').collect();
        if let Some(reason) = names.iter().find_map(|name| name::fault(name)) {
            return Err(because(reason));
        }
        let last = names.pop().unwrap_or_default();
        let mut directory = &mut root;
        for name in names {
            let next = child(directory, name, || Item::Directory {
                children: BTreeMap::new(),
                cluster: 0,
                length: 0,
            });
            let Item::Directory { children, .. } = next else {
                return Err(because("one of its directories is a file"));
            };
            directory = children;
        }
        if directory.keys().any(|known| known.eq_ignore_ascii_case(last)) {
            return Err(because("another file has that name; upper and lower case are the same"));
        }
        directory.insert(last.to_owned(), Item::File { content, cluster: 0 });
    }
    Ok(Item::Directory { children: root, cluster: 0, length: 0 })
}

/// The child of that name, in whatever case it was first written.
fn child<'m, 'a>(
    directory: &'m mut BTreeMap<String, Item<'a>>,
    name: &str,
    make: impl FnOnce() -> Item<'a>,
) -> &'m mut Item<'a> {
    let key = directory.keys().find(|known| known.eq_ignore_ascii_case(name)).cloned();
    directory.entry(key.unwrap_or_else(|| name.to_owned())).or_insert_with(make)
}

/// Gives every directory its length in bytes.
fn measure(item: &mut Item<'_>, is_root: bool) {
    let Item::Directory { children, length, .. } = item else {
        return;
    };
    // The root has its label; others `.` and `..`.
    let mut entries = if is_root { 1 } else { 2 };
    let mut taken = HashSet::new();
    for name in children.keys() {
        entries += match name::short(name, &taken) {
            Some((short, long)) => {
                taken.insert(short);
                1 + if long { name::long_entries(name, &short).len() / ENTRY } else { 0 }
            }
            None => 1,
        };
    }
    *length = (entries * ENTRY) as u64;
    children.values_mut().for_each(|child| measure(child, false));
}

struct Allocator {
    geometry: Geometry,
    /// Both allocation tables; no longer than what is in use.
    table: Vec<u32>,
}

impl Allocator {
    /// A chain of consecutive clusters; 0 for nothing.
    fn allocate(&mut self, length: u64) -> u32 {
        let count = length.div_ceil(self.geometry.cluster_size());
        let first = self.table.len() as u32;
        if count == 0 {
            return 0;
        }
        self.table.extend((1..count as u32).map(|next| first + next));
        self.table.push(CLUSTER_MASK);
        first
    }
}

fn allocate_directories(item: &mut Item<'_>, allocator: &mut Allocator) {
    if let Item::Directory { children, cluster, length } = item {
        *cluster = allocator.allocate(*length);
        children.values_mut().for_each(|child| allocate_directories(child, allocator));
    }
}

fn allocate_files(item: &mut Item<'_>, allocator: &mut Allocator) {
    match item {
        Item::Directory { children, .. } => {
            children.values_mut().for_each(|child| allocate_files(child, allocator));
        }
        Item::File { content, cluster } => *cluster = allocator.allocate(content.len()),
    }
}

fn signed(mut sector: [u8; SECTOR]) -> [u8; SECTOR] {
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn boot_sector(volume: &Volume, geometry: Geometry, label: &ShortName) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    // Jump over the parameters to code that stops: firmware never runs it.
    put(0, &[0xeb, 0x58, 0x90]);
    put(3, b"CAIRN   ");
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[geometry.cluster_sectors]);
    put(14, &RESERVED_SECTORS.to_le_bytes());
    put(16, &[TABLES]);
    // Medium: fixed disk. Sectors per track and heads matter to nobody, but must not be zero.
    put(21, &[0xf8]);
    put(24, &63u16.to_le_bytes());
    put(26, &255u16.to_le_bytes());
    put(28, &volume.hidden_sectors.to_le_bytes());
    put(32, &geometry.sectors.to_le_bytes());
    put(36, &geometry.table_sectors.to_le_bytes());
    put(44, &FIRST_CLUSTER.to_le_bytes());
    put(48, &HINTS_SECTOR.to_le_bytes());
    put(50, &BACKUP_SECTOR.to_le_bytes());
    // BIOS drive number, and the mark of the three fields behind it.
    put(64, &[0x80, 0, 0x29]);
    put(67, &volume.id.to_le_bytes());
    put(71, label);
    put(82, b"FAT32   ");
    put(90, &[0xf4, 0xeb, 0xfd]);
    signed(sector)
}

fn hints_sector(geometry: Geometry, used: u32) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    sector[..4].copy_from_slice(b"RRaA");
    sector[484..488].copy_from_slice(b"rrAa");
    sector[488..492].copy_from_slice(&(geometry.clusters - used).to_le_bytes());
    sector[492..496].copy_from_slice(&(FIRST_CLUSTER + used).to_le_bytes());
    signed(sector)
}

/// A moment as directory entries hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) date: u16,
    pub(super) time: u16,
}

impl Stamp {
    /// In UTC; what is before 1980 or after 2107 becomes the nearest moment there is.
    pub(super) fn from_unix(seconds: u64) -> Self {
        const FIRST: u64 = 315_532_800;
        const LAST: u64 = 4_354_819_198;
        let seconds = seconds.clamp(FIRST, LAST);
        let (mut days, second) = ((seconds - FIRST) / 86_400, seconds % 86_400);
        let leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut year = 1980;
        while days >= 365 + u64::from(leap(year)) {
            days -= 365 + u64::from(leap(year));
            year += 1;
        }
        let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 1;
        for length in lengths {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        Self {
            date: ((year - 1980) << 9 | month << 5 | (days + 1)) as u16,
            time: ((second / 3600) << 11 | (second / 60 % 60) << 5 | (second % 60 / 2)) as u16,
        }
    }
}

struct Sink<'o, W> {
    out: &'o mut W,
    base: u64,
    geometry: Geometry,
    stamp: Stamp,
    open_files: OpenFiles,
}

impl<W: Write + Seek> Sink<'_, W> {
    fn seek(&mut self, cluster: u32) -> io::Result<()> {
        self.out.seek(SeekFrom::Start(self.base + self.geometry.cluster_start(cluster))).map(drop)
    }

    /// Writes the directory and all below it. `parent` is the parent's cluster, `label` the root's.
    fn write_directory(
        &mut self,
        item: &Item<'_>,
        parent: Option<u32>,
        label: Option<&ShortName>,
    ) -> Result<(), Error> {
        let Item::Directory { children, cluster, .. } = item else {
            return Ok(());
        };
        let mut listing = Vec::new();
        if let Some(label) = label {
            listing.extend(self.entry(label, attribute::VOLUME_LABEL, 0, 0));
        }
        if let Some(parent) = parent {
            listing.extend(self.entry(b".          ", attribute::DIRECTORY, *cluster, 0));
            // The root is told by 0, wherever it is.
            let parent = if parent == FIRST_CLUSTER { 0 } else { parent };
            listing.extend(self.entry(b"..         ", attribute::DIRECTORY, parent, 0));
        }
        let mut taken = HashSet::new();
        for (name, child) in children {
            let (short, long) = name::short(name, &taken).ok_or_else(|| Error::Unrepresentable {
                path: name.clone(),
                reason: "too many names in its directory begin alike",
            })?;
            taken.insert(short);
            if long {
                listing.extend(name::long_entries(name, &short));
            }
            let (attributes, cluster, length) = match child {
                Item::Directory { cluster, .. } => (attribute::DIRECTORY, *cluster, 0),
                Item::File { content, cluster } => (attribute::ARCHIVE, *cluster, content.len() as u32),
            };
            listing.extend(self.entry(&short, attributes, cluster, length));
        }
        self.seek(*cluster)?;
        self.out.write_all(&listing)?;
        for child in children.values() {
            match child {
                Item::Directory { .. } => self.write_directory(child, Some(*cluster), None)?,
                Item::File { content, cluster } if *cluster != 0 => {
                    self.seek(*cluster)?;
                    self.open_files.copy(content, self.out)?;
                }
                Item::File { .. } => {}
            }
        }
        Ok(())
    }

    fn entry(&self, name: &ShortName, attributes: u8, cluster: u32, length: u32) -> [u8; ENTRY] {
        let [date, time] = [self.stamp.date, self.stamp.time].map(u16::to_le_bytes);
        let mut entry = [0; ENTRY];
        entry[..11].copy_from_slice(name);
        entry[11] = attributes;
        entry[14..16].copy_from_slice(&time);
        entry[16..18].copy_from_slice(&date);
        entry[18..20].copy_from_slice(&date);
        entry[20..22].copy_from_slice(&((cluster >> 16) as u16).to_le_bytes());
        entry[22..24].copy_from_slice(&time);
        entry[24..26].copy_from_slice(&date);
        entry[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
        entry[28..].copy_from_slice(&length.to_le_bytes());
        entry
    }
}
