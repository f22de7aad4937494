//! The types of a profile: what it can say, and what each key means.
//!
//! The doc comments of the fields are the reference (`docs/profile.md` and the JSON Schema are made from them).
//! Every field has a default, so that a profile says only what is particular about it.

mod accounts;
mod disk;
mod kernel;
mod node;
mod software;
mod storage;
mod test;

pub use accounts::{Group, User};
pub use disk::{Api, Console, Disk, OutputFormat, SecureBoot, Security};
pub use kernel::{HugePages, Kernel};
pub use node::{
    CpuManager, ExtraNetwork, Kubelet, Network, Registry, Reserved, Runtime, SeccompDefault, TopologyManager,
};
pub use software::{BakedImageSource, Component, Files, Images, Packages, Place};
pub use storage::Storage;
pub use test::{Budgets, Test};

use super::value::{
    AbsolutePath, AccountName, Alternative, FileCapability, ImageVersion, ProfileName, ProgramName,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a node is: one profile, with everything it inherits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name, equal to its file's. Never inherited.
    pub name: ProfileName,
    /// Name of the profile this one builds upon: a file in the same folder. A resolved profile has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub extends: Option<ProfileName>,
    /// Version of the image. Slots, UKI and updates are ordered by it.
    #[serde(default = "first_version")]
    pub version: ImageVersion,
    /// The kernel, its modules and its parameters.
    #[serde(default)]
    pub kernel: Kernel,
    /// Debian packages.
    #[serde(default)]
    pub packages: Packages,
    /// The container runtime.
    #[serde(default)]
    pub runtime: Runtime,
    /// Pod networks.
    #[serde(default)]
    pub network: Network,
    /// Volumes that pods can use.
    #[serde(default)]
    pub storage: Storage,
    /// The kubelet: its program and its configuration.
    #[serde(default)]
    pub kubelet: Kubelet,
    /// Container images baked into the node image.
    #[serde(default)]
    pub images: Images,
    /// Partitions, compression and output formats.
    #[serde(default)]
    pub disk: Disk,
    /// Folders of `rootfs/` laid over the packages.
    #[serde(default)]
    pub files: Files,
    /// Programs of ours that go into the image, by name of the program.
    #[serde(default)]
    pub components: BTreeMap<ProgramName, Component>,
    /// Who may talk to the node, and what it trusts.
    #[serde(default)]
    pub security: Security,
    /// Users, by name. Maintainer scripts do not run, so what packages would create is declared here.
    #[serde(default)]
    pub users: BTreeMap<AccountName, User>,
    /// Groups, by name.
    #[serde(default)]
    pub groups: BTreeMap<AccountName, Group>,
    /// Links that update-alternatives(1) would have made: link → target.
    #[serde(default)]
    pub alternatives: BTreeMap<AbsolutePath, Alternative>,
    /// File capabilities that maintainer scripts would have set: path → capabilities.
    #[serde(default)]
    pub capabilities: BTreeMap<AbsolutePath, FileCapability>,
    /// What `cairn test` runs, and the budgets an image must keep.
    #[serde(default)]
    pub test: Test,
}

impl Profile {
    /// A profile of that name that says nothing else: every default.
    pub fn named(name: ProfileName) -> Self {
        Self {
            name,
            extends: None,
            version: first_version(),
            kernel: Kernel::default(),
            packages: Packages::default(),
            runtime: Runtime::default(),
            network: Network::default(),
            storage: Storage::default(),
            kubelet: Kubelet::default(),
            images: Images::default(),
            disk: Disk::default(),
            files: Files::default(),
            components: BTreeMap::new(),
            security: Security::default(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            alternatives: BTreeMap::new(),
            capabilities: BTreeMap::new(),
            test: Test::default(),
        }
    }
}

fn first_version() -> ImageVersion {
    constant("0.1.0")
}

/// A default that stands in this source. Every one of them is parsed by the tests.
#[allow(clippy::expect_used)]
fn constant<T: std::str::FromStr<Err = super::value::InvalidValue>>(text: &str) -> T {
    text.parse().expect("a default in the source has its type's form")
}
