//! `cairn test`

use super::{Failure, output};
use cairn_qemu::{Choice, Display, Error, TestOptions, report::terminal, scenarios};
use std::{future::Future, path::PathBuf};

/// Boot an image in QEMU and prove what it promises.
///
/// Needs neither root nor KVM nor a network. The image is only read; what the machines write is thrown away.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cairn test out/worker\n  cairn test out/cloud cold-boot exec-logs --junit report.xml\n  cairn test --list"
)]
pub(super) struct Args {
    /// The directory that `cairn build` made, or the .raw file in it.
    #[arg(value_name = "IMAGE", required_unless_present = "list")]
    image: Option<PathBuf>,
    /// Only these scenarios.
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Show the scenarios, and stop.
    #[arg(long)]
    list: bool,
    /// auto, kvm or tcg.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    accel: Choice,
    /// Virtual CPUs of a machine.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory of a machine, MiB.
    #[arg(long, default_value_t = 1536, value_parser = clap::value_parser!(u32).range(512..))]
    memory: u32,
    /// Let other programs go first: 0 to 19.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..=19))]
    nice: i32,
    /// Where logs of failed scenarios go [default: test-artefacts beside the image].
    #[arg(long, value_name = "DIR")]
    artefacts: Option<PathBuf>,
    /// Write JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// A line for each scenario, nothing that moves.
    #[arg(long)]
    plain: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let Some(image) = args.image.filter(|_| !args.list) else {
        return output::print(&list());
    };
    let directory = if image.is_dir() { image.clone() } else { image.parent().unwrap_or(&image).to_owned() };
    let options = TestOptions {
        scenarios: args.scenarios,
        accelerator: args.accel,
        cpus: args.cpus,
        memory_mib: args.memory,
        niceness: args.nice,
        artefacts: args.artefacts.unwrap_or_else(|| directory.join("test-artefacts")),
        junit: args.junit,
        display: if args.plain { Display::Plain } else { Display::Auto },
        ..TestOptions::new(image)
    };
    let report = until_interrupted(cairn_qemu::test(options))?;
    if args.json {
        output::print(&report.to_json())?;
    } else {
        output::print(&terminal::summary(&report))?;
    }
    if report.passed() { Ok(()) } else { Err(Failure::checked("the image did not pass; see the report")) }
}

fn list() -> String {
    let line = |scenario: &&cairn_qemu::scenario::Scenario| {
        format!("{:22} {} [{}]\n", scenario.id, scenario.title, scenario.requirements.join(", "))
    };
    scenarios::ALL.iter().map(line).collect()
}

/// Runs `work`; on Ctrl-C drops it, which ends its machines and removes its files.
pub(super) fn until_interrupted<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::machine(format!("cannot start the worker threads: {error}")))?;
    runtime.block_on(async {
        tokio::select! {
            result = work => result.map_err(failure),
            _ = tokio::signal::ctrl_c() => Err(Failure::machine("interrupted; the machines are gone and nothing is left of them")),
        }
    })
}

fn failure(error: Error) -> Failure {
    match error {
        Error::User(error) => Failure::mistake(error),
        Error::Fault(error) => Failure::machine(error),
    }
}
