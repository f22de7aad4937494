//! How a volume is to be used: VolumeCapability, checked and typed.

use crate::{
    error::Fault,
    filesystem::FsType,
    mount::{MountOptions, OptionSet},
};
use cairn_contract::csi::{self, volume_capability};
use serde::{Deserialize, Serialize};

/// Who may use a volume at the same time (specification, VolumeCapability.AccessMode).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessMode {
    /// One node, reading and writing.
    SingleNodeWriter,
    /// One node, reading.
    SingleNodeReaderOnly,
    /// Many nodes, reading.
    MultiNodeReaderOnly,
    /// Many nodes reading, one of them writing.
    MultiNodeSingleWriter,
    /// Many nodes, reading and writing.
    MultiNodeMultiWriter,
    /// One workload of one node.
    SingleNodeSingleWriter,
    /// Many workloads of one node.
    SingleNodeMultiWriter,
}

impl AccessMode {
    /// Nobody writes.
    pub fn is_read_only(self) -> bool {
        matches!(self, Self::SingleNodeReaderOnly | Self::MultiNodeReaderOnly)
    }

    /// Only one node may use it.
    pub fn is_single_node(self) -> bool {
        matches!(
            self,
            Self::SingleNodeWriter
                | Self::SingleNodeReaderOnly
                | Self::SingleNodeSingleWriter
                | Self::SingleNodeMultiWriter
        )
    }

    /// The specification's name.
    pub fn name(self) -> &'static str {
        self.wire().as_str_name()
    }

    fn wire(self) -> volume_capability::access_mode::Mode {
        use volume_capability::access_mode::Mode;
        match self {
            Self::SingleNodeWriter => Mode::SingleNodeWriter,
            Self::SingleNodeReaderOnly => Mode::SingleNodeReaderOnly,
            Self::MultiNodeReaderOnly => Mode::MultiNodeReaderOnly,
            Self::MultiNodeSingleWriter => Mode::MultiNodeSingleWriter,
            Self::MultiNodeMultiWriter => Mode::MultiNodeMultiWriter,
            Self::SingleNodeSingleWriter => Mode::SingleNodeSingleWriter,
            Self::SingleNodeMultiWriter => Mode::SingleNodeMultiWriter,
        }
    }

    fn from_wire(mode: i32) -> Result<Self, Fault> {
        use volume_capability::access_mode::Mode;
        Ok(match Mode::try_from(mode) {
            Ok(Mode::SingleNodeWriter) => Self::SingleNodeWriter,
            Ok(Mode::SingleNodeReaderOnly) => Self::SingleNodeReaderOnly,
            Ok(Mode::MultiNodeReaderOnly) => Self::MultiNodeReaderOnly,
            Ok(Mode::MultiNodeSingleWriter) => Self::MultiNodeSingleWriter,
            Ok(Mode::MultiNodeMultiWriter) => Self::MultiNodeMultiWriter,
            Ok(Mode::SingleNodeSingleWriter) => Self::SingleNodeSingleWriter,
            Ok(Mode::SingleNodeMultiWriter) => Self::SingleNodeMultiWriter,
            Ok(Mode::Unknown) => {
                return Err(Fault::Invalid("the capability's access_mode is missing".to_owned()));
            }
            Err(_) => return Err(Fault::Invalid(format!("there is no access_mode {mode}"))),
        })
    }
}

/// As a device or as files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessType {
    /// The device itself.
    Block,
    /// A mounted file system.
    Mount(MountAccess),
}

/// How it is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAccess {
    /// `None`: the driver's choice.
    pub fs_type: Option<FsType>,
    /// The mount flags.
    pub options: MountOptions,
    /// Group whose the files are to be.
    pub group: Option<u32>,
}

/// A checked VolumeCapability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Who.
    pub mode: AccessMode,
    /// As what.
    pub kind: AccessType,
}

impl Access {
    /// Checks a capability. `options` says which mount flags the backend's volumes can have.
    ///
    /// # Errors
    /// [`Fault::Invalid`], naming the field.
    pub fn parse(capability: Option<&csi::VolumeCapability>, options: OptionSet) -> Result<Self, Fault> {
        let missing = |what: &str| Fault::Invalid(format!("{what} is missing"));
        let capability = capability.ok_or_else(|| missing("volume_capability"))?;
        let mode = capability.access_mode.as_ref().ok_or_else(|| missing("the capability's access_mode"))?;
        let mode = AccessMode::from_wire(mode.mode)?;
        let kind = match capability.access_type.as_ref() {
            None => return Err(missing("the capability's access_type")),
            Some(volume_capability::AccessType::Block(_)) => AccessType::Block,
            Some(volume_capability::AccessType::Mount(mount)) => AccessType::Mount(MountAccess {
                fs_type: options.fs_type(&mount.fs_type)?,
                options: MountOptions::parse(&mount.mount_flags, options)?,
                group: group(&mount.volume_mount_group)?,
            }),
        };
        Ok(Self { mode, kind })
    }

    /// Checks a list of capabilities, which must not be empty.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_all(capabilities: &[csi::VolumeCapability], options: OptionSet) -> Result<Vec<Self>, Fault> {
        if capabilities.is_empty() {
            return Err(Fault::Invalid("volume_capabilities are missing".to_owned()));
        }
        capabilities.iter().map(|capability| Self::parse(Some(capability), options)).collect()
    }

    /// How it is mounted, if it is.
    pub fn mount(&self) -> Option<&MountAccess> {
        match &self.kind {
            AccessType::Block => None,
            AccessType::Mount(mount) => Some(mount),
        }
    }

    /// Nobody may write: by its mode, or by its mount flags.
    pub fn is_read_only(&self) -> bool {
        self.mode.is_read_only() || self.mount().is_some_and(|mount| mount.options.read_only())
    }
}

fn group(text: &str) -> Result<Option<u32>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    // The last number means "no change" to chown.
    match text.parse::<u32>() {
        Ok(group) if group != u32::MAX => Ok(Some(group)),
        _ => Err(Fault::Invalid(format!("volume_mount_group {text:?} is no group id"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use csi::volume_capability::{AccessMode as WireMode, BlockVolume, MountVolume};

    fn mount(mount: MountVolume, mode: i32) -> csi::VolumeCapability {
        csi::VolumeCapability {
            access_type: Some(volume_capability::AccessType::Mount(mount)),
            access_mode: Some(WireMode { mode }),
        }
    }

    #[test]
    fn good_ones_are_understood() {
        let wanted = MountVolume {
            fs_type: "xfs".into(),
            mount_flags: vec!["noatime".into()],
            volume_mount_group: "1000".into(),
        };
        let access = Access::parse(Some(&mount(wanted, 6)), OptionSet::FILE_SYSTEM).unwrap();
        assert_eq!(access.mode, AccessMode::SingleNodeSingleWriter);
        let held = access.mount().unwrap();
        assert_eq!((held.fs_type, held.group), (Some(FsType::Xfs), Some(1000)));
        for mode in 1..=7 {
            let access = Access::parse(Some(&mount(MountVolume::default(), mode)), OptionSet::FILE_SYSTEM);
            assert_eq!(access.unwrap().mode.wire() as i32, mode);
        }
    }

    #[test]
    fn bad_ones_are_refused_by_field() {
        let block = Some(volume_capability::AccessType::Block(BlockVolume {}));
        let group = |text: &str| MountVolume { volume_mount_group: text.into(), ..Default::default() };
        for (capability, reason) in [
            (None, "volume_capability is missing"),
            (Some(csi::VolumeCapability { access_type: block, access_mode: None }), "access_mode is missing"),
            (
                Some(csi::VolumeCapability { access_type: None, access_mode: Some(WireMode { mode: 1 }) }),
                "access_type is missing",
            ),
            (Some(mount(MountVolume::default(), 0)), "access_mode is missing"),
            (Some(mount(MountVolume::default(), 99)), "no access_mode 99"),
            (Some(mount(MountVolume { fs_type: "ntfs".into(), ..Default::default() }, 1)), "fs_type"),
            (Some(mount(group("users"), 1)), "no group id"),
            (Some(mount(group("4294967295"), 1)), "no group id"),
            (Some(mount(group("-1"), 1)), "no group id"),
        ] {
            let error = Access::parse(capability.as_ref(), OptionSet::FILE_SYSTEM).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}, not {reason}");
        }
    }
}
