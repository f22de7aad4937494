//! From the packages that are wanted to all that must be there: the closure over `Pre-Depends` and `Depends`.
//!
//! What is wanted is chosen first. Then each dependency that nothing chosen satisfies takes its first alternative
//! that can be had together with what that one needs in turn, as apt does; recommendations are never followed.
//! An excluded package counts as installed: nothing asks for it, and nothing it needs is brought in.

use super::{
    index::{Index, Package},
    relation::{self, Relation},
};
use std::collections::{BTreeMap, BTreeSet};

/// What to resolve.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// Package names; a virtual name only when exactly one package provides it.
    pub wanted: &'r [String],
    /// Packages that are taken as satisfied but left out.
    pub excluded: &'r BTreeSet<String>,
    /// Whether all packages marked essential are wanted too, as on a full Debian system.
    pub essential: bool,
    /// Debian's name of the architecture.
    pub architecture: &'r str,
}

/// The closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution<'i> {
    /// By name.
    pub packages: Vec<&'i Package>,
    /// Pairs that declare a conflict. Nothing was done about them: an image is not upgraded in place, and what
    /// matters, two packages with one path, is seen when trees are merged.
    pub conflicts: Vec<Conflict>,
}

/// One package that should not be there with another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The package that says so.
    pub package: String,
    /// What it says.
    pub relation: String,
    /// The other one.
    pub with: String,
}

/// Why there is no closure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// A name that is in no index.
    #[error("there is no package `{name}` in the suites{}", suggestion(.similar))]
    Unknown {
        /// The name.
        name: String,
        /// A name that is there and looks like it.
        similar: Option<String>,
    },
    /// A name that several packages provide.
    #[error("`{name}` is a virtual package: name one that provides it, {}", .providers.join(" or "))]
    Virtual {
        /// The name.
        name: String,
        /// Who provides it.
        providers: Vec<String>,
    },
    /// A package that is both wanted and excluded.
    #[error("package `{name}` is both wanted and dropped: remove it from one of the lists")]
    Contradiction {
        /// The name.
        name: String,
    },
    /// A dependency nothing satisfies.
    #[error("{}: nothing in the suites satisfies the dependency on {dependency}", .path.join(" needs "))]
    Unsatisfiable {
        /// The wanted package and what leads to the one with the dependency.
        path: Vec<String>,
        /// The alternatives.
        dependency: String,
    },
    /// A malformed field.
    #[error("package `{package}`: {why}")]
    Malformed {
        /// The package.
        package: String,
        /// What is wrong with it.
        why: String,
    },
}

fn suggestion(similar: &Option<String>) -> String {
    similar.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Resolves.
///
/// # Errors
/// A package or dependency cannot be had; the first one met.
pub fn resolve<'i>(index: &'i Index, request: Request<'_>) -> Result<Resolution<'i>, ResolveError> {
    let mut search =
        Search { index, request, chosen: BTreeMap::new(), order: Vec::new(), provided: BTreeSet::new() };
    for name in request.excluded {
        search.provided.extend(index.names_provided_by(name));
    }
    let mut roots = Vec::new();
    for name in request.wanted {
        roots.push(search.root(name)?);
    }
    if request.essential {
        let mut essential: Vec<_> = index
            .packages()
            .iter()
            .filter(|package| package.essential && !request.excluded.contains(&*package.name))
            .collect();
        essential.sort_by(|a, b| a.name.cmp(&b.name));
        roots.extend(essential);
    }
    for package in &roots {
        search.choose(package);
    }
    for package in roots {
        search.complete(package, &mut vec![package.name.to_string()])?;
    }
    let packages: Vec<_> = search.chosen.into_values().collect();
    let conflicts = conflicts(index, &packages, request.architecture)?;
    Ok(Resolution { packages, conflicts })
}

struct Search<'i, 'r> {
    index: &'i Index,
    request: Request<'r>,
    chosen: BTreeMap<&'i str, &'i Package>,
    /// The names chosen, in order, to undo a choice that led nowhere.
    order: Vec<&'i str>,
    /// What excluded packages provide.
    provided: BTreeSet<&'i str>,
}

impl<'i> Search<'i, '_> {
    fn root(&self, name: &str) -> Result<&'i Package, ResolveError> {
        if self.request.excluded.contains(name) {
            return Err(ResolveError::Contradiction { name: name.to_owned() });
        }
        if let Some(package) = self.index.get(name) {
            return Ok(package);
        }
        let providers: BTreeMap<_, _> =
            self.index.providers(name).map(|(package, _)| (&*package.name, package)).collect();
        let mut all = providers.values();
        match (all.next(), all.next()) {
            (Some(package), None) => Ok(package),
            (Some(_), Some(_)) => Err(ResolveError::Virtual {
                name: name.to_owned(),
                providers: providers.keys().map(|&name| name.to_owned()).collect(),
            }),
            (None, _) => {
                Err(ResolveError::Unknown { name: name.to_owned(), similar: similar(self.index, name) })
            }
        }
    }

    fn choose(&mut self, package: &'i Package) {
        if self.chosen.insert(&package.name, package).is_none() {
            self.order.push(&package.name);
        }
    }

    /// Chooses all that `package` needs. On failure what was chosen here is undone.
    fn complete(&mut self, package: &'i Package, path: &mut Vec<String>) -> Result<(), ResolveError> {
        let depends = package
            .depends(self.request.architecture)
            .map_err(|why| ResolveError::Malformed { package: package.name.to_string(), why })?;
        let mark = self.order.len();
        for alternatives in &depends {
            if alternatives.iter().any(|relation| self.is_satisfied(relation)) {
                continue;
            }
            if let Err(error) = self.satisfy(alternatives, path) {
                for name in self.order.drain(mark..) {
                    self.chosen.remove(name);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn satisfy(&mut self, alternatives: &[Relation], path: &mut Vec<String>) -> Result<(), ResolveError> {
        let mut deepest: Option<ResolveError> = None;
        for relation in alternatives {
            for candidate in self.candidates(relation) {
                let mark = self.order.len();
                self.choose(candidate);
                path.push(candidate.name.to_string());
                let completed = self.complete(candidate, path);
                path.pop();
                match completed {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        for name in self.order.drain(mark..) {
                            self.chosen.remove(name);
                        }
                        deepest.get_or_insert(error);
                    }
                }
            }
        }
        Err(deepest.unwrap_or_else(|| ResolveError::Unsatisfiable {
            path: path.clone(),
            dependency: relation::describe(alternatives),
        }))
    }

    fn is_satisfied(&self, relation: &Relation) -> bool {
        let name = &*relation.name;
        self.request.excluded.contains(name)
            || self.provided.contains(name)
            || self.chosen.get(name).is_some_and(|package| relation.admits(&package.version))
            || self.index.providers(name).any(|(package, version)| {
                self.chosen.contains_key(&*package.name) && relation.admits_provided(version)
            })
    }

    /// Packages that would satisfy it, best first: the package of that name, then those that provide it.
    fn candidates(&self, relation: &Relation) -> Vec<&'i Package> {
        let named = self.index.get(&relation.name).filter(|package| relation.admits(&package.version));
        let providers = self
            .index
            .providers(&relation.name)
            .filter(|(_, version)| relation.admits_provided(*version))
            .map(|(package, _)| package);
        named.into_iter().chain(providers).collect()
    }
}

fn conflicts(
    index: &Index,
    packages: &[&Package],
    architecture: &str,
) -> Result<Vec<Conflict>, ResolveError> {
    let chosen: BTreeMap<&str, &Package> =
        packages.iter().map(|package| (&*package.name, *package)).collect();
    let mut found = Vec::new();
    for package in packages {
        let relations = package
            .conflicts(architecture)
            .map_err(|why| ResolveError::Malformed { package: package.name.to_string(), why })?;
        for relation in relations.iter().flatten() {
            let named = chosen.get(&*relation.name).copied().filter(|other| relation.admits(&other.version));
            let providers = index
                .providers(&relation.name)
                .filter(|(other, version)| {
                    chosen.contains_key(&*other.name) && relation.admits_provided(*version)
                })
                .map(|(other, _)| other);
            for other in named.into_iter().chain(providers).filter(|other| other.name != package.name) {
                found.push(Conflict {
                    package: package.name.to_string(),
                    relation: relation.to_string(),
                    with: other.name.to_string(),
                });
            }
        }
    }
    Ok(found)
}

fn similar(index: &Index, name: &str) -> Option<String> {
    let scored =
        index.packages().iter().map(|package| (strsim::jaro_winkler(name, &package.name), &package.name));
    scored
        .filter(|(score, _)| *score > 0.9)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, name)| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::{super::index::tests::index, *};

    fn names(index: &Index, wanted: &[&str], excluded: &[&str]) -> Result<String, ResolveError> {
        let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
        let excluded = excluded.iter().map(ToString::to_string).collect();
        let request =
            Request { wanted: &wanted, excluded: &excluded, essential: false, architecture: "amd64" };
        let resolution = resolve(index, request)?;
        Ok(resolution.packages.iter().map(|package| &*package.name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_closure_follows_both_kinds_of_dependency_and_cycles() {
        let index = index(&[
            ("a", "1", "Pre-Depends: b\nDepends: c (>= 2), missing | d\nRecommends: r"),
            ("b", "1", "Depends: a"),
            ("c", "2", ""),
            ("d", "1", "Provides: v (= 3)"),
            ("e", "1", "Depends: v (>= 3)"),
            ("r", "1", ""),
        ]);
        assert_eq!(names(&index, &["a"], &[]).unwrap(), "a b c d");
        assert_eq!(names(&index, &["e"], &[]).unwrap(), "d e");
        assert_eq!(names(&index, &["v"], &[]).unwrap(), "d");
    }

    #[test]
    fn what_is_chosen_already_is_preferred_and_dead_ends_are_left() {
        let index = index(&[
            ("a", "1", "Depends: x | y"),
            ("x", "1", "Depends: z, missing"),
            ("y", "1", ""),
            ("z", "1", ""),
            ("b", "1", "Depends: z | y"),
        ]);
        assert_eq!(names(&index, &["a"], &[]).unwrap(), "a y", "x cannot be had, and z is not left behind");
        assert_eq!(names(&index, &["b", "y"], &[]).unwrap(), "b y", "y is wanted anyway");
    }

    #[test]
    fn excluded_packages_and_what_they_provide_count_as_there() {
        let index = index(&[
            ("a", "1", "Depends: perl (>= 5), cfg (>= 0.5) | cfg-2, cfg-2"),
            ("perl", "4", "Depends: huge"),
            ("cfg", "1", "Provides: cfg-2"),
            ("huge", "1", ""),
        ]);
        assert_eq!(names(&index, &["a"], &["perl", "cfg"]).unwrap(), "a");
        assert_eq!(
            names(&index, &["perl"], &["perl"]),
            Err(ResolveError::Contradiction { name: "perl".to_owned() })
        );
    }

    #[test]
    fn errors_say_who_needs_what() {
        let index = index(&[
            ("systemd", "1", "Depends: lib"),
            ("lib", "1", "Depends: core (>= 2) | other"),
            ("core", "1", ""),
            ("m1", "1", "Provides: mta"),
            ("m2", "1", "Provides: mta"),
        ]);
        let message = |name: &str| names(&index, &[name], &[]).unwrap_err().to_string();
        assert_eq!(
            message("systemd"),
            "systemd needs lib: nothing in the suites satisfies the dependency on core (>= 2) | other"
        );
        assert_eq!(message("sytemd"), "there is no package `sytemd` in the suites; did you mean `systemd`?");
        assert_eq!(message("mta"), "`mta` is a virtual package: name one that provides it, m1 or m2");
    }

    #[test]
    fn conflicts_are_told_but_do_not_matter() {
        let index = index(&[("a", "1", "Conflicts: b (<< 2), v"), ("b", "1", "Provides: v"), ("c", "1", "")]);
        let wanted = ["a".to_owned(), "b".to_owned()];
        let request =
            Request { wanted: &wanted, excluded: &BTreeSet::new(), essential: false, architecture: "amd64" };
        let told = resolve(&index, request).unwrap().conflicts;
        assert_eq!(told.iter().map(|conflict| &*conflict.relation).collect::<Vec<_>>(), ["b (<< 2)", "v"]);
    }
}
