//! Mirrors that are down, lie or are tampered with, and disks that are full.

use crate::{
    fixture::{Checkout, Outcome, PACKAGE, PROFILE, on_a_small_disk, package, whole},
    mirror::{Answer, Mirror},
};
use cairn_contract::digest::Sha256Digest;
use pgp::{
    composed::{
        ArmorOptions, CleartextSignedMessage, Deserializable as _, KeyType, SecretKeyParamsBuilder,
        SignedPublicKey, SignedSecretKey,
    },
    packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData},
    types::{KeyDetails as _, Password, Timestamp},
};
use sha2::{Digest as _, Sha256};
use std::{path::PathBuf, sync::Arc};

/// The keyring that vouches for Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[test]
fn a_mirror_that_is_down_is_named_after_some_attempts() {
    let package = package(1000);
    let checkout = Checkout::locked(&package);
    let mirror = Mirror::down();
    for command in ["build", "lock"] {
        let outcome = checkout.run(&[command, "small", "--mirror", &mirror]);
        outcome.assert_refused(
            3,
            &["cannot reach", &mirror, "refused", "check the network, or name another mirror"],
        );
        assert!(outcome.stderr.contains("again in"), "{outcome:#?}");
        checkout.assert_nothing_new_but_parts();
    }
}

#[test]
fn a_package_that_is_not_the_locked_one_is_thrown_away() {
    let good = package(1000);
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let checkout = Checkout::locked(&good);
    let mirror = Mirror::start(whole(&changed));
    for command in ["build", "lock"] {
        let outcome = checkout.run(&[command, "small", "--mirror", &mirror.uri]);
        outcome.assert_refused(3, &[PACKAGE, "has digest sha256:", "not sha256:", "nothing of it is kept"]);
        assert_eq!(checkout.new_files(), Vec::<String>::new());
    }
    // Longer than it may be: not read to its end.
    let mirror = Mirror::start(whole(&[good.clone(), good.clone()].concat()));
    let outcome = checkout.run(&["build", "small", "--mirror", &mirror.uri]);
    outcome.assert_refused(3, &[PACKAGE, &format!("longer than the {} bytes", good.len())]);
    checkout.assert_nothing_new_but_parts();
    // The good one is taken afterwards.
    let mirror = Mirror::start(whole(&good));
    let outcome = checkout.run(&["lock", "small", "--check", "--mirror", &mirror.uri]);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(outcome.stdout.contains("is up to date: 1 packages"), "{outcome:#?}");
}

#[test]
fn a_release_with_a_bad_signature_is_refused() {
    let Ok(keyring) = std::fs::read(KEYRING) else {
        println!("skipped: no {KEYRING} on this machine");
        return;
    };
    let release = "Suite: stable\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nSHA256:\n";
    for (document, parts) in [
        (forged(release, &keyring), ["signature", "changed"]),
        (signed(release, &own_key()), ["is signed by", KEYRING]),
        (release.to_owned(), ["InRelease", "sign"]),
    ] {
        let checkout = Checkout::new(PROFILE);
        let path = "/debian/dists/trixie/InRelease".to_owned();
        let mirror = Mirror::start([(path, Answer::File(Arc::new(document.into_bytes())))]);
        for command in ["build", "lock"] {
            let outcome = checkout.run(&[command, "small", "--mirror", &mirror.uri]);
            outcome.assert_refused(3, &parts);
            outcome.assert_refused(3, &[&format!("{}/dists/trixie/InRelease", mirror.uri)]);
            assert_eq!(checkout.new_files(), Vec::<String>::new());
        }
    }
}

fn own_key() -> SignedSecretKey {
    let mut params = SecretKeyParamsBuilder::default();
    params.key_type(KeyType::Ed25519Legacy).can_sign(true).primary_user_id("Nobody <n@example>".to_owned());
    params.build().unwrap().generate(rand::thread_rng()).unwrap()
}

fn signed(text: &str, key: &SignedSecretKey) -> String {
    let message =
        CleartextSignedMessage::sign(rand::thread_rng(), text, &key.primary_key, &Password::empty()).unwrap();
    message.to_armored_string(ArmorOptions::default()).unwrap()
}

/// Signed by us in the name of the newest key in the keyring.
fn forged(text: &str, keyring: &[u8]) -> String {
    let certificates = SignedPublicKey::from_bytes_many(keyring).unwrap().filter_map(Result::ok);
    let victim = certificates.max_by_key(|certificate| certificate.primary_key.created_at()).unwrap();
    let key = own_key();
    let mut config =
        SignatureConfig::from_key(rand::thread_rng(), &key.primary_key, SignatureType::Text).unwrap();
    config.hashed_subpackets = [
        SubpacketData::SignatureCreationTime(Timestamp::now()),
        SubpacketData::IssuerFingerprint(victim.primary_key.fingerprint()),
    ]
    .map(|data| Subpacket::regular(data).unwrap())
    .to_vec();
    let message = CleartextSignedMessage::new(text, config, &key.primary_key, &Password::empty()).unwrap();
    message.to_armored_string(ArmorOptions::default()).unwrap()
}

/// Runs `cairn build` with `directory`, below the checkout, on a disk of so many MiB; with what is left on it.
fn build_on_a_small_disk(
    checkout: &Checkout,
    directory: &str,
    mebibytes: u32,
    mirror: &str,
) -> Option<(Outcome, String)> {
    let small = checkout.path(directory);
    std::fs::create_dir_all(&small).unwrap();
    let listing = tempfile::NamedTempFile::new().unwrap();
    let mut command = on_a_small_disk(&small, mebibytes, listing.path())?;
    let cairn = checkout.cairn(&["build", "small", "--mirror", mirror]);
    command.arg(cairn.get_program()).args(cairn.get_args());
    command.current_dir(cairn.get_current_dir().unwrap());
    for (name, value) in cairn.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let outcome = Outcome::of(&command.output().unwrap());
    assert_ne!(outcome.code, Some(99), "the small disk could not be mounted: {outcome:#?}");
    Some((outcome, std::fs::read_to_string(listing.path()).unwrap()))
}

#[test]
fn a_full_disk_is_named_wherever_it_fills_up() {
    let package = package(24 << 20);
    let blob = Sha256Digest::new(Sha256::digest(&package).into()).hex();
    let mirror = Mirror::start(whole(&package));
    for (what, directory, mebibytes) in
        [("a download", "cache", 6), ("an unpacked package", "cache", 30), ("an image", "out", 6)]
    {
        let checkout = Checkout::locked(&package);
        let Some((outcome, left)) = build_on_a_small_disk(&checkout, directory, mebibytes, &mirror.uri)
        else {
            println!("skipped: neither root nor user namespaces, so no small disk can be made");
            return;
        };
        let place = if directory == "cache" { checkout.path("cache/") } else { PathBuf::from("out/.small") };
        let place = place.display().to_string();
        outcome.assert_refused(3, &["the disk is full: cannot write", &place, "free some space"]);
        // What is whole may stay in the cache, and what the next build takes up again; of an image nothing.
        let sound = |file: &str| directory == "cache" && (file.ends_with(".part") || file.ends_with(&blob));
        assert!(left.lines().all(sound), "{what}: left on the disk: {left}");
    }
}
