//! `cairn verify`

use super::{Failure, output};
use crate::image::verify::{self, Check};
use serde::Serialize;
use std::{fmt::Write as _, path::PathBuf};

/// Check that an image is whole and what its manifest says, without booting it.
///
/// Every file and partition against the manifest, both partition tables, the boot partition, the kernel image, and
/// every block of the root file system against the root hash. Exit code 1 if anything does not hold.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cairn verify out/worker\n  cairn verify worker.raw\n  cairn verify out/worker --json | jq -e .good"
)]
pub(super) struct Args {
    /// The directory that `cairn build` made, or the .raw file in it.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document<'a> {
    good: bool,
    checks: &'a [Check],
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let done = verify::verify(&args.image).map_err(super::image_failure)?;
    let (checks, failed) = (done.checks.len(), done.failures().count());
    if args.json {
        output::print_json(&Document { good: done.is_good(), checks: &done.checks })?;
    } else {
        let mut text = String::new();
        for check in &done.checks {
            let _ = writeln!(text, "{check}");
        }
        output::print(&text)?;
    }
    let image = args.image.display();
    if failed > 0 {
        let message = format!("{image} is not what it should be: {failed} of {checks} checks failed; build or copy it again");
        return Err(Failure::checked(message));
    }
    output::note(&format!("{image} is good: {checks} checks"));
    Ok(())
}
