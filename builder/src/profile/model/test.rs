//! `[test]`

use crate::profile::value::{ScenarioPattern, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `cairn test` runs, and the budgets an image must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Test {
    /// Scenarios to run, by name.
    pub scenarios: Vec<ScenarioPattern>,
    /// Limits; what is not given is not limited.
    pub budgets: Budgets,
}

impl Default for Test {
    fn default() -> Self {
        Self { scenarios: vec![super::constant("*")], budgets: Budgets::default() }
    }
}

/// Limits; what is not given is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budgets {
    /// The UKI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uki: Option<Size>,
    /// The compressed root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Size>,
    /// All files in the root, uncompressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_uncompressed: Option<Size>,
    /// The raw image without its holes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_allocated: Option<Size>,
    /// Memory in use on an idle node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Power-on to CRI ready, as a multiple of power-on to switch_root in the same boot: independent of how fast
    /// the machine is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_ratio: Option<f64>,
}
