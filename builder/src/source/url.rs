//! One file by URL and digest, such as the kubelet.

use super::{
    fetch::{Download, FetchError, Fetcher},
    progress::Progress,
};
use crate::tree::Content;
use cairn_contract::digest::Sha256Digest;
use std::{fs, sync::Arc};

/// Brings the file into the cache and says where its bytes are.
///
/// # Errors
/// It cannot be had, or has another digest.
pub fn fetch(
    fetcher: &Fetcher,
    url: &str,
    digest: Sha256Digest,
    progress: &Progress<'_>,
) -> Result<Content, FetchError> {
    let download = Download { what: url.to_owned(), url: url.to_owned(), digest, size: None };
    fetcher.blobs(&[download], progress)?;
    let path = fetcher.cache().blob(&digest);
    let length = fs::metadata(&path).map_err(super::cache::StorageError::at(&path))?.len();
    Ok(Content::Range { path: Arc::new(path), offset: 0, length })
}
