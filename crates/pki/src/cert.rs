//! Certificates: authorities, servers, clients.
//!
//! Every certificate's `notBefore` lies [`SKEW`] in the past, so that peers whose clocks are behind accept it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Error, file, key};

/// How far in the past certificates begin.
pub const SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Validity of an authority, as kubeadm's.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Validity of the rest, as kubeadm's.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// A certificate with less left is made anew.
pub const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A server.
    Server,
    /// A client.
    Client,
    /// Both: etcd's peers.
    Both,
}

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The common name: the user of a client certificate.
    pub common_name: String,
    /// The organization: the group of a client certificate. One, or none.
    pub organization: Option<String>,
    /// DNS names and IP addresses (told apart by form).
    pub sans: Vec<String>,
    /// What for.
    pub usage: Use,
}

/// An authority: certificate and key.
pub struct Ca {
    /// The certificate in PEM.
    pub cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate file shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Common name; empty if there is none.
    pub common_name: String,
    /// Organizations.
    pub organizations: Vec<String>,
    /// DNS names and IP addresses as text.
    pub sans: Vec<String>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Whether it is an authority.
    pub is_ca: bool,
}

fn dates(params: &mut CertificateParams, validity: Duration) {
    let now = OffsetDateTime::from(SystemTime::now());
    params.not_before = now - SKEW;
    params.not_after = now + validity;
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    if let Some(o) = organization {
        dn.push(DnType::OrganizationName, o);
    }
    dn.push(DnType::CommonName, common_name);
    dn
}

impl Ca {
    /// A new self-signed authority over `key`.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn generate(common_name: &str, key: KeyPair) -> Result<Ca, Error> {
        let what = || format!("authority {common_name}");
        let mut params =
            CertificateParams::new(vec![common_name.to_owned()]).map_err(Error::crypto(what()))?;
        dates(&mut params, CA_VALIDITY);
        params.distinguished_name = name(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        let cert = params.self_signed(&key).map_err(Error::crypto(what()))?;
        Ok(Ca {
            cert_pem: cert.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// An authority from PEM texts.
    ///
    /// # Errors
    /// [`Error::Malformed`], also when the key is not the certificate's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Ca, Error> {
        let key = key::parse(key_pem)?;
        let spki = with_first(cert_pem, |c| {
            c.public_key().subject_public_key.data.to_vec()
        })?;
        if spki != key.public_key_raw() {
            return Err(Error::malformed(
                "authority",
                "the private key does not belong to the certificate",
            ));
        }
        let first = first_der(cert_pem)?;
        let issuer = Issuer::from_ca_cert_der(&first.into(), key)
            .map_err(|e| Error::malformed("authority", e))?;
        Ok(Ca {
            cert_pem: cert_pem.to_owned(),
            issuer,
        })
    }

    /// Reads an authority's files.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn read(cert: &Path, key: &Path) -> Result<Ca, Error> {
        Ca::from_pem(&file::read(cert)?, &file::read(key)?)
            .map_err(|e| Error::malformed(cert.display().to_string(), e))
    }

    /// Reads the authority at `<stem>.crt` and `<stem>.key`, or makes it. An authority is never replaced: what it signed
    /// would be worth nothing.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn ensure(stem: &Path, common_name: &str) -> Result<Ca, Error> {
        let (crt, keyf) = pair(stem);
        if crt.exists() && keyf.exists() {
            return Ca::read(&crt, &keyf);
        }
        if crt.exists() {
            return Err(Error::malformed(
                crt.display().to_string(),
                "the authority's key is missing beside it",
            ));
        }
        let key = key::ensure(&keyf)?;
        let ca = Ca::generate(common_name, key)?;
        file::write(&crt, ca.cert_pem.as_bytes(), 0o644)?;
        Ok(ca)
    }

    /// Signs a certificate for `key`; PEM.
    ///
    /// # Errors
    /// [`Error::Crypto`], also for a SAN that is neither a DNS name nor an address.
    pub fn sign(&self, spec: &Spec, key: &KeyPair, validity: Duration) -> Result<String, Error> {
        let what = || format!("certificate {}", spec.common_name);
        let params = leaf(spec, validity)?;
        Ok(params
            .signed_by(key, &self.issuer)
            .map_err(Error::crypto(what()))?
            .pem())
    }

    /// The private key.
    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// Keeps the certificate at `<stem>.crt`/`.key` when it is signed by this authority, says what `spec` says and has
    /// more than [`RENEW_BEFORE`] left; otherwise makes it. The key is kept if there is one. Tells whether it wrote.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn ensure_leaf(&self, stem: &Path, spec: &Spec) -> Result<bool, Error> {
        let (crt, keyf) = pair(stem);
        let key = key::ensure(&keyf)?;
        if crt.exists() && self.keeps(&file::read(&crt)?, spec, &key) {
            return Ok(false);
        }
        file::write(
            &crt,
            self.sign(spec, &key, LEAF_VALIDITY)?.as_bytes(),
            0o644,
        )?;
        Ok(true)
    }

    /// Whether `pem` is good for `spec` and `key` for at least [`RENEW_BEFORE`].
    pub fn keeps(&self, pem: &str, spec: &Spec, key: &KeyPair) -> bool {
        let Ok(facts) = facts(pem) else { return false };
        let Ok(ca_der) = first_der(&self.cert_pem) else {
            return false;
        };
        let Ok((_, ca)) = X509Certificate::from_der(&ca_der) else {
            return false;
        };
        let Ok(der) = first_der(pem) else {
            return false;
        };
        let Ok((_, cert)) = X509Certificate::from_der(&der) else {
            return false;
        };
        let ours = cert.issuer().as_raw() == ca.subject().as_raw()
            && cert.verify_signature(Some(ca.public_key())).is_ok()
            && cert.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
        let left = facts.not_after.saturating_sub(unix_now());
        let wanted: Vec<String> = spec.sans.iter().map(|s| canonical_san(s)).collect();
        ours && facts.common_name == spec.common_name
            && facts.organizations.iter().eq(spec.organization.iter())
            && wanted.iter().all(|s| facts.sans.contains(s))
            && left > RENEW_BEFORE.as_secs() as i64
    }
}

fn canonical_san(s: &str) -> String {
    s.parse::<std::net::IpAddr>()
        .map_or_else(|_| s.to_owned(), |ip| ip.to_string())
}

fn leaf(spec: &Spec, validity: Duration) -> Result<CertificateParams, Error> {
    let mut sans = spec.sans.clone();
    sans.sort();
    sans.dedup();
    let mut params = CertificateParams::new(sans)
        .map_err(Error::crypto(format!("certificate {}", spec.common_name)))?;
    dates(&mut params, validity);
    params.distinguished_name = name(&spec.common_name, spec.organization.as_deref());
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = match spec.usage {
        Use::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Use::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Use::Both => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
    };
    Ok(params)
}

/// A self-signed server certificate for `host` and `sans`, as daemons make when they are given none: certificate and key,
/// PEM.
///
/// # Errors
/// [`Error::Crypto`].
pub fn self_signed(host: &str, sans: &[String]) -> Result<(String, String), Error> {
    let key = key::generate()?;
    let mut all = vec![host.to_owned()];
    all.extend(sans.iter().filter(|s| s.as_str() != host).cloned());
    let spec = Spec {
        common_name: format!("{host}@{}", unix_now()),
        organization: None,
        sans: all,
        usage: Use::Server,
    };
    let cert = leaf(&spec, LEAF_VALIDITY)?
        .self_signed(&key)
        .map_err(Error::crypto("self-signed certificate"))?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// `<stem>.crt` and `<stem>.key`.
pub fn pair(stem: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let with = |ext: &str| {
        let mut s = stem.as_os_str().to_owned();
        s.push(ext);
        std::path::PathBuf::from(s)
    };
    (with(".crt"), with(".key"))
}

fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
}

pub(crate) fn first_der(pem: &str) -> Result<Vec<u8>, Error> {
    key::pem_blocks(pem)?
        .into_iter()
        .find(|b| b.label == "CERTIFICATE")
        .map(|b| b.der)
        .ok_or_else(|| Error::malformed("certificate", "the file holds none"))
}

fn with_first<T>(pem: &str, f: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, Error> {
    let der = first_der(pem)?;
    let (_, cert) =
        X509Certificate::from_der(&der).map_err(|e| Error::malformed("certificate", e))?;
    Ok(f(&cert))
}

/// What the first certificate of a PEM text says.
///
/// # Errors
/// [`Error::Malformed`].
pub fn facts(pem: &str) -> Result<Facts, Error> {
    facts_der(&first_der(pem)?)
}

/// What a certificate in DER says.
///
/// # Errors
/// [`Error::Malformed`].
pub fn facts_der(der: &[u8]) -> Result<Facts, Error> {
    use x509_parser::extensions::GeneralName;
    let (_, c) = X509Certificate::from_der(der).map_err(|e| Error::malformed("certificate", e))?;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        a.as_str().unwrap_or_default().to_owned()
    };
    let mut sans = Vec::new();
    if let Ok(Some(ext)) = c.subject_alternative_name() {
        for n in &ext.value.general_names {
            match n {
                GeneralName::DNSName(d) => sans.push((*d).to_owned()),
                GeneralName::IPAddress(b) => {
                    if let Ok(v4) = <[u8; 4]>::try_from(*b) {
                        sans.push(std::net::Ipv4Addr::from(v4).to_string());
                    } else if let Ok(v6) = <[u8; 16]>::try_from(*b) {
                        sans.push(std::net::Ipv6Addr::from(v6).to_string());
                    }
                }
                _ => {}
            }
        }
    }
    Ok(Facts {
        common_name: c
            .subject()
            .iter_common_name()
            .next()
            .map(text)
            .unwrap_or_default(),
        organizations: c.subject().iter_organization().map(text).collect(),
        sans,
        not_before: c.validity().not_before.timestamp(),
        not_after: c.validity().not_after.timestamp(),
        is_ca: c.is_ca(),
    })
}

/// Whole days until the first certificate of a PEM text ends; negative when it has.
///
/// # Errors
/// [`Error::Malformed`].
pub fn days_left(pem: &str) -> Result<i64, Error> {
    Ok((facts(pem)?.not_after - unix_now()).div_euclid(DAY.as_secs() as i64))
}

/// The subject of a certificate, as DER; `None` if it is damaged.
pub fn subject_der(der: &[u8]) -> Option<Vec<u8>> {
    let (_, c) = X509Certificate::from_der(der).ok()?;
    Some(c.subject().as_raw().to_vec())
}
