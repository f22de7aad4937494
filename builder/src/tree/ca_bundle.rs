//! The CA bundle that update-ca-certificates would have made: every certificate of package ca-certificates in
//! one PEM file. Go, rustls and OpenSSL all look for it under this name.

use super::{Node, NotADirectory};

/// Where certificates are found.
const SOURCE: &str = "usr/share/ca-certificates/mozilla";
/// Where the bundle goes.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Writes the bundle, if the tree has certificates. Gives back how many there are.
///
/// # Errors
/// A certificate that cannot be read, or a file where a directory was expected.
pub fn apply(root: &mut Node) -> Result<usize, BundleError> {
    let Some(entries) = root.get(SOURCE).and_then(Node::entries) else { return Ok(0) };
    let mut bundle = Vec::new();
    let mut count = 0;
    for node in entries.values() {
        let Some(content) = node.content() else { continue };
        let text = content.read()?;
        bundle.extend_from_slice(&text);
        if !text.ends_with(b"\n") {
            bundle.push(b'\n');
        }
        count += 1;
    }
    root.insert(BUNDLE, Node::file(0o644, bundle))?;
    Ok(count)
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A certificate could not be read.
    #[error("CA certificates: {0}")]
    Io(#[from] std::io::Error),
    /// A file is in the way.
    #[error(transparent)]
    Tree(#[from] NotADirectory),
}
