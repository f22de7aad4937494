//! The stations of a build, one after the other.

use super::{
    check::{self, FinishedImage},
    disk::{self, DiskError, DiskParts},
    identity,
    initrd::{self, InitrdError},
    inputs::{self, InputError, Inputs, Request},
    output::Staging,
    root::{self, Layer, Program, RootError, RootParts},
};
use crate::{
    format::{
        cpio,
        extent::Extent,
        squashfs::{self, BlockSize, CachedZstd},
        uki, verity,
    },
    profile::{
        Profile, Resolved,
        check::{Report, Severity},
        model::Place,
        render,
    },
    source::{
        archive::ArchiveError,
        deb,
        progress::{Event, Progress},
    },
    tree::{
        Content, Kind, Metadata, Node,
        depmod::{self, DepmodError, Module},
    },
};
use cairn_contract::{
    digest::Sha256Digest,
    manifest::{ImageRelease, Inputs as InputDigests, MANIFEST_FORMAT, Manifest, OutputFile, Package, Sizes},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Name of the file beside the manifest that says what the output was made from.
const STAMP: &str = ".inputs";
/// Bytes of the block cache that may be of no use to the current profile: other profiles' blocks.
const BLOCK_CACHE_SLACK: u64 = 2 << 30;

/// A station, for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Downloads, our programs.
    Inputs,
    /// Packages are unpacked and merged.
    Tree,
    /// The root file system is compressed; of so many bytes.
    Root(u64),
    /// The hash tree.
    Verity,
    /// Initramfs and UKI.
    Uki,
    /// The raw image.
    Disk,
}

/// Who watches a build.
pub trait Watcher: Sync {
    /// A station begins.
    fn stage(&self, stage: Stage);
    /// So many more bytes of the stage's total are done.
    fn advance(&self, bytes: u64);
    /// What sources tell.
    fn source(&self, event: crate::source::progress::Event<'_>);
}

/// What a build made, or found made.
#[derive(Debug)]
pub struct Built {
    /// The manifest.
    pub manifest: Manifest,
    /// Where it is.
    pub directory: PathBuf,
    /// Nothing had changed: the output is that of an earlier build.
    pub unchanged: bool,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Inputs.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A package that cannot be unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The tree.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The initramfs.
    #[error(transparent)]
    Initrd(#[from] InitrdError),
    /// The initramfs' archive.
    #[error(transparent)]
    Cpio(#[from] cpio::Error),
    /// The root file system.
    #[error(transparent)]
    Squashfs(#[from] squashfs::Error),
    /// The cache of compressed blocks.
    #[error(transparent)]
    BlockCache(#[from] squashfs::CacheError),
    /// The profile's block size.
    #[error("disk.squashfs_block: {0}")]
    BlockSize(#[from] squashfs::InvalidBlockSize),
    /// The hash tree.
    #[error(transparent)]
    Verity(#[from] verity::Error),
    /// The UKI.
    #[error(transparent)]
    Uki(#[from] uki::Error),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// No boot loader or stub.
    #[error("the packages of `packages.boot` have no {0}; add systemd-boot-efi")]
    NoBootFile(&'static str),
    /// No initrd program.
    #[error("no component of the profile has `place = \"initrd\"`; the image needs cairn-initrd")]
    NoInit,
    /// The image was made and does not hold.
    #[error("the image does not hold, and is not published:{}", findings(.0))]
    Checks(Report),
    /// No space, or no quota.
    #[error("the disk is full: cannot write {path}; free some space, or build elsewhere with --output", path = path.display())]
    Full {
        /// What did not fit.
        path: PathBuf,
    },
    /// A file of the output or the cache.
    #[error("cannot write {path}: {source}", path = path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BuildError {
    /// Whether the user, not the machine, has to act.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::Input(error) => error.is_mistake(),
            Self::Root(error) => !matches!(error, RootError::Io(_)),
            Self::BlockSize(_) | Self::NoBootFile(_) | Self::NoInit => true,
            Self::Disk(DiskError::TooLarge { .. }) | Self::Uki(_) => true,
            _ => false,
        }
    }
}

fn findings(report: &Report) -> String {
    let fatal = report.findings.iter().filter(|reported| reported.severity == Severity::Fatal);
    fatal.map(|reported| format!("\n{reported}")).collect()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BuildError::Full { path },
        _ => BuildError::Io { path, source },
    }
}

/// What a writer of a format said, with the file it was about.
fn naming(path: &Path) -> impl FnOnce(BuildError) -> BuildError + use<> {
    let named = at(path);
    move |error| match error {
        BuildError::Squashfs(squashfs::Error::Write(source))
        | BuildError::Verity(verity::Error::Write(source)) => named(source),
        other => other,
    }
}

/// Builds the image of `resolved` into `directory`, unless what is there was made from the same inputs.
///
/// # Errors
/// [`BuildError`]; the directory is as it was.
pub fn build(
    resolved: &Resolved,
    request: &Request,
    directory: &Path,
    watcher: &dyn Watcher,
) -> Result<Built, BuildError> {
    watcher.stage(Stage::Inputs);
    let progress: &Progress<'_> = &|event| watcher.source(event);
    let inputs = inputs::gather(resolved, request, progress)?;
    if let Some(manifest) = unchanged(directory, &inputs.digest) {
        return Ok(Built { manifest, directory: directory.to_owned(), unchanged: true });
    }
    let staging = Staging::new(directory).map_err(at(directory))?;
    let manifest = stations(&resolved.profile, inputs, &staging, watcher)?;
    staging.publish().map_err(at(directory))?;
    Ok(Built { manifest, directory: directory.to_owned(), unchanged: false })
}

/// The manifest of an output made from these inputs, if all its files are there with their lengths.
fn unchanged(directory: &Path, digest: &Sha256Digest) -> Option<Manifest> {
    let stamp = fs::read_to_string(directory.join(STAMP)).ok()?;
    let manifest: Manifest = serde_json::from_slice(&fs::read(directory.join("manifest.json")).ok()?).ok()?;
    let whole =
        |file: &OutputFile| fs::metadata(directory.join(&file.name)).is_ok_and(|m| m.len() == file.size);
    (stamp.trim() == digest.to_string() && manifest.files.iter().all(whole)).then_some(manifest)
}

fn stations(
    profile: &Profile,
    inputs: Inputs,
    staging: &Staging,
    watcher: &dyn Watcher,
) -> Result<Manifest, BuildError> {
    let epoch = inputs.locked.lock().source_date_epoch;
    let timestamp = u32::try_from(epoch).unwrap_or(u32::MAX);
    let (name, version) = (profile.name.to_string(), profile.version.to_string());

    watcher.stage(Stage::Tree);
    let boot: BTreeSet<String> = profile.packages.boot.iter().map(ToString::to_string).collect();
    let unpacked = deb::unpack_all(&inputs.cache, &inputs.locked.package_digests())?;
    let kernel_digest = kernel_package(&inputs);
    let mut boot_files = Node::directory();
    let mut layers = Vec::new();
    let mut packages = Vec::new();
    for (package, locked) in unpacked.into_iter().zip(&inputs.locked.lock().packages) {
        let installed_size = package.size();
        let tree = Node { meta: Metadata::root(0o755), kind: Kind::Directory(package.tree) };
        if boot.contains(&locked.name) {
            boot_files = tree;
            continue;
        }
        layers.push(Layer { name: format!("package {}", locked.name), tree });
        packages.push(Package {
            name: locked.name.clone(),
            version: locked.version.clone(),
            architecture: locked.architecture.clone(),
            source: locked.source.clone(),
            digest: locked.digest,
            installed_size,
        });
    }
    let mut programs = Vec::new();
    for program in &inputs.programs {
        let node = inputs::program_node(program).map_err(at(&program.path))?;
        programs.push(Program { name: program.name.clone(), node });
    }
    let release = ImageRelease {
        profile: name.clone(),
        version: version.clone(),
        kernel: String::new(),
        suite: inputs.locked.lock().suite.clone(),
        source_date_epoch: epoch,
        architecture: inputs.locked.lock().architecture.clone(),
    };
    let cache_root = inputs.cache.root().to_owned();
    let baked_images = inputs.images.0.images.clone();
    let parts = RootParts {
        profile,
        packages: layers,
        overlays: inputs.overlays.into_iter().map(|(name, tree)| Layer { name, tree }).collect(),
        programs: &programs,
        kubelet: inputs.kubelet,
        images: inputs.images,
        release,
    };
    let root =
        root::assemble(parts, |tree, release| scan_modules(tree, release, &cache_root, kernel_digest))?;

    let root_uncompressed = root::size(&root.tree);
    watcher.stage(Stage::Root(root_uncompressed));
    let squashfs_path = staging.file("root.squashfs");
    let options = squashfs::Options {
        block_size: BlockSize::try_from(
            u32::try_from(profile.disk.squashfs_block.get()).unwrap_or(u32::MAX),
        )?,
        ..squashfs::Options::new(timestamp)
    };
    let compressor =
        CachedZstd::open(&cache_root.join("squashfs-blocks"), i32::from(profile.disk.squashfs_level))?;
    write_file(&squashfs_path, |out| {
        squashfs::write(&root.tree, &options, &compressor, out, &|bytes| watcher.advance(bytes))?;
        Ok(())
    })?;
    compressor.finish(BLOCK_CACHE_SLACK)?;

    watcher.stage(Stage::Verity);
    let verity_path = staging.file("root.verity");
    let data = Extent::open(&squashfs_path).map_err(at(&squashfs_path))?;
    let parameters = verity::Parameters {
        salt: identity::salt(&name, &version),
        uuid: identity::uuid(&name, &version, "verity"),
    };
    let mut root_hash = None;
    write_file(&verity_path, |out| {
        root_hash = Some(verity::write(&data, &parameters, out)?);
        Ok(())
    })?;
    let Some(root_hash) = root_hash else { return Err(BuildError::NoBootFile("hash tree")) };

    watcher.stage(Stage::Uki);
    let initrd = initramfs(profile, &root, &programs, timestamp, &cache_root)?;
    let boot_file = |path: &str, what| {
        let content = boot_files.get(path).and_then(Node::content).cloned();
        content.ok_or(BuildError::NoBootFile(what))
    };
    let boot_loader = boot_file("usr/lib/systemd/boot/efi/systemd-bootx64.efi", "systemd-bootx64.efi")?;
    let stub = boot_file("usr/lib/systemd/boot/efi/linuxx64.efi.stub", "linuxx64.efi.stub")?;
    let mut command_line = vec![format!("roothash={root_hash}")];
    command_line.extend(render::kernel_command_line(profile));
    let command_line = command_line.join(" ");
    let read = |content: &Content| content.read().map_err(at(&cache_root));
    let kernel = match &root.kernel.kind {
        Kind::File(content) => read(content)?,
        _ => return Err(RootError::NoKernel(profile.kernel.package.to_string()).into()),
    };
    let uki = uki::build(&uki::Parts {
        stub: &read(&stub)?,
        os_release: root::os_release(&root.release).as_bytes(),
        command_line: &command_line,
        kernel_release: &root.release.kernel,
        kernel: &kernel,
        initrd: &initrd,
        splash: None,
    })?;
    let uki_path = staging.file(&format!("{name}.efi"));
    fs::write(&uki_path, &uki).map_err(at(&uki_path))?;
    drop(kernel);

    watcher.stage(Stage::Disk);
    let raw_path = staging.file(&format!("{name}.raw"));
    let partitions = disk::write(
        &DiskParts {
            profile: &name,
            version: &version,
            timestamp: epoch,
            esp_size: profile.disk.esp_size.get(),
            slot_size: profile.disk.slot_size.get(),
            verity_size: profile.disk.verity_partition().get(),
            boot_loader,
            uki: &uki_path,
            root: &squashfs_path,
            verity: &verity_path,
            root_hash,
        },
        &raw_path,
    )
    .map_err(|error| match error {
        DiskError::Io { path, source } => at(&path)(source),
        other => other.into(),
    })?;
    let (raw, raw_allocated) = disk::sizes(&raw_path).map_err(at(&raw_path))?;
    let sizes = Sizes {
        uki: uki.len() as u64,
        root: disk::sizes(&squashfs_path).map_err(at(&squashfs_path))?.0,
        verity: disk::sizes(&verity_path).map_err(at(&verity_path))?.0,
        root_uncompressed,
        raw,
        raw_allocated,
    };
    let report =
        check::check_image(&FinishedImage { profile, tree: &root.tree, uki: &uki, root_hash, sizes: &sizes });
    if report.fatal() > 0 {
        return Err(BuildError::Checks(report));
    }
    for warning in &report.findings {
        watcher.source(Event::Notice(&warning.to_string()));
    }
    for intermediate in [&squashfs_path, &verity_path] {
        fs::remove_file(intermediate).map_err(at(intermediate))?;
    }
    let mut files = Vec::new();
    for path in [&raw_path, &uki_path] {
        let extent = Extent::open(path).map_err(at(path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let size = fs::metadata(path).map_err(at(path))?.len();
        files.push(OutputFile { name, size, digest: disk::digest(&extent).map_err(at(path))? });
    }
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        release: root.release,
        inputs: InputDigests {
            profile: inputs.profile_digest,
            lock: inputs.locked.lock().digest().map_err(InputError::from)?,
        },
        root_hash: root_hash.to_string(),
        command_line,
        files,
        partitions,
        packages,
        components: inputs::components(profile, &inputs.programs),
        images: baked_images,
        sizes,
    };
    let manifest_path = staging.file("manifest.json");
    let mut text = serde_json::to_string_pretty(&manifest).map_err(RootError::from)?;
    text.push('\n');
    fs::write(&manifest_path, text).map_err(at(&manifest_path))?;
    let stamp = staging.file(STAMP);
    fs::write(&stamp, format!("{}\n", inputs.digest)).map_err(at(&stamp))?;
    Ok(manifest)
}

fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(at(path))?);
    write(&mut out).map_err(naming(path))?;
    out.flush().map_err(at(path))
}

/// Digest of the package that has the kernel image: what the module scan depends on.
fn kernel_package(inputs: &Inputs) -> Option<Sha256Digest> {
    let packages = &inputs.locked.lock().packages;
    let kernel = packages.iter().filter(|p| p.name.starts_with("linux-image-")).max_by_key(|p| p.size);
    kernel.map(|package| package.digest)
}

/// [`depmod::scan`], remembered by the kernel package: reading some thousand compressed modules takes seconds.
fn scan_modules(
    tree: &Node,
    release: &str,
    cache: &Path,
    kernel: Option<Sha256Digest>,
) -> Result<Vec<Module>, DepmodError> {
    let remembered = kernel.map(|digest| cache.join("modules").join(format!("{}.json", digest.hex())));
    let known = remembered.as_ref().and_then(|path| serde_json::from_slice(&fs::read(path).ok()?).ok());
    if let Some(modules) = known {
        return Ok(modules);
    }
    let modules = depmod::scan(tree, release)?;
    if let (Some(path), Ok(bytes)) = (remembered, serde_json::to_vec(&modules)) {
        // Only a short cut: a cache that cannot be written costs time, not the build.
        let _ = remember(&path, &bytes);
    }
    Ok(modules)
}

fn remember(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let beside =
        directory.join(format!(".{}.{}", std::process::id(), path.file_name().unwrap_or_default().display()));
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)
}

/// The compressed initramfs. Remembered by what is in it.
fn initramfs(
    profile: &Profile,
    root: &root::Root,
    programs: &[Program],
    timestamp: u32,
    cache: &Path,
) -> Result<Vec<u8>, BuildError> {
    let init = profile
        .components
        .iter()
        .find(|(_, component)| component.enabled && component.place == Place::Initrd);
    let init = init.and_then(|(name, _)| programs.iter().find(|program| program.name == name.as_str()));
    let init = init.ok_or(BuildError::NoInit)?.node.clone();
    let wanted: Vec<String> = profile.kernel.initrd_modules.iter().map(ToString::to_string).collect();
    let tree = initrd::tree(&root.tree, &root.release.kernel, &root.modules, &wanted, init)?;
    let mut plain = Vec::new();
    cpio::write(&tree, timestamp, &mut plain)?;
    let level = i32::from(profile.disk.initrd_level);
    let mut hash = Sha256::new();
    hash.update(level.to_le_bytes());
    hash.update(&plain);
    let remembered =
        cache.join("initrd").join(format!("{}.zst", Sha256Digest::new(hash.finalize().into()).hex()));
    if let Ok(bytes) = fs::read(&remembered) {
        return Ok(bytes);
    }
    let compressed = zstd::bulk::compress(&plain, level).map_err(at(&remembered))?;
    let _ = remember(&remembered, &compressed);
    Ok(compressed)
}
