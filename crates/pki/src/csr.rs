//! Certificate signing requests: making them (a kubelet's bootstrap) and reading them. [`crate::issue`] signs them.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::cert::Spec;
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
    /// How many common names the subject has.
    pub common_names: usize,
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

/// Reads a request (one PEM block `CERTIFICATE REQUEST`); its signature is not checked here,
/// [`crate::issue::issue`] does. Of several
/// common names the last counts, as it does for whoever reads the certificate.
///
/// # Errors
/// [`Error::Malformed`], also for a name in the subject that cannot be read: left out, it would make another subject.
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
        a.as_str()
            .map(str::to_owned)
            .map_err(|e| Error::malformed("signing request", e))
    };
    let subject = &csr.certification_request_info.subject;
    let mut out = Request {
        common_name: subject
            .iter_common_name()
            .map(text)
            .last()
            .transpose()?
            .unwrap_or_default(),
        common_names: subject.iter_common_name().count(),
        organizations: subject
            .iter_organization()
            .map(text)
            .collect::<Result<_, _>>()?,
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
