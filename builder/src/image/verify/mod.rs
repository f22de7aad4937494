//! Whether an image is what its manifest says, and whole in itself.
//!
//! Every check stands alone and ends in one line, so that a damaged image tells all that is wrong with it at once.
//! What needs the manifest is skipped, and said to be, when there is none beside the image.

use super::{
    artifact::{Artifact, OpenError, Uki, is_empty_slot, ukis},
    disk::digest,
};
use crate::format::{
    extent::{Extent, ReadAt},
    fat,
    gpt::{self, PartitionType},
    pipeline,
    squashfs::Reader,
    verity::{self, RootHash},
};
use cairn_contract::{
    digest::Sha256Digest,
    manifest::{Manifest, OutputFile, Partition, PartitionRole},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{convert::Infallible, fmt, io, path::Path};

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "detail")]
pub enum Outcome {
    /// It holds; what was seen.
    Passed(String),
    /// It does not; why.
    Failed(String),
    /// It could not be made; why.
    Skipped(String),
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: `partition table`, `partition root-A digest`.
    pub subject: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, detail) = match &self.outcome {
            Outcome::Passed(detail) => ("ok", detail),
            Outcome::Failed(detail) => ("FAILED", detail),
            Outcome::Skipped(detail) => ("skipped", detail),
        };
        write!(out, "{word:7}  {}: {detail}", self.subject)
    }
}

/// Everything that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Verification {
    /// The checks, in the order they were made.
    pub checks: Vec<Check>,
}

impl Verification {
    /// Whether nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| matches!(check.outcome, Outcome::Failed(_)))
    }

    fn add(&mut self, subject: impl Into<String>, result: Result<String, String>) {
        let outcome = match result {
            Ok(detail) => Outcome::Passed(detail),
            Err(reason) => Outcome::Failed(reason),
        };
        self.checks.push(Check { subject: subject.into(), outcome });
    }

    fn skip(&mut self, subject: &str, reason: &str) {
        self.checks.push(Check { subject: subject.to_owned(), outcome: Outcome::Skipped(reason.to_owned()) });
    }
}

/// Verifies the image that `path` names: a raw image, the directory of a build, or a manifest.
///
/// # Errors
/// [`OpenError`] when there is no image to speak of. A damaged or truncated one is no error: its checks fail.
pub fn verify(path: &Path) -> Result<Verification, OpenError> {
    let artifact = Artifact::open(path)?;
    let mut done = Verification::default();
    match &artifact.manifest {
        Some(manifest) => {
            check_files(&artifact, manifest, &mut done);
            check_digests(&artifact, manifest, &mut done);
        }
        None => {
            done.skip("files", "there is no manifest beside the image");
            done.skip("partition digests", "there is no manifest beside the image");
        }
    }
    let gpt::Read { table, faults } = match artifact.table() {
        Ok(read) => read,
        Err(error @ OpenError::CutOff { .. }) => {
            done.add("partition table", Err(error.to_string()));
            return Ok(done);
        }
        // Without a manifest nothing says that this ever was an image; with one, it is a damaged one.
        Err(error @ OpenError::NotADisk { .. }) if artifact.manifest.is_some() => {
            done.add("partition table", Err(error.to_string()));
            return Ok(done);
        }
        Err(error) => return Err(error),
    };
    match &faults[..] {
        [] => done.add("partition table", Ok(format!("{} partitions, both copies", table.partitions.len()))),
        faults => faults.iter().for_each(|fault| done.add("partition table", Err(fault.to_string()))),
    }
    if let Some(manifest) = &artifact.manifest {
        done.add("partitions", compare_partitions(&table, manifest));
    }
    let kernels = check_esp(&artifact, &table, &mut done);
    for kernel in &kernels {
        check_kernel(&artifact, kernel, &mut done);
        check_root(&artifact, &table, kernel, &mut done);
    }
    Ok(done)
}

/// Every file beside the manifest, hashed in parallel.
fn check_files(artifact: &Artifact, manifest: &Manifest, done: &mut Verification) {
    let directory = artifact.path.parent().unwrap_or(Path::new(""));
    in_parallel(
        &manifest.files,
        |file| check_file(directory, file),
        |file, result| {
            done.add(format!("file {}", file.name), result);
        },
    );
}

fn check_file(directory: &Path, file: &OutputFile) -> Result<String, String> {
    if file.name.contains('/') || file.name == ".." {
        return Err("the manifest names a file outside its directory".to_owned());
    }
    let extent = Extent::open(&directory.join(&file.name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    if extent.size() != file.size {
        return Err(format!("it has {} bytes instead of {}", extent.size(), file.size));
    }
    compare_digest(&extent, file.digest)
}

fn check_digests(artifact: &Artifact, manifest: &Manifest, done: &mut Verification) {
    let check = |partition: &Partition| -> Result<String, String> {
        let Some(expected) = partition.digest else {
            return Ok("an empty slot".to_owned());
        };
        let extent = artifact.disk.part(partition.offset, partition.size).ok_or_else(|| {
            format!("the image ends at {} bytes, before this partition does", artifact.disk.size())
        })?;
        compare_digest(&extent, expected)
    };
    in_parallel(&manifest.partitions, check, |partition, result| {
        done.add(format!("partition {} ({})", name(partition.role), partition.label), result);
    });
}

/// A partition's role as the docs call it.
fn name(role: PartitionRole) -> &'static str {
    match role {
        PartitionRole::Esp => "ESP",
        PartitionRole::RootA => "root-A",
        PartitionRole::VerityA => "verity-A",
        PartitionRole::RootB => "root-B",
        PartitionRole::VerityB => "verity-B",
        PartitionRole::State => "state",
    }
}

fn compare_digest(extent: &Extent, expected: Sha256Digest) -> Result<String, String> {
    match digest(extent) {
        Ok(found) if found == expected => Ok(found.to_string()),
        Ok(found) => Err(format!("its digest is {found} instead of {expected}")),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn in_parallel<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<String, String> + Sync,
    mut receive: impl FnMut(&T, Result<String, String>),
) {
    let result = pipeline::in_order(
        items.len(),
        pipeline::all_cores(),
        items.len(),
        |job| Ok::<_, Infallible>(work(&items[job])),
        |job, result| {
            receive(&items[job], result);
            Ok(())
        },
    );
    match result {
        Ok(()) => {}
        Err(never) => match never {},
    }
}

/// The table against the manifest.
fn compare_partitions(table: &gpt::Table, manifest: &Manifest) -> Result<String, String> {
    for expected in &manifest.partitions {
        let found = table.partitions.iter().find(|partition| partition.offset == expected.offset);
        let role = name(expected.role);
        let found =
            found.ok_or_else(|| format!("{role} should start at byte {}; nothing does", expected.offset))?;
        let differences = [
            ("length", found.length.to_string(), expected.size.to_string()),
            ("label", found.label.clone(), expected.label.clone()),
            ("type", found.kind.uuid().to_string(), expected.type_uuid.clone()),
            ("UUID", found.uuid.to_string(), expected.uuid.clone()),
        ];
        if let Some((what, found, expected)) =
            differences.iter().find(|(_, found, expected)| found != expected)
        {
            return Err(format!("{role} has {what} {found} instead of {expected}"));
        }
    }
    match table.partitions.len().checked_sub(manifest.partitions.len()) {
        Some(0) => Ok("as in the manifest".to_owned()),
        Some(more) => Err(format!("there are {more} that the manifest does not know")),
        None => Err("two of the manifest's are one".to_owned()),
    }
}

/// Reads everything on the ESP and returns its UKIs.
fn check_esp(artifact: &Artifact, table: &gpt::Table, done: &mut Verification) -> Vec<Uki> {
    let mut kernels = Vec::new();
    let result = read_esp(artifact, table, &mut kernels);
    done.add("EFI system partition", result);
    kernels
}

fn read_esp(artifact: &Artifact, table: &gpt::Table, kernels: &mut Vec<Uki>) -> Result<String, String> {
    let partition = table
        .partitions
        .iter()
        .find(|partition| partition.kind == PartitionType::Esp)
        .ok_or("there is none")?;
    let extent = artifact.part(partition).ok_or("it is cut off")?;
    let volume = fat::Reader::open(&extent).map_err(|error| error.to_string())?;
    let entries = volume.entries().map_err(|error| error.to_string())?;
    for entry in &entries {
        volume.read(entry).map_err(|error| error.to_string())?;
    }
    for entry in ukis(&entries) {
        let bytes = volume.read(entry).map_err(|error| error.to_string())?;
        kernels
            .push(Uki::parse(entry.path.clone(), bytes).map_err(|error| format!("{}: {error}", entry.path))?);
    }
    if kernels.is_empty() {
        return Err("it has no kernel image in EFI/Linux".to_owned());
    }
    Ok(format!("FAT32, {} files readable", entries.iter().filter(|entry| entry.length.is_some()).count()))
}

/// The UKI against the manifest.
fn check_kernel(artifact: &Artifact, kernel: &Uki, done: &mut Verification) {
    let subject = format!("kernel image {}", kernel.path);
    let Some(manifest) = &artifact.manifest else {
        done.skip(&subject, "there is no manifest to compare it with");
        return;
    };
    let check = || {
        if kernel.command_line != manifest.command_line {
            return Err(format!(
                "its command line is `{}`, in the manifest `{}`",
                kernel.command_line, manifest.command_line
            ));
        }
        let found = Sha256Digest::new(Sha256::digest(&kernel.bytes).into());
        match manifest.files.iter().find(|file| file.name.ends_with(".efi")) {
            Some(file) if file.digest == found => Ok(format!("the same as {}", file.name)),
            Some(file) => Err(format!("it is not the same as {} in the manifest", file.name)),
            None => Ok("command line as in the manifest".to_owned()),
        }
    };
    done.add(subject, check());
}

/// The root file system the UKI vouches for: partitions by UUID, every block by the hash tree, then its structure.
fn check_root(artifact: &Artifact, table: &gpt::Table, kernel: &Uki, done: &mut Verification) {
    let Some(root_hash) = kernel.root_hash else {
        done.add("root hash", Err(format!("the command line of {} has no roothash=", kernel.path)));
        return;
    };
    if let Some(manifest) = &artifact.manifest
        && manifest.root_hash != root_hash.to_string()
    {
        let reason = format!("the kernel image has {root_hash}, the manifest {}", manifest.root_hash);
        done.add("root hash", Err(reason));
    }
    match slot(artifact, table, root_hash) {
        Ok((data, hashes)) => {
            let result = verity::verify(&data, &hashes, root_hash);
            let detail = || format!("{root_hash} holds for {} bytes", data.size());
            done.add("root hash", result.map(|()| detail()).map_err(|error| error.to_string()));
            let entries = Reader::open(&data).and_then(|reader| reader.entries());
            let count = entries.map(|entries| format!("squashfs, {} entries", entries.len()));
            done.add("root file system", count.map_err(|error| error.to_string()));
        }
        Err(reason) => done.add("root hash", Err(reason)),
    }
}

fn slot(artifact: &Artifact, table: &gpt::Table, root_hash: RootHash) -> Result<(Extent, Extent), String> {
    let find = |kind, uuid, what: &str| {
        let partition = table
            .partitions
            .iter()
            .find(|partition| partition.kind == kind && partition.uuid == uuid && !is_empty_slot(partition))
            .ok_or_else(|| {
                format!("no {what} partition has the UUID {uuid} that root hash {root_hash} asks for")
            })?;
        artifact.part(partition).ok_or_else(|| format!("the {what} partition is cut off"))
    };
    Ok((
        find(PartitionType::RootX86_64, root_hash.data_partition_uuid(), "root")?,
        find(PartitionType::RootVerityX86_64, root_hash.hash_partition_uuid(), "verity")?,
    ))
}

#[cfg(test)]
mod tests;
