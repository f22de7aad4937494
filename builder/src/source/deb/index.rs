//! The packages that are to be had: the indexes of several suites merged, the latest version of each.

use super::{
    control::{self, Paragraph, SyntaxError},
    relation::{self, Operator, Relations},
    version::Version,
};
use cairn_contract::digest::Sha256Digest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, hash_map::Entry};

/// Which of a mirror's two archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// The suite and its updates.
    Main,
    /// Its security suite.
    Security,
}

/// One version of one binary package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: Box<str>,
    /// Version.
    pub version: Version,
    /// `amd64` or `all`.
    pub architecture: Box<str>,
    /// Name of the source package.
    pub source: Box<str>,
    /// Path of the .deb below the archive's URI.
    pub filename: Box<str>,
    /// Bytes of the .deb.
    pub size: u64,
    /// SHA-256 of the .deb.
    pub digest: Sha256Digest,
    /// Whether every Debian system has it.
    pub essential: bool,
    /// Which archive has it.
    pub area: Area,
    priority: u8,
    depends: Box<str>,
    conflicts: Box<str>,
    provides: Box<str>,
}

impl Package {
    /// What must be there with it: `Pre-Depends` and `Depends`, in this order.
    ///
    /// # Errors
    /// The field is malformed.
    pub fn depends(&self, architecture: &str) -> Result<Relations, String> {
        relation::parse(&self.depends, architecture)
    }

    /// What should not be there with it: `Conflicts` and `Breaks`.
    ///
    /// # Errors
    /// The field is malformed.
    pub fn conflicts(&self, architecture: &str) -> Result<Relations, String> {
        relation::parse(&self.conflicts, architecture)
    }
}

/// Every package's latest version.
#[derive(Debug, Default)]
pub struct Index {
    packages: Vec<Package>,
    by_name: HashMap<Box<str>, usize>,
    providers: HashMap<Box<str>, Vec<(usize, Option<Version>)>>,
}

impl Index {
    /// Reads package indexes of one architecture: name for errors, text, and where its files are.
    ///
    /// Of one version in two of them, the first is taken.
    ///
    /// # Errors
    /// A paragraph is malformed.
    pub fn read<'t>(
        indexes: impl IntoIterator<Item = (&'t str, &'t str, Area)>,
        architecture: &str,
    ) -> Result<Self, SyntaxError> {
        let mut index = Self::default();
        for (file, text, area) in indexes {
            for paragraph in control::paragraphs(file, text) {
                index.add(package(&paragraph?, file, area)?);
            }
        }
        for (position, package) in index.packages.iter().enumerate() {
            let provided = relation::parse(&package.provides, architecture).map_err(|why| SyntaxError {
                file: format!("package {} {}", package.name, package.version),
                line: 1,
                why,
            })?;
            for relation in provided.into_iter().flatten() {
                let version = match relation.constraint {
                    Some((Operator::Equal, version)) => Some(version),
                    _ => None,
                };
                index.providers.entry(relation.name).or_default().push((position, version));
            }
        }
        let (packages, providers) = (&index.packages, &mut index.providers);
        for list in providers.values_mut() {
            // apt's preference among providers: essential ones, then by priority; the name decides the rest.
            list.sort_by_key(|&(position, _)| {
                let package = &packages[position];
                (!package.essential, package.priority, package.name.clone())
            });
        }
        Ok(index)
    }

    fn add(&mut self, package: Package) {
        match self.by_name.entry(package.name.clone()) {
            Entry::Occupied(entry) => {
                let held = &mut self.packages[*entry.get()];
                if package.version > held.version {
                    *held = package;
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(self.packages.len());
                self.packages.push(package);
            }
        }
    }

    /// The package of this name.
    pub fn get(&self, name: &str) -> Option<&Package> {
        self.by_name.get(name).map(|&position| &self.packages[position])
    }

    /// Packages that provide this name, best first, with the version they provide it as.
    pub fn providers(&self, name: &str) -> impl Iterator<Item = (&Package, Option<&Version>)> {
        let list = self.providers.get(name).map_or(&[][..], Vec::as_slice);
        list.iter().map(|(position, version)| (&self.packages[*position], version.as_ref()))
    }

    /// The names that the package of this name provides.
    pub fn names_provided_by(&self, package: &str) -> Vec<&str> {
        let Some(&position) = self.by_name.get(package) else { return Vec::new() };
        let provides = |list: &Vec<(usize, _)>| list.iter().any(|&(provider, _)| provider == position);
        self.providers.iter().filter(|(_, list)| provides(list)).map(|(name, _)| &**name).collect()
    }

    /// All packages, in no order of meaning.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }
}

fn package(paragraph: &Paragraph<'_>, file: &str, area: Area) -> Result<Package, SyntaxError> {
    // One pass over about thirty fields instead of a search for each of ours.
    let mut fields = BTreeMap::new();
    for field in &paragraph.fields {
        fields.insert(field.name, field.value);
    }
    let require = |name: &str| match fields.get(name) {
        Some(&value) => Ok(value),
        None => paragraph.require(name, file),
    };
    let optional = |name: &str| fields.get(name).copied().unwrap_or_default();
    let both = |a: &str, b: &str| match (optional(a), optional(b)) {
        ("", one) | (one, "") => one.into(),
        (a, b) => format!("{a}, {b}").into_boxed_str(),
    };
    let name = require("Package")?;
    let field = |name: &str| paragraph.field(name).map_or(1, |field| field.line);
    let error = |of: &str, why: String| SyntaxError { file: file.to_owned(), line: field(of), why };
    let source = optional("Source");
    let filename = require("Filename")?;
    if filename.starts_with('/') || filename.split('/').any(|part| part == "..") {
        return Err(error("Filename", format!("`{filename}` leads out of the archive")));
    }
    Ok(Package {
        name: name.into(),
        version: require("Version")?.parse().map_err(|why| error("Version", format!("{why}")))?,
        architecture: require("Architecture")?.into(),
        source: source.split_once(' ').map_or(source, |(source, _)| source).if_empty(name).into(),
        filename: filename.into(),
        size: require("Size")?.parse().map_err(|why| error("Size", format!("{why}")))?,
        digest: format!("sha256:{}", require("SHA256")?)
            .parse()
            .map_err(|why| error("SHA256", format!("{why}")))?,
        essential: optional("Essential") == "yes",
        area,
        priority: ["required", "important", "standard", "optional"]
            .iter()
            .position(|&known| known == optional("Priority"))
            .map_or(4, |position| position as u8),
        depends: both("Pre-Depends", "Depends"),
        conflicts: both("Conflicts", "Breaks"),
        provides: optional("Provides").into(),
    })
}

trait IfEmpty {
    fn if_empty<'t>(&'t self, other: &'t str) -> &'t str;
}

impl IfEmpty for str {
    fn if_empty<'t>(&'t self, other: &'t str) -> &'t str {
        if self.is_empty() { other } else { self }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// An index of packages written as `name version` and further fields.
    pub(in super::super) fn index(packages: &[(&str, &str, &str)]) -> Index {
        Index::read([("Packages", text(packages).as_str(), Area::Main)], "amd64").unwrap()
    }

    fn text(packages: &[(&str, &str, &str)]) -> String {
        let mut text = String::new();
        for (name, version, more) in packages {
            let digest = "ab".repeat(32);
            write!(
                text,
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/{name}.deb\n\
                 Size: 1\nSHA256: {digest}\n{more}\n\n"
            )
            .unwrap();
        }
        text
    }

    #[test]
    fn the_latest_version_wins_whatever_the_order() {
        let (old, new) = (text(&[("a", "1-1", "")]), text(&[("a", "1-1+deb13u1", "Source: s (1-1)")]));
        for order in
            [[(&old, Area::Main), (&new, Area::Security)], [(&new, Area::Security), (&old, Area::Main)]]
        {
            let index =
                Index::read(order.map(|(text, area)| ("Packages", text.as_str(), area)), "amd64").unwrap();
            let package = index.get("a").unwrap();
            assert_eq!((package.version.as_str(), package.area), ("1-1+deb13u1", Area::Security));
            assert_eq!(&*package.source, "s");
        }
    }

    #[test]
    fn a_malformed_field_is_named() {
        let text = text(&[("a", "1", "")]).replace("Size: 1", "Size: many");
        let error = Index::read([("Packages", text.as_str(), Area::Main)], "amd64").unwrap_err();
        assert_eq!((error.file.as_str(), error.line), ("Packages", 5));
        let text = text.replace("Size: many", "Size: 1").replace("pool/", "../");
        assert!(Index::read([("Packages", text.as_str(), Area::Main)], "amd64").is_err());
    }
}
