//! Making nodes and finding them by path. Paths are relative, `/`-separated, as bytes: `usr/bin/mount`.

use super::{Content, Entries, Kind, Metadata, Node};
use std::{collections::BTreeMap, sync::Arc};

impl Metadata {
    /// Owned by root, without attributes.
    pub fn root(mode: u16) -> Self {
        Self { mode, uid: 0, gid: 0, xattrs: BTreeMap::new() }
    }
}

impl Node {
    /// An empty directory, root's, mode 0755.
    pub fn directory() -> Self {
        Self { meta: Metadata::root(0o755), kind: Kind::Directory(Entries::new()) }
    }

    /// A file of root's with these bytes.
    pub fn file(mode: u16, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { meta: Metadata::root(mode), kind: Kind::File(Content::Bytes(bytes.into())) }
    }

    /// A symbolic link.
    pub fn symlink(target: impl AsRef<[u8]>) -> Self {
        Self { meta: Metadata::root(0o777), kind: Kind::Symlink(target.as_ref().to_vec()) }
    }

    /// The entries, if this is a directory.
    pub fn entries(&self) -> Option<&Entries> {
        match &self.kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entries to change, if this is a directory.
    pub fn entries_mut(&mut self) -> Option<&mut Entries> {
        match &mut self.kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// The content, if this is a regular file.
    pub fn content(&self) -> Option<&Content> {
        match &self.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// The node at `path`, links not followed.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Node> {
        components(path.as_ref()).try_fold(self, |node, name| node.entries()?.get(name))
    }

    /// The node at `path` to change, links not followed.
    pub fn get_mut(&mut self, path: impl AsRef<[u8]>) -> Option<&mut Node> {
        components(path.as_ref()).try_fold(self, |node, name| node.entries_mut()?.get_mut(name))
    }

    /// Puts `node` at `path`, makes missing parents (root's, 0755), and gives back what was there.
    ///
    /// # Errors
    /// [`NotADirectory`] if a parent exists and is something else.
    pub fn insert(&mut self, path: impl AsRef<[u8]>, node: Node) -> Result<Option<Node>, NotADirectory> {
        let path = path.as_ref();
        let blocked = |at: &[u8]| NotADirectory {
            path: String::from_utf8_lossy(path).into_owned(),
            at: String::from_utf8_lossy(at).into_owned(),
        };
        let mut names: Vec<&[u8]> = components(path).collect();
        let Some(last) = names.pop() else { return Err(blocked(b"")) };
        let mut here = self;
        for name in names {
            let entries = here.entries_mut().ok_or_else(|| blocked(name))?;
            here = entries.entry(name.to_vec()).or_insert_with(Node::directory);
        }
        let entries = here.entries_mut().ok_or_else(|| blocked(last))?;
        Ok(entries.insert(last.to_vec(), node))
    }

    /// Takes away what is at `path`.
    pub fn remove(&mut self, path: impl AsRef<[u8]>) -> Option<Node> {
        let path = path.as_ref();
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        self.get_mut(parent)?.entries_mut()?.remove(name)
    }

    /// Calls `visit` with every node below this one and its path, in the order of the names.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&[u8], &'a Node)) {
        fn below<'a>(node: &'a Node, path: &mut Vec<u8>, visit: &mut dyn FnMut(&[u8], &'a Node)) {
            let Some(entries) = node.entries() else { return };
            for (name, child) in entries {
                let length = path.len();
                if length > 0 {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                visit(path, child);
                below(child, path, visit);
                path.truncate(length);
            }
        }
        below(self, &mut Vec::new(), visit);
    }

    /// Takes away every node below this one for which `keep` says no; a directory goes with what is in it.
    pub fn retain(&mut self, keep: &mut dyn FnMut(&[u8], &Node) -> bool) {
        fn below(node: &mut Node, path: &mut Vec<u8>, keep: &mut dyn FnMut(&[u8], &Node) -> bool) {
            let Some(entries) = node.entries_mut() else { return };
            entries.retain(|name, child| {
                let length = path.len();
                if length > 0 {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                let kept = keep(path, child);
                if kept {
                    below(child, path, keep);
                }
                path.truncate(length);
                kept
            });
        }
        below(self, &mut Vec::new(), keep);
    }

    /// The path of what `path` leads to when every link is followed inside this tree, or `None` if it leads
    /// nowhere (or in a circle). Absolute targets start at this node.
    pub fn resolve(&self, path: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let mut left: Vec<Vec<u8>> = components(path.as_ref()).rev().map(<[u8]>::to_vec).collect();
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                done.pop();
                continue;
            }
            done.push(name);
            let node = self.get(done.join(&b'/'))?;
            if let Kind::Symlink(target) = &node.kind {
                links += 1;
                if links > 40 {
                    return None;
                }
                done.pop();
                if target.first() == Some(&b'/') {
                    done.clear();
                }
                left.extend(components(target).rev().map(<[u8]>::to_vec));
            }
        }
        Some(done.join(&b'/'))
    }
}

/// The names of a path; empty ones and `.` are passed over.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Something that is not a directory stands where a parent directory was needed.
#[derive(Debug, thiserror::Error)]
#[error("cannot place `{path}` in the tree: what is above `{at}` is not a directory")]
pub struct NotADirectory {
    path: String,
    at: String,
}

impl Content {
    /// Reads it all.
    ///
    /// # Errors
    /// The I/O error of the file that holds it, with its path.
    pub fn read(&self) -> std::io::Result<Vec<u8>> {
        use std::{fs::File, os::unix::fs::FileExt};
        match self {
            Self::Bytes(bytes) => Ok(bytes.to_vec()),
            Self::Range { path, offset, length } => {
                let with_path =
                    |e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", path.display()));
                let mut bytes = vec![0; usize::try_from(*length).map_err(std::io::Error::other)?];
                File::open(path.as_path())
                    .and_then(|f| f.read_exact_at(&mut bytes, *offset))
                    .map_err(with_path)?;
                Ok(bytes)
            }
        }
    }

    /// Reads at most `length` bytes from the start.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn read_start(&self, length: usize) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes[..length.min(bytes.len())].to_vec()),
            Self::Range { path, offset, length: all } => {
                Self::Range { path: path.clone(), offset: *offset, length: (*all).min(length as u64) }.read()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Node {
        let mut root = Node::directory();
        root.insert("usr/bin/a", Node::file(0o755, *b"x")).unwrap();
        root.insert("bin", Node::symlink("usr/bin")).unwrap();
        root.insert("usr/bin/b", Node::symlink("../../bin/a")).unwrap();
        root.insert("usr/loop", Node::symlink("loop")).unwrap();
        root.insert("abs", Node::symlink("/usr/bin/b")).unwrap();
        root
    }

    #[test]
    fn resolving_follows_links_inside_the_tree() {
        let root = sample();
        for (path, expected) in [
            ("bin/a", Some("usr/bin/a")),
            ("usr/bin/b", Some("usr/bin/a")),
            ("abs", Some("usr/bin/a")),
            ("usr/loop", None),
            ("bin/none", None),
        ] {
            assert_eq!(root.resolve(path), expected.map(|p| p.as_bytes().to_vec()), "{path}");
        }
    }

    #[test]
    fn a_file_is_no_parent() {
        assert!(sample().insert("usr/bin/a/b", Node::directory()).is_err());
    }

    #[test]
    fn walking_is_in_name_order_and_retain_removes_whole_directories() {
        let mut root = sample();
        root.retain(&mut |path, _| path != b"usr");
        let mut seen = Vec::new();
        root.walk(&mut |path, _| seen.push(path.to_vec()));
        assert_eq!(seen, [b"abs".to_vec(), b"bin".to_vec()]);
    }
}
