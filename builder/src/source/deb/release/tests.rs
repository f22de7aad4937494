//! Documents signed here by keys made here.

use super::*;
use pgp::{
    composed::{ArmorOptions, KeyType, SecretKeyParamsBuilder, SignedSecretKey},
    types::Password,
};

const TEXT: &str = "Suite: stable\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\n\
    Valid-Until: Sat, 28 Nov 2026 09:15:44 UTC\nAcquire-By-Hash: yes\nSHA256:\n \
    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855        0 main/binary-amd64/Packages.xz\n";

fn key() -> SignedSecretKey {
    let mut params = SecretKeyParamsBuilder::default();
    params.key_type(KeyType::Ed25519Legacy).can_sign(true).primary_user_id("Archive <a@example>".to_owned());
    params.build().unwrap().generate(rand::thread_rng()).unwrap()
}

fn keyring(keys: &[&SignedSecretKey]) -> Keyring {
    let mut bytes = Vec::new();
    for key in keys {
        pgp::ser::Serialize::to_writer(&key.to_public_key(), &mut bytes).unwrap();
    }
    Keyring::parse(Path::new("ring.gpg"), &bytes).unwrap()
}

fn signed(text: &str, key: &SignedSecretKey) -> String {
    let message =
        CleartextSignedMessage::sign(rand::thread_rng(), text, &key.primary_key, &Password::empty()).unwrap();
    message.to_armored_string(ArmorOptions::default()).unwrap()
}

fn verify(document: &str, keyring: &Keyring, suite: &str) -> Result<Release, ReleaseError> {
    let now = UNIX_EPOCH + Duration::from_secs(1_795_600_000);
    let expected = Expectation { url: "http://m/InRelease", suite, now, check_valid_until: true };
    Release::verify(document.as_bytes(), keyring, expected)
}

#[test]
fn a_good_signature_gives_the_release() {
    let key = key();
    let release = verify(&signed(TEXT, &key), &keyring(&[&key]), "trixie").unwrap();
    assert_eq!(release.date, 1_795_252_544);
    assert!(release.by_hash);
    assert_eq!(release.files["main/binary-amd64/Packages.xz"].size, 0);
}

#[test]
fn changed_foreign_and_unsigned_documents_are_refused() {
    let (ours, foreign) = (key(), key());
    let document = signed(TEXT, &ours);
    let changed = verify(&document.replace("e3b0", "e3b1"), &keyring(&[&ours]), "trixie");
    assert!(matches!(changed, Err(ReleaseError::BadSignature { .. })), "{changed:?}");
    let unknown = verify(&document, &keyring(&[&foreign]), "trixie");
    assert!(matches!(unknown, Err(ReleaseError::UnknownSigner { .. })), "{unknown:?}");
    for text in [TEXT.to_owned(), format!("Extra: 1\n{document}"), format!("{document}\nExtra: 1\n")] {
        let result = verify(&text, &keyring(&[&ours]), "trixie");
        assert!(matches!(result, Err(ReleaseError::Unsigned { .. })), "{result:?}");
    }
}

#[test]
fn old_documents_and_other_suites_are_refused() {
    let key = key();
    let ring = keyring(&[&key]);
    let old = TEXT.replace("28 Nov", "22 Nov").replace("Valid-Until: Sat", "Valid-Until: Sun");
    let error = verify(&signed(&old, &key), &ring, "trixie").unwrap_err();
    assert!(error.to_string().contains("Sun, 22 Nov 2026"), "{error}");
    let error = verify(&signed(TEXT, &key), &ring, "forky").unwrap_err();
    assert!(matches!(error, ReleaseError::OtherSuite { .. }), "{error}");
}

#[test]
fn debians_own_keyring_is_read() {
    let path = Path::new(Keyring::DEBIAN);
    if !path.exists() {
        println!("skipped: no {} on this machine", path.display());
        return;
    }
    assert!(Keyring::load(path).unwrap().certificates.len() > 3);
}
