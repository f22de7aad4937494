//! The partitions of one disk: the table read from the disk itself, the device nodes from sysfs.

use cairn_initrd::gpt::{GptError, Header, Uuid};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A partition that the kernel has made a device for.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    /// Kernel name, `vda2`.
    pub(crate) name: String,
    /// Its own UUID.
    pub(crate) uuid: Uuid,
    /// `major:minor`.
    pub(crate) device: String,
    /// Bytes.
    pub(crate) size: u64,
}

impl Partition {
    /// The device node; devtmpfs makes it with the device.
    pub(crate) fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// Why a disk's table could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Neither the primary table nor the backup is good.
    #[error("{0}")]
    Table(#[from] GptError),
}

/// Kernel names of the whole disks that could hold the system.
pub(crate) fn disks() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("/sys/class/block")? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let virtual_disk =
            ["loop", "ram", "zram", "dm-", "fd", "nbd"].iter().any(|prefix| name.starts_with(prefix));
        let whole = !Path::new("/sys/class/block").join(&name).join("partition").exists();
        if !virtual_disk && whole {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The partitions of a disk that are both in its table and known to the kernel.
pub(crate) fn of_disk(disk: &str) -> Result<Vec<Partition>, DiskError> {
    let directory = Path::new("/sys/class/block").join(disk);
    let bytes = read_number(&directory.join("size"))? * 512;
    if bytes == 0 {
        return Ok(Vec::new()); // a drive without a medium
    }
    let block = read_number(&directory.join("queue/logical_block_size"))?;
    let file = File::open(Path::new("/dev").join(disk))?;
    let last = (bytes / block).saturating_sub(1);
    let entries = match read_table(&file, block, 1) {
        Ok(entries) => entries,
        // A disk that never had a table is the ordinary case; its message is the primary's.
        Err(primary) => read_table(&file, block, last).map_err(|_| primary)?,
    };

    let mut partitions = Vec::new();
    for entry in fs::read_dir(&directory)?.flatten() {
        let path = entry.path();
        let (Ok(number), Ok(name)) = (read_number(&path.join("partition")), entry.file_name().into_string())
        else {
            continue;
        };
        let Some(found) = entries.iter().find(|entry| u64::from(entry.number) == number) else { continue };
        let device = fs::read_to_string(path.join("dev"))?.trim_end().to_owned();
        partitions.push(Partition {
            name,
            uuid: found.uuid,
            device,
            size: read_number(&path.join("size"))? * 512,
        });
    }
    Ok(partitions)
}

fn read_table(file: &File, block: u64, lba: u64) -> Result<Vec<cairn_initrd::gpt::Entry>, DiskError> {
    let mut bytes = vec![0; block as usize];
    file.read_exact_at(&mut bytes, lba * block)?;
    let header = Header::parse(&bytes, lba)?;
    let (start, length) = header.entries_span();
    let mut bytes = vec![0; length];
    let offset = start.checked_mul(block).ok_or(GptError::BadField("entries' address"))?;
    file.read_exact_at(&mut bytes, offset)?;
    Ok(header.entries(&bytes)?)
}

fn read_number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim_end().parse().map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is no number", text.trim_end()))
    })
}
