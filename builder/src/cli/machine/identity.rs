//! Certificates for one node: a CA of its own, the server's certificate, and one administrator's.

use crate::cli::Failure;
use cairn_contract::management::ROLE_ADMIN;
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Everything as PEM; keys as PKCS#8.
pub(super) struct Identity {
    pub(super) ca: String,
    pub(super) server_certificate: String,
    pub(super) server_key: String,
    pub(super) client_certificate: String,
    pub(super) client_key: String,
}

impl Identity {
    /// Makes fresh ECDSA P-256 keys. The CA's key lives no longer than this call.
    pub(super) fn new(name: &str, addresses: &[String], days: u16) -> Result<Self, Failure> {
        let ca_key = key()?;
        let mut ca = parameters(&format!("Cairn CA of {name}"), days)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_certificate = ca.self_signed(&ca_key).map_err(failed)?;
        let issuer = Issuer::new(ca, ca_key);

        let server_key = key()?;
        let mut server = parameters(name, days)?;
        let names = [name, "localhost", "127.0.0.1", "::1"].map(str::to_owned);
        server.subject_alt_names = subject_names(names.iter().chain(addresses))?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.use_authority_key_identifier_extension = true;
        let server_certificate = server.signed_by(&server_key, &issuer).map_err(failed)?;

        let client_key = key()?;
        let mut client = parameters("admin", days)?;
        client.distinguished_name.push(DnType::OrganizationName, ROLE_ADMIN);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        client.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        client.use_authority_key_identifier_extension = true;
        let client_certificate = client.signed_by(&client_key, &issuer).map_err(failed)?;

        Ok(Self {
            ca: ca_certificate.pem(),
            server_certificate: server_certificate.pem(),
            server_key: server_key.serialize_pem(),
            client_certificate: client_certificate.pem(),
            client_key: client_key.serialize_pem(),
        })
    }
}

fn key() -> Result<KeyPair, Failure> {
    KeyPair::generate().map_err(failed)
}

fn subject_names<'a>(names: impl Iterator<Item = &'a String>) -> Result<Vec<rcgen::SanType>, Failure> {
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        if !unique.contains(name) {
            unique.push(name.clone());
        }
    }
    for name in &unique {
        // rcgen only refuses what is not ASCII; a space or a URL in a certificate would fail much later.
        let dns = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        if name.parse::<std::net::IpAddr>().is_err() && (!dns || name.is_empty()) {
            return Err(Failure::mistake(format!(
                "`{name}` is neither an IP address nor a DNS name; give --address as 192.0.2.7, 2001:db8::7 or node-1.example"
            )));
        }
    }
    Ok(CertificateParams::new(unique).map_err(failed)?.subject_alt_names)
}

fn parameters(common_name: &str, days: u16) -> Result<CertificateParams, Failure> {
    let mut parameters = CertificateParams::new(Vec::new()).map_err(failed)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    let day = |date: Date| {
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(i32::from(date.year()), month, day)
    };
    let shifted = |span: Span| {
        today.checked_add(span).map_err(|error| Failure::mistake(format!("--days {days}: {error}")))
    };
    // A node's clock may be behind until it has found a time server.
    parameters.not_before = day(shifted(Span::new().days(-2))?);
    parameters.not_after = day(shifted(Span::new().days(i64::from(days) + 1))?);
    Ok(parameters)
}

fn failed(error: rcgen::Error) -> Failure {
    Failure::machine(format!("cannot make certificates: {error}"))
}
