//! The JUnit report, against a golden file.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot go on panics.

use cairn_contract::digest::Sha256Digest;
use cairn_qemu::{
    qemu::accelerator::Accelerator,
    report::{
        ImageIdentity, Outcome, REPORT_FORMAT, Report, ScenarioReport, TestMachine, junit, requirements,
    },
    scenario::{Figure, Step},
};

fn scenario(id: &'static str, outcome: Outcome) -> ScenarioReport {
    let requirements = &["ra2.crt.002"];
    ScenarioReport {
        id,
        title: "a title",
        requirements,
        outcome,
        seconds: 1.5,
        steps: vec![],
        figures: vec![],
        lost_to_emulator: 0,
    }
}

fn report() -> Report {
    let mut passed = scenario("cold-boot", Outcome::Passed);
    passed.steps.push(Step { title: "ask <the node>".into(), seconds: 0.25 });
    passed.figures.push(Figure { name: "switch_root_seconds".into(), value: 3.4 });
    let failed = scenario(
        "exec-logs",
        Outcome::Failed {
            message: "code is 1 & \"2\"\nlast \u{1b}line".into(),
            artefacts: vec!["out/serial.log".into()],
        },
    );
    let broken = scenario("port-map", Outcome::Broken { message: "QEMU: gone".into(), artefacts: vec![] });
    let skipped = scenario("firmware-boot", Outcome::Skipped { reason: "no OVMF".into() });
    let scenarios = vec![passed, failed, broken, skipped];
    Report {
        format: REPORT_FORMAT,
        image: ImageIdentity {
            profile: "worker".into(),
            version: "0.1.0".into(),
            digest: Sha256Digest::new([0xab; 32]),
            root_hash: "cd".repeat(32),
            unchanged: true,
        },
        machine: TestMachine {
            qemu: "7.2.22".into(),
            accelerator: Accelerator::Tcg,
            cpus: 2,
            memory_mib: 1536,
            pace: 1.0,
        },
        started: 0,
        seconds: 12.0,
        requirements: requirements::prove(&scenarios),
        scenarios,
    }
}

#[test]
fn junit_is_what_ci_systems_read() {
    assert_eq!(junit::render(&report()), include_str!("golden/junit.xml"));
}

#[test]
fn a_changed_base_image_is_a_failure_of_its_own() {
    let mut report = report();
    report.scenarios.truncate(1);
    assert!(report.passed());
    report.image.unchanged = false;
    assert!(!report.passed());
    let xml = junit::render(&report);
    assert!(xml.contains("failures=\"1\"") && xml.contains("the base image was written to"), "{xml}");
}

#[test]
fn json_has_the_result_beside_the_scenario() {
    let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
    assert_eq!(json["scenarios"][0]["result"], "passed");
    assert_eq!(json["scenarios"][3]["reason"], "no OVMF");
    assert_eq!(json["requirements"][0]["verdict"], "not-proven");
    assert_eq!(json["image"]["digest"], format!("sha256:{}", "ab".repeat(32)));
}
