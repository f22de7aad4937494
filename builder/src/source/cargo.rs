//! Our own programs: built by cargo, statically, and the same on every machine.
//!
//! What would make two builds differ is taken out: the places of the workspace, of cargo's registry (under whatever
//! name and mirror) and of the toolchain are mapped to fixed names in everything the compiler writes down; C code
//! in dependencies gets the same treatment; flags and profiles that the environment or a user's configuration would
//! add are not passed on. cargo itself leaves the workspace's place out of its hashes, and leaves flags out of them
//! when one of them maps paths. After a build every program is searched for the places of this machine, so a leak
//! is an error and not a surprise. The versions of compiler and C library remain inputs: a build on another Debian
//! release links another libc.a.

use super::{
    cache::StorageError,
    progress::{Event, Progress},
};
use cairn_contract::digest::Sha256Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// The only target: glibc, linked statically.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The cargo profile of programs that go into an image.
pub const PROFILE: &str = "node";

/// Why there are no programs.
#[derive(Debug, thiserror::Error)]
pub enum CargoError {
    /// The tool is not there.
    #[error("cannot run `{program}`: {source}; install Rust, or set {variable} to it")]
    NotFound {
        /// The command.
        program: String,
        /// The environment variable that names it.
        variable: &'static str,
        /// The system's word.
        source: io::Error,
    },
    /// It failed; its messages went to the progress.
    #[error("`{command}` failed ({status}):\n{}", .last.join("\n"))]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        last: Vec<String>,
    },
    /// It said something we do not understand.
    #[error("`{command}` gave an unexpected answer: {why}")]
    Unexpected {
        /// What was run.
        command: String,
        /// What is wrong with it.
        why: String,
    },
    /// A program was asked for that the workspace does not have.
    #[error("the workspace {workspace} has no package `{package}` with a program")]
    NoProgram {
        /// The package.
        package: String,
        /// The workspace.
        workspace: PathBuf,
    },
    /// A program would not be the same elsewhere.
    #[error(
        "the program {program} contains the path {path} of this machine: two machines would build two images"
    )]
    HostPath {
        /// The program.
        program: PathBuf,
        /// What it contains.
        path: String,
    },
    /// A file fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// One program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Name of the program.
    pub name: String,
    /// Crate it comes from.
    pub package: String,
    /// The crate's version.
    pub version: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its SHA-256.
    pub digest: Sha256Digest,
    /// Its bytes.
    pub size: u64,
}

/// Builds the programs of some packages of a workspace, into `<workspace>/target/node`; by package and name.
///
/// # Errors
/// There is no cargo, it fails, or a program is not reproducible.
pub fn build(
    workspace: &Path,
    packages: &[&str],
    progress: &Progress<'_>,
) -> Result<Vec<Program>, CargoError> {
    let tools = Tools::find(workspace)?;
    // Three processes that wait for disks more than they compute.
    let (metadata, toolchain) = std::thread::scope(|scope| {
        let metadata = scope.spawn(|| tools.metadata());
        let toolchain = tools.toolchain();
        (
            metadata.join().unwrap_or_else(|_| Err(unexpected("cargo metadata", "a panic".to_owned()))),
            toolchain,
        )
    });
    let (metadata, toolchain) = (metadata?, toolchain?);
    let places = Places::of(&metadata, toolchain);
    let mut arguments: Vec<String> =
        ["build", "--locked", "--bins", "--profile", PROFILE, "--target", TARGET].map(str::to_owned).into();
    arguments.push("--message-format=json-render-diagnostics".to_owned());
    arguments.push("--target-dir".to_owned());
    let target = metadata.workspace_root.join("target/node");
    arguments.push(target.display().to_string());
    for package in packages {
        arguments.extend(["-p".to_owned(), (*package).to_owned()]);
    }
    let mut command = tools.cargo();
    command.args(&arguments).env("CARGO_ENCODED_RUSTFLAGS", places.rust_flags().join("\x1f"));
    for variable in ["CFLAGS", "CXXFLAGS"] {
        command.env(format!("{variable}_{}", TARGET.replace('-', "_")), places.c_flags().join(" "));
    }
    command.env("LIBSECCOMP_LINK_TYPE", "static");
    if env::var_os("LIBSECCOMP_LIB_PATH").is_none()
        && let Some(directory) = static_library("libseccomp.a")
    {
        command.env("LIBSECCOMP_LIB_PATH", directory);
    }
    let shown = format!("cargo {}", arguments.join(" "));
    let answer = run(command, &shown, &tools.cargo, progress)?;
    let programs = programs(&answer, &metadata, &shown)?;
    for package in packages {
        if !programs.iter().any(|program| program.package == *package) {
            let workspace = metadata.workspace_root.clone();
            return Err(CargoError::NoProgram { package: (*package).to_owned(), workspace });
        }
    }
    let programs = programs.into_iter().filter(|program| packages.contains(&program.package.as_str()));
    programs.map(|found| examine(found, &places)).collect()
}

/// The commands, and where they run.
struct Tools {
    cargo: String,
    rustc: String,
    directory: PathBuf,
}

impl Tools {
    fn find(workspace: &Path) -> Result<Self, CargoError> {
        let tool = |variable, otherwise: &str| env::var(variable).unwrap_or_else(|_| otherwise.to_owned());
        let directory = fs::canonicalize(workspace).map_err(StorageError::at(workspace))?;
        Ok(Self { cargo: tool("CARGO", "cargo"), rustc: tool("RUSTC", "rustc"), directory })
    }

    /// cargo, without what a caller's environment would make it do differently.
    fn cargo(&self) -> Command {
        const FOREIGN: [&str; 8] = [
            "CARGO_BUILD_",
            "CARGO_PROFILE_",
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_TARGET_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ];
        let mut command = Command::new(&self.cargo);
        command.current_dir(&self.directory);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if FOREIGN.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CFLAGS", "CXXFLAGS", "CARGO_INCREMENTAL"] {
            command.env_remove(name);
        }
        command
    }

    fn metadata(&self) -> Result<Metadata, CargoError> {
        let mut command = self.cargo();
        command.args(["metadata", "--locked", "--format-version=1", "--filter-platform", TARGET]);
        let shown = "cargo metadata --locked";
        let answer = run(command, shown, &self.cargo, &super::progress::silent)?;
        serde_json::from_str(&answer.concat()).map_err(|error| unexpected(shown, error.to_string()))
    }

    fn toolchain(&self) -> Result<Toolchain, CargoError> {
        let sysroot = PathBuf::from(self.rustc("--print=sysroot")?.trim());
        let version = self.rustc("-vV")?;
        let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
        Ok(Toolchain { sysroot, commit: commit.to_owned() })
    }

    fn rustc(&self, argument: &str) -> Result<String, CargoError> {
        let mut command = Command::new(&self.rustc);
        command.current_dir(&self.directory).arg(argument);
        let output = command.output().map_err(|source| CargoError::NotFound {
            program: self.rustc.clone(),
            variable: "RUSTC",
            source,
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Where the compiler is, and which.
struct Toolchain {
    sysroot: PathBuf,
    commit: String,
}

fn unexpected(command: &str, why: String) -> CargoError {
    CargoError::Unexpected { command: command.to_owned(), why }
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    workspace_root: PathBuf,
}

#[derive(Debug, Deserialize)]
struct MetadataPackage {
    id: String,
    name: String,
    version: String,
    manifest_path: PathBuf,
    source: Option<String>,
}

/// Directories of this machine, and the names they go by in programs. The later, longer ones win.
struct Places(Vec<(PathBuf, String)>);

impl Places {
    fn of(metadata: &Metadata, toolchain: Toolchain) -> Self {
        let mut places = BTreeMap::new();
        for package in &metadata.packages {
            // Registry crates lie side by side, in a directory named after whichever mirror they came from.
            let is_registry = package.source.as_ref().is_some_and(|source| !source.starts_with("git+"));
            if let Some(directory) =
                package.manifest_path.parent().and_then(Path::parent).filter(|_| is_registry)
            {
                places.insert(directory.to_owned(), "/cargo/registry".to_owned());
            }
        }
        let home = |variable: &str, default: &str| {
            let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
            named.or_else(|| env::home_dir().map(|home| home.join(default)))
        };
        if let Some(home) = home("CARGO_HOME", ".cargo") {
            places.entry(home).or_insert_with(|| "/cargo".to_owned());
        }
        let Toolchain { sysroot, commit } = toolchain;
        // With rust-src installed, the compiler turns the fixed names of the standard library's sources into these.
        places.insert(sysroot.join("lib/rustlib/src/rust"), format!("/rustc/{commit}"));
        places.insert(sysroot, "/rust".to_owned());
        places.insert(metadata.workspace_root.clone(), "/cairn".to_owned());
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort_by_key(|(path, _)| path.as_os_str().len());
        Self(places)
    }

    fn rust_flags(&self) -> Vec<String> {
        let maps = self.0.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
        ["-C", "target-feature=+crt-static"].map(str::to_owned).into_iter().chain(maps).collect()
    }

    fn c_flags(&self) -> Vec<String> {
        self.0.iter().map(|(path, name)| format!("-ffile-prefix-map={}={name}", path.display())).collect()
    }
}

/// The directory of a static system library.
fn static_library(name: &str) -> Option<&'static str> {
    let directories = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    directories.into_iter().find(|directory| Path::new(directory).join(name).exists())
}

/// Runs cargo; the answer is the lines of its standard output.
fn run(
    mut command: Command,
    shown: &str,
    program: &str,
    progress: &Progress<'_>,
) -> Result<Vec<String>, CargoError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let not_found = |source| CargoError::NotFound { program: program.to_owned(), variable: "CARGO", source };
    let mut child = command.spawn().map_err(not_found)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut last: Vec<String> = Vec::new();
    let answer = std::thread::scope(|scope| {
        let reader = scope.spawn(move || lines(stdout).collect::<Vec<_>>());
        for line in lines(stderr) {
            progress(Event::Cargo(&line));
            if last.len() == 20 {
                last.remove(0);
            }
            last.push(line);
        }
        reader.join().unwrap_or_default()
    });
    let status = child.wait().map_err(not_found)?;
    if status.success() {
        Ok(answer)
    } else {
        Err(CargoError::Failed { command: shown.to_owned(), status, last })
    }
}

fn lines(stream: Option<impl io::Read>) -> impl Iterator<Item = String> {
    let lines = stream.into_iter().flat_map(|stream| BufReader::new(stream).split(b'\n'));
    lines.map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned())
}

#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    target: Option<MessageTarget>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct MessageTarget {
    name: String,
}

/// A program cargo says it made, before it was looked at.
struct Found {
    name: String,
    package: String,
    version: String,
    path: PathBuf,
}

fn programs(answer: &[String], metadata: &Metadata, command: &str) -> Result<Vec<Found>, CargoError> {
    let mut programs = Vec::new();
    for line in answer.iter().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).map_err(|error| unexpected(command, error.to_string()))?;
        let (Some(path), Some(target)) = (message.executable, message.target) else { continue };
        if message.reason != "compiler-artifact" {
            continue;
        }
        let package = metadata
            .packages
            .iter()
            .find(|package| package.id == message.package_id)
            .ok_or_else(|| unexpected(command, format!("there is no package {}", message.package_id)))?;
        programs.push(Found {
            name: target.name,
            package: package.name.clone(),
            version: package.version.clone(),
            path,
        });
    }
    programs.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    Ok(programs)
}

fn examine(found: Found, places: &Places) -> Result<Program, CargoError> {
    let Found { name, package, version, path } = found;
    let bytes = fs::read(&path).map_err(StorageError::at(&path))?;
    for (place, _) in &places.0 {
        let needle = format!("{}/", place.display());
        if let Some(start) = find(&bytes, needle.as_bytes()) {
            let end =
                bytes[start..].iter().take(200).position(|byte| !byte.is_ascii_graphic()).unwrap_or(200);
            let leak = String::from_utf8_lossy(&bytes[start..(start + end).min(bytes.len())]).into_owned();
            return Err(CargoError::HostPath { program: path, path: leak });
        }
    }
    let digest = Sha256Digest::new(Sha256::digest(&bytes).into());
    Ok(Program { name, package, version, path, digest, size: bytes.len() as u64 })
}

/// Where `needle` begins in `bytes`.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(offset) = bytes.get(from..)?.iter().position(|&byte| byte == first) {
        let start = from + offset;
        if bytes[start..].starts_with(needle) {
            return Some(start);
        }
        from = start + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_place_is_mapped_last() {
        let metadata = Metadata {
            packages: vec![MetadataPackage {
                id: String::new(),
                name: "a".to_owned(),
                version: "1".to_owned(),
                manifest_path: "/w/.cargo/registry/src/mirror-1/a-1/Cargo.toml".into(),
                source: Some("registry+https://x".to_owned()),
            }],
            workspace_root: "/w".into(),
        };
        let toolchain = Toolchain { sysroot: "/rust/1".into(), commit: "abc".to_owned() };
        let places = Places::of(&metadata, toolchain);
        let flags = places.rust_flags();
        let position = |flag: &str| flags.iter().position(|other| other == flag).unwrap();
        assert!(
            position("--remap-path-prefix=/w=/cairn")
                < position("--remap-path-prefix=/w/.cargo/registry/src/mirror-1=/cargo/registry")
        );
        assert!(flags.iter().any(|flag| flag.ends_with("/rust/1/lib/rustlib/src/rust=/rustc/abc")));
    }

    #[test]
    fn a_leaked_path_is_found_and_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        fs::write(&path, b"\0//home/me/cairn/src/x.rs\0rest").unwrap();
        let found = || Found {
            name: "p".to_owned(),
            package: "p".to_owned(),
            version: "1".to_owned(),
            path: path.clone(),
        };
        let places = |place: &str| Places(vec![(place.into(), "/cairn".to_owned())]);
        let error = examine(found(), &places("/home/me/cairn")).unwrap_err();
        assert!(error.to_string().contains("/home/me/cairn/src/x.rs"), "{error}");
        assert_eq!(examine(found(), &places("/home/you")).unwrap().size, 30);
    }

    #[test]
    fn a_missing_cargo_is_named() {
        let tools = Tools { cargo: "/nowhere/cargo".to_owned(), rustc: String::new(), directory: "/".into() };
        let error = tools.metadata().unwrap_err().to_string();
        assert!(error.contains("/nowhere/cargo") && error.contains("CARGO"), "{error}");
    }
}
