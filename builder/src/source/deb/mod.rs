//! Debian packages: from a signed archive to trees.
//!
//! ```text
//! Mirror ──Release──> Archive ──resolve──> Package… ──fetch──> cache ──unpack──> Unpacked…
//!         (signed)   (index)              (digests)           (blobs)           (trees)
//! ```
//!
//! Trust flows along that line: the keyring vouches for the Release, the Release's digests for the package
//! indexes, these for the packages. Nothing on the way is believed for where it came from.

pub mod apt_conf;
pub mod control;
pub mod index;
pub mod mirror;
pub mod package;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod sources;
pub mod version;

pub use control::SyntaxError;
pub use index::{Area, Index, Package};
pub use mirror::{Mirror, MirrorError};
pub use package::{Unpacked, size, unpack, unpack_all};
pub use release::{Keyring, ReleaseError};
pub use resolve::{Conflict, Request, Resolution, ResolveError, resolve};
pub use sources::SourcesError;
pub use version::{InvalidVersion, Version};

use super::{
    archive::Compression,
    cache::StorageError,
    fetch::{Download, FetchError, Fetcher},
    progress::{Event, Progress},
};
use release::{Expectation, Listed, Release};
use std::{fs::File, io::Read as _, path::Path, time::SystemTime};

/// Most bytes of a Release document; today's have 140 KB.
const RELEASE_LIMIT: u64 = 8 << 20;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// A document cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A Release is not to be believed.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// An index is malformed.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// The suite has no packages for this architecture.
    #[error("{url} lists no packages for {architecture}")]
    NoIndex {
        /// The Release.
        url: String,
        /// Debian's name of the architecture.
        architecture: String,
    },
    /// An index cannot be decompressed.
    #[error("the package index {url} is damaged: {why}")]
    DamagedIndex {
        /// The index.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The cache fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The packages of a suite, its updates and its security fixes, as they are now.
#[derive(Debug)]
pub struct Archive {
    /// The packages.
    pub index: Index,
    /// When the newest of the suites was made, seconds since 1970.
    pub date: u64,
}

/// The suites that make up a Debian release, and which archive has them.
pub fn suites(suite: &str) -> [(String, Area); 3] {
    [
        (suite.to_owned(), Area::Main),
        (format!("{suite}-updates"), Area::Main),
        (format!("{suite}-security"), Area::Security),
    ]
}

impl Archive {
    /// Reads the component `main` of a Debian release for one architecture: `trixie`, `amd64`.
    ///
    /// # Errors
    /// A suite cannot be had, is not to be believed, or is malformed.
    pub fn load(
        fetcher: &Fetcher,
        mirror: &Mirror,
        suite: &str,
        architecture: &str,
        progress: &Progress<'_>,
    ) -> Result<Self, DebError> {
        let keyring = Keyring::load(&mirror.keyring)?;
        let mut date = 0;
        let mut wanted = Vec::new();
        for (suite, area) in suites(suite) {
            let base = format!("{}/dists/{suite}", mirror.uri(area));
            let url = format!("{base}/InRelease");
            let document = fetcher.document(&url, RELEASE_LIMIT, progress)?;
            let expected = Expectation {
                url: &url,
                suite: &suite,
                now: SystemTime::now(),
                check_valid_until: mirror.check_valid_until,
            };
            let release = Release::verify(&document, &keyring, expected)?;
            date = date.max(release.date);
            let path = format!("main/binary-{architecture}/Packages.xz");
            let listed = release
                .files
                .get(&path)
                .copied()
                .ok_or_else(|| DebError::NoIndex { url, architecture: architecture.to_owned() })?;
            wanted.push((by_hash(&base, &path, listed, release.by_hash), format!("{base}/{path}"), area));
        }
        let mut downloads: Vec<_> = wanted.iter().map(|(download, ..)| download.clone()).collect();
        let paths = match fetcher.blobs(&downloads, progress) {
            // Some mirrors do not carry the directories that Release promises.
            Err(error) if error.is_not_found() => {
                for (download, (_, plain, _)) in downloads.iter_mut().zip(&wanted) {
                    download.url.clone_from(plain);
                }
                fetcher.blobs(&downloads, progress)?
            }
            other => other?,
        };
        let mut texts = Vec::new();
        for ((_, url, area), path) in wanted.iter().zip(paths) {
            texts.push((url.as_str(), decompress(url, &path)?, *area));
        }
        let index =
            Index::read(texts.iter().map(|(url, text, area)| (*url, text.as_str(), *area)), architecture)?;
        progress(Event::Notice(&format!("{} packages in {suite}", index.packages().len())));
        Ok(Self { index, date })
    }
}

fn by_hash(base: &str, path: &str, listed: Listed, by_hash: bool) -> Download {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let url = if by_hash {
        format!("{base}/{directory}/by-hash/SHA256/{}", listed.digest.hex())
    } else {
        format!("{base}/{path}")
    };
    Download { what: format!("{base}/{path}"), url, digest: listed.digest, size: Some(listed.size) }
}

fn decompress(url: &str, path: &Path) -> Result<String, DebError> {
    let file = File::open(path).map_err(StorageError::at(path))?;
    let mut text = String::new();
    Compression::Xz
        .reader(file)
        .and_then(|mut reader| reader.read_to_string(&mut text))
        .map_err(|why| DebError::DamagedIndex { url: url.to_owned(), why: why.to_string() })?;
    Ok(text)
}
