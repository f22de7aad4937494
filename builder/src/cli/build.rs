//! `cairn build`

use super::{Failure, console::Console, interrupt, output};
use crate::{
    image::{
        build::{self, BuildError, Built},
        inputs::{self, Request},
        output::Staging,
    },
    lock::{Lock, Policy},
    profile::{self, Resolved},
    source::cache::Cache,
};
use cairn_contract::manifest::Manifest;
use indicatif::HumanBytes;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Build the image of a profile.
///
/// Needs no root, no loop device, no container engine. Downloads and what was made of them stay in the cache;
/// inputs that did not change are not built again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cairn build worker\n  cairn build profiles/cloud.toml --output out/cloud --json\n  cairn build worker --dry-run")]
pub(super) struct Args {
    /// A name, for profiles/<name>.toml, or the path of a profile.
    #[arg(value_name = "PROFILE")]
    profile: String,
    /// Where the image goes [default: out/<name>].
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Build what the lock says or fail; never change the lock.
    #[arg(long)]
    locked: bool,
    /// Resolve all packages anew, and write the lock.
    #[arg(long, conflicts_with = "locked")]
    update: bool,
    /// Debian archive [default: the profile's, else the machine's own].
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// The kubelet to bake in.
    #[arg(long, value_name = "FILE")]
    kubelet: Option<PathBuf>,
    /// Where downloads and intermediate results are kept [default: $XDG_CACHE_HOME/cairn].
    #[arg(long, value_name = "DIR", env = "CAIRN_CACHE")]
    cache: Option<PathBuf>,
    /// Say what would be built, and stop.
    #[arg(long)]
    dry_run: bool,
    /// Print the manifest as JSON instead of a summary.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let path = profile::locate(&args.profile);
    let resolved = load(&path)?;
    let request = Request {
        workspace: workspace(&path)?,
        lock: path.with_extension("lock"),
        policy: match (args.locked, args.update) {
            (true, _) => Policy::Locked,
            (_, true) => Policy::Update,
            _ => Policy::Prefer,
        },
        mirror: args.mirror.clone(),
        kubelet: args.kubelet.clone(),
        cache: cache(args.cache.as_deref())?,
    };
    let directory = args.output.clone().unwrap_or_else(|| Path::new("out").join(resolved.profile.name.as_str()));
    if args.dry_run {
        return plan(&resolved, &request, &directory);
    }
    let console = Arc::new(Console::new());
    let (shown, unfinished) = (Arc::clone(&console), directory.clone());
    interrupt::on_interrupt("nothing was built; what was downloaded stays in the cache", move || {
        shown.finish();
        Staging::abandon(&unfinished);
    })?;
    let started = Instant::now();
    let built = build::build(&resolved, &request, &directory, console.as_ref());
    console.finish();
    let built = built.map_err(failure)?;
    if args.json {
        return output::print_json(&built.manifest);
    }
    output::print(&summary(&built, started.elapsed()))
}

/// A profile that fits together; what does not is said.
pub(super) fn load(path: &Path) -> Result<Resolved, Failure> {
    let resolved = Resolved::load(path)?;
    let report = profile::check_profile(&resolved);
    for finding in &report.findings {
        output::note(&finding.to_string());
    }
    match report.fatal() {
        0 => Ok(resolved),
        count => {
            let name = &resolved.profile.name;
            Err(Failure::mistake(format!("profile {name} does not fit together, {count} fatal: nothing was done")))
        }
    }
}

/// The cache directory, absolute.
pub(super) fn cache(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let cache = named.map_or_else(Cache::default_root, |path| Ok(path.to_owned())).map_err(Failure::mistake)?;
    std::path::absolute(&cache).map_err(|error| Failure::file(&cache, "use", &error))
}

/// The directory that has `rootfs/` and `components/`: the profile's folder's parent.
fn workspace(profile: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::fs::canonicalize(profile).map_err(|error| Failure::file(profile, "read", &error))?;
    let above = absolute.ancestors().skip(1).find(|directory| directory.join("rootfs").is_dir());
    above.map(Path::to_owned).ok_or_else(|| {
        Failure::mistake(format!("no folder above {} has a `rootfs`; profiles belong into a Cairn checkout", profile.display()))
    })
}

/// Who has to act, and all that is known about why.
pub(super) fn failure(error: BuildError) -> Failure {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    match error {
        BuildError::Checks(_) => Failure::checked(message),
        error if error.is_mistake() => Failure::mistake(message),
        _ => Failure::machine(message),
    }
}

fn plan(resolved: &Resolved, request: &Request, directory: &Path) -> Result<(), Failure> {
    let profile = &resolved.profile;
    let wishes = inputs::wishes(profile);
    let lock = Lock::load(&request.lock).map_err(Failure::mistake)?;
    let mut text = format!("profile   {} {}\n", profile.name, profile.version);
    for file in resolved.files() {
        text += &format!("          from {}\n", file.display());
    }
    match &lock {
        Some(lock) if lock.wishes == wishes.digest() => {
            let bytes: u64 = lock.packages.iter().map(|package| package.size).sum();
            let have = |package: &&crate::lock::LockedPackage| {
                request.cache.join("blobs/sha256").join(package.digest.hex()).exists()
            };
            let cached = lock.packages.iter().filter(have).count();
            text += &format!(
                "lock      {}: {} packages, {}; {cached} in the cache\n",
                request.lock.display(),
                lock.packages.len(),
                HumanBytes(bytes)
            );
            for package in &lock.packages {
                text += &format!("          {} {}\n", package.name, package.version);
            }
        }
        Some(_) => text += &format!("lock      {} is for other packages: they would be resolved anew\n", request.lock.display()),
        None => text += &format!("lock      {} does not exist: packages would be resolved\n", request.lock.display()),
    }
    for (name, component) in profile.components.iter().filter(|(_, component)| component.enabled) {
        text += &format!("program   {name} -> {}\n", component.path);
    }
    for overlay in &profile.files.overlays {
        text += &format!("files     rootfs/{overlay}\n");
    }
    for image in &profile.images.bake {
        text += &format!("image     {}\n", image.name);
    }
    text += &format!(
        "disk      ESP {}, two slots of {} + {}\n",
        profile.disk.esp_size,
        profile.disk.slot_size,
        profile.disk.verity_partition()
    );
    text += &format!("output    {0}/{1}.raw, {1}.efi, manifest.json\n", directory.display(), profile.name);
    output::print(&text)
}

fn summary(built: &Built, took: Duration) -> String {
    let Manifest { release, sizes, packages, components, images, root_hash, .. } = &built.manifest;
    let directory = built.directory.display();
    let profile = &release.profile;
    let verb = if built.unchanged { "is up to date" } else { "built" };
    format!(
        "{profile} {version} {verb} in {took:.1} s\n  \
         {directory}/{profile}.raw      {allocated} on disk, {raw} in all\n  \
         {directory}/{profile}.efi      {uki}\n  \
         {directory}/manifest.json\n  \
         kernel {kernel}, {n} packages, {c} programs, {i} images baked in\n  \
         root {root} compressed, root hash {root_hash}\n\
         Next: cairn test {directory}\n",
        version = release.version,
        took = took.as_secs_f64(),
        allocated = HumanBytes(sizes.raw_allocated),
        raw = HumanBytes(sizes.raw),
        uki = HumanBytes(sizes.uki),
        kernel = release.kernel,
        n = packages.len(),
        c = components.len(),
        i = images.len(),
        root = HumanBytes(sizes.root),
    )
}
