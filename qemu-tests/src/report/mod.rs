//! What came out: for people ([`terminal`]), for CI systems ([`junit`]) and for programs (JSON, [`Report`] itself).
//!
//! A report is bound to the digest of the disk it speaks of, and says whether the disk was still the same
//! afterwards.

pub mod event;
pub mod junit;
pub mod requirements;
pub mod terminal;

use crate::{
    qemu::accelerator::Accelerator,
    scenario::{Figure, Scenario, Step},
};
use cairn_contract::digest::Sha256Digest;
use serde::Serialize;
use std::{path::PathBuf, time::Duration};

/// The form of [`Report`] as JSON; raised when a reader of the old form would misread the new one.
pub const REPORT_FORMAT: u32 = 1;

/// How a scenario ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "result")]
pub enum Outcome {
    /// Shown.
    Passed,
    /// The image did not do what it should.
    Failed {
        /// What was expected and what was there.
        message: String,
        /// Logs that were kept.
        artefacts: Vec<PathBuf>,
    },
    /// The harness or the host could not do its part: nothing is known of the image.
    Broken {
        /// What went wrong.
        message: String,
        /// Logs that were kept.
        artefacts: Vec<PathBuf>,
    },
    /// It could not be tried here.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// One scenario's result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScenarioReport {
    /// Scenario id.
    pub id: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// What it proves.
    pub requirements: &'static [&'static str],
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// Its parts.
    pub steps: Vec<Step>,
    /// What it measured.
    pub figures: Vec<Figure>,
    /// Machines that died of a fault of the emulator before, with which the scenario began anew.
    pub lost_to_emulator: u32,
}

impl ScenarioReport {
    pub(crate) fn new(
        scenario: &Scenario,
        outcome: Outcome,
        took: Duration,
        (steps, figures): (Vec<Step>, Vec<Figure>),
    ) -> Self {
        Self {
            id: scenario.id,
            title: scenario.title,
            requirements: scenario.requirements,
            outcome,
            seconds: took.as_secs_f64(),
            steps,
            figures,
            lost_to_emulator: 0,
        }
    }
}

/// The image that was tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageIdentity {
    /// Profile name.
    pub profile: String,
    /// Image version.
    pub version: String,
    /// SHA-256 of the disk.
    pub digest: Sha256Digest,
    /// dm-verity root hash.
    pub root_hash: String,
    /// The disk had the same digest after the last scenario.
    pub unchanged: bool,
}

/// The machine it was tested on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestMachine {
    /// QEMU's version.
    pub qemu: String,
    /// KVM or TCG.
    pub accelerator: Accelerator,
    /// Virtual CPUs.
    pub cpus: u32,
    /// RAM.
    pub memory_mib: u32,
    /// How much slower than the reference machine, as last measured.
    pub pace: f64,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`REPORT_FORMAT`].
    pub format: u32,
    /// Image.
    pub image: ImageIdentity,
    /// Machine.
    pub machine: TestMachine,
    /// When it began, seconds since 1970.
    pub started: u64,
    /// How long it took.
    pub seconds: f64,
    /// Results, in the registry's order.
    pub scenarios: Vec<ScenarioReport>,
    /// What follows for the requirements.
    pub requirements: Vec<requirements::Proof>,
}

impl Report {
    /// Nothing failed and nothing broke, and the image is what it was. Skipped scenarios do not count against it,
    /// unless nothing else was there.
    pub fn passed(&self) -> bool {
        let bad = |report: &ScenarioReport| {
            matches!(report.outcome, Outcome::Failed { .. } | Outcome::Broken { .. })
        };
        let good = |report: &ScenarioReport| report.outcome == Outcome::Passed;
        self.image.unchanged && self.scenarios.iter().any(good) && !self.scenarios.iter().any(bad)
    }

    /// The report as JSON, for pipelines.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists only: there is nothing in it that serde_json refuses.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
