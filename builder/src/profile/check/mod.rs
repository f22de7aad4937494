//! Checks: what no single key can say about itself.
//!
//! A check is a small function that looks at a whole and reports what does not fit together. They form a
//! registry, so that they can be listed, run one by one and tested one by one. The ones here look at a profile,
//! before anything is built ([`PROFILE_CHECKS`]); checks on a finished image are the same [`Check`] over another
//! subject, and share [`Severity`], [`Finding`] and [`Report`].

mod disk;
mod kernel;
mod network;
mod runtime;
mod software;
mod storage;

use super::Resolved;
use serde::Serialize;
use std::fmt;

/// What a finding means for a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; the build goes on.
    Warning,
    /// The image would not work: nothing is built.
    Fatal,
}

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: a dotted profile key, or a path in the image.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl Finding {
    /// A finding about `key`.
    pub fn new(key: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into(), fix: fix.into() }
    }
}

/// One check on a `Subject`.
pub struct Check<Subject: ?Sized> {
    /// Name, unique in its registry: `storage.iscsi`.
    pub id: &'static str,
    /// What its findings mean.
    pub severity: Severity,
    /// What must hold, as one sentence.
    pub rule: &'static str,
    /// Looks; an empty list means that it holds.
    pub run: fn(&Subject) -> Vec<Finding>,
}

impl<Subject: ?Sized> fmt::Debug for Check<Subject> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("id", &self.id)
            .field("severity", &self.severity)
            .finish_non_exhaustive()
    }
}

/// A check on a profile.
pub type ProfileCheck = Check<Resolved>;

/// Every check on a profile, grouped by section.
pub const PROFILE_CHECKS: &[&[ProfileCheck]] =
    &[kernel::CHECKS, software::CHECKS, runtime::CHECKS, network::CHECKS, storage::CHECKS, disk::CHECKS];

/// A finding with the check it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// The check's name.
    pub check: &'static str,
    /// What it means.
    pub severity: Severity,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Warning => "warning",
            Severity::Fatal => "fatal",
        };
        let Finding { key, problem, fix } = &self.finding;
        write!(f, "{word}[{}]: `{key}`: {problem}\n  fix: {fix}", self.check)
    }
}

/// What a run of checks said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many checks ran.
    pub checks: usize,
    /// Everything found, fatal ones first.
    pub findings: Vec<Reported>,
}

impl Report {
    /// Runs `checks` on `subject`.
    pub fn of<Subject: ?Sized>(checks: &[&[Check<Subject>]], subject: &Subject) -> Self {
        let mut findings: Vec<Reported> = checks
            .iter()
            .copied()
            .flatten()
            .flat_map(|check| {
                (check.run)(subject).into_iter().map(|finding| Reported {
                    check: check.id,
                    severity: check.severity,
                    finding,
                })
            })
            .collect();
        findings.sort_by_key(|reported| std::cmp::Reverse(reported.severity));
        Self { checks: checks.iter().map(|group| group.len()).sum(), findings }
    }

    /// How many findings are fatal.
    pub fn fatal(&self) -> usize {
        self.findings.iter().filter(|reported| reported.severity == Severity::Fatal).count()
    }

    /// How many findings are warnings.
    pub fn warnings(&self) -> usize {
        self.findings.len() - self.fatal()
    }
}

/// Runs every check on a profile.
pub fn check_profile(profile: &Resolved) -> Report {
    Report::of(PROFILE_CHECKS, profile)
}

#[cfg(test)]
mod tests;
