//! Certificates of one test run, and the machine config that carries them into the node.

use crate::error::Fault;
use cairn_contract::{
    machine::{Api, MachineConfig, Node, Registry},
    management::{ROLE_ADMIN, ROLE_READER},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::collections::BTreeMap;

/// The node's name in tests; its certificate is for it.
pub const NODE_NAME: &str = "cairn-test";
/// Registry host as it stands in image names; the node maps it to the harness's registry.
pub const REGISTRY_HOST: &str = "registry.test";
/// The host's loopback, seen from a guest on QEMU's user network.
pub const HOST_FROM_GUEST: &str = "10.0.2.2";

/// One client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS#8.
    pub key: String,
}

/// A CA and what it signed. Made anew for every run, so nothing has to be kept secret afterwards.
#[derive(Debug, Clone)]
pub struct Identity {
    /// PEM of the CA, for clients.
    pub ca: String,
    /// May do everything.
    pub admin: ClientIdentity,
    /// May look.
    pub reader: ClientIdentity,
    server: ClientIdentity,
}

impl Identity {
    /// Makes new keys and certificates.
    pub fn generate() -> Result<Self, Fault> {
        generate().map_err(|error| Fault::Certificates(error.to_string()))
    }

    /// The machine config of a test node; `registry_port` is the harness's registry on the host.
    pub fn machine_config(&self, registry_port: Option<u16>) -> MachineConfig {
        let mirror = |port| Registry {
            mirrors: vec![format!("http://{HOST_FROM_GUEST}:{port}")],
            ..Registry::default()
        };
        MachineConfig {
            node: Node { name: Some(NODE_NAME.to_owned()), ..Node::default() },
            api: Some(self.api()),
            registries: registry_port
                .map(|port| (REGISTRY_HOST.to_owned(), mirror(port)))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            ..MachineConfig::default()
        }
    }

    /// The part of a machine config that switches the management API on.
    pub fn api(&self) -> Api {
        Api {
            client_ca: self.ca.clone(),
            certificate: self.server.certificate.clone(),
            key: self.server.key.clone(),
        }
    }
}

fn generate() -> Result<Identity, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "cairn test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let names = vec![NODE_NAME.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
    Ok(Identity {
        ca: pem,
        server: signed(&issuer, NODE_NAME, None, names, ExtendedKeyUsagePurpose::ServerAuth)?,
        admin: client(&issuer, "cairn test administrator", ROLE_ADMIN)?,
        reader: client(&issuer, "cairn test reader", ROLE_READER)?,
    })
}

fn client(issuer: &Issuer<'_, KeyPair>, name: &str, role: &str) -> Result<ClientIdentity, rcgen::Error> {
    signed(issuer, name, Some(role), Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
}

fn signed(
    issuer: &Issuer<'_, KeyPair>,
    common_name: &str,
    organisation: Option<&str>,
    names: Vec<String>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<ClientIdentity, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        params.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, issuer)?;
    Ok(ClientIdentity { certificate: certificate.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_config_is_one_the_node_accepts() {
        let config = Identity::generate().unwrap().machine_config(Some(5000));
        let text = toml::to_string(&config).unwrap();
        let parsed = MachineConfig::parse(&text).unwrap();
        assert_eq!(parsed, config);
        assert_eq!(parsed.registries["registry.test"].mirrors, ["http://10.0.2.2:5000"]);
    }
}
