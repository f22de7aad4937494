//! Manifests, indexes and configurations: OCI image specification 1.1 and Docker's schema 2, which differ in the
//! media types only.

use super::platform::{Machine, Platform};
use cairn_contract::digest::Sha256Digest;
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

/// A manifest or an index longer than this is refused (the distribution specification's limit).
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
/// A configuration longer than this is refused.
pub(super) const MAX_CONFIG: u64 = 8 << 20;
/// Overlayfs takes up to 500 lower directories; no real image comes near.
const MAX_LAYERS: usize = 450;

/// What we tell registries we understand.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("the {what} is malformed: {source}")]
    Syntax {
        /// Which document.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
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
        architecture: String,
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

/// Points to a blob.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Sha256Digest,
    pub(super) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

/// A document that a registry serves under `/manifests/`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// One image of one platform.
    Image { config: Descriptor, layers: Vec<Descriptor> },
    /// Several.
    Index(Vec<Descriptor>),
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
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Syntax { what: "manifest", source })?;
        if raw.schema_version == 1 {
            return Err(ManifestError::Schema1);
        }
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => {
                if config.size > MAX_CONFIG {
                    return Err(ManifestError::Size { what: "configuration", size: config.size });
                }
                Ok(Self::Image { config, layers })
            }
            (None, None, Some(manifests)) => Ok(Self::Index(manifests)),
            _ => Err(ManifestError::Kind(raw.media_type.unwrap_or_default())),
        }
    }
}

/// The entry of an index that fits this machine best; the first of equals.
pub(super) fn choose(manifests: &[Descriptor], machine: Machine) -> Result<&Descriptor, ManifestError> {
    let mut best: Option<(u8, &Descriptor)> = None;
    for entry in manifests {
        // An entry without platform is for everyone, but anything that says what it is for is better.
        let fit = match &entry.platform {
            None => Some(0),
            Some(platform) => machine.fit(platform),
        };
        if let Some(fit) = fit
            && best.is_none_or(|(other, _)| fit > other)
        {
            best = Some((fit, entry));
        }
    }
    best.map(|(_, entry)| entry).ok_or_else(|| ManifestError::Platform {
        architecture: std::env::consts::ARCH.to_owned(),
        offered: match manifests
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(describe)
            .collect::<Vec<_>>()
        {
            offered if offered.is_empty() => "nothing".to_owned(),
            offered => offered.join(", "),
        },
    })
}

fn describe(platform: &Platform) -> String {
    let variant = platform.variant.as_deref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os, platform.architecture)
}

/// Parses a configuration and returns its diff ids, lowest first.
pub(super) fn parse_config(bytes: &[u8]) -> Result<(ImageConfiguration, Vec<Sha256Digest>), ManifestError> {
    let config: ImageConfiguration = serde_json::from_slice(bytes)
        .map_err(|source| ManifestError::Syntax { what: "configuration", source })?;
    let diff_ids = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|text| text.parse().map_err(|_| ManifestError::Digest(text.clone())))
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
            architecture: std::env::consts::ARCH.to_owned(),
            offered: describe(&platform),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(digit: &str, platform: &str) -> String {
        format!(r#"{{"mediaType":"m","digest":"sha256:{}","size":7{platform}}}"#, digit.repeat(64))
    }

    #[test]
    fn both_kinds_of_documents_are_told_apart() {
        let config = entry("1", "");
        let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, entry("2", ""));
        assert!(
            matches!(Document::parse(image.as_bytes()), Ok(Document::Image { layers, .. }) if layers.len() == 1)
        );
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
        assert_eq!(choose(&entries, arch).unwrap().digest.hex(), "4".repeat(64));
        let message = choose(&entries[..2], arch).unwrap_err().to_string();
        assert!(message.contains("linux/s390x"), "{message}");
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
