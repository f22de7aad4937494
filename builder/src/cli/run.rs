//! `cairn run`

use super::{Failure, test::until_interrupted};
use cairn_qemu::{Choice, RunOptions};
use std::{io, path::PathBuf};

/// Boot an image in QEMU for a person to look at.
///
/// The console is on this terminal; Ctrl-A x ends the machine. The image is only read. Certificates for the
/// management API are made anew and written to a directory.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cairn run out/worker\n  cairn run out/cloud --firmware --port 30080\n  cairn run out/worker --machine-config machine.toml --memory 4096"
)]
pub(super) struct Args {
    /// The directory that `cairn build` made, or the .raw file in it.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Boot through UEFI firmware and systemd-boot, as a real machine does.
    #[arg(long)]
    firmware: bool,
    /// Machine config; without `[api]` in it the management API is set up all the same.
    #[arg(long, value_name = "FILE")]
    machine_config: Option<PathBuf>,
    /// auto, kvm or tcg.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    accel: Choice,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory, MiB.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(512..))]
    memory: u32,
    /// Size of the disk, GiB.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=2048))]
    disk: u64,
    /// Where the client certificates go [default: cairn-run in the current directory].
    #[arg(long, value_name = "DIR", default_value = "cairn-run", hide_default_value = true)]
    credentials: PathBuf,
    /// A port of the node to reach from here; may be given several times.
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let options = RunOptions {
        firmware: args.firmware,
        machine_config: args.machine_config,
        accelerator: args.accel,
        cpus: args.cpus,
        memory_mib: args.memory,
        disk_gib: args.disk,
        credentials: args.credentials,
        ports: args.ports,
        ..RunOptions::new(args.image)
    };
    let mut hints = io::stderr();
    until_interrupted(cairn_qemu::run(options, &mut hints))
}
