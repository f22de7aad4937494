//! What a user gets who gives something that is no image.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot go on panics.

use cairn_contract::{
    digest::Sha256Digest,
    manifest::{ImageRelease, Inputs, MANIFEST_FORMAT, Manifest, OutputFile, Sizes},
};
use cairn_qemu::{Error, TestOptions, UserError, image::Image, test};
use sha2::{Digest, Sha256};
use std::path::Path;

const RAW: &[u8] = b"not much of a disk";
const UKI: &[u8] = b"no PE program";

fn manifest() -> Manifest {
    let digest = |bytes: &[u8]| Sha256Digest::new(Sha256::digest(bytes).into());
    let file = |name: &str, bytes: &[u8]| OutputFile {
        name: name.into(),
        size: bytes.len() as u64,
        digest: digest(bytes),
    };
    Manifest {
        format: MANIFEST_FORMAT,
        release: ImageRelease {
            profile: "worker".into(),
            version: "1".into(),
            kernel: "6".into(),
            suite: "trixie".into(),
            source_date_epoch: 0,
            architecture: "amd64".into(),
        },
        inputs: Inputs { profile: digest(b""), lock: digest(b"") },
        root_hash: "00".repeat(32),
        command_line: String::new(),
        files: vec![file("worker.raw", RAW), file("worker.efi", UKI)],
        partitions: vec![],
        packages: vec![],
        components: vec![],
        images: vec![],
        sizes: Sizes { uki: 0, root: 0, verity: 0, root_uncompressed: 0, raw: 0, raw_allocated: 0 },
    }
}

fn write(directory: &Path, manifest: &Manifest) {
    std::fs::write(directory.join("manifest.json"), serde_json::to_vec(manifest).unwrap()).unwrap();
    std::fs::write(directory.join("worker.raw"), RAW).unwrap();
    std::fs::write(directory.join("worker.efi"), UKI).unwrap();
}

fn refused(path: &Path) -> UserError {
    match Image::open(path) {
        Err(Error::User(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whatever_is_wrong_is_the_users_to_mend_and_said_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path();
    assert!(matches!(refused(&out.join("absent")), UserError::NoImage { .. }));
    assert!(matches!(refused(out), UserError::NoManifest { .. }));

    write(out, &manifest());
    std::fs::write(out.join("manifest.json"), "{").unwrap();
    assert!(matches!(refused(out), UserError::BadManifest { .. }));
    write(out, &Manifest { format: 99, ..manifest() });
    assert!(refused(out).to_string().contains("form 99"));

    write(out, &manifest());
    std::fs::remove_file(out.join("worker.efi")).unwrap();
    assert!(matches!(refused(out), UserError::MissingFile { .. }));

    write(out, &manifest());
    std::fs::write(out.join("worker.raw"), &RAW[..5]).unwrap();
    let error = refused(out);
    assert!(matches!(error, UserError::WrongLength { found: 5, .. }));
    assert!(error.to_string().contains("truncated") && !error.to_string().contains('\n'), "{error}");

    write(out, &manifest());
    let mut changed = RAW.to_vec();
    changed[0] ^= 1;
    std::fs::write(out.join("worker.raw"), changed).unwrap();
    let image = Image::open(&out.join("worker.raw")).unwrap();
    let error = image.verify_digest().await.unwrap_err();
    assert!(matches!(error, Error::User(UserError::WrongDigest { .. })), "{error}");
}

#[tokio::test]
async fn an_image_whose_uki_is_none_is_refused_before_any_machine_starts() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &manifest());
    match test(TestOptions::new(directory.path())).await {
        Err(Error::User(UserError::BadImage { reason, .. })) => {
            assert!(reason.contains("unified kernel image"), "{reason}")
        }
        Err(Error::User(UserError::NoProgram { .. })) => println!("skipped: no QEMU"),
        other => panic!("{other:?}"),
    }
}
