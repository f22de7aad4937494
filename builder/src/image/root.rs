//! The root file system's tree: packages, what their scripts would have done, our files, our programs.
//!
//! The order says who wins. Packages may not contradict each other; files of `rootfs/` replace packages' files;
//! what the profile renders replaces both. Then what depends on everything else is made: accounts, links,
//! indexes. Last, the tree is looked over for anything that leads nowhere.

use super::check::is_setuid;
use crate::{
    profile::{
        Profile,
        model::Place,
        render::{self, File},
    },
    tree::{
        Kind, Metadata, Node, NotADirectory, alternatives,
        ca_bundle::{self, BundleError},
        capability::{self, CapabilityError},
        check::{self, Gap},
        depmod::{self, DepmodError, Module},
        glob,
        hwdb::{self, HwdbError},
        ld_cache::{self, LdCacheError},
        merge::{self, Conflict, Overlap},
        users::{self, UsersError},
    },
};
use cairn_contract::{baked::BakedIndex, manifest::ImageRelease, paths};
use std::collections::BTreeMap;

/// Directories that something is mounted on, or that the node's first programs expect. Mode and name.
const SKELETON: [(&str, u16); 20] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt/cni", 0o755),
    ("opt/nri", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/local", 0o755),
    ("var", 0o755),
    ("etc/cni/net.d", 0o755),
    ("etc/nri/conf.d", 0o755),
    ("etc/cni/networks.d", 0o755),
    ("etc/kubernetes/manifests", 0o755),
    ("usr/libexec/kubernetes", 0o755),
];
/// Links of merged-/usr.
const ALIASES: [(&str, &str); 4] =
    [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

/// Why the root could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Two sources contradict each other.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A file where a directory has to be.
    #[error(transparent)]
    Tree(#[from] NotADirectory),
    /// A `sysusers.d` file.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// CA certificates.
    #[error(transparent)]
    CaBundle(#[from] BundleError),
    /// Declared file capabilities.
    #[error("capabilities: {0}")]
    Capability(#[from] CapabilityError),
    /// Kernel modules.
    #[error(transparent)]
    Depmod(#[from] DepmodError),
    /// Hardware database.
    #[error(transparent)]
    Hwdb(#[from] HwdbError),
    /// Linker cache.
    #[error(transparent)]
    LdCache(#[from] LdCacheError),
    /// The profile says something that its file's format cannot.
    #[error("cannot render the profile: {0}")]
    Render(#[from] toml::ser::Error),
    /// JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A file could not be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// No kernel.
    #[error("the packages hold no kernel: `kernel.package` is `{0}`; name a linux-image package")]
    NoKernel(String),
    /// Links, libraries or interpreters that lead nowhere.
    #[error("{} in the finished tree:\n{}\nInstall the package that has it, or take the file out with `packages.drop_files`",
        if .0.len() == 1 { "something is missing".to_owned() } else { format!("{} things are missing", .0.len()) },
        .0.iter().map(|g| format!("  {g}")).collect::<Vec<_>>().join("\n"))]
    Gaps(Vec<Gap>),
}

/// One source of the tree and its name in messages.
#[derive(Debug)]
pub struct Layer {
    /// `package systemd`, `rootfs/base`.
    pub name: String,
    /// Its files.
    pub tree: Node,
}

/// A program of ours, built.
#[derive(Debug, Clone)]
pub struct Program {
    /// Name in the profile.
    pub name: String,
    /// The program, mode 0755.
    pub node: Node,
}

/// What the root is made of.
#[derive(Debug)]
pub struct RootParts<'a> {
    /// The profile.
    pub profile: &'a Profile,
    /// Packages, in the order of their names.
    pub packages: Vec<Layer>,
    /// Folders of `rootfs/`, in the profile's order.
    pub overlays: Vec<Layer>,
    /// Our programs.
    pub programs: &'a [Program],
    /// The kubelet, if the profile has one.
    pub kubelet: Option<Node>,
    /// Images to bake in, and their layers: the tree below [`paths::BAKED_IMAGES`] without its index.
    pub images: (BakedIndex, Node),
    /// Suite, timestamp and so on; the kernel's release is filled in here.
    pub release: ImageRelease,
}

/// The finished tree and what was taken out of it.
#[derive(Debug)]
pub struct Root {
    /// The tree.
    pub tree: Node,
    /// The kernel image (bzImage).
    pub kernel: Node,
    /// Every module in the tree.
    pub modules: Vec<Module>,
    /// With the kernel's release.
    pub release: ImageRelease,
}

/// Makes the tree. `scan` finds the modules of a kernel release: [`depmod::scan`], or a cache in front of it.
///
/// # Errors
/// [`RootError`].
pub fn assemble(
    parts: RootParts<'_>,
    scan: impl FnOnce(&Node, &str) -> Result<Vec<Module>, DepmodError>,
) -> Result<Root, RootError> {
    let profile = parts.profile;
    let mut root = Node::directory();
    for (link, target) in ALIASES {
        root.insert(target, Node::directory())?;
        root.insert(link, Node::symlink(target))?;
    }
    for layer in parts.packages {
        merge::merge(&mut root, layer.tree, &layer.name, Overlap::Refuse)?;
    }
    let (kernel, kernel_release) =
        take_kernel(&mut root).ok_or_else(|| RootError::NoKernel(profile.kernel.package.to_string()))?;
    let modules = scan(&root, &kernel_release)?;
    drop_files(&mut root, profile, &kernel_release);
    let modules = keep_present(modules, &root, &kernel_release);
    root.remove("var");
    for (path, mode) in SKELETON {
        if root.get(path).is_none() {
            root.insert(path, Node { meta: Metadata::root(mode), ..Node::directory() })?;
        }
    }

    for layer in parts.overlays {
        merge::merge(&mut root, layer.tree, &layer.name, Overlap::Replace)?;
    }
    for File { path, mode, bytes } in render::files(profile)? {
        root.insert(&path, Node::file(mode, bytes))?;
    }
    for program in parts.programs {
        let Some(component) = profile.components.iter().find(|(name, _)| name.as_str() == program.name)
        else {
            continue;
        };
        if component.1.place == Place::Root {
            root.insert(component.1.path.as_str(), program.node.clone())?;
            for link in &component.1.links {
                root.insert(link.as_str(), Node::symlink(component.1.path.as_str()))?;
            }
        }
    }
    if let Some(kubelet) = parts.kubelet {
        root.insert(paths::KUBELET, kubelet)?;
    }
    bake(&mut root, parts.images)?;
    let release = ImageRelease { kernel: kernel_release.clone(), ..parts.release };
    root.insert(paths::RELEASE, Node::file(0o644, serde_json::to_vec_pretty(&release)?))?;
    root.insert("usr/lib/os-release", Node::file(0o644, os_release(&release).into_bytes()))?;
    root.insert("etc/os-release", Node::symlink("../usr/lib/os-release"))?;

    users::apply(&mut root)?;
    let texts = |map: Vec<(String, String)>| map.into_iter().collect::<BTreeMap<_, _>>();
    let links = profile.alternatives.iter().map(|(l, t)| (l.to_string(), t.to_string())).collect();
    alternatives::apply(&mut root, &texts(links))?;
    let capabilities = profile.capabilities.iter().map(|(p, c)| (p.to_string(), c.to_string())).collect();
    capability::apply(&mut root, &texts(capabilities))?;
    clear_setuid(&mut root, profile);
    ca_bundle::apply(&mut root)?;
    depmod::apply(&mut root, &kernel_release, &modules)?;
    hwdb::apply(&mut root)?;
    ld_cache::apply(&mut root)?;

    let gaps = check::gaps(&root, &[])?;
    if !gaps.is_empty() {
        return Err(RootError::Gaps(gaps));
    }
    Ok(Root { tree: root, kernel, modules, release })
}

/// Takes the kernel out of `/boot` and says its release: the name of the module directory.
fn take_kernel(root: &mut Node) -> Option<(Node, String)> {
    let mut names = root.get("boot")?.entries()?.keys();
    let name = names.rfind(|name| name.starts_with(b"vmlinuz-"))?.clone();
    let kernel = root.remove([b"boot/", name.as_slice()].concat())?;
    root.remove("boot");
    Some((kernel, String::from_utf8_lossy(&name[b"vmlinuz-".len()..]).into_owned()))
}

/// Whether a path is dropped, kept all the same, and above something kept.
type Rules<'r> = dyn Fn(&[u8]) -> (bool, bool, bool) + 'r;

/// Applies `packages.drop_files`, `packages.keep_files` and `kernel.drop_modules`, then takes away directories
/// that this has emptied.
fn drop_files(root: &mut Node, profile: &Profile, release: &str) {
    let strip = |text: &str| text.trim_start_matches('/').trim_end_matches('/').to_owned();
    let dropped: Vec<String> = profile.packages.drop_files.iter().map(|p| strip(p.as_str())).collect();
    let kept: Vec<String> = profile.packages.keep_files.iter().map(|p| strip(p.as_str())).collect();
    let base = format!("usr/lib/modules/{release}/kernel");
    let modules: Vec<String> =
        profile.kernel.drop_modules.iter().map(|p| format!("{base}/{}", strip(p.as_str()))).collect();
    let matches =
        |patterns: &[String], path: &[u8]| patterns.iter().any(|p| glob::matches(p.as_bytes(), path));
    let leads_to_kept = |path: &[u8]| {
        kept.iter().any(|p| {
            // The part of the pattern as deep as the path.
            let depth = path.iter().filter(|b| **b == b'/').count() + 1;
            let prefix: Vec<&str> = p.split('/').take(depth).collect();
            glob::matches(prefix.join("/").as_bytes(), path)
        })
    };
    fn below(node: &mut Node, path: &mut Vec<u8>, inside: bool, rules: &Rules<'_>) {
        let Some(entries) = node.entries_mut() else { return };
        entries.retain(|name, child| {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let (dropped, kept, leads) = rules(path);
            let dropped = (inside || dropped) && !kept;
            let was_full = child.entries().is_some_and(|e| !e.is_empty());
            if !dropped || leads {
                below(child, path, dropped, rules);
            }
            path.truncate(length);
            let emptied = was_full && child.entries().is_some_and(std::collections::BTreeMap::is_empty);
            let stays = if dropped { leads && child.entries().is_some_and(|e| !e.is_empty()) } else { true };
            stays && !emptied
        });
    }
    below(root, &mut Vec::new(), false, &|path| {
        (matches(&dropped, path) || matches(&modules, path), matches(&kept, path), leads_to_kept(path))
    });
}

/// Takes the setuid and setgid bits from programs that the profile does not name. Container images keep theirs.
fn clear_setuid(root: &mut Node, profile: &Profile) {
    let mut found = Vec::new();
    root.walk(&mut |path, node| {
        let place = format!("/{}", String::from_utf8_lossy(path));
        let named = profile.security.setuid.iter().any(|named| named.as_str() == place);
        if is_setuid(node) && !named && !place.starts_with(paths::BAKED_IMAGES) {
            found.push(path.to_vec());
        }
    });
    for path in found {
        if let Some(node) = root.get_mut(path) {
            node.meta.mode &= 0o1777;
        }
    }
}

/// The modules whose files are still there.
fn keep_present(modules: Vec<Module>, root: &Node, release: &str) -> Vec<Module> {
    let base = format!("usr/lib/modules/{release}");
    modules.into_iter().filter(|m| root.get(format!("{base}/{}", m.path)).is_some()).collect()
}

fn bake(root: &mut Node, (index, layers): (BakedIndex, Node)) -> Result<(), RootError> {
    if !index.images.is_empty() {
        root.insert(paths::BAKED_IMAGES, layers)?;
        let path = format!("{}/index.json", paths::BAKED_IMAGES);
        root.insert(path, Node::file(0o644, serde_json::to_vec_pretty(&index)?))?;
    }
    Ok(())
}

/// os-release(5).
pub fn os_release(release: &ImageRelease) -> String {
    format!(
        "ID=cairn\nID_LIKE=debian\nNAME=Cairn\nPRETTY_NAME=\"Cairn {version} ({profile})\"\nVERSION_ID={version}\nIMAGE_ID=cairn-{profile}\nIMAGE_VERSION={version}\nVERSION_CODENAME={suite}\nVARIANT_ID={profile}\n",
        version = release.version,
        profile = release.profile,
        suite = release.suite,
    )
}

/// Bytes of all regular files.
pub fn size(node: &Node) -> u64 {
    let mut sum = 0;
    node.walk(&mut |_, node| {
        if let Kind::File(content) = &node.kind {
            sum += content.len();
        }
    });
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(text: &str) -> Profile {
        let mut profile = Profile::named("t".parse().unwrap());
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("drop", p)) => profile.packages.drop_files.push(p.parse().unwrap()),
                Some(("keep", p)) => profile.packages.keep_files.push(p.parse().unwrap()),
                Some(("modules", p)) => profile.kernel.drop_modules.push(p.parse().unwrap()),
                _ => panic!("{line}"),
            }
        }
        profile
    }

    fn left(rules: &str) -> Vec<String> {
        let mut root = Node::directory();
        for path in [
            "usr/share/doc/a/x",
            "usr/share/doc/b/copyright",
            "usr/lib/modules/6/kernel/sound/s.ko",
            "usr/bin/a",
        ] {
            root.insert(path, Node::file(0o644, *b"")).unwrap();
        }
        drop_files(&mut root, &profile(rules), "6");
        let mut files = Vec::new();
        root.walk(&mut |path, node| {
            if node.content().is_some() || node.entries().is_some_and(BTreeMap::is_empty) {
                files.push(String::from_utf8_lossy(path).into_owned());
            }
        });
        files
    }

    #[test]
    fn dropping_keeps_exceptions_and_leaves_no_empty_directories() {
        assert_eq!(
            left("drop /usr/share/doc/**\nkeep /usr/share/doc/*/copyright\nmodules sound"),
            ["usr/bin/a", "usr/share/doc/b/copyright"]
        );
        assert_eq!(left("drop /usr/share/doc"), ["usr/bin/a", "usr/lib/modules/6/kernel/sound/s.ko"]);
    }

    #[test]
    fn setuid_bits_go_unless_the_profile_or_a_container_image_keeps_them() {
        let mut root = Node::directory();
        let in_image = format!("{}/layers/0/su", paths::BAKED_IMAGES.trim_start_matches('/'));
        for path in ["usr/bin/mount", "usr/bin/umount", &in_image] {
            root.insert(path, Node::file(0o6755, *b"")).unwrap();
        }
        let mut profile = Profile::named("t".parse().unwrap());
        profile.security.setuid.push("/usr/bin/umount".parse().unwrap());
        clear_setuid(&mut root, &profile);
        let mode = |path: &str| root.get(path).unwrap().meta.mode;
        assert_eq!((mode("usr/bin/mount"), mode("usr/bin/umount"), mode(&in_image)), (0o755, 0o6755, 0o6755));
    }

    #[test]
    fn the_kernel_is_taken_out_of_boot() {
        let mut root = Node::directory();
        root.insert("boot/vmlinuz-6.12-amd64", Node::file(0o644, *b"k")).unwrap();
        root.insert("boot/config-6.12-amd64", Node::file(0o644, *b"c")).unwrap();
        let (kernel, release) = take_kernel(&mut root).unwrap();
        assert_eq!((kernel, release.as_str()), (Node::file(0o644, *b"k"), "6.12-amd64"));
        assert!(root.get("boot").is_none());
    }
}
