//! Layouts written here, read back.

use super::*;
use crate::tree::Metadata;
use std::{collections::BTreeMap, fs};

fn file(mode: u16, text: &str) -> Node {
    let meta = Metadata { mode, uid: 0, gid: 0, xattrs: BTreeMap::new() };
    Node { meta, kind: Kind::File(Content::Bytes(text.as_bytes().into())) }
}

fn program() -> Entries {
    let mut tree = Entries::new();
    archive::insert(&mut tree, &[b"bin".to_vec(), b"pause".to_vec()], file(0o755, "ELF")).unwrap();
    tree
}

/// Puts a synthesised image and the layer's bytes into a layout on disk.
fn layout(directory: &Path, image: &Image, layer: &[u8], media_type: &str) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Sha256Digest::new(Sha256::digest(bytes).into());
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        serde_json::json!({ "digest": digest, "size": bytes.len() })
    };
    let describe = |mut value: serde_json::Value, media_type: &str| {
        value["mediaType"] = media_type.into();
        value
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": describe(put(&image.config), CONFIG),
        "layers": [describe(put(layer), media_type)],
    });
    let mut entry = describe(put(manifest.to_string().as_bytes()), MANIFEST);
    entry["annotations"] = serde_json::json!({ REF_NAME: "example/pause:1" });
    let foreign = serde_json::json!({
        "mediaType": MANIFEST, "size": 1, "digest": format!("sha256:{}", "0".repeat(64)),
        "platform": { "os": "linux", "architecture": "arm64" },
    });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [foreign, entry] });
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    fs::write(directory.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
}

fn cache() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path().to_owned()).unwrap();
    (directory, cache)
}

#[test]
fn a_synthesised_image_is_the_same_twice_and_reads_back() {
    let process = serde_json::json!({ "Entrypoint": ["/bin/pause"] });
    let image = synthesize("cairn.local/pause:1", program(), &process, "amd64", 7).unwrap();
    assert_eq!(image, synthesize("cairn.local/pause:1", program(), &process, "amd64", 7).unwrap());
    let later = synthesize("cairn.local/pause:1", program(), &process, "amd64", 8).unwrap();
    assert_ne!(image.manifest_digest, later.manifest_digest);

    let mut layer = Vec::new();
    write_layer(&program(), 7, &mut layer).unwrap();
    let gzip = {
        let mut out = Vec::new();
        let fast = flate2::Compression::fast();
        flate2::read::GzEncoder::new(&layer[..], fast).read_to_end(&mut out).unwrap();
        out
    };
    for (bytes, media_type) in [(&layer, LAYER.to_owned()), (&gzip, format!("{LAYER}+gzip"))] {
        let (_keep, cache) = cache();
        let directory = tempfile::tempdir().unwrap();
        layout(directory.path(), &image, bytes, &media_type);
        let tar = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(tar.as_file());
        builder.append_dir_all(".", directory.path()).unwrap();
        builder.finish().unwrap();
        for path in [directory.path(), tar.path()] {
            let read = read(&cache, path, "amd64").unwrap();
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].name.as_deref(), Some("example/pause:1"));
            assert_eq!(read[0].config, image.config);
            assert_eq!(read[0].config_digest, image.config_digest);
            assert_eq!(read[0].layers[0].diff_id, image.layers[0].diff_id);
            let names = [b"bin".to_vec(), b"pause".to_vec()];
            let Kind::File(content) = &archive::find(&read[0].layers[0].tree, &names).unwrap().kind else {
                panic!("not a file")
            };
            assert_eq!(archive::bytes(content).unwrap(), b"ELF");
        }
        let error = super::read(&cache, directory.path(), "riscv64").unwrap_err();
        assert!(matches!(error, OciError::OtherPlatform { .. }), "{error}");
    }
}

#[test]
fn a_changed_layer_is_refused_and_not_kept() {
    let image = synthesize("p", program(), &serde_json::json!({}), "amd64", 7).unwrap();
    let mut layer = Vec::new();
    write_layer(&program(), 8, &mut layer).unwrap();
    let (_keep, cache) = cache();
    let directory = tempfile::tempdir().unwrap();
    layout(directory.path(), &image, &layer, LAYER);
    let error = read(&cache, directory.path(), "amd64").unwrap_err();
    assert!(error.to_string().contains("not what its digests say"), "{error}");
    assert!(!cache.tar(&image.layers[0].diff_id).exists());
    let empty = tempfile::tempdir().unwrap();
    let error = read(&cache, empty.path(), "amd64").unwrap_err();
    assert!(error.to_string().contains("index.json"), "{error}");
}
