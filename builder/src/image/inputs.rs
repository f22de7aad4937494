//! What a build starts from: the profile, the lock, our programs, `rootfs/`, container images, a kubelet. All of
//! it is here, verified, before the first byte of an image is made; and its digest says whether anything has
//! changed since the last build.

use crate::{
    lock::{self, LockError, Locked, LockedUrl, Policy, Wishes},
    profile::{Profile, Resolved, model::BakedImageSource},
    source::{
        cache::{Cache, StorageError},
        cargo::{self, CargoError},
        deb::{Mirror, MirrorError},
        fetch::{FetchError, Fetcher},
        file::{self, FileError},
        oci::{self, OciError},
        progress::{Event, Progress},
        url,
    },
    tree::{Content, Kind, Metadata, Node, NotADirectory},
};
use cairn_contract::{
    baked::{BakedImage, BakedIndex},
    digest::Sha256Digest,
    manifest::Component,
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Debian's name of the only architecture.
pub const ARCHITECTURE: &str = "amd64";

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where `rootfs/` and `components/` are.
    pub workspace: PathBuf,
    /// The lock file.
    pub lock: PathBuf,
    /// What to do when the lock does not settle it.
    pub policy: Policy,
    /// Debian archive; without it the profile's, else the machine's own.
    pub mirror: Option<String>,
    /// The kubelet; goes before the profile's.
    pub kubelet: Option<PathBuf>,
    /// The cache directory.
    pub cache: PathBuf,
}

/// Why the inputs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The cache.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No mirror.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Downloads.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Our programs.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// `rootfs/`.
    #[error(transparent)]
    Files(#[from] FileError),
    /// Container images.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// A tree that contradicts itself.
    #[error(transparent)]
    Tree(#[from] NotADirectory),
    /// A file that the profile or the user names.
    #[error("{key}: cannot read {path}: {source}", path = path.display())]
    Named {
        /// Profile key or option.
        key: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A component that the profile names is not in the workspace, or does not have that program.
    #[error(
        "the profile wants the program `{0}`, and no crate of the workspace's components makes it; see [components]"
    )]
    NoProgram(String),
    /// An image layout holds more or less than one image for this architecture.
    #[error("images.bake: {path} holds {count} images for {ARCHITECTURE}; one is needed", path = path.display())]
    NotOneImage {
        /// The layout.
        path: PathBuf,
        /// How many.
        count: usize,
    },
}

impl InputError {
    /// Whether the user, not the machine, has to act.
    pub fn is_mistake(&self) -> bool {
        matches!(
            self,
            Self::Mirror(_)
                | Self::Named { .. }
                | Self::NoProgram(_)
                | Self::NotOneImage { .. }
                | Self::Files(_)
                | Self::Oci(_)
                | Self::Tree(_)
                | Self::Lock(LockError::Malformed { .. } | LockError::Stale { .. } | LockError::Resolve(_))
                | Self::Cargo(
                    CargoError::NotFound { .. } | CargoError::NoProgram { .. } | CargoError::Failed { .. }
                )
        )
    }
}

/// Everything a build starts from.
#[derive(Debug)]
pub struct Inputs {
    /// The lock, with all packages in the cache.
    pub locked: Locked,
    /// Where they are.
    pub cache: Cache,
    /// Our programs.
    pub programs: Vec<cargo::Program>,
    /// `rootfs/` folders in the profile's order.
    pub overlays: Vec<(String, Node)>,
    /// Images to bake in and their files, see [`cairn_contract::baked`].
    pub images: (BakedIndex, Node),
    /// The kubelet.
    pub kubelet: Option<Node>,
    /// SHA-256 over the resolved profile.
    pub profile_digest: Sha256Digest,
    /// SHA-256 over all inputs, and this program.
    pub digest: Sha256Digest,
}

/// The wishes that the lock settles.
pub fn wishes(profile: &Profile) -> Wishes {
    let packages = &profile.packages;
    let mut wanted: BTreeSet<String> =
        packages.install.iter().chain(&packages.boot).map(ToString::to_string).collect();
    wanted.insert(profile.kernel.package.to_string());
    let pinned = profile.kubelet.url.as_ref().zip(profile.kubelet.sha256);
    Wishes {
        suite: packages.suite.to_string(),
        architecture: ARCHITECTURE.to_owned(),
        packages: wanted,
        excluded: packages.exclude.iter().map(ToString::to_string).collect(),
        essential: packages.essential,
        urls: pinned
            .map(|(url, sha)| LockedUrl { url: url.to_string(), digest: sha.digest() })
            .into_iter()
            .collect(),
        images: Vec::new(),
    }
}

/// Where packages come from: the user's word, the profile's, the machine's.
///
/// # Errors
/// There is none.
pub fn mirror(profile: &Profile, named: Option<&str>) -> Result<Mirror, MirrorError> {
    let profile = &profile.packages;
    let of_profile = profile.mirror.as_ref().map(ToString::to_string);
    match named.map(str::to_owned).or(of_profile) {
        Some(main) => {
            Mirror::explicit(&main, profile.security_mirror.as_ref().map(ToString::to_string).as_deref())
        }
        None => Mirror::from_apt(Path::new("/")),
    }
}

/// The profile's lock, brought into agreement with the profile, and its packages, brought into the cache; `lock` is
/// the lock file, `named` the mirror that the user names.
///
/// # Errors
/// [`InputError`].
pub fn settle(
    profile: &Profile,
    lock: &Path,
    policy: Policy,
    named: Option<&str>,
    cache: PathBuf,
    progress: &Progress<'_>,
) -> Result<(Locked, Fetcher), InputError> {
    let mirror = mirror(profile, named)?;
    let fetcher = Fetcher::new(Cache::open(cache)?, mirror.proxies.clone())?;
    let locked = lock::settle(lock, &wishes(profile), policy, &mirror, &fetcher, progress)?;
    Ok((locked, fetcher))
}

/// Brings everything here.
///
/// # Errors
/// [`InputError`].
pub fn gather(resolved: &Resolved, request: &Request, progress: &Progress<'_>) -> Result<Inputs, InputError> {
    let profile = &resolved.profile;
    let Request { lock, policy, mirror, cache, .. } = request;
    let (locked, fetcher) = settle(profile, lock, *policy, mirror.as_deref(), cache.clone(), progress)?;
    let cache = fetcher.cache().clone();
    let kubelet = kubelet(resolved, request, &fetcher, progress)?;
    let programs = programs(profile, &request.workspace, progress)?;
    let mut overlays = Vec::new();
    for overlay in &profile.files.overlays {
        let entries = file::read(&request.workspace.join("rootfs").join(overlay.as_str()))?;
        overlays.push((format!("rootfs/{overlay}"), directory(entries)));
    }
    let images = images(resolved, &programs, &cache, locked.lock().source_date_epoch)?;

    let profile_text = toml::to_string(profile).unwrap_or_default();
    let profile_digest = Sha256Digest::new(Sha256::digest(&profile_text).into());
    let mut hash = Sha256::new();
    hash.update(profile_digest.as_bytes());
    hash.update(locked.lock().digest()?.as_bytes());
    hash.update(own_digest(&cache)?.as_bytes());
    for program in &programs {
        hash.update(program.name.as_bytes());
        hash.update(program.digest.as_bytes());
    }
    let trees = overlays.iter().map(|(_, tree)| tree).chain([&images.1]).chain(kubelet.as_ref());
    for tree in trees {
        hash_tree(tree, &mut hash).map_err(StorageError::at(&request.workspace))?;
    }
    let digest = Sha256Digest::new(hash.finalize().into());
    Ok(Inputs { locked, cache, programs, overlays, images, kubelet, profile_digest, digest })
}

fn directory(entries: crate::tree::Entries) -> Node {
    Node { meta: Metadata::root(0o755), kind: Kind::Directory(entries) }
}

/// This program's own digest: another version of it may build another image from the same inputs.
fn own_digest(cache: &Cache) -> Result<Sha256Digest, StorageError> {
    let path = std::env::current_exe().map_err(StorageError::at(&cache.root().join("self")))?;
    let content = whole_file(&path).map_err(StorageError::at(&path))?;
    let bytes = content.read().map_err(StorageError::at(&path))?;
    Ok(Sha256Digest::new(Sha256::digest(&bytes).into()))
}

/// Hashes what an image would show of a tree.
fn hash_tree(tree: &Node, hash: &mut Sha256) -> std::io::Result<()> {
    let mut result = Ok(());
    let mut one = |path: &[u8], node: &Node| -> std::io::Result<()> {
        hash.update(path);
        hash.update([0]);
        hash.update(format!(
            "{:?} {} {}",
            node.meta,
            node.entries().is_some(),
            node.content().map_or(0, Content::len)
        ));
        match &node.kind {
            Kind::File(content) => hash.update(content.read()?),
            Kind::Directory(_) => {}
            other => hash.update(format!("{other:?}")),
        }
        Ok(())
    };
    one(b"", tree)?;
    tree.walk(&mut |path, node| {
        if result.is_ok() {
            result = one(path, node);
        }
    });
    result
}

fn whole_file(path: &Path) -> std::io::Result<Content> {
    let length = std::fs::metadata(path)?.len();
    Ok(Content::Range { path: Arc::new(path.to_owned()), offset: 0, length })
}

fn executable(content: Content) -> Node {
    Node { meta: Metadata::root(0o755), kind: Kind::File(content) }
}

/// A program of ours as a node of a tree.
///
/// # Errors
/// The file is gone.
pub fn program_node(program: &cargo::Program) -> std::io::Result<Node> {
    Ok(executable(whole_file(&program.path)?))
}

fn kubelet(
    resolved: &Resolved,
    request: &Request,
    fetcher: &Fetcher,
    progress: &Progress<'_>,
) -> Result<Option<Node>, InputError> {
    let kubelet = &resolved.profile.kubelet;
    let path = match (&request.kubelet, &kubelet.path) {
        (Some(path), _) => Some(("--kubelet", path.clone())),
        (None, Some(path)) => Some(("kubelet.path", resolved.host_path(path))),
        (None, None) => None,
    };
    if let Some((key, path)) = path {
        let content =
            whole_file(&path).map_err(|source| InputError::Named { key: key.into(), path, source })?;
        return Ok(Some(executable(content)));
    }
    if let (Some(url), Some(sha256)) = (&kubelet.url, &kubelet.sha256) {
        return Ok(Some(executable(url::fetch(fetcher, &url.to_string(), sha256.digest(), progress)?)));
    }
    progress(Event::Notice(
        "the image has no kubelet: kubelet.service waits for one (kubelet.path, --kubelet)",
    ));
    Ok(None)
}

fn programs(
    profile: &Profile,
    workspace: &Path,
    progress: &Progress<'_>,
) -> Result<Vec<cargo::Program>, InputError> {
    let wanted = profile.components.iter().filter(|(_, component)| component.enabled);
    let baked = profile.images.bake.iter().filter_map(|image| image.component.as_ref());
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut crates: BTreeSet<String> = BTreeSet::new();
    for (name, component) in wanted {
        names.insert(name.to_string());
        crates.insert(component.package.as_ref().unwrap_or(name).to_string());
    }
    for name in baked {
        names.insert(name.to_string());
        let package = profile.components.get(name).and_then(|component| component.package.as_ref());
        crates.insert(package.unwrap_or(name).to_string());
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let crates: Vec<&str> = crates.iter().map(String::as_str).collect();
    let built = cargo::build(workspace, &crates, progress)?;
    if let Some(missing) = names.iter().find(|name| !built.iter().any(|program| program.name == **name)) {
        return Err(InputError::NoProgram(missing.clone()));
    }
    Ok(built.into_iter().filter(|program| names.contains(&program.name)).collect())
}

fn images(
    resolved: &Resolved,
    programs: &[cargo::Program],
    cache: &Cache,
    epoch: u64,
) -> Result<(BakedIndex, Node), InputError> {
    let mut index = BakedIndex::default();
    let mut files = Node::directory();
    for source in &resolved.profile.images.bake {
        let image = image(resolved, source, programs, cache, epoch)?;
        let size = image.layers.iter().map(|layer| crate::source::deb::size(&layer.tree)).sum();
        files.insert(format!("configs/{}", image.config_digest.hex()), Node::file(0o644, image.config))?;
        let mut layers = Vec::new();
        for layer in image.layers {
            files.insert(format!("layers/{}", layer.diff_id.hex()), directory(layer.tree))?;
            layers.push(layer.diff_id);
        }
        index.images.push(BakedImage {
            names: vec![source.name.to_string()],
            config: image.config_digest,
            manifest: image.manifest_digest,
            layers,
            size,
        });
    }
    index.images.sort_by(|a, b| a.names.cmp(&b.names));
    Ok((index, files))
}

fn image(
    resolved: &Resolved,
    source: &BakedImageSource,
    programs: &[cargo::Program],
    cache: &Cache,
    epoch: u64,
) -> Result<oci::Image, InputError> {
    if let Some(path) = &source.path {
        let path = resolved.host_path(path);
        let mut images = oci::read(cache, &path, ARCHITECTURE)?;
        return match images.pop() {
            Some(image) if images.is_empty() => Ok(image),
            last => Err(InputError::NotOneImage { path, count: images.len() + usize::from(last.is_some()) }),
        };
    }
    let name = source.component.as_ref().map(ToString::to_string).unwrap_or_default();
    let program = programs.iter().find(|program| program.name == name);
    let program = program.ok_or_else(|| InputError::NoProgram(name.clone()))?;
    let node = program_node(program).map_err(StorageError::at(&program.path))?;
    let mut tree = Node::directory();
    tree.insert(&name, node)?;
    for directory in ["dev", "proc", "sys", "tmp", "etc"] {
        tree.insert(directory, Node::directory())?;
    }
    let process = serde_json::json!({ "Entrypoint": [format!("/{name}")], "WorkingDir": "/" });
    let entries = tree.entries().cloned().unwrap_or_default();
    Ok(oci::synthesize(&source.name.to_string(), entries, &process, ARCHITECTURE, epoch)?)
}

/// What the manifest says of our programs.
pub fn components(profile: &Profile, programs: &[cargo::Program]) -> Vec<Component> {
    let described = programs.iter().map(|program| Component {
        name: program.name.clone(),
        version: program.version.clone(),
        path: profile
            .components
            .iter()
            .find(|(name, _)| name.as_str() == program.name)
            .map_or_else(|| "(baked image)".to_owned(), |(_, component)| component.path.to_string()),
        digest: program.digest,
        size: program.size,
    });
    described.collect()
}
