//! `[packages]`, `[images]`, `[files]` and `[components]`: what goes into the root.

use super::constant;
use crate::profile::value::{
    AbsolutePath, HostPath, ImageName, OverlayName, PackageName, PathPattern, ProgramName, Suite, Url,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Debian packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Packages {
    /// Debian suite. Its updates and security suites are merged in.
    pub suite: Suite,
    /// Archive to fetch from; without it `--mirror`, else the machine's own apt configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Url>,
    /// Archive of the security suite, when it is not `<mirror>-security`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_mirror: Option<Url>,
    /// Packages to install; their dependencies come along, recommendations do not.
    pub install: Vec<PackageName>,
    /// Packages that count as installed but are not: dependencies of maintainer scripts, which do not run.
    pub exclude: Vec<PackageName>,
    /// Packages the builder takes files from and that stay out of the root: boot loader and UKI stub.
    pub boot: Vec<PackageName>,
    /// Whether every package marked `Essential` is installed too. A node needs no shell.
    pub essential: bool,
    /// Files and folders of packages left out of the image.
    pub drop_files: Vec<PathPattern>,
    /// Exceptions to `drop_files`.
    pub keep_files: Vec<PathPattern>,
}

impl Default for Packages {
    fn default() -> Self {
        Self {
            suite: constant("trixie"),
            mirror: None,
            security_mirror: None,
            install: Vec::new(),
            exclude: Vec::new(),
            boot: vec![constant("systemd-boot-efi")],
            essential: false,
            drop_files: Vec::new(),
            keep_files: Vec::new(),
        }
    }
}

/// Container images baked into the node image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Images that are on the node from the first boot on: no pull, no copy, covered by dm-verity.
    pub bake: Vec<BakedImageSource>,
}

/// One image to bake in. Exactly one of `path` and `component` says where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, try_from = "RawBakedImageSource")]
#[schemars(!try_from)]
pub struct BakedImageSource {
    /// Name it has on the node.
    pub name: ImageName,
    /// An OCI image layout: a folder, or a tar archive of one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<HostPath>,
    /// A program of ours: the image is that one static program, started as entry point.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub component: Option<ProgramName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBakedImageSource {
    name: ImageName,
    path: Option<HostPath>,
    component: Option<ProgramName>,
}

impl TryFrom<RawBakedImageSource> for BakedImageSource {
    type Error = &'static str;

    fn try_from(raw: RawBakedImageSource) -> Result<Self, Self::Error> {
        if raw.path.is_some() == raw.component.is_some() {
            return Err(
                "give exactly one of `path` (an OCI image layout) and `component` (a program of ours)",
            );
        }
        Ok(Self { name: raw.name, path: raw.path, component: raw.component })
    }
}

/// Folders of `rootfs/` laid over the packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// Folders below `rootfs/`, in the order they are laid: later ones win.
    pub overlays: Vec<OverlayName>,
}

/// A program of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// The crate it is built from, when that has another name than the program.
    #[serde(rename = "crate", skip_serializing_if = "Option::is_none", default)]
    pub package: Option<ProgramName>,
    /// Where it goes.
    pub path: AbsolutePath,
    /// Which file tree it goes into.
    #[serde(default)]
    pub place: Place,
    /// Further names: symbolic links to it.
    #[serde(default)]
    pub links: Vec<AbsolutePath>,
    /// `false` leaves an inherited program out.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// A file tree of the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The root file system.
    #[default]
    Root,
    /// The initramfs.
    Initrd,
}

fn yes() -> bool {
    true
}
