//! `cairn inspect`

use super::{Failure, output};
use crate::image::inspect::{self, InspectError, Inspection, KernelView, PartitionView, TreeEntry};
use cairn_contract::manifest::{Component, Package};
use indicatif::HumanBytes;
use serde::Serialize;
use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

/// Show what is in an image, without booting it.
///
/// Needs neither root nor a loop device: partition table, boot partition, kernel image and root file system are
/// read where they are. Packages and programs come from the manifest beside the image.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cairn inspect out/worker\n  cairn inspect out/worker --packages --json\n  cairn inspect out/worker/worker.raw --tree | grep cairn\n  cairn inspect out/worker --file /usr/lib/os-release"
)]
pub(super) struct Args {
    /// The directory that `cairn build` made, or the .raw file in it.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Everything in the root file system, as `ls -l` would show it.
    #[arg(long)]
    tree: bool,
    /// The Debian packages.
    #[arg(long)]
    packages: bool,
    /// The partitions, with types and UUIDs.
    #[arg(long)]
    partitions: bool,
    /// The kernel command line.
    #[arg(long)]
    command_line: bool,
    /// Print this file of the root file system. Symbolic links are not followed.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["tree", "packages", "partitions", "command_line", "json"])]
    file: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What was asked for, where that is not all.
#[derive(Serialize)]
struct Selection<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<&'a [PartitionView]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<&'a [KernelView]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packages: Option<&'a [Package]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<&'a [TreeEntry]>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    if let Some(path) = &args.file {
        let read = inspect::read_file(&args.image, path, &mut io::stdout().lock());
        return read.map_err(|error| failure(&args.image, error));
    }
    let failure = |error| failure(&args.image, error);
    let seen = inspect::inspect(&args.image).map_err(failure)?;
    for warning in &seen.warnings {
        output::note(&format!("warning: {warning}"));
    }
    if !(args.tree || args.packages || args.partitions || args.command_line) {
        return if args.json { output::print_json(&seen) } else { output::print(&overview(&seen)) };
    }
    let packages = match (args.packages, &seen.packages) {
        (true, None) => {
            let image = &seen.image;
            return Err(Failure::mistake(format!(
                "{image}: packages are listed in manifest.json, which is not beside the image; inspect it where it was built"
            )));
        }
        (wanted, packages) => packages.as_deref().filter(|_| wanted),
    };
    let tree = args.tree.then(|| inspect::tree(&args.image)).transpose().map_err(failure)?;
    let selection = Selection {
        partitions: args.partitions.then_some(&seen.partitions),
        kernels: args.command_line.then_some(&seen.kernels),
        packages,
        tree: tree.as_deref(),
    };
    if args.json { output::print_json(&selection) } else { output::print(&listing(&selection)) }
}

fn failure(image: &Path, error: InspectError) -> Failure {
    let image = image.display();
    match error {
        InspectError::Open(error) => super::image_failure(error),
        InspectError::Damaged(_) => {
            Failure::checked(format!("{image}: {error}; `cairn verify {image}` says what else is"))
        },
        InspectError::NoFile(_) | InspectError::NotAFile(_) => Failure::mistake(format!("{image}: {error}")),
        InspectError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        InspectError::Write(_) => Failure::machine(error),
    }
}

fn overview(seen: &Inspection) -> String {
    let mut text = String::new();
    match &seen.release {
        Some(release) => {
            let made = i64::try_from(release.source_date_epoch).ok();
            let made = made.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
            let made = made.map_or_else(|| "an unknown day".to_owned(), |made| made.to_string());
            let _ = writeln!(
                text,
                "{} {}: Debian {} of {made}, Linux {}, {}",
                release.profile, release.version, release.suite, release.kernel, release.architecture
            );
        }
        None => text += "no manifest beside the image: packages and programs are not known\n",
    }
    let _ = writeln!(text, "image     {}, {}", seen.image, HumanBytes(seen.size));
    for partition in &seen.partitions {
        let PartitionView { number, label, kind, size, .. } = partition;
        let _ = writeln!(text, "          {number}  {label:18} {kind:22} {:>12}", HumanBytes(*size).to_string());
    }
    let width = seen.boot_files.iter().map(|file| file.path.len()).max().unwrap_or(0);
    for (index, file) in seen.boot_files.iter().enumerate() {
        let title = if index == 0 { "boot" } else { "" };
        let _ = writeln!(text, "{title:9} {:width$}  {:>12}", file.path, HumanBytes(file.size).to_string());
    }
    for kernel in &seen.kernels {
        let _ = writeln!(text, "kernel    {} in {}", kernel.release, kernel.path);
        let _ = writeln!(text, "          {}", kernel.command_line);
    }
    if let Some(root) = &seen.root {
        let _ = writeln!(text, "root      squashfs of {} in partition {}", HumanBytes(root.size), root.partition);
    }
    if let Some(packages) = &seen.packages {
        let installed = packages.iter().map(|package| package.installed_size).sum();
        let _ = writeln!(text, "packages  {}, {} before compression", packages.len(), HumanBytes(installed));
    }
    for (index, component) in seen.components.iter().flatten().enumerate() {
        let Component { name, version, path, size, .. } = component;
        let title = if index == 0 { "programs" } else { "" };
        let size = HumanBytes(*size).to_string();
        let _ = writeln!(text, "{title:9} {:22} {size:>12}  {path}", format!("{name} {version}"));
    }
    text
}

/// One entry a line, sections in the order of the options in the help.
fn listing(selection: &Selection<'_>) -> String {
    let mut text = String::new();
    for entry in selection.tree.into_iter().flatten() {
        let TreeEntry { path, kind, mode, uid, gid, size, target, xattrs } = entry;
        let _ = write!(text, "{kind}{} {uid:>5} {gid:>5} {size:>10} {path}", permissions(*mode));
        if let Some(target) = target {
            let _ = write!(text, " -> {target}");
        }
        if !xattrs.is_empty() {
            let _ = write!(text, "  [{}]", xattrs.join(", "));
        }
        text.push('\n');
    }
    for package in selection.packages.into_iter().flatten() {
        let Package { name, version, architecture, installed_size, .. } = package;
        let _ = writeln!(text, "{name} {version} {architecture} {}", HumanBytes(*installed_size));
    }
    for partition in selection.partitions.into_iter().flatten() {
        let PartitionView { number, label, kind, uuid, offset, size, .. } = partition;
        let _ = writeln!(text, "{number}  {offset:>12} {size:>12}  {uuid}  {kind:20}  {label}");
    }
    for kernel in selection.kernels.into_iter().flatten() {
        let _ = writeln!(text, "{}", kernel.command_line);
    }
    text
}

/// As `ls -l` writes them: `rwxr-sr-x`.
fn permissions(mode: u16) -> String {
    let mut text = String::with_capacity(9);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::permissions;

    #[test]
    fn permissions_are_written_as_ls_does() {
        for (mode, text) in
            [(0o755, "rwxr-xr-x"), (0o4755, "rwsr-xr-x"), (0o2640, "rw-r-S---"), (0o1777, "rwxrwxrwt"), (0, "---------")]
        {
            assert_eq!(permissions(mode), text);
        }
    }
}
