//! Manifests, indexes and configurations: OCI image specification 1.1 and Docker's schema 2, which differ in the
//! media types only.

use super::platform::{Fit, Machine, Platform};
use crate::message::shortened;
use cairn_contract::digest::Sha256Digest;
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A manifest or an index longer than this is refused (the distribution specification's limit).
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
/// A configuration longer than this is refused.
pub(super) const MAX_CONFIG: u64 = 8 << 20;
/// Overlayfs takes up to 500 lower directories; no real image comes near.
const MAX_LAYERS: usize = 450;
/// Annotations with more bytes than this are not kept: they are told to everyone who lists images.
const MAX_ANNOTATIONS: usize = 16 << 10;
/// Marks an entry of an index that is about another entry (BuildKit's attestations).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// What we tell registries we understand.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("the {what} is malformed: {reason}")]
    Syntax {
        /// Which document.
        what: &'static str,
        /// Where and why.
        reason: String,
    },
    /// Docker's schema 1, signed manifests of 2015 and before.
    #[error("the manifest has Docker's obsolete schema 1; push the image again with a current tool")]
    Schema1,
    /// Neither `layers` nor `manifests`, or both: a document that two readers understand differently.
    #[error("the manifest is neither an image manifest nor an index (media type `{0}`)")]
    Kind(String),
    /// An index of indexes of indexes.
    #[error("the index is nested too deeply")]
    Nesting,
    /// No entry of the index, or not this image, is for this machine.
    #[error("the image is not for this machine (linux/{architecture}); it offers {offered}")]
    Platform {
        /// This machine's, in Go's terms.
        architecture: &'static str,
        /// What the image is for.
        offered: String,
    },
    /// Layers and `rootfs.diff_ids` do not agree, or there are too many.
    #[error("the manifest has {layers} layers, the configuration {diff_ids} diff ids (at most {MAX_LAYERS})")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// Entries of the index, the one for this machine perhaps among them, have digests that are not SHA-256.
    #[error(
        "the index has nothing for this machine (linux/{architecture}) with a SHA-256 digest; other digests are not supported: {digests}"
    )]
    Digests {
        /// This machine's, in Go's terms.
        architecture: &'static str,
        /// Those that were left out.
        digests: String,
    },
    /// A digest that is not SHA-256.
    #[error("`{0}` is not a SHA-256 digest")]
    Digest(String),
    /// A size below zero or beyond what makes sense.
    #[error("the {what} claims to have {size} bytes")]
    Size {
        /// Which content.
        what: &'static str,
        /// The claim.
        size: u64,
    },
}

impl ManifestError {
    fn syntax(what: &'static str, error: &serde_json::Error) -> Self {
        Self::Syntax { what, reason: shortened(&error.to_string()) }
    }
}

/// Points to a blob.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Sha256Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
}

/// A document that a registry serves under `/manifests/`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// One image of one platform.
    Image { config: Descriptor, layers: Vec<Descriptor>, annotations: BTreeMap<String, String> },
    /// Several.
    Index(Index),
}

/// The images of an index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    entries: Vec<Descriptor>,
    /// Digests of entries that we cannot verify.
    unverifiable: Vec<String>,
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Entry {
    /// Is it an image, or a list of images? Signatures, attestations and other artifacts may stand beside them.
    fn is_image(&self) -> bool {
        let about_another =
            self.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(REFERENCE_TYPE));
        let known = self.media_type.is_empty() || ACCEPT.contains(&self.media_type);
        known && !about_another && self.artifact_type.as_deref().unwrap_or_default().is_empty()
    }
}

impl Index {
    fn new(entries: Vec<Entry>) -> Self {
        let mut index = Self::default();
        for entry in entries.into_iter().filter(Entry::is_image) {
            let Entry { media_type, digest, size, platform, .. } = entry;
            match digest.parse() {
                Ok(digest) => index.entries.push(Descriptor { media_type, digest, size, platform }),
                Err(_) => index.unverifiable.push(digest),
            }
        }
        index
    }

    /// The entry that fits this machine best; the first of equals.
    pub(super) fn choose(&self, machine: Machine) -> Result<&Descriptor, ManifestError> {
        let mut best: Option<(Fit, &Descriptor)> = None;
        for entry in &self.entries {
            let fit = match &entry.platform {
                None => Some(Fit::Unknown),
                Some(platform) => machine.fit(platform),
            };
            if let Some(fit) = fit
                && best.is_none_or(|(other, _)| fit > other)
            {
                best = Some((fit, entry));
            }
        }
        if let Some((_, entry)) = best {
            return Ok(entry);
        }
        let architecture = machine.architecture();
        if !self.unverifiable.is_empty() {
            return Err(ManifestError::Digests {
                architecture,
                digests: shortened(&self.unverifiable.join(", ")),
            });
        }
        let offered: Vec<_> = self.entries.iter().filter_map(|e| e.platform.as_ref()).map(describe).collect();
        let offered = if offered.is_empty() { "nothing".to_owned() } else { shortened(&offered.join(", ")) };
        Err(ManifestError::Platform { architecture, offered })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Entry>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: Raw =
            serde_json::from_slice(bytes).map_err(|error| ManifestError::syntax("manifest", &error))?;
        if raw.schema_version == 1 {
            return Err(ManifestError::Schema1);
        }
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => {
                if config.size > MAX_CONFIG {
                    return Err(ManifestError::Size { what: "configuration", size: config.size });
                }
                let annotations = raw.annotations.unwrap_or_default();
                let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
                let annotations = if size > MAX_ANNOTATIONS { BTreeMap::new() } else { annotations };
                Ok(Self::Image { config, layers, annotations })
            }
            (None, None, Some(manifests)) => Ok(Self::Index(Index::new(manifests))),
            _ => Err(ManifestError::Kind(shortened(&raw.media_type.unwrap_or_default()))),
        }
    }
}

fn describe(platform: &Platform) -> String {
    let variant = platform.variant.as_deref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os, platform.architecture)
}

/// Parses a configuration and returns its diff ids, lowest first.
pub(super) fn parse_config(bytes: &[u8]) -> Result<(ImageConfiguration, Vec<Sha256Digest>), ManifestError> {
    let config: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|error| ManifestError::syntax("configuration", &error))?;
    let diff_ids = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| text.parse().map_err(|_| ManifestError::Digest(shortened(text))))
        .collect::<Result<_, _>>()?;
    Ok((config, diff_ids))
}

/// Do manifest and configuration belong together, and does the image run here?
pub(super) fn check_config(
    config: &ImageConfiguration,
    diff_ids: &[Sha256Digest],
    layers: usize,
    machine: Machine,
) -> Result<(), ManifestError> {
    if diff_ids.len() != layers || layers > MAX_LAYERS {
        return Err(ManifestError::Layers { layers, diff_ids: diff_ids.len() });
    }
    let platform = Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone(),
    };
    match machine.fit(&platform) {
        Some(_) => Ok(()),
        None => Err(ManifestError::Platform {
            architecture: machine.architecture(),
            offered: shortened(&describe(&platform)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn entry(digit: &str, platform: &str) -> String {
        format!(r#"{{"mediaType":"{MANIFEST}","digest":"sha256:{}","size":7{platform}}}"#, digit.repeat(64))
    }

    #[test]
    fn both_kinds_of_documents_are_told_apart() {
        let config = entry("1", "");
        let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, entry("2", ""));
        assert!(
            matches!(Document::parse(image.as_bytes()), Ok(Document::Image { layers, .. }) if layers.len() == 1)
        );
        let annotated = |value: &str| {
            let text = image.replace("\"layers\"", &format!(r#""annotations":{{"a":"{value}"}},"layers""#));
            match Document::parse(text.as_bytes()) {
                Ok(Document::Image { annotations, .. }) => annotations,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(annotated("b"), BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        assert!(annotated(&"b".repeat(MAX_ANNOTATIONS)).is_empty());
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{config}]}}"#);
        assert!(matches!(Document::parse(index.as_bytes()), Ok(Document::Index(_))));
        let both = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
        assert!(matches!(Document::parse(both.as_bytes()), Err(ManifestError::Kind(_))));
        assert!(matches!(Document::parse(br#"{"schemaVersion":1}"#), Err(ManifestError::Schema1)));
        assert!(matches!(Document::parse(b"<html>"), Err(ManifestError::Syntax { .. })));
        let huge = config.replace(":7", ":99999999999");
        let huge = format!(r#"{{"schemaVersion":2,"config":{huge},"layers":[]}}"#);
        assert!(matches!(Document::parse(huge.as_bytes()), Err(ManifestError::Size { .. })));
    }

    #[test]
    fn the_index_entry_for_this_machine_is_chosen() {
        let arch = Machine::this();
        let this = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let platform =
            |os: &str, arch: &str| format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#);
        let parse = |entries: &[String]| {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
            match Document::parse(text.as_bytes()) {
                Ok(Document::Index(entries)) => entries,
                other => panic!("{other:?}"),
            }
        };
        let entries = parse(&[
            entry("1", &platform("unknown", "unknown")),
            entry("2", &platform("linux", "s390x")),
            entry("3", ""),
            entry("4", &platform("linux", this)),
        ]);
        assert_eq!(entries.choose(arch).unwrap().digest.hex(), "4".repeat(64));
        let others = [entry("1", &platform("unknown", "unknown")), entry("2", &platform("linux", "s390x"))];
        let message = parse(&others).choose(arch).unwrap_err().to_string();
        assert!(message.contains("linux/s390x") && message.contains(&format!("linux/{this})")), "{message}");
        // What is no image, and what cannot be verified, does not stand in the way.
        let sha512 = format!(r#"{{"digest":"sha512:{}","size":7}}"#, "0".repeat(128));
        let attestation = platform("linux", this)
            + r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        let artifact = platform("linux", this) + r#","artifactType":"application/x""#;
        let beside = [
            sha512.clone(),
            entry("5", &attestation),
            entry("6", &artifact),
            entry("7", &platform("linux", this)).replace(MANIFEST, "application/x"),
            entry("8", &platform("linux", this)),
        ];
        assert_eq!(parse(&beside).choose(arch).unwrap().digest.hex(), "8".repeat(64));
        let message = parse(&beside[..4]).choose(arch).unwrap_err().to_string();
        assert!(message.contains("sha512:0"), "{message}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\":,a-z0-9]{0,100}") {
            let _ = Document::parse(&bytes);
            let _ = Document::parse(text.as_bytes());
            let _ = parse_config(text.as_bytes());
        }
    }
}
