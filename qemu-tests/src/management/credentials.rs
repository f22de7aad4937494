//! Who a client is to a node: its certificate and key, and the CA that it knows the node by.

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The CA's certificate in a directory of credentials.
pub(crate) const CA_FILE: &str = "ca.pem";
/// Names that `cairn run` (admin, reader) and `cairn machine new` (client) give a client, the mightiest first.
const USUAL_NAMES: [&str; 3] = ["admin", "client", "reader"];

/// Checked and ready to use.
#[derive(Clone)]
pub struct Credentials {
    pub(super) tls: Arc<ClientConfig>,
}

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No certificate of the CA, or none of a client.
    #[error(
        "{directory}: there is no {file} here; give the directory that `cairn run` or `cairn machine new` wrote with --credentials"
    )]
    Missing {
        /// The directory.
        directory: PathBuf,
        /// What was looked for.
        file: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not PEM, or not of the right kind.
    #[error("{what}: {reason}")]
    Invalid {
        /// File name, or what it would be.
        what: String,
        /// Parser's message.
        reason: String,
    },
}

/// PEM text and what to call it in messages.
struct Pem {
    what: String,
    text: String,
}

impl Pem {
    fn read(directory: &Path, file: &str) -> Result<Self, CredentialsError> {
        let path = directory.join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self { what: path.display().to_string(), text }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(CredentialsError::Missing { directory: directory.to_owned(), file: file.to_owned() })
            }
            Err(source) => Err(CredentialsError::Read { path, source }),
        }
    }

    fn invalid(&self, reason: impl ToString) -> CredentialsError {
        CredentialsError::Invalid { what: self.what.clone(), reason: reason.to_string() }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        let found = CertificateDer::pem_slice_iter(self.text.as_bytes()).collect::<Result<Vec<_>, _>>();
        match found {
            Ok(found) if found.is_empty() => Err(self.invalid("there is no certificate in it (PEM)")),
            found => found.map_err(|error| self.invalid(error)),
        }
    }
}

impl Credentials {
    /// From PEM: the CA that signed the node's certificate, the client's certificate chain, and its key.
    pub fn from_pem(ca: &str, certificate: &str, key: &str) -> Result<Self, CredentialsError> {
        let pem = |what: &str, text: &str| Pem { what: what.to_owned(), text: text.to_owned() };
        Self::new(
            &pem("CA certificate", ca),
            &pem("client certificate", certificate),
            &pem("client key", key),
        )
    }

    /// From `ca.pem`, `<name>.pem` and `<name>.key` in a directory. Without a name the first of admin, client and
    /// reader that is there.
    pub fn from_directory(directory: &Path, name: Option<&str>) -> Result<Self, CredentialsError> {
        let usual = || USUAL_NAMES.into_iter().find(|name| directory.join(format!("{name}.pem")).exists());
        let ca = Pem::read(directory, CA_FILE)?;
        let name = name.or_else(usual).unwrap_or(USUAL_NAMES[0]);
        Self::new(
            &ca,
            &Pem::read(directory, &format!("{name}.pem"))?,
            &Pem::read(directory, &format!("{name}.key"))?,
        )
    }

    fn new(ca: &Pem, certificate: &Pem, key: &Pem) -> Result<Self, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for found in ca.certificates()? {
            roots.add(found).map_err(|error| ca.invalid(error))?;
        }
        let private =
            PrivateKeyDer::from_pem_slice(key.text.as_bytes()).map_err(|error| key.invalid(error))?;
        // Named, not installed as the process's default: whoever links this library has a say in that.
        let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ca.invalid(error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificate.certificates()?, private)
            .map_err(|error| key.invalid(format!("does not go with its certificate: {error}")))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::identity::Identity;

    fn directory(identity: &Identity, clients: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), &identity.ca).unwrap();
        for name in clients {
            std::fs::write(directory.path().join(format!("{name}.pem")), &identity.admin.certificate)
                .unwrap();
            std::fs::write(directory.path().join(format!("{name}.key")), &identity.admin.key).unwrap();
        }
        directory
    }

    #[test]
    fn a_directory_is_read_under_every_usual_name_and_a_given_one() {
        let identity = Identity::generate().unwrap();
        for name in ["admin", "client", "reader"] {
            Credentials::from_directory(directory(&identity, &[name]).path(), None).unwrap();
        }
        let named = directory(&identity, &["night-shift"]);
        Credentials::from_directory(named.path(), Some("night-shift")).unwrap();
        let error = Credentials::from_directory(named.path(), None).unwrap_err().to_string();
        assert!(error.contains("there is no admin.pem here"), "{error}");
    }

    #[test]
    fn the_file_that_is_wrong_is_named() {
        let (identity, other) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let folder = directory(&identity, &["admin"]);
        let refused = |expected: &str| {
            let error = Credentials::from_directory(folder.path(), None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        std::fs::write(folder.path().join("admin.key"), &other.admin.key).unwrap();
        refused("admin.key: does not go with its certificate");
        std::fs::write(folder.path().join("admin.key"), "no key").unwrap();
        refused("admin.key: ");
        std::fs::write(folder.path().join("admin.pem"), "no certificate").unwrap();
        std::fs::write(folder.path().join("admin.key"), &identity.admin.key).unwrap();
        refused("admin.pem: there is no certificate in it");
        std::fs::remove_file(folder.path().join("ca.pem")).unwrap();
        refused("there is no ca.pem here");
    }
}
