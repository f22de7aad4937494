//! A pool's own disk.

use crate::{
    error::{During, Fault},
    filesystem::{self, Content, FsType, Unfinished},
    mount::{self, MountOptions, OptionSet, Seen, Targets},
    records::Records,
};
use cairn_contract::storage::{self, Quota};
use std::{fs, path::Path};

/// Mounts a pool's own disk at its path, and makes it into XFS if nothing is on it. Mounted already is fine.
///
/// # Errors
/// If it is not there, holds anything else, or cannot be mounted.
pub(super) fn mount(
    config: &storage::Pool,
    device: &Path,
    making: &Records<Unfinished>,
) -> Result<(), Fault> {
    let path = &config.path;
    fs::create_dir_all(path).during(|| format!("make {}", path.display()))?;
    let parent = path.parent().unwrap_or(path);
    let place = Targets::new(&[parent.to_path_buf()]).place(&path.to_string_lossy(), "the pool's path")?;
    if matches!(place.see()?, Seen::Mounted { .. }) {
        return Ok(());
    }
    // An attempt that was cut short in this boot.
    if let Some(disk) = making.get(&config.name) {
        disk.clear()?;
        making.remove(&config.name)?;
    }
    let fs_type = match filesystem::look(device)? {
        Content::FileSystem(fs_type) => fs_type,
        Content::Blank => {
            tracing::info!(device = %device.display(), "the pool's disk is blank: making XFS");
            if let Some(disk) = Unfinished::on(device) {
                making.put(&config.name, disk)?;
            }
            filesystem::make(device, FsType::Xfs)?;
            making.remove(&config.name)?;
            FsType::Xfs
        }
        content @ Content::Other(_) => {
            return Err(Fault::Precondition(format!(
                "its disk {} holds {content}: it is neither mounted nor formatted. Wipe it first if that is of no use \
                 (wipefs -a)",
                device.display()
            )));
        }
    };
    let flags = if config.quota == Quota::Enforced { vec!["prjquota".to_owned()] } else { Vec::new() };
    let options = MountOptions::parse(&flags, OptionSet::POOL)?;
    place.attach(mount::of_device(device, fs_type, &options, false)?)
}
