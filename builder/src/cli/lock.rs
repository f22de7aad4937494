//! `cairn lock`

use super::{Failure, build, console::Console, interrupt, output};
use crate::{
    image::{
        build::{BuildError, Watcher},
        inputs::{self, InputError},
    },
    lock::{Lock, LockError, Policy},
    profile,
};
use indicatif::HumanBytes;
use std::{path::PathBuf, sync::Arc};

/// Resolve a profile's packages and write its lock, without building.
///
/// A lock that does is kept as it is. The packages are downloaded, so that a build can follow without a network.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cairn lock worker\n  cairn lock worker --update\n  cairn lock worker --check")]
pub(super) struct Args {
    /// A name, for profiles/<name>.toml, or the path of a profile.
    #[arg(value_name = "PROFILE")]
    profile: String,
    /// Change nothing; exit code 1 if the lock would change.
    #[arg(long)]
    check: bool,
    /// Resolve all packages anew.
    #[arg(long, conflicts_with = "check")]
    update: bool,
    /// Debian archive [default: the profile's, else the machine's own].
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Where downloads are kept [default: $XDG_CACHE_HOME/cairn].
    #[arg(long, value_name = "DIR", env = "CAIRN_CACHE")]
    cache: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let path = profile::locate(&args.profile);
    let resolved = build::load(&path)?;
    let lock = path.with_extension("lock");
    let policy = match (args.check, args.update) {
        (true, _) => Policy::Locked,
        (_, true) => Policy::Update,
        _ => Policy::Prefer,
    };
    let cache = build::cache(args.cache.as_deref())?;
    let refuse = |error: InputError| match error {
        InputError::Lock(LockError::Stale { path, why }) if args.check => {
            let command = format!("cairn lock {}", args.profile);
            Failure::checked(format!("{} {why}; `{command}` brings it up to date", path.display()))
        }
        error => build::failure(BuildError::Input(error)),
    };
    let before = Lock::load(&lock).map_err(|error| refuse(error.into()))?;
    let console = Arc::new(Console::new());
    let shown = Arc::clone(&console);
    interrupt::on_interrupt("the lock is as it was; what was downloaded stays in the cache", move || shown.finish())?;
    let progress = |event: crate::source::progress::Event<'_>| console.source(event);
    let settled = inputs::settle(&resolved.profile, &lock, policy, args.mirror.as_deref(), cache, &progress);
    console.finish();
    let (locked, _) = settled.map_err(refuse)?;
    let after = locked.lock();
    let bytes: u64 = after.packages.iter().map(|package| package.size).sum();
    // Which ones was said while it was resolved; a first lock has all of them new.
    let changes = match (&before, locked.changes().len()) {
        (None, _) | (_, 0) => String::new(),
        (Some(_), count) => format!(", {count} changed"),
    };
    let verb = if before.as_ref() == Some(after) { "is up to date" } else { "written" };
    let (lock, packages) = (lock.display(), after.packages.len());
    output::print(&format!("{lock} {verb}: {packages} packages, {}{changes}", HumanBytes(bytes)))
}
