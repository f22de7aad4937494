//! `[users]` and `[groups]`

use crate::profile::value::{AbsolutePath, AccountName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A user. None can log in: there are no passwords.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Number.
    pub uid: u32,
    /// Main group; without it, the group of the same name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<AccountName>,
    /// Who this is, for people.
    #[serde(default)]
    pub description: String,
    /// Home directory.
    #[serde(default = "no_home")]
    pub home: AbsolutePath,
    /// Shell.
    #[serde(default = "no_shell")]
    pub shell: AbsolutePath,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Number.
    pub gid: u32,
    /// Users in it besides those whose main group it is.
    #[serde(default)]
    pub members: Vec<AccountName>,
}

fn no_home() -> AbsolutePath {
    super::constant("/nonexistent")
}

fn no_shell() -> AbsolutePath {
    super::constant("/usr/sbin/nologin")
}
