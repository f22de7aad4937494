//! One layer on its way: downloaded, hashed, inflated and unpacked at the same time.
//!
//! ```text
//! registry ──bounded pipe──> hash (blob) ──> inflate ──> hash (diff id) ──> unpack
//! └ async task                └ one blocking thread
//! ```
//!
//! Neither side holds more than the pipe's few chunks. Nothing of the layer is visible before both digests are
//! right.

use super::{
    error::ImageError,
    manifest::Descriptor,
    registry::{Piece, Repository},
    store::{LayerInfo, Store},
    unpack::{self, TarError, UnpackError},
};
use crate::traces;
use bytes::{Buf, Bytes};
use cairn_contract::digest::Sha256Digest;
use sha2::{Digest, Sha256};
use std::{
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::Arc,
};
use tokio::sync::mpsc;

/// Chunks in the pipe; each is what one read from the connection gave, some 16 KiB.
const PIPE: usize = 64;

/// Fetches `blob`, whose uncompressed archive must have the digest `diff_id`, and puts it into the store. When an
/// endpoint sends wrong content, those after it are asked.
pub(super) async fn fetch(
    store: &Arc<Store>,
    repository: &Repository,
    blob: &Descriptor,
    diff_id: Sha256Digest,
) -> Result<LayerInfo, ImageError> {
    let sources = repository.sources().max(1);
    let mut skip = 0;
    loop {
        match fetch_from(store, repository, blob, diff_id, skip).await {
            // Only a whole blob can be wrong as a whole; the first endpoint that may have sent it is left out.
            Err(error @ (ImageError::Mismatch { .. } | ImageError::Unpack { .. })) if skip + 1 < sources => {
                if let ImageError::Unpack { source, .. } = &error
                    && !matches!(**source, UnpackError::Archive(_))
                {
                    return Err(error);
                }
                tracing::warn!(%error, "asking the next endpoint");
                skip += 1;
            }
            result => return result,
        }
    }
}

async fn fetch_from(
    store: &Arc<Store>,
    repository: &Repository,
    blob: &Descriptor,
    diff_id: Sha256Digest,
    skip: usize,
) -> Result<LayerInfo, ImageError> {
    let (sender, receiver) = mpsc::channel(PIPE);
    let unpacking = {
        let store = Arc::clone(store);
        tokio::task::spawn_blocking(move || -> Result<_, Broken> {
            let ingest = store.ingest().map_err(Broken::Store)?;
            let blob = Pipe { receiver, current: Bytes::new(), ended: false };
            let received = receive(blob, &ingest.fs()).map_err(Broken::Unpack)?;
            Ok((ingest, received))
        })
    };
    let (downloaded, unpacked) = tokio::join!(repository.download(blob, skip, sender), unpacking);
    let unpacked = unpacked.map_err(|_| ImageError::Interrupted("unpacking a layer"))?;
    // A download that failed explains an unpack that failed, not the other way round.
    let host = downloaded?;
    if let Some(host) = &host {
        traces::note("server.address", host);
    }
    let (ingest, received) = unpacked.map_err(|broken| match broken {
        Broken::Store(error) => error,
        Broken::Unpack(source) => ImageError::Unpack { layer: blob.digest, source: Arc::new(source) },
    })?;
    let host = host.ok_or(ImageError::Interrupted("a download"))?;
    for (what, expected, actual) in
        [("blob", blob.digest, received.blob), ("uncompressed layer", diff_id, received.diff_id)]
    {
        if expected != actual {
            return Err(ImageError::Mismatch {
                what: format!("{what} of layer {}", blob.digest),
                host,
                expected: expected.to_string(),
                actual: actual.to_string(),
            });
        }
    }
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || {
        store.commit_layer(ingest, diff_id, &received.info)?;
        Ok(received.info)
    })
    .await
    .map_err(|_| ImageError::Interrupted("storing a layer"))?
}

enum Broken {
    Store(ImageError),
    Unpack(UnpackError),
}

/// What came, in both forms, and what it amounts to.
pub(super) struct Received {
    blob: Sha256Digest,
    diff_id: Sha256Digest,
    pub(super) info: LayerInfo,
}

/// Hashes and inflates `blob` and unpacks it into the empty directory `root`.
pub(super) fn receive(blob: impl Read, root: &Path) -> Result<Received, UnpackError> {
    let mut blob = Hashing { inner: blob, hash: Sha256::new() };
    let (unpacked, diff_id) = {
        let inflated = inflate(&mut blob).map_err(TarError::Io)?;
        let mut layer = Hashing { inner: inflated, hash: Sha256::new() };
        let unpacked = unpack::unpack(&mut layer, root)?;
        (unpacked, Sha256Digest::new(layer.hash.finalize().into()))
    };
    // A decompressor may stop before the blob's last byte.
    io::copy(&mut blob, &mut io::sink()).map_err(TarError::Io)?;
    let blob = Sha256Digest::new(blob.hash.finalize().into());
    Ok(Received { blob, diff_id, info: unpacked.into() })
}

/// Takes the compression from the first bytes. Media types say it too, but old registries hold layers whose
/// media type is wrong, and the digests decide anyway.
fn inflate<'a>(blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut blob = BufReader::with_capacity(128 << 10, blob);
    let start = loop {
        // `fill_buf` fills an empty buffer by one read, which may be short; magic numbers are four bytes.
        match blob.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(blob))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable_frame(start) {
        Box::new(zstd::Decoder::with_buffer(blob)?)
    } else {
        Box::new(blob)
    })
}

/// Seekable zstd begins with a frame that decoders skip.
fn is_skippable_frame(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The blocking end of the pipe. Its end without [`Piece::End`] is an error: a cut download must not pass for a
/// short one.
struct Pipe {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the download was abandoned",
                    ));
                }
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Hashes what passes.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
