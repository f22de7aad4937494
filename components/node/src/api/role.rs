//! Roles of clients, from the organisation in their certificates.

use cairn_contract::management::{ROLE_ADMIN, ROLE_READER};
use tonic::{Request, Status};

/// What a client may do. Ordered: an admin may all that a reader may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Reader,
    /// Everything.
    Admin,
}

/// The client behind a connection; `None` is one whose certificate names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub Option<Role>);

impl Role {
    /// Reads the role out of a certificate (DER) whose signature was verified before. The highest counts.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let organisations = certificate.subject().iter_organization();
        organisations
            .filter_map(|attribute| match attribute.as_str().ok()? {
                ROLE_ADMIN => Some(Self::Admin),
                ROLE_READER => Some(Self::Reader),
                _ => None,
            })
            .max()
    }
}

/// Refuses a request unless its client has at least the role `needed`.
pub(super) fn require<T>(request: &Request<T>, needed: Role) -> Result<(), Status> {
    match request.extensions().get::<Peer>() {
        Some(Peer(Some(role))) if *role >= needed => Ok(()),
        _ => {
            let name = match needed {
                Role::Admin => ROLE_ADMIN,
                Role::Reader => ROLE_READER,
            };
            Err(Status::permission_denied(format!(
                "this needs a client certificate with the organisation {name}"
            )))
        }
    }
}
