//! What is asked of a driver: a claim with its class and its secrets.

use cairn_contract::csi::{
    VolumeCapability,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
};
use std::collections::BTreeMap;

/// What a claim, its class and its secrets say.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Name, unique for its driver.
    pub name: String,
    /// Size in bytes.
    pub size: i64,
    /// As files with this file system (empty: the driver's choice), or as a device.
    pub form: Form,
    /// Who uses it at the same time.
    pub mode: Mode,
    /// Of the class.
    pub parameters: BTreeMap<String, String>,
    /// For staging it.
    pub secrets: BTreeMap<String, String>,
    /// Mount options of the class.
    pub mount_flags: Vec<String>,
    /// The pod's `fsGroup`; empty: none.
    pub group: String,
    /// What it begins with.
    pub source: Option<Source>,
}

/// How pods see a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A directory, on that file system; the driver's choice if it is empty.
    Files(&'static str),
    /// A block device.
    Device,
}

/// What a volume begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// What a snapshot has.
    Snapshot(String),
    /// What another volume has.
    Volume(String),
}

impl Claim {
    /// A directory for one node, of `size` bytes.
    pub fn files(name: &str, size: i64) -> Self {
        Self {
            name: name.to_owned(),
            size,
            form: Form::Files(""),
            mode: Mode::SingleNodeWriter,
            parameters: BTreeMap::new(),
            secrets: BTreeMap::new(),
            mount_flags: Vec::new(),
            group: String::new(),
            source: None,
        }
    }

    /// The same on another file system.
    pub fn on(mut self, file_system: &'static str) -> Self {
        self.form = Form::Files(file_system);
        self
    }

    /// The same as a device.
    pub fn device(mut self) -> Self {
        self.form = Form::Device;
        self
    }

    /// The same for others.
    pub fn used_by(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// With a parameter of its class.
    pub fn parameter(mut self, key: &str, value: impl Into<String>) -> Self {
        self.parameters.insert(key.to_owned(), value.into());
        self
    }

    /// With a secret for staging.
    pub fn secret(mut self, key: &str, value: &str) -> Self {
        self.secrets.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With a mount option.
    pub fn flag(mut self, flag: &str) -> Self {
        self.mount_flags.push(flag.to_owned());
        self
    }

    /// For pods whose `fsGroup` it is.
    pub fn group(mut self, group: u32) -> Self {
        self.group = group.to_string();
        self
    }

    /// With something in it from the first moment.
    pub fn from(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    pub(super) fn capability(&self) -> VolumeCapability {
        let kind = match &self.form {
            Form::Device => AccessType::Block(BlockVolume {}),
            Form::Files(file_system) => AccessType::Mount(MountVolume {
                fs_type: (*file_system).to_owned(),
                mount_flags: self.mount_flags.clone(),
                volume_mount_group: self.group.clone(),
            }),
        };
        VolumeCapability { access_mode: Some(AccessMode { mode: self.mode.into() }), access_type: Some(kind) }
    }
}
