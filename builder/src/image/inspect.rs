//! What is in an image, read without booting, mounting or root.
//!
//! Reading goes from the outside in: partition table, ESP, the UKI on it, and by the UKI's root hash the root file
//! system it belongs to. What the manifest alone knows (packages, components) comes from there. Nothing is checked
//! here that is not needed for reading; that is [`super::verify`]'s.

use super::artifact::{Artifact, OpenError, Uki, is_empty_slot, ukis};
use crate::format::{
    extent::Extent,
    fat,
    gpt::{self, PartitionType},
    squashfs::{EntryKind, InvalidImage, Reader},
};
use cairn_contract::manifest::{Component, ImageRelease, Package};
use serde::Serialize;
use std::{
    io::{self, Write},
    path::Path,
};

/// The image cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is an image, but damaged.
    #[error("the image is damaged: {0}")]
    Damaged(String),
    /// The root file system has no such file.
    #[error("the image has no file {0}")]
    NoFile(String),
    /// The path is there, but no regular file.
    #[error("{0} is not a regular file")]
    NotAFile(String),
    /// What was found could not be handed on.
    #[error("cannot write what was read: {0}")]
    Write(io::Error),
}

fn damaged(what: impl ToString) -> InspectError {
    InspectError::Damaged(what.to_string())
}

/// An image at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Path of the raw image.
    pub image: String,
    /// Its length in bytes.
    pub size: u64,
    /// GUID of the disk.
    pub disk: String,
    /// The partitions, in the table's order.
    pub partitions: Vec<PartitionView>,
    /// Files on the ESP.
    pub boot_files: Vec<BootFile>,
    /// UKIs on the ESP.
    pub kernels: Vec<KernelView>,
    /// The root file system that the first UKI boots.
    pub root: Option<RootView>,
    /// What the manifest says of the build; absent without one, as are packages and components.
    pub release: Option<ImageRelease>,
    /// Debian packages.
    pub packages: Option<Vec<Package>>,
    /// Our programs.
    pub components: Option<Vec<Component>>,
    /// What is odd, a line each.
    pub warnings: Vec<String>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionView {
    /// Number, from 1.
    pub number: usize,
    /// GPT label.
    pub label: String,
    /// Its type in words, or the type's GUID.
    pub kind: String,
    /// Type GUID.
    pub type_uuid: String,
    /// Partition GUID.
    pub uuid: String,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

/// A file on the ESP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootFile {
    /// Path on the ESP.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
}

/// A unified kernel image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelView {
    /// Path on the ESP.
    pub path: String,
    /// Kernel release.
    pub release: String,
    /// Command line.
    pub command_line: String,
    /// dm-verity root hash, 64 hex digits.
    pub root_hash: Option<String>,
}

/// The root file system, as its superblock has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootView {
    /// Number of its partition.
    pub partition: usize,
    /// Bytes of the file system; the partition may be larger.
    pub size: u64,
    /// Timestamp of everything in it, seconds since 1970.
    pub timestamp: u32,
}

/// One entry of the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeEntry {
    /// Absolute path. Bytes that are not UTF-8 are replaced.
    pub path: String,
    /// One letter as in `ls -l`: `d`, `-`, `l`, `c`, `b`, `p`, `s`.
    pub kind: char,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes of a regular file.
    pub size: u64,
    /// Target of a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Names of the extended attributes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<String>,
}

/// Looks at the image that `path` names: a raw image, the directory of a build, or a manifest.
///
/// # Errors
/// [`InspectError::Open`], [`InspectError::Damaged`].
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    let artifact = Artifact::open(path)?;
    let gpt::Read { table, faults } = artifact.table()?;
    let mut warnings: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let (boot_files, kernels) = read_esp(&artifact, &table, &mut warnings)?;
    let root = match root_partition(&artifact, &table, &kernels) {
        Some((index, extent)) => {
            let reader = Reader::open(&extent).map_err(damaged)?;
            Some(RootView { partition: index + 1, size: reader.bytes_used(), timestamp: reader.modified() })
        }
        None => {
            warnings.push("no partition belongs to the UKI's root hash".to_owned());
            None
        }
    };
    let views =
        table.partitions.iter().enumerate().map(|(index, partition)| view(index, partition)).collect();
    let (release, packages, components) = match artifact.manifest {
        Some(manifest) => (Some(manifest.release), Some(manifest.packages), Some(manifest.components)),
        None => (None, None, None),
    };
    Ok(Inspection {
        image: artifact.path.display().to_string(),
        size: table.length,
        disk: table.disk.to_string(),
        partitions: views,
        boot_files,
        kernels: kernels.iter().map(kernel_view).collect(),
        root,
        release,
        packages,
        components,
        warnings,
    })
}

/// Everything in the root file system, directories before their contents, names in byte order.
///
/// # Errors
/// [`InspectError::Open`], [`InspectError::Damaged`].
pub fn tree(path: &Path) -> Result<Vec<TreeEntry>, InspectError> {
    with_root(path, |reader| Ok(reader.entries().map_err(damaged)?.iter().map(tree_entry).collect()))
}

/// Writes a file of the root file system to `out`. Symbolic links are not followed.
///
/// # Errors
/// [`InspectError`].
pub fn read_file(image: &Path, path: &str, out: &mut dyn Write) -> Result<(), InspectError> {
    with_root(image, |reader| {
        let entry = reader.find(path.as_bytes()).map_err(damaged)?;
        let entry = entry.ok_or_else(|| InspectError::NoFile(path.to_owned()))?;
        if !matches!(entry.kind, EntryKind::File { .. }) {
            return Err(InspectError::NotAFile(path.to_owned()));
        }
        let mut failed = None;
        let result = reader.read(&entry, &mut |bytes| {
            out.write_all(bytes).map_err(|error| {
                let kind = error.kind();
                failed = Some(error);
                kind.into()
            })
        });
        match (result, failed) {
            (_, Some(error)) => Err(InspectError::Write(error)),
            (Err(error), None) => Err(damaged(error)),
            (Ok(()), None) => out.flush().map_err(InspectError::Write),
        }
    })
}

fn with_root<T>(
    path: &Path,
    work: impl FnOnce(&Reader<'_>) -> Result<T, InspectError>,
) -> Result<T, InspectError> {
    let artifact = Artifact::open(path)?;
    let table = artifact.table()?.table;
    let (_, kernels) = read_esp(&artifact, &table, &mut Vec::new())?;
    let (_, extent) = root_partition(&artifact, &table, &kernels)
        .ok_or_else(|| damaged("no partition holds the root file system its UKI boots"))?;
    let reader = Reader::open(&extent).map_err(|error: InvalidImage| damaged(error))?;
    work(&reader)
}

fn read_esp(
    artifact: &Artifact,
    table: &gpt::Table,
    warnings: &mut Vec<String>,
) -> Result<(Vec<BootFile>, Vec<Uki>), InspectError> {
    let Some(partition) = table.partitions.iter().find(|partition| partition.kind == PartitionType::Esp)
    else {
        warnings.push("there is no EFI system partition".to_owned());
        return Ok((Vec::new(), Vec::new()));
    };
    let extent = artifact.part(partition).ok_or_else(|| damaged("the EFI system partition is cut off"))?;
    let volume =
        fat::Reader::open(&extent).map_err(|error| damaged(format!("EFI system partition: {error}")))?;
    let entries = volume.entries().map_err(|error| damaged(format!("EFI system partition: {error}")))?;
    let files = entries
        .iter()
        .filter_map(|entry| Some(BootFile { path: entry.path.clone(), size: u64::from(entry.length?) }))
        .collect();
    let mut kernels = Vec::new();
    for entry in ukis(&entries) {
        let bytes = volume.read(entry).map_err(|error| damaged(format!("EFI system partition: {error}")))?;
        match Uki::parse(entry.path.clone(), bytes) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => warnings.push(format!("{}: {error}", entry.path)),
        }
    }
    Ok((files, kernels))
}

/// The root partition of the first UKI; for a UKI without a root hash, the first root partition with something in
/// it.
fn root_partition(artifact: &Artifact, table: &gpt::Table, kernels: &[Uki]) -> Option<(usize, Extent)> {
    let wanted = kernels.iter().find_map(|kernel| kernel.root_hash).map(|hash| hash.data_partition_uuid());
    let (index, partition) = table.partitions.iter().enumerate().find(|(_, partition)| match wanted {
        Some(uuid) => partition.uuid == uuid,
        None => partition.kind == PartitionType::RootX86_64 && !is_empty_slot(partition),
    })?;
    Some((index, artifact.part(partition)?))
}

fn view(index: usize, partition: &gpt::Partition) -> PartitionView {
    PartitionView {
        number: index + 1,
        label: partition.label.clone(),
        kind: match partition.kind {
            PartitionType::Esp => "EFI system".to_owned(),
            PartitionType::RootX86_64 => "root (x86-64)".to_owned(),
            PartitionType::RootVerityX86_64 => "root verity (x86-64)".to_owned(),
            PartitionType::Var => "variable data".to_owned(),
            PartitionType::LinuxGeneric => "Linux data".to_owned(),
            PartitionType::Other(uuid) => uuid.to_string(),
        },
        type_uuid: partition.kind.uuid().to_string(),
        uuid: partition.uuid.to_string(),
        offset: partition.offset,
        size: partition.length,
    }
}

fn kernel_view(kernel: &Uki) -> KernelView {
    KernelView {
        path: kernel.path.clone(),
        release: kernel.kernel_release.clone(),
        command_line: kernel.command_line.clone(),
        root_hash: kernel.root_hash.map(|hash| hash.to_string()),
    }
}

fn tree_entry(entry: &crate::format::squashfs::Entry) -> TreeEntry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (kind, size, target) = match &entry.kind {
        EntryKind::Directory => ('d', 0, None),
        EntryKind::File { length } => ('-', *length, None),
        EntryKind::Symlink(target) => ('l', 0, Some(text(target))),
        EntryKind::CharDevice(..) => ('c', 0, None),
        EntryKind::BlockDevice(..) => ('b', 0, None),
        EntryKind::Fifo => ('p', 0, None),
        EntryKind::Socket => ('s', 0, None),
    };
    TreeEntry {
        path: format!("/{}", text(&entry.path)),
        kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size,
        target,
        xattrs: entry.xattrs.keys().map(|name| text(name)).collect(),
    }
}
