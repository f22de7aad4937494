//! From scenarios to requirements.

use super::{Outcome, ScenarioReport};
use serde::Serialize;
use std::collections::BTreeMap;

/// What a run says about one requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every scenario that proves it passed.
    Proven,
    /// Some passed, others were skipped.
    PartlyProven,
    /// Nothing was tried.
    NotTried,
    /// A scenario failed or broke.
    NotProven,
}

/// One requirement's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// `ra2.crt.002`
    pub requirement: String,
    /// Verdict.
    pub verdict: Verdict,
    /// The scenarios it rests on.
    pub scenarios: Vec<String>,
}

/// Every requirement that some scenario names, by id.
pub fn prove(scenarios: &[ScenarioReport]) -> Vec<Proof> {
    let mut by_requirement: BTreeMap<&str, Vec<&ScenarioReport>> = BTreeMap::new();
    for scenario in scenarios {
        for requirement in scenario.requirements {
            by_requirement.entry(requirement).or_default().push(scenario);
        }
    }
    by_requirement
        .into_iter()
        .map(|(requirement, reports)| Proof {
            requirement: requirement.to_owned(),
            verdict: verdict(&reports),
            scenarios: reports.iter().map(|report| report.id.to_owned()).collect(),
        })
        .collect()
}

fn verdict(reports: &[&ScenarioReport]) -> Verdict {
    let count =
        |wanted: fn(&Outcome) -> bool| reports.iter().filter(|report| wanted(&report.outcome)).count();
    let passed = count(|outcome| matches!(outcome, Outcome::Passed));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped { .. }));
    if passed + skipped < reports.len() {
        Verdict::NotProven
    } else if passed == 0 {
        Verdict::NotTried
    } else if skipped > 0 {
        Verdict::PartlyProven
    } else {
        Verdict::Proven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: &'static str, requirements: &'static [&'static str], outcome: Outcome) -> ScenarioReport {
        ScenarioReport {
            id,
            title: "",
            requirements,
            outcome,
            seconds: 0.0,
            steps: vec![],
            figures: vec![],
            lost_to_emulator: 0,
        }
    }

    #[test]
    fn one_failure_outweighs_any_success() {
        let failed = Outcome::Failed { message: String::new(), artefacts: vec![] };
        let skipped = Outcome::Skipped { reason: String::new() };
        let proofs = prove(&[
            report("one", &["a", "b", "c"], Outcome::Passed),
            report("two", &["b"], failed),
            report("three", &["c", "d"], skipped),
        ]);
        let verdicts: Vec<_> =
            proofs.iter().map(|proof| (proof.requirement.as_str(), proof.verdict)).collect();
        assert_eq!(
            verdicts,
            [
                ("a", Verdict::Proven),
                ("b", Verdict::NotProven),
                ("c", Verdict::PartlyProven),
                ("d", Verdict::NotTried)
            ]
        );
        assert_eq!(proofs[1].scenarios, ["one", "two"]);
    }
}
