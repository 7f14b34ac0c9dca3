//! Certificates for signing requests, as upstream's signers make them.
//!
//! Invariants: the signature of the request is checked; of the request the key, the names of [`Request`] and the well-known
//! parts of the subject are taken, in the form in which [`csr::parse`] reads them, and nothing else: no extension, no
//! attribute of another kind, so that what was approved is what is signed. The certificate is never an authority's.

use rcgen::SigningKey as _;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use crate::cert::{Ca, first_der};
use crate::csr::{self, Request};
use crate::key::{der_wrap, pem_blocks, pem_text};
use crate::{Error, cert};

/// What the signer decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Key usage: bit `n` is bit `n` of RFC 5280, 4.2.1.3.
    pub usage: u16,
    /// Extended key usage: contents of object identifiers, in their order.
    pub extended: Vec<&'static [u8]>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const BITS: u8 = 0x03;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const TRUE: &[u8] = &[0x01, 0x01, 0xff];

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const SERIAL: &[u8] = &[0x55, 4, 5];
/// The parts of a subject that may have several values, in the order in which Go writes them: country, organization,
/// unit, locality, province, street, postal code.
const PARTS: [&[u8]; 7] = [
    &[0x55, 4, 6],
    &[0x55, 4, 10],
    &[0x55, 4, 11],
    &[0x55, 4, 7],
    &[0x55, 4, 8],
    &[0x55, 4, 9],
    &[0x55, 4, 17],
];

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 35];
const EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 37];

const RSA_SHA256: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0];
const RSA_SHA384: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12, 5, 0];
const RSA_SHA512: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13, 5, 0];
const ECDSA_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ED25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    der_wrap(SEQUENCE, &parts.concat())
}

fn algorithm(key: &rcgen::KeyPair) -> Result<Vec<u8>, Error> {
    let known = [
        (&rcgen::PKCS_RSA_SHA256, RSA_SHA256),
        (&rcgen::PKCS_RSA_SHA384, RSA_SHA384),
        (&rcgen::PKCS_RSA_SHA512, RSA_SHA512),
        (&rcgen::PKCS_ECDSA_P256_SHA256, ECDSA_SHA256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, ECDSA_SHA384),
        (&rcgen::PKCS_ED25519, ED25519),
    ];
    let found = known.iter().find(|(a, _)| key.algorithm() == *a);
    found
        .map(|(_, id)| sequence(&[id]))
        .ok_or_else(|| Error::malformed("authority", "unsupported kind of key"))
}

/// As Go writes strings: printable ones as such.
fn string(text: &str) -> Vec<u8> {
    let printable = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b));
    der_wrap(if printable { PRINTABLE } else { UTF8 }, text.as_bytes())
}

/// Several values of a part stand in one set, in the order of their bytes.
fn part(kind: &[u8], values: &[String]) -> Vec<u8> {
    let kind = der_wrap(OID, kind);
    let mut pairs: Vec<Vec<u8>> = values
        .iter()
        .map(|v| sequence(&[&kind, &string(v)]))
        .collect();
    pairs.sort();
    if pairs.is_empty() {
        return Vec::new();
    }
    der_wrap(SET, &pairs.concat())
}

fn subject(asked: &X509Name<'_>, request: &Request) -> Result<Vec<u8>, Error> {
    let values = |kind: &[u8]| {
        asked
            .iter_attributes()
            .filter(|a| a.attr_type().as_bytes() == kind)
            .map(|a| a.as_str().map(str::to_owned))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::malformed("signing request", e))
    };
    let last = |mut all: Vec<String>| all.pop().filter(|v| !v.is_empty());
    let mut out = Vec::new();
    for kind in PARTS {
        out.extend(part(kind, &values(kind)?));
    }
    if !request.common_name.is_empty() {
        out.extend(part(
            COMMON_NAME,
            std::slice::from_ref(&request.common_name),
        ));
    }
    out.extend(part(SERIAL, last(values(SERIAL)?).as_slice()));
    Ok(der_wrap(SEQUENCE, &out))
}

fn extension(kind: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { TRUE } else { &[] };
    sequence(&[&der_wrap(OID, kind), critical, &der_wrap(OCTETS, value)])
}

fn usage(bits: u16) -> Vec<u8> {
    // The first bit of the string is bit 0, and zeros at the end are left out.
    let [high, low] = bits.reverse_bits().to_be_bytes();
    let bytes: &[u8] = if low == 0 { &[high] } else { &[high, low] };
    let unused = bytes.last().map_or(0, |b| b.trailing_zeros().min(7)) as u8;
    der_wrap(BITS, &[&[unused], bytes].concat())
}

fn names(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |tag: u8, value: &[u8]| out.extend(der_wrap(tag, value));
    request
        .dns_names
        .iter()
        .for_each(|n| put(0x82, n.as_bytes()));
    request.emails.iter().for_each(|n| put(0x81, n.as_bytes()));
    for ip in &request.ips {
        match ip {
            std::net::IpAddr::V4(ip) => put(0x87, &ip.octets()),
            std::net::IpAddr::V6(ip) => put(0x87, &ip.octets()),
        }
    }
    request.uris.iter().for_each(|n| put(0x86, n.as_bytes()));
    out
}

/// What time it is, as certificates say it.
fn time(seconds: i64) -> Result<Vec<u8>, Error> {
    let t = OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|e| Error::malformed("certificate", e))?;
    let year = t.year();
    if !(1950..=9999).contains(&year) {
        return Err(Error::malformed("certificate", "its time is out of range"));
    }
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    );
    Ok(if year < 2050 {
        der_wrap(0x17, format!("{:02}{rest}", year % 100).as_bytes())
    } else {
        der_wrap(0x18, format!("{year}{rest}").as_bytes())
    })
}

/// When the authority's certificate ends, in seconds since 1970.
///
/// # Errors
/// [`Error::Malformed`].
pub fn not_after(ca: &Ca) -> Result<i64, Error> {
    Ok(cert::facts(&ca.cert_pem)?.not_after)
}

/// Checks a request (PEM) and makes its certificate. PEM.
///
/// # Errors
/// [`Error::Malformed`] for a bad request or signature and for times that certificates do not know, [`Error::Crypto`].
pub fn issue(ca: &Ca, pem: &str, terms: &Terms) -> Result<String, Error> {
    let bad = |e: &dyn std::fmt::Display| Error::malformed("signing request", e);
    let asked = csr::parse(pem)?;
    let block = pem_blocks(pem)?.into_iter().next();
    let der = block.map(|b| b.der).unwrap_or_default();
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|e| bad(&e))?;
    if !rest.is_empty() {
        return Err(bad(&"trailing data"));
    }
    request
        .verify_signature()
        .map_err(|_| bad(&"the signature is not that of the key"))?;
    let info = &request.certification_request_info;

    let authority = first_der(&ca.cert_pem)?;
    let (_, authority) =
        X509Certificate::from_der(&authority).map_err(|e| Error::malformed("authority", e))?;
    let key_id = authority
        .extensions()
        .iter()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });

    let subject = subject(&info.subject, &asked)?;
    let mut extensions = Vec::new();
    if terms.usage != 0 {
        extensions.extend(extension(KEY_USAGE, true, &usage(terms.usage)));
    }
    if !terms.extended.is_empty() {
        let all = terms
            .extended
            .iter()
            .map(|o| der_wrap(OID, o))
            .collect::<Vec<_>>();
        let all = der_wrap(SEQUENCE, &all.concat());
        extensions.extend(extension(EXTENDED_USAGE, false, &all));
    }
    extensions.extend(extension(BASIC_CONSTRAINTS, true, &sequence(&[])));
    if let Some(id) = key_id {
        let id = sequence(&[&der_wrap(0x80, id)]);
        extensions.extend(extension(AUTHORITY_KEY, false, &id));
    }
    let names = names(&asked);
    if !names.is_empty() {
        // Without a subject the names are all that the certificate says.
        let critical = subject == sequence(&[]);
        extensions.extend(extension(
            ALTERNATIVE_NAME,
            critical,
            &der_wrap(SEQUENCE, &names),
        ));
    }

    // 127 random bits, and never zero.
    let serial = (rand::random::<u128>() >> 1) | 1;
    let serial = serial.to_be_bytes();
    let algorithm = algorithm(ca.key())?;
    let body = sequence(&[
        &[0xa0, 3, 2, 1, 2],
        &integer(&serial),
        &algorithm,
        authority.subject().as_raw(),
        &sequence(&[&time(terms.not_before)?, &time(terms.not_after)?]),
        &subject,
        info.subject_pki.raw,
        &der_wrap(0xa3, &der_wrap(SEQUENCE, &extensions)),
    ]);
    let signature = ca
        .key()
        .sign(&body)
        .map_err(Error::crypto("signing a request"))?;
    let signature = der_wrap(BITS, &[&[0], &signature[..]].concat());
    let certificate = sequence(&[&body, &algorithm, &signature]);
    Ok(pem_text("CERTIFICATE", &certificate))
}

/// A positive number; its first bit is not set.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let skip = bytes.iter().take_while(|b| **b == 0).count();
    let significant = bytes.get(skip..).unwrap_or_default();
    let sign: &[u8] = match significant.first() {
        Some(b) if *b < 0x80 => &[],
        _ => &[0],
    };
    der_wrap(0x02, &[sign, significant].concat())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;
    use crate::key;

    const CLIENT: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

    fn request(dn: &[(DnType, &str)], sans: Vec<SanType>) -> (String, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in dn {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = sans;
        let key = key::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        (pem, key)
    }

    fn terms() -> Terms {
        Terms {
            usage: 0b101,
            extended: vec![CLIENT],
            not_before: 1_000_000_000,
            not_after: 4_000_000_000,
        }
    }

    fn authority() -> Ca {
        Ca::generate("ca", key::generate().unwrap()).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_issued() {
        let ca = authority();
        let sans = vec![
            SanType::URI("a://b/c".try_into().unwrap()),
            SanType::IpAddress("::1".parse().unwrap()),
            SanType::DnsName("a.b".try_into().unwrap()),
            SanType::Rfc822Name("a@b".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
        ];
        let dn = [
            (DnType::CommonName, "system:node:ä"),
            (DnType::OrganizationName, "system:nodes"),
            (DnType::CountryName, "XY"),
            (
                DnType::CustomDnType(vec![0, 9, 2342, 19200300, 100, 1, 1]),
                "left out",
            ),
        ];
        let (pem, key) = request(&dn, sans);
        let issued = issue(&ca, &pem, &terms()).unwrap();
        let der = first_der(&issued).unwrap();
        let (rest, c) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        let authority = first_der(&ca.cert_pem).unwrap();
        let (_, authority) = X509Certificate::from_der(&authority).unwrap();
        c.verify_signature(Some(authority.public_key())).unwrap();
        assert_eq!(c.issuer().as_raw(), authority.subject().as_raw());
        assert_eq!(
            c.public_key().subject_public_key.data.as_ref(),
            key.public_key_raw()
        );
        assert_eq!(
            c.subject().to_string(),
            "C=XY, O=system:nodes, CN=system:node:ä"
        );
        assert_eq!(c.validity().not_before.timestamp(), 1_000_000_000);
        assert_eq!(
            c.validity().not_after.timestamp(),
            4_000_000_000,
            "after 2049"
        );
        let usage = c.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.flags == 0b101);
        let extended = c.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth && !extended.any);
        let constraints = c.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && !constraints.value.ca);
        let names = c.subject_alternative_name().unwrap().unwrap();
        assert!(!names.critical);
        let shown: Vec<String> = names
            .value
            .general_names
            .iter()
            .map(|n| n.to_string())
            .collect();
        assert_eq!(shown.len(), 5, "{shown:?}");
        assert!(
            shown[0].contains("a.b") && shown[1].contains("a@b") && shown[4].contains("a://b/c"),
            "{shown:?}"
        );
        let id = |c: &X509Certificate<'_>, authority: bool| {
            c.extensions()
                .iter()
                .find_map(|e| match e.parsed_extension() {
                    ParsedExtension::SubjectKeyIdentifier(id) if !authority => Some(id.0.to_vec()),
                    ParsedExtension::AuthorityKeyIdentifier(id) if authority => {
                        id.key_identifier.as_ref().map(|i| i.0.to_vec())
                    }
                    _ => None,
                })
        };
        assert!(id(&c, true).is_some());
        assert_eq!(id(&c, true), id(&authority, false));
        let other = issue(&ca, &pem, &terms()).unwrap();
        assert_ne!(issued, other, "serial numbers differ");
    }

    #[test]
    fn key_usages_are_bits() {
        for (bits, want) in [
            (1, vec![3, 2, 7, 0x80]),
            (0b101, vec![3, 2, 5, 0xa0]),
            (1 << 7, vec![3, 2, 0, 1]),
            (1 << 8, vec![3, 3, 7, 0, 0x80]),
            (0x1ff, vec![3, 3, 7, 0xff, 0x80]),
        ] {
            assert_eq!(usage(bits), want, "{bits:b}");
        }
    }

    #[test]
    fn numbers_and_times_are_der() {
        for (bytes, want) in [
            (&[0, 0, 1][..], vec![2, 1, 1]),
            (&[0x80], vec![2, 2, 0, 0x80]),
            (&[0x7f, 0], vec![2, 2, 0x7f, 0]),
            (&[0], vec![2, 1, 0]),
        ] {
            assert_eq!(integer(bytes), want);
        }
        assert_eq!(time(0).unwrap(), der_wrap(0x17, b"700101000000Z"));
        assert_eq!(
            time(2_524_607_999).unwrap(),
            der_wrap(0x17, b"491231235959Z")
        );
        assert_eq!(
            time(2_524_608_000).unwrap(),
            der_wrap(0x18, b"20500101000000Z")
        );
        for odd in [i64::MIN, -1_000_000_000, 253_402_300_800, i64::MAX] {
            assert!(time(odd).is_err(), "{odd}");
        }
        for n in [0, 1, 127, 128, 255, 256, 65_535, 65_536, 1 << 24] {
            let wrapped = der_wrap(4, &vec![0; n]);
            let (rest, read) = <&[u8]>::from_der(&wrapped).unwrap();
            assert!(rest.is_empty() && read.len() == n, "{n}");
        }
    }

    /// Identity: what is approved is what is signed and what is read from the certificate.
    #[test]
    fn a_subject_says_one_thing() {
        let ca = authority();
        let facts = |pem: &str| cert::facts(&issue(&ca, pem, &terms()).unwrap()).unwrap();
        // The same attribute once more: the last counts.
        let again = DnType::CustomDnType(vec![2, 5, 4, 3]);
        let two = [
            (DnType::CommonName, "system:node:a"),
            (again, "system:node:b"),
        ];
        let (two, _) = request(&two, vec![]);
        assert_eq!(csr::parse(&two).unwrap().common_name, "system:node:b");
        assert_eq!(facts(&two).common_name, "system:node:b");
        // Groups are kept, all of them.
        let again = DnType::CustomDnType(vec![2, 5, 4, 10]);
        let groups = [
            (DnType::OrganizationName, "z"),
            (again, "a"),
            (DnType::CommonName, "u"),
        ];
        let (groups, _) = request(&groups, vec![]);
        assert_eq!(csr::parse(&groups).unwrap().organizations, ["z", "a"]);
        assert_eq!(facts(&groups).organizations, ["a", "z"]);
        for kind in [
            DnType::CommonName,
            DnType::OrganizationName,
            DnType::LocalityName,
        ] {
            let mut params = CertificateParams::default();
            let wide = rcgen::string::BmpString::try_from("system:masters").unwrap();
            params
                .distinguished_name
                .push(kind, DnValue::BmpString(wide));
            let key = key::generate().unwrap();
            let pem = params.serialize_request(&key).unwrap().pem().unwrap();
            assert!(issue(&ca, &pem, &terms()).is_err());
        }
        // Nothing at all is a subject too.
        let names = vec![SanType::DnsName("a.b".try_into().unwrap())];
        let (nothing, _) = request(&[], names);
        let der = first_der(&issue(&ca, &nothing, &terms()).unwrap()).unwrap();
        let (_, c) = X509Certificate::from_der(&der).unwrap();
        assert!(c.subject_alternative_name().unwrap().unwrap().critical);
    }

    #[test]
    fn only_the_holder_of_the_key_is_signed_for() {
        let ca = authority();
        let (pem, _) = request(&[(DnType::CommonName, "a")], vec![]);
        let mut der = pem_blocks(&pem).unwrap().remove(0).der;
        let n = der.len();
        for (what, at) in [("the signature", n - 1), ("the name", n / 8)] {
            let kept = der[at];
            der[at] ^= 1;
            let pem = pem_text("CERTIFICATE REQUEST", &der);
            assert!(issue(&ca, &pem, &terms()).is_err(), "{what}");
            der[at] = kept;
        }
        assert!(issue(&ca, &pem_text("CERTIFICATE REQUEST", &der), &terms()).is_ok());
        der.push(0);
        assert!(issue(&ca, &pem_text("CERTIFICATE REQUEST", &der), &terms()).is_err());
        assert!(issue(&ca, &pem_text("CERTIFICATE", &der), &terms()).is_err());
    }
}
