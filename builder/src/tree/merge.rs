//! Laying one tree over another.
//!
//! Debian's tree is merged-/usr: `/bin`, `/sbin`, `/lib` and `/lib64` are links into `/usr`. A package that
//! still ships `/lib/x` means `/usr/lib/x`, so what is laid over such a link goes where the link leads.
//! Two packages that ship the same file are an error, as dpkg has it; our own files may replace a package's.

use super::{Entries, Kind, Node};

/// What happens when both sides have a file of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// An error, unless the two are equal.
    Refuse,
    /// The upper one is taken.
    Replace,
}

/// Both sides have something at this path, and they differ.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`/{path}` comes from `{upper}` and, different, from an earlier source; exclude one of the two or drop the file"
)]
pub struct Conflict {
    /// Path in the tree.
    pub path: String,
    /// Name of the source laid over.
    pub upper: String,
}

/// Lays `upper` over `root`. Directories are merged, the upper one's ownership and mode win.
///
/// # Errors
/// [`Conflict`] for the first file that both have, under [`Overlap::Refuse`].
pub fn merge(root: &mut Node, upper: Node, name: &str, overlap: Overlap) -> Result<(), Conflict> {
    let Kind::Directory(entries) = upper.kind else {
        return Err(Conflict { path: String::new(), upper: name.to_owned() });
    };
    let mut aliased: Vec<(Vec<u8>, Node)> = Vec::new();
    let mut direct = Entries::new();
    for (entry, node) in entries {
        let link = root.entries().and_then(|e| e.get(&entry)).map(|n| &n.kind);
        match (link, &node.kind) {
            (Some(Kind::Symlink(target)), Kind::Directory(_)) => aliased.push((target.clone(), node)),
            _ => {
                direct.insert(entry, node);
            }
        }
    }
    for (target, node) in aliased {
        let at: Vec<u8> = target.strip_prefix(b"/").unwrap_or(&target).to_vec();
        let mut wrapped = Node::directory();
        // The alias's own directory says nothing about the place it leads to.
        let keep = root.get(&at).map(|n| n.meta.clone());
        let node = Node { meta: keep.unwrap_or_else(|| node.meta.clone()), kind: node.kind };
        wrapped.insert(&at, node).map_err(|_| Conflict { path: lossy(&at), upper: name.to_owned() })?;
        into(root, wrapped, &mut Vec::new(), name, overlap)?;
    }
    let meta = root.meta.clone();
    into(root, Node { meta, kind: Kind::Directory(direct) }, &mut Vec::new(), name, overlap)
}

fn into(
    lower: &mut Node,
    upper: Node,
    path: &mut Vec<u8>,
    name: &str,
    overlap: Overlap,
) -> Result<(), Conflict> {
    match (&mut lower.kind, upper.kind) {
        (Kind::Directory(below), Kind::Directory(above)) => {
            lower.meta = upper.meta;
            for (entry, node) in above {
                match below.get_mut(&entry) {
                    None => {
                        below.insert(entry, node);
                    }
                    Some(existing) => {
                        let length = path.len();
                        path.push(b'/');
                        path.extend_from_slice(&entry);
                        into(existing, node, path, name, overlap)?;
                        path.truncate(length);
                    }
                }
            }
            Ok(())
        }
        (_, kind) => {
            let upper = Node { meta: upper.meta, kind };
            if overlap == Overlap::Refuse && *lower != upper {
                let path = lossy(path.strip_prefix(b"/").unwrap_or(path));
                return Err(Conflict { path, upper: name.to_owned() });
            }
            *lower = upper;
            Ok(())
        }
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Node {
        let mut root = Node::directory();
        for (path, text) in files {
            let node = match text.strip_prefix("-> ") {
                Some(target) => Node::symlink(target),
                None => Node::file(0o644, text.as_bytes()),
            };
            root.insert(path, node).unwrap();
        }
        root
    }

    #[test]
    fn directories_merge_and_aliases_are_followed() {
        let mut root = tree(&[("lib", "-> usr/lib"), ("usr/lib/a", "1")]);
        merge(&mut root, tree(&[("lib/b", "2"), ("usr/lib/c", "3")]), "p", Overlap::Refuse).unwrap();
        assert_eq!(
            root,
            tree(&[("lib", "-> usr/lib"), ("usr/lib/a", "1"), ("usr/lib/b", "2"), ("usr/lib/c", "3")])
        );
    }

    #[test]
    fn a_differing_file_is_a_conflict_unless_it_may_replace() {
        let mut root = tree(&[("etc/a", "1")]);
        let upper = tree(&[("etc/a", "2")]);
        let conflict = merge(&mut root, upper.clone(), "p", Overlap::Refuse).unwrap_err();
        assert_eq!(conflict, Conflict { path: "etc/a".into(), upper: "p".into() });
        merge(&mut root, upper.clone(), "p", Overlap::Replace).unwrap();
        assert_eq!(root, upper);
    }
}
