//! Links that update-alternatives would have made, declared in the profile: link → target.

use super::{Node, NotADirectory};
use std::collections::BTreeMap;

/// Makes the links; a link replaces what stands in its place.
///
/// # Errors
/// A parent of a link is not a directory.
pub fn apply(root: &mut Node, links: &BTreeMap<String, String>) -> Result<(), NotADirectory> {
    for (link, target) in links {
        root.insert(link, Node::symlink(target))?;
    }
    Ok(())
}
