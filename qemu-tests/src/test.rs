//! `cairn test`: the whole run.

use crate::{
    error::{Error, Fault, UserError},
    image::Image,
    lab::{Lab, LabOptions},
    qemu::accelerator::Choice,
    report::{
        ImageIdentity, REPORT_FORMAT, Report, TestMachine,
        event::{Event, Events},
        junit, requirements,
        terminal::{self, Display},
    },
    scenario::{Scenario, run_all},
    scenarios,
};
use std::{
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// What to test, and how.
#[derive(Debug, Clone)]
pub struct TestOptions {
    /// Output directory of a build, or a file in it.
    pub image: PathBuf,
    /// Scenario ids; empty means all.
    pub scenarios: Vec<String>,
    /// KVM or TCG.
    pub accelerator: Choice,
    /// Virtual CPUs of a machine.
    pub cpus: u32,
    /// RAM of a machine.
    pub memory_mib: u32,
    /// How far QEMU gives way to other programs, 0 to 19.
    pub niceness: i32,
    /// Where logs of failures go: a directory, made when needed.
    pub artefacts: PathBuf,
    /// Where to write JUnit XML.
    pub junit: Option<PathBuf>,
    /// Where to write the report as JSON.
    pub json: Option<PathBuf>,
    /// How to show progress.
    pub display: Display,
}

impl TestOptions {
    /// The usual choices for `image`.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            scenarios: Vec::new(),
            accelerator: Choice::Auto,
            cpus: 2,
            memory_mib: 1536,
            niceness: 0,
            artefacts: PathBuf::from("cairn-test"),
            junit: None,
            json: None,
            display: Display::Auto,
        }
    }
}

/// Runs scenarios against an image. A failed scenario is in the report; an error means that there is none.
pub async fn test(options: TestOptions) -> Result<Report, Error> {
    let selected = select(&options.scenarios)?;
    let image = Image::open(&options.image)?;
    let digest = image.verify_digest().await?;
    let work = tempfile::Builder::new()
        .prefix("cairn-test-")
        .tempdir()
        .map_err(Fault::io(format!("make a directory in {}", std::env::temp_dir().display())))?;
    let lab = Lab::set_up(
        image,
        LabOptions {
            work: work.path(),
            artefacts: &options.artefacts,
            accelerator: options.accelerator,
            cpus: options.cpus,
            memory_mib: options.memory_mib,
            niceness: options.niceness,
        },
    )
    .await?;

    let begin = Instant::now();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (events, receiver) = Events::channel();
    let screen = tokio::spawn(terminal::follow(receiver, options.display));
    events.send(Event::Planned { scenarios: selected.len(), headline: headline(&lab) });
    let reports = run_all(&lab, &selected, &events).await;
    drop(events);
    // The screen ends with the last sender; if it panicked there is still the report.
    let _ = screen.await;

    let report = Report {
        format: REPORT_FORMAT,
        image: ImageIdentity {
            profile: lab.image.manifest.release.profile.clone(),
            version: lab.image.manifest.release.version.clone(),
            digest,
            root_hash: lab.image.manifest.root_hash.clone(),
            unchanged: lab.image.hash().await? == digest,
        },
        machine: TestMachine {
            qemu: lab.program.version.clone(),
            accelerator: lab.accelerator,
            cpus: lab.cpus,
            memory_mib: lab.memory_mib,
            pace: lab.pace().factor(),
        },
        started,
        seconds: begin.elapsed().as_secs_f64(),
        requirements: requirements::prove(&reports),
        scenarios: reports,
    };
    if let Some(path) = &options.junit {
        std::fs::write(path, junit::render(&report))
            .map_err(Fault::io(format!("write {}", path.display())))?;
    }
    if let Some(path) = &options.json {
        std::fs::write(path, report.to_json()).map_err(Fault::io(format!("write {}", path.display())))?;
    }
    Ok(report)
}

fn headline(lab: &Lab) -> String {
    let release = &lab.image.manifest.release;
    format!(
        "testing {} {} with QEMU {} ({:?}, {} CPUs, {} MiB)",
        release.profile, release.version, lab.program.version, lab.accelerator, lab.cpus, lab.memory_mib
    )
}

fn select(ids: &[String]) -> Result<Vec<&'static Scenario>, UserError> {
    if ids.is_empty() {
        return Ok(scenarios::ALL.to_vec());
    }
    for id in ids {
        if !scenarios::ALL.iter().any(|scenario| scenario.id == id) {
            return Err(UserError::UnknownScenario { name: id.clone(), hint: hint(id) });
        }
    }
    Ok(scenarios::ALL.iter().copied().filter(|scenario| ids.iter().any(|id| id == scenario.id)).collect())
}

fn hint(name: &str) -> String {
    let nearest = scenarios::ALL
        .iter()
        .map(|scenario| (strsim::damerau_levenshtein(name, scenario.id), scenario.id))
        .min()
        .filter(|(distance, _)| *distance <= 4);
    nearest.map_or_else(String::new, |(_, id)| format!("; did you mean `{id}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_selected_by_id_and_typos_get_a_hint() {
        let two = select(&["pod-network".to_owned(), "cold-boot".to_owned()]).unwrap();
        assert_eq!(
            two.iter().map(|s| s.id).collect::<Vec<_>>(),
            ["cold-boot", "pod-network"],
            "registry order"
        );
        let Err(error) = select(&["cold-bot".to_owned()]) else { panic!("accepted") };
        assert!(error.to_string().contains("did you mean `cold-boot`"), "{error}");
    }
}
