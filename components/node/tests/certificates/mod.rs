//! A CA of a test's own, and what it signs. All CAs have the same name: only their keys tell them apart.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};

/// A CA.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// PEM of a certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut ca = parameters("test CA", None);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(ca, key), pem }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn server(&self, name: &str) -> Pair {
        let mut wanted = parameters(name, None);
        wanted.subject_alt_names = CertificateParams::new(vec![name.to_owned()]).unwrap().subject_alt_names;
        self.sign(wanted, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub(crate) fn client(&self, organisation: Option<&str>) -> Pair {
        self.sign(parameters("client", organisation), ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub(crate) fn expired_client(&self, organisation: Option<&str>) -> Pair {
        let mut wanted = parameters("client", organisation);
        wanted.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.sign(wanted, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut wanted: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Pair {
        wanted.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = wanted.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

fn parameters(common_name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        parameters.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    parameters
}
