//! From files to a [`Profile`]: read, follow `extends`, merge, and only then type-check.
//!
//! Checking the merged whole means that one piece of code reports every mistake, whichever file it stands in;
//! each value carries its [`Origin`](document::Origin) through the merge, so the report names the right place.
//! The program's defaults are the lowest layer, so that a list can be edited even when no file set it.

mod decode;
mod document;
mod error;
mod merge;
mod suggest;

pub use error::{Diagnostic, ProfileError};

use super::model::Profile;
use super::value::{HostPath, ProfileName};
use document::{Data, Located, Origin, Source, Table};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// A profile with everything it inherits, and where each key came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The profile.
    pub profile: Profile,
    /// Folder of the profile's files; [`HostPath`]s are relative to it.
    pub directory: PathBuf,
    sources: Vec<Source>,
    tree: Table,
}

/// Where the value of one key was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOrigin {
    /// In no file: the default.
    Default,
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
}

impl Resolved {
    /// Reads the profile in the file `path` and all it inherits.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let mut reader = Chain { directory: parent(path), sources: Vec::new(), names: Vec::new() };
        let leaf_name = stem(path);
        let mut layers = vec![reader.read(path.to_owned(), None)?];
        while let Some((name, origin)) = reader.take_extends(layers.last_mut())? {
            reader.enter(&name, origin)?;
            let parent = reader.directory.join(format!("{name}.toml"));
            let mut layer = reader.read(parent, Some((name.as_str(), origin)))?;
            layer.remove("name");
            layers.push(layer);
        }
        resolve(layers, reader.sources, reader.directory, &leaf_name)
    }

    /// Reads a profile that stands in memory and inherits nothing. `name` plays the part of its file's name.
    pub fn from_text(name: &str, text: &str) -> Result<Self, ProfileError> {
        let mut sources = Vec::new();
        let layer = parse(&mut sources, PathBuf::from(format!("{name}.toml")), text.to_owned())?;
        resolve(vec![layer], sources, PathBuf::new(), name)
    }

    /// The path on this machine that `path` means.
    pub fn host_path(&self, path: &HostPath) -> PathBuf {
        self.directory.join(path.as_str())
    }

    /// The files the profile was read from, the profile's own first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(|source| source.path.as_path())
    }

    /// Where the value at the key `parts` was set: of a list all places, of anything else one.
    pub fn origins(&self, parts: &[&str]) -> Vec<KeyOrigin> {
        let Some((last, tables)) = parts.split_last() else { return vec![KeyOrigin::Default] };
        let mut table = &self.tree;
        for part in tables {
            match table.get(*part).map(|member| &member.value.data) {
                Some(Data::Table(inner)) => table = inner,
                _ => return vec![KeyOrigin::Default],
            }
        }
        let Some(member) = table.get(*last) else { return vec![KeyOrigin::Default] };
        let mut origins = vec![self.key_origin(member.key)];
        if let Data::Array(items) = &member.value.data {
            for item in items {
                let origin = self.key_origin(item.origin);
                let same_file = |known: &KeyOrigin| match (known, &origin) {
                    (KeyOrigin::File { path: a, .. }, KeyOrigin::File { path: b, .. }) => a == b,
                    (a, b) => a == b,
                };
                if !origins.iter().any(same_file) {
                    origins.push(origin);
                }
            }
        }
        origins
    }

    fn key_origin(&self, origin: Origin) -> KeyOrigin {
        match origin {
            Origin::Default => KeyOrigin::Default,
            Origin::File { source, start, .. } => {
                let source = &self.sources[source];
                KeyOrigin::File {
                    path: source.path.clone(),
                    line: error::Place::find(&source.text, start).line,
                }
            }
        }
    }
}

/// The file of the profile that a user names: a path (with `/` or `.toml`), or a name in the folder `profiles`.
pub fn locate(argument: &str) -> PathBuf {
    if argument.contains('/') || argument.ends_with(".toml") {
        PathBuf::from(argument)
    } else {
        Path::new("profiles").join(format!("{argument}.toml"))
    }
}

/// A chain of `extends` being followed.
struct Chain {
    directory: PathBuf,
    sources: Vec<Source>,
    names: Vec<String>,
}

impl Chain {
    /// Reads and parses a file. `wanted_by` is the `extends` that names it, if one does.
    fn read(&mut self, path: PathBuf, wanted_by: Option<(&str, Origin)>) -> Result<Table, ProfileError> {
        let text = std::fs::read_to_string(&path).map_err(|source| match (source.kind(), wanted_by) {
            (std::io::ErrorKind::NotFound, Some((name, origin))) => ProfileError::Text(Diagnostic::new(
                &self.sources,
                origin,
                "extends",
                format!("there is no profile {}", path.display()),
                alternatives(&self.directory, name),
            )),
            (std::io::ErrorKind::NotFound, None) => ProfileError::Missing {
                help: alternatives(&self.directory, &stem(&path)),
                path: path.clone(),
            },
            _ => ProfileError::Read { path: path.clone(), source },
        })?;
        if self.names.is_empty() {
            self.names.push(stem(&path));
        }
        parse(&mut self.sources, path, text)
    }

    /// Takes `extends` out of a layer.
    fn take_extends(&self, layer: Option<&mut Table>) -> Result<Option<(ProfileName, Origin)>, ProfileError> {
        let Some(member) = layer.and_then(|layer| layer.remove("extends")) else { return Ok(None) };
        let origin = member.value.origin;
        match ProfileName::deserialize(&member.value) {
            Ok(name) => Ok(Some((name, origin))),
            Err(error) => Err(ProfileError::Text(Diagnostic::new(
                &self.sources,
                origin,
                "extends",
                error.message,
                error.help,
            ))),
        }
    }

    /// Notes that the chain goes on with `name`, or refuses because it has been there.
    fn enter(&mut self, name: &ProfileName, origin: Origin) -> Result<(), ProfileError> {
        let back = self.names.iter().position(|seen| seen == name.as_str());
        self.names.push(name.to_string());
        let Some(first) = back else { return Ok(()) };
        let chain = self.names.split_off(first);
        let message = format!("profiles extend each other in a circle: {}", chain.join(" → "));
        let help = Some("take one `extends` out".to_owned());
        Err(ProfileError::Cycle {
            at: Diagnostic::new(&self.sources, origin, "extends", message, help),
            chain,
        })
    }
}

fn parse(sources: &mut Vec<Source>, path: PathBuf, text: String) -> Result<Table, ProfileError> {
    let index = sources.len();
    sources.push(Source { path, text });
    let text = &sources[index].text;
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let origin = Origin::File { source: index, start: span.start, end: span.end };
        ProfileError::Text(Diagnostic::new(
            sources,
            origin,
            "",
            format!("not TOML: {}", error.message()),
            None,
        ))
    })?;
    document::from_file(table.get_ref(), index).map_err(|unsupported| {
        ProfileError::Text(Diagnostic::new(
            sources,
            unsupported.origin,
            "",
            unsupported.message.to_owned(),
            None,
        ))
    })
}

/// Lays the layers (the most particular first) over the defaults and makes a typed profile of the result.
fn resolve(
    layers: Vec<Table>,
    sources: Vec<Source>,
    directory: PathBuf,
    leaf_name: &str,
) -> Result<Resolved, ProfileError> {
    let mut tree = defaults();
    for layer in layers.into_iter().rev() {
        merge::merge(&mut tree, layer, "").map_err(|error| {
            ProfileError::Text(Diagnostic::new(&sources, error.origin, &error.key, error.message, error.help))
        })?;
    }
    let top = Located { data: Data::Table(tree), origin: Origin::File { source: 0, start: 0, end: 0 } };
    let profile = Profile::deserialize(&top).map_err(|error| {
        let origin = error.origin.unwrap_or(top.origin);
        ProfileError::Text(Diagnostic::new(&sources, origin, &error.key, error.message, error.help))
    })?;
    let Data::Table(tree) = top.data else { unreachable!("the top was made a table above") };
    if profile.name.as_str() != leaf_name {
        let origin = tree.get("name").map_or(Origin::Default, |member| member.value.origin);
        let message = format!("the profile in {leaf_name}.toml is called `{}`", profile.name);
        let help = Some("lock and output are found by name, so file and name must be equal".to_owned());
        return Err(ProfileError::Text(Diagnostic::new(&sources, origin, "name", message, help)));
    }
    Ok(Resolved { profile, directory, sources, tree })
}

/// The lowest layer: what a profile is that says nothing. It has no name.
#[allow(clippy::expect_used)]
fn defaults() -> Table {
    let name: ProfileName = "defaults".parse().expect("a default in the source has its type's form");
    let value = toml::Value::try_from(Profile::named(name)).expect("a profile can be written as TOML");
    match document::from_defaults(value).data {
        Data::Table(mut table) => {
            table.remove("name");
            table
        }
        _ => Table::new(),
    }
}

/// Names the profile that was probably meant, or all there are.
fn alternatives(directory: &Path, name: &str) -> Option<String> {
    let folder = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| stem(&path))
        .collect();
    names.sort();
    match suggest::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => Some(suggest::did_you_mean(near)),
        None if names.is_empty() => Some(format!("there are no profiles in {}", folder.display())),
        None => Some(format!("there are {}", names.join(", "))),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

#[cfg(test)]
mod tests;
