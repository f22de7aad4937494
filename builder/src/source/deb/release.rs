//! A suite's Release document: believed only when its signature is good.
//!
//! The trust is the archive keyring's of the machine that builds. As with apt, at least one signature must be
//! good and by a key of the keyring that is valid now, and none by a key of the keyring may be bad. SHA-256 is the
//! weakest hash accepted.

use super::control;
use cairn_contract::digest::Sha256Digest;
use pgp::{
    composed::{CleartextSignedMessage, Deserializable as _, SignedPublicKey},
    crypto::hash::HashAlgorithm,
    packet::Signature,
    types::{KeyDetails as _, Timestamp, VerifyingKey},
};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Why a Release document is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The keyring cannot be read.
    #[error(
        "cannot read the keyring {path}: {why}; on Debian it comes with the package debian-archive-keyring"
    )]
    Keyring {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no signature at all, or one that is not understood.
    #[error("{url} is not a signed document: {why}")]
    Unsigned {
        /// The document.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The signature does not fit the text.
    #[error("{url}: the signature by key {key} is BAD: the document was changed after it was signed")]
    BadSignature {
        /// The document.
        url: String,
        /// Key id.
        key: String,
    },
    /// Nobody we know signed it.
    #[error("{url} is signed by {signers}, and {keyring} has no valid key of these")]
    UnknownSigner {
        /// The document.
        url: String,
        /// Key ids and what is wrong with those that are known.
        signers: String,
        /// The keyring.
        keyring: PathBuf,
    },
    /// Too old to be believed.
    #[error(
        "{url} was valid until {until}, and this machine's clock says {now}: the mirror is stale, or the clock \
         wrong; use another mirror"
    )]
    Expired {
        /// The document.
        url: String,
        /// As the document says.
        until: String,
        /// RFC 3339.
        now: String,
    },
    /// Signed, but something else.
    #[error("{url} is the Release of `{found}`, not of `{wanted}`")]
    OtherSuite {
        /// The document.
        url: String,
        /// What was asked for.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// The signed text is malformed.
    #[error(transparent)]
    Syntax(#[from] control::SyntaxError),
}

/// Certificates that may sign.
#[derive(Debug)]
pub struct Keyring {
    path: PathBuf,
    certificates: Vec<SignedPublicKey>,
}

impl Keyring {
    /// Where Debian puts its own.
    pub const DEBIAN: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

    /// Reads a keyring, binary or armored.
    ///
    /// # Errors
    /// It is not there, or has no certificate.
    pub fn load(path: &Path) -> Result<Self, ReleaseError> {
        let error = |why: String| ReleaseError::Keyring { path: path.to_owned(), why };
        let bytes = fs::read(path).map_err(|why| error(why.to_string()))?;
        Self::parse(path, &bytes).map_err(error)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, String> {
        let readable = |result: Result<SignedPublicKey, _>| result.ok();
        let certificates: Vec<_> = if bytes.starts_with(b"-----") {
            let (all, _) = SignedPublicKey::from_armor_many(bytes).map_err(|why| why.to_string())?;
            all.filter_map(readable).collect()
        } else {
            // A keyring lives long: a key of a kind we do not read must not make the others useless.
            SignedPublicKey::from_bytes_many(bytes)
                .map_err(|why| why.to_string())?
                .filter_map(readable)
                .collect()
        };
        if certificates.is_empty() {
            Err("it has no certificate".to_owned())
        } else {
            Ok(Self { path: path.to_owned(), certificates })
        }
    }
}

/// One file a Release speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its SHA-256.
    pub digest: Sha256Digest,
    /// Its bytes.
    pub size: u64,
}

/// What a Release says, of what we need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// When it was made, seconds since 1970.
    pub date: u64,
    /// Whether files can be had by their digest, which a mirror that is just being updated cannot get wrong.
    pub by_hash: bool,
    /// Files by path below the suite's directory.
    pub files: HashMap<String, Listed>,
}

/// What to hold a Release against.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'e> {
    /// The document's URL, for messages.
    pub url: &'e str,
    /// Suite or codename it must be of.
    pub suite: &'e str,
    /// The time now.
    pub now: SystemTime,
    /// Whether `Valid-Until` counts.
    pub check_valid_until: bool,
}

impl Release {
    /// Verifies and reads an InRelease document.
    ///
    /// # Errors
    /// It is not to be believed, too old, of another suite, or malformed.
    pub fn verify(bytes: &[u8], keyring: &Keyring, expected: Expectation<'_>) -> Result<Self, ReleaseError> {
        let text = signed_text(bytes, keyring, expected)?;
        Self::parse(&text, expected)
    }

    fn parse(text: &str, expected: Expectation<'_>) -> Result<Self, ReleaseError> {
        let Expectation { url, suite, now, check_valid_until } = expected;
        let paragraph = control::paragraphs(url, text)
            .next()
            .ok_or_else(|| ReleaseError::Unsigned { url: url.to_owned(), why: "it is empty".to_owned() })??;
        let error = |field: &str, why: String| control::SyntaxError {
            file: url.to_owned(),
            line: paragraph.field(field).map_or(1, |field| field.line),
            why,
        };
        let names = [paragraph.get("Codename"), paragraph.get("Suite")];
        if !names.contains(&Some(suite)) {
            let found = names.iter().flatten().copied().collect::<Vec<_>>().join(", ");
            return Err(ReleaseError::OtherSuite { url: url.to_owned(), wanted: suite.to_owned(), found });
        }
        let seconds = |field: &str, text: &str| {
            seconds(text).ok_or_else(|| error(field, format!("`{text}` is not a date")))
        };
        let date = seconds("Date", paragraph.require("Date", url)?)?;
        if let Some(until) = paragraph.get("Valid-Until").filter(|_| check_valid_until)
            && now > UNIX_EPOCH + Duration::from_secs(seconds("Valid-Until", until)?)
        {
            let now = jiff::Timestamp::try_from(now).map_or_else(|_| "?".to_owned(), |now| now.to_string());
            return Err(ReleaseError::Expired { url: url.to_owned(), until: until.to_owned(), now });
        }
        let mut files = HashMap::new();
        let list = paragraph
            .field("SHA256")
            .ok_or_else(|| error("SHA256", "the Release lists no SHA-256 digests".to_owned()))?;
        for line in list.lines().filter(|line| !line.is_empty()) {
            let listed = (|| {
                let mut words = line.split_whitespace();
                let digest = format!("sha256:{}", words.next()?).parse().ok()?;
                let size = words.next()?.parse().ok()?;
                Some((words.next()?.to_owned(), Listed { digest, size }))
            })();
            let (path, listed) = listed
                .ok_or_else(|| error("SHA256", format!("`{line}` is not a digest, a size and a path")))?;
            files.insert(path, listed);
        }
        Ok(Self { date, by_hash: paragraph.get("Acquire-By-Hash") == Some("yes"), files })
    }
}

/// Seconds since 1970 of the date form that Release documents have.
fn seconds(text: &str) -> Option<u64> {
    let text =
        text.strip_suffix("UTC").map(|local| format!("{local}+0000")).unwrap_or_else(|| text.to_owned());
    let zoned = jiff::fmt::rfc2822::parse(&text).ok()?;
    u64::try_from(zoned.timestamp().as_second()).ok()
}

fn signed_text(bytes: &[u8], keyring: &Keyring, expected: Expectation<'_>) -> Result<String, ReleaseError> {
    let url = || expected.url.to_owned();
    let unsigned = |why: String| ReleaseError::Unsigned { url: url(), why };
    let text = std::str::from_utf8(bytes).map_err(|why| unsigned(why.to_string()))?;
    let (message, _) = CleartextSignedMessage::from_string(text).map_err(|why| unsigned(why.to_string()))?;
    let signed = message.signed_text();
    let mut good = false;
    let mut others = Vec::new();
    for signature in message.signatures() {
        match judge(signature, signed.as_bytes(), keyring, expected.now) {
            Verdict::Good => good = true,
            Verdict::Bad(key) => return Err(ReleaseError::BadSignature { url: url(), key }),
            Verdict::Unusable(why) => others.push(why),
        }
    }
    if !good {
        let signers = if others.is_empty() { "nobody".to_owned() } else { others.join(", ") };
        return Err(ReleaseError::UnknownSigner { url: url(), signers, keyring: keyring.path.clone() });
    }
    Ok(signed.replace("\r\n", "\n"))
}

enum Verdict {
    Good,
    Bad(String),
    Unusable(String),
}

fn judge(signature: &Signature, text: &[u8], keyring: &Keyring, now: SystemTime) -> Verdict {
    let name = signature
        .issuer_fingerprint()
        .first()
        .map(|fingerprint| fingerprint.to_string())
        .or_else(|| signature.issuer_key_id().first().map(|id| id.to_string()))
        .unwrap_or_else(|| "a key it does not name".to_owned());
    let strong = [
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha384,
        HashAlgorithm::Sha512,
        HashAlgorithm::Sha3_256,
        HashAlgorithm::Sha3_512,
    ];
    if !signature.hash_alg().is_some_and(|hash| strong.contains(&hash)) {
        return Verdict::Unusable(format!("{name} (with a hash that is too weak)"));
    }
    for certificate in &keyring.certificates {
        let primary = &certificate.primary_key;
        if is_issuer(signature, primary) {
            return match standing(certificate, now) {
                Err(why) => Verdict::Unusable(format!("{name} ({why})")),
                Ok(()) => checked(signature, primary, text, now, name),
            };
        }
        for subkey in &certificate.public_subkeys {
            if is_issuer(signature, &subkey.key) {
                let bound = subkey.verify_bindings(primary).is_ok()
                    && subkey.signatures.iter().any(|binding| binding.key_flags().sign())
                    && !subkey.signatures.iter().any(is_revocation);
                let expired = expired(subkey.signatures.iter(), subkey.key.created_at(), now);
                return match standing(certificate, now) {
                    Err(why) => Verdict::Unusable(format!("{name} ({why})")),
                    Ok(()) if !bound => Verdict::Unusable(format!("{name} (not a signing key)")),
                    Ok(()) if expired => Verdict::Unusable(format!("{name} (expired)")),
                    Ok(()) => checked(signature, &subkey.key, text, now, name),
                };
            }
        }
    }
    Verdict::Unusable(name)
}

fn is_issuer(signature: &Signature, key: &impl VerifyingKey) -> bool {
    signature.issuer_fingerprint().contains(&&key.fingerprint())
        || signature.issuer_key_id().contains(&&key.legacy_key_id())
}

fn checked(
    signature: &Signature,
    key: &impl VerifyingKey,
    text: &[u8],
    now: SystemTime,
    name: String,
) -> Verdict {
    if signature.verify(key, text).is_err() {
        return Verdict::Bad(name);
    }
    let lapsed = match (signature.created(), signature.signature_expiration_time()) {
        (Some(created), Some(lifetime)) if lifetime.as_secs() > 0 => {
            now > time(created) + Duration::from_secs(u64::from(lifetime.as_secs()))
        }
        _ => false,
    };
    if lapsed { Verdict::Unusable(format!("{name} (the signature expired)")) } else { Verdict::Good }
}

/// Whether a certificate may be used at all.
fn standing(certificate: &SignedPublicKey, now: SystemTime) -> Result<(), &'static str> {
    let details = &certificate.details;
    if !details.revocation_signatures.is_empty() {
        return Err("revoked");
    }
    let own =
        details.users.iter().flat_map(|user| &user.signatures).filter(|signature| {
            signature.is_certification() && is_issuer(signature, &certificate.primary_key)
        });
    let own = own.chain(&details.direct_signatures);
    if expired(own, certificate.primary_key.created_at(), now) { Err("expired") } else { Ok(()) }
}

fn is_revocation(signature: &Signature) -> bool {
    use pgp::packet::SignatureType;
    matches!(signature.typ(), Some(SignatureType::SubkeyRevocation | SignatureType::KeyRevocation))
}

/// Whether the newest of a key's own signatures sets a lifetime that is over.
fn expired<'s>(own: impl Iterator<Item = &'s Signature>, created: Timestamp, now: SystemTime) -> bool {
    let newest = own.max_by_key(|signature| signature.created());
    match newest.and_then(Signature::key_expiration_time) {
        Some(lifetime) if lifetime.as_secs() > 0 => {
            now > time(created) + Duration::from_secs(u64::from(lifetime.as_secs()))
        }
        _ => false,
    }
}

fn time(timestamp: Timestamp) -> SystemTime {
    timestamp.into()
}

#[cfg(test)]
mod tests;
