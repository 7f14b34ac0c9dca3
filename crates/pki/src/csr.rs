//! Certificate signing requests: making them (a kubelet's bootstrap) and signing them (the signing controller).

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::cert::{Ca, SKEW, Spec, Use};
use crate::{Error, key};

/// A signing request in PEM for `spec`, signed with `key`.
///
/// # Errors
/// [`Error::Crypto`].
pub fn create(spec: &Spec, key: &KeyPair) -> Result<String, Error> {
    let fail = || Error::crypto(format!("signing request {}", spec.common_name));
    let mut params = CertificateParams::new(spec.sans.clone()).map_err(fail())?;
    let mut dn = DistinguishedName::new();
    if let Some(o) = &spec.organization {
        dn.push(DnType::OrganizationName, o.as_str());
    }
    dn.push(DnType::CommonName, spec.common_name.as_str());
    params.distinguished_name = dn;
    params
        .serialize_request(key)
        .map_err(fail())?
        .pem()
        .map_err(fail())
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The common name.
    pub common_name: String,
    /// The organizations.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub ips: Vec<std::net::IpAddr>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
}

/// Reads a request (one PEM block `CERTIFICATE REQUEST`); its signature is not checked here, [`sign`] does.
///
/// # Errors
/// [`Error::Malformed`].
pub fn parse(pem: &str) -> Result<Request, Error> {
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    let blocks = key::pem_blocks(pem)?;
    let Some(block) = blocks.first().filter(|b| b.label == "CERTIFICATE REQUEST") else {
        return Err(Error::malformed(
            "signing request",
            "PEM block type must be CERTIFICATE REQUEST",
        ));
    };
    let (_, csr) = X509CertificationRequest::from_der(&block.der)
        .map_err(|e| Error::malformed("signing request", e))?;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        a.as_str().unwrap_or_default().to_owned()
    };
    let subject = &csr.certification_request_info.subject;
    let mut out = Request {
        common_name: subject
            .iter_common_name()
            .next()
            .map(text)
            .unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        ..Request::default()
    };
    for ext in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(san) = ext else {
            continue;
        };
        for n in &san.general_names {
            match n {
                GeneralName::DNSName(d) => out.dns_names.push((*d).to_owned()),
                GeneralName::RFC822Name(e) => out.emails.push((*e).to_owned()),
                GeneralName::URI(u) => out.uris.push((*u).to_owned()),
                GeneralName::IPAddress(b) => {
                    if let Ok(v4) = <[u8; 4]>::try_from(*b) {
                        out.ips.push(v4.into());
                    } else if let Ok(v6) = <[u8; 16]>::try_from(*b) {
                        out.ips.push(v6.into());
                    } else {
                        return Err(Error::malformed(
                            "signing request",
                            "an IP address of odd length",
                        ));
                    }
                }
                _ => {
                    return Err(Error::malformed(
                        "signing request",
                        "an unsupported subject alternative name",
                    ));
                }
            }
        }
    }
    Ok(out)
}

/// Checks a request's signature and signs it as `usage`, whatever usages and constraints it asks for: never an authority.
/// PEM. A subject with a repeated attribute (two organizations) is refused, since the copy would hold one of them.
///
/// # Errors
/// [`Error::Malformed`] for a bad request or signature, [`Error::Crypto`].
pub fn sign(ca: &Ca, pem: &str, usage: Use, validity: Duration) -> Result<String, Error> {
    if parse(pem)?.organizations.len() > 1 {
        return Err(Error::malformed(
            "signing request",
            "more than one organization is not supported",
        ));
    }
    let mut request = CertificateSigningRequestParams::from_pem(pem)
        .map_err(|e| Error::malformed("signing request", e))?;
    let p = &mut request.params;
    let now = OffsetDateTime::from(SystemTime::now());
    // Upstream's signer backdates by five minutes; a longer margin never hurts a client whose clock is behind.
    p.not_before = now - SKEW;
    p.not_after = now + validity;
    p.is_ca = IsCa::ExplicitNoCa;
    p.use_authority_key_identifier_extension = true;
    p.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    p.extended_key_usages = match usage {
        Use::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Use::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Use::Both => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
    };
    ca.sign_request(&request)
}
