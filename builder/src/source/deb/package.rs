//! Binary packages (deb(5)): an ar archive of `debian-binary`, `control.tar.*` and `data.tar.*`.
//!
//! Unpacking runs nothing of the package. What its maintainer scripts would have done is not done; their names are
//! kept so that a report can say so.

use super::control;
use crate::{
    source::{
        archive::{self, ArchiveError, Compression, Whiteouts},
        cache::{Cache, StorageError},
    },
    tree::{Entries, Kind},
};
use cairn_contract::digest::Sha256Digest;
use rayon::prelude::*;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

/// Archives decompressed at the same time at most: each may take 65 MiB of memory.
const DECOMPRESSORS: usize = 4;
/// Names of maintainer scripts.
const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];

/// A package's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Package name.
    pub name: String,
    /// Fields of its control file: name and value, in order.
    pub control: Vec<(String, String)>,
    /// Absolute paths of its configuration files.
    pub conffiles: Vec<String>,
    /// Maintainer scripts it has, which were not run.
    pub scripts: Vec<String>,
    /// Names of the dpkg triggers it activates or is interested in, as written.
    pub triggers: Vec<String>,
    /// Its files.
    pub tree: Entries,
}

impl Unpacked {
    /// The value of a field of the control file.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.control.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Bytes of all its files.
    pub fn size(&self) -> u64 {
        size(&self.tree)
    }
}

/// Bytes of all files of a tree.
pub fn size(tree: &Entries) -> u64 {
    tree.values()
        .map(|node| match &node.kind {
            Kind::File(content) => content.len(),
            Kind::Directory(entries) => size(entries),
            _ => 0,
        })
        .sum()
}

/// Unpacks packages from the cache, several at once; the answer is in the same order.
///
/// # Errors
/// The first package that is damaged or that the cache cannot hold.
pub fn unpack_all(cache: &Cache, digests: &[Sha256Digest]) -> Result<Vec<Unpacked>, ArchiveError> {
    let unpack_all = || digests.par_iter().map(|digest| unpack(cache, digest)).collect();
    let threads = rayon::current_num_threads().min(DECOMPRESSORS);
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(unpack_all),
        Err(_) => digests.iter().map(|digest| unpack(cache, digest)).collect(),
    }
}

/// Unpacks one package from the cache.
///
/// # Errors
/// It is damaged, or the cache cannot hold it.
pub fn unpack(cache: &Cache, digest: &Sha256Digest) -> Result<Unpacked, ArchiveError> {
    let blob = cache.blob(digest);
    let damaged = |source| ArchiveError::Damaged { archive: blob.clone(), source };
    let control =
        member(&blob, "control.tar", |compression, reader| read_control(compression.reader(reader)?))?;
    let decompress = |data: &mut File| -> io::Result<()> {
        match member(&blob, "data.tar", |compression, reader| {
            io::copy(&mut compression.reader(reader)?, data)?;
            Ok(())
        }) {
            Ok(()) => Ok(()),
            Err(ArchiveError::Damaged { source, .. }) => Err(source),
            Err(other) => Err(io::Error::other(other)),
        }
    };
    let path = archive::unpacked(cache, digest, decompress)?;
    let tree = match archive::read(&path, Whiteouts::Literal) {
        // A crash of the machine may have cut it short: make it once more.
        Err(ArchiveError::Damaged { .. }) => {
            fs::remove_file(&path).map_err(StorageError::at(&path))?;
            archive::read(&archive::unpacked(cache, digest, decompress)?, Whiteouts::Literal)?
        }
        other => other?,
    };
    let Control { text, conffiles, scripts, triggers } = control;
    let name = blob.display().to_string();
    let fields = control::paragraphs(&name, &text)
        .next()
        .unwrap_or_else(|| {
            Err(control::SyntaxError { file: name.clone(), line: 1, why: "it is empty".to_owned() })
        })
        .and_then(|paragraph| Ok((paragraph.require("Package", &name)?.to_owned(), paragraph)));
    let (name, paragraph) = fields.map_err(|error| damaged(io::Error::other(error)))?;
    let control =
        paragraph.fields.iter().map(|field| (field.name.to_owned(), field.value.to_owned())).collect();
    Ok(Unpacked { name, control, conffiles, scripts, triggers, tree })
}

/// Finds the member `<stem><extension>` and gives it to `use_it`.
fn member<T>(
    blob: &Path,
    stem: &str,
    use_it: impl FnOnce(Compression, &mut dyn Read) -> io::Result<T>,
) -> Result<T, ArchiveError> {
    let damaged = |source| ArchiveError::Damaged { archive: blob.to_owned(), source };
    let file = File::open(blob).map_err(StorageError::at(blob))?;
    let mut archive = ar::Archive::new(file);
    while let Some(entry) = archive.next_entry() {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        // Some archivers end names with a slash.
        let Some(extension) = name.trim_end_matches('/').strip_prefix(stem) else { continue };
        let Some(compression) = Compression::from_extension(extension) else {
            return Err(damaged(io::Error::other(format!("`{name}` is compressed in a way we do not know"))));
        };
        return use_it(compression, &mut entry).map_err(damaged);
    }
    Err(damaged(io::Error::other(format!("it has no member {stem}"))))
}

#[derive(Default)]
struct Control {
    text: String,
    conffiles: Vec<String>,
    scripts: Vec<String>,
    triggers: Vec<String>,
}

fn read_control(reader: impl Read) -> io::Result<Control> {
    let mut control = Control::default();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut lines = || -> io::Result<Vec<String>> {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            Ok(lines.map(str::to_owned).collect())
        };
        match path.trim_start_matches("./") {
            "control" => {
                entry.read_to_string(&mut control.text)?;
            }
            // A path may be preceded by flags such as `remove-on-upgrade`; those are not installed.
            "conffiles" => {
                control.conffiles = lines()?.into_iter().filter(|line| line.starts_with('/')).collect()
            }
            "triggers" => control.triggers = lines()?,
            name if SCRIPTS.contains(&name) => control.scripts.push(name.to_owned()),
            _ => {}
        }
    }
    control.scripts.sort();
    Ok(control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Content;

    fn tar(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            builder.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn deb(data: &[u8], data_name: &str) -> Vec<u8> {
        let control = tar(&[
            ("./control", "Package: hello\nVersion: 1\nDescription: greets\n warmly\n"),
            ("./conffiles", "/etc/hello\nremove-on-upgrade /etc/old\n"),
            ("./postinst", "#!/bin/sh\n"),
            ("./triggers", "# generated\nactivate-noawait ldconfig\n"),
        ]);
        let mut builder = ar::Builder::new(Vec::new());
        for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", &control), (data_name, data)]
        {
            builder.append(&ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64), bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn every_compression_gives_the_same_package() {
        let data = tar(&[("./etc/hello", "world")]);
        let xz = || {
            let mut out = Vec::new();
            liblzma::read::XzEncoder::new(&data[..], 1).read_to_end(&mut out).unwrap();
            out
        };
        let gz = || {
            let mut out = Vec::new();
            flate2::read::GzEncoder::new(&data[..], flate2::Compression::fast())
                .read_to_end(&mut out)
                .unwrap();
            out
        };
        let all = [
            (data.clone(), "data.tar"),
            (xz(), "data.tar.xz"),
            (gz(), "data.tar.gz"),
            (zstd::encode_all(&data[..], 1).unwrap(), "data.tar.zst"),
        ];
        for (compressed, name) in all {
            let directory = tempfile::tempdir().unwrap();
            let cache = Cache::open(directory.path().to_owned()).unwrap();
            let digest = cache.put(&deb(&compressed, name)).unwrap();
            let package = unpack(&cache, &digest).unwrap();
            assert_eq!(package.name, "hello");
            assert_eq!(package.field("description"), Some("greets\n warmly"));
            assert_eq!(package.conffiles, ["/etc/hello"]);
            assert_eq!(package.scripts, ["postinst"]);
            assert_eq!(package.triggers, ["activate-noawait ldconfig"]);
            assert_eq!(package.size(), 5);
            let names = [b"etc".to_vec(), b"hello".to_vec()];
            let node = archive::find(&package.tree, &names).unwrap();
            let Kind::File(content @ Content::Range { .. }) = &node.kind else { panic!("{node:?}") };
            assert_eq!(archive::bytes(content).unwrap(), b"world", "{name}");
            let again = unpack_all(&cache, &[digest, digest]).unwrap();
            assert_eq!(again, [package.clone(), package]);
        }
    }

    #[test]
    fn a_cut_cache_is_mended_and_a_cut_package_refused() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path().to_owned()).unwrap();
        let whole = deb(&tar(&[("./etc/hello", &"world".repeat(1000))]), "data.tar");
        let digest = cache.put(&whole).unwrap();
        let package = unpack(&cache, &digest).unwrap();
        File::options().write(true).open(cache.tar(&digest)).unwrap().set_len(3000).unwrap();
        assert_eq!(unpack(&cache, &digest).unwrap(), package);

        let digest = cache.put(&whole[..whole.len() - 4000]).unwrap();
        let error = unpack(&cache, &digest).unwrap_err();
        assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
        let half = cache.tar(&digest);
        assert!(!half.with_extension("tar.part").exists());
    }
}
