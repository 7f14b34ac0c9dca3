//! Key pairs and their PEM forms.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;

use crate::{Error, file};

/// A new ECDSA P-256 key pair.
///
/// # Errors
/// [`Error::Crypto`] when the system gives no random bytes.
pub fn generate() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::crypto("generating a key"))
}

/// One block of a PEM text.
pub struct Block {
    /// `PRIVATE KEY`, `CERTIFICATE`, ….
    pub label: String,
    /// The decoded content.
    pub der: Vec<u8>,
}

/// All blocks of a PEM text, in order; text between blocks is skipped. Blocks with headers (encrypted keys) are refused.
///
/// # Errors
/// [`Error::Malformed`] for a block without an end, headers, or bad base64.
pub fn pem_blocks(text: &str) -> Result<Vec<Block>, Error> {
    let bad = |why: &str| Error::malformed("PEM", why);
    let mut out = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = line
            .strip_prefix("-----BEGIN ")
            .and_then(|l| l.strip_suffix("-----"))
        else {
            continue;
        };
        let end = format!("-----END {label}-----");
        let mut body = String::new();
        loop {
            let Some(line) = lines.next() else {
                return Err(bad("a block has no end"));
            };
            if line == end {
                break;
            }
            if line.contains(':') {
                return Err(bad("encrypted or annotated blocks are not supported"));
            }
            body.push_str(line);
        }
        let der = STANDARD.decode(&body).map_err(|_| bad("bad base64"))?;
        out.push(Block {
            label: label.to_owned(),
            der,
        });
    }
    Ok(out)
}

/// A PEM text of one block, 64 columns.
pub fn pem_text(label: &str, der: &[u8]) -> String {
    let b64 = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = b64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A value of DER.
pub(crate) fn der_wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length: Vec<u8> = content
        .len()
        .to_be_bytes()
        .into_iter()
        .skip_while(|b| *b == 0)
        .collect();
    match length[..] {
        [] => out.push(0),
        [n] if n < 0x80 => out.push(n),
        _ => {
            out.push(0x80 | length.len() as u8);
            out.extend(length);
        }
    }
    out.extend_from_slice(content);
    out
}

const OID_RSA: &[u8] = &[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const OID_EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

/// PKCS#8 (RFC 5208) around a PKCS#1 RSA or SEC1 EC private key; PKCS#8 is given back as it is. `None` for other labels,
/// unknown curves and content over 64 KiB.
pub fn to_pkcs8(block: &Block) -> Option<Vec<u8>> {
    if block.der.len() > 0xff00 {
        return None;
    }
    let algorithm = match block.label.as_str() {
        "PRIVATE KEY" => return Some(block.der.clone()),
        "RSA PRIVATE KEY" => der_wrap(0x30, OID_RSA),
        "EC PRIVATE KEY" => {
            let has = |oid: &[u8]| block.der.windows(oid.len()).any(|w| w == oid);
            let curve = [OID_P256, OID_P384, OID_P521]
                .into_iter()
                .find(|o| has(o))?;
            der_wrap(0x30, &[OID_EC, curve].concat())
        }
        _ => return None,
    };
    let mut inner = vec![0x02, 0x01, 0x00];
    inner.extend(algorithm);
    inner.extend(der_wrap(0x04, &block.der));
    Some(der_wrap(0x30, &inner))
}

/// The first private key of a PEM text (PKCS#8, PKCS#1 or SEC1; EC keys must carry their public key, as all common
/// tools write it).
///
/// # Errors
/// [`Error::Malformed`] when there is none or it cannot be used.
pub fn parse(text: &str) -> Result<KeyPair, Error> {
    for block in pem_blocks(text)? {
        if let Some(der) = to_pkcs8(&block) {
            return KeyPair::try_from(der)
                .map_err(|_| Error::malformed("private key", "unsupported or damaged"));
        }
    }
    Err(Error::malformed("private key", "the file holds none"))
}

/// Reads a private key file.
///
/// # Errors
/// [`Error::Io`], [`Error::Malformed`].
pub fn read(path: &Path) -> Result<KeyPair, Error> {
    parse(&file::read(path)?).map_err(|e| Error::malformed(path.display().to_string(), e))
}

/// Reads the key at `path`, or makes one there (mode 0600).
///
/// # Errors
/// Any of [`Error`].
pub fn ensure(path: &Path) -> Result<KeyPair, Error> {
    if path.exists() {
        return read(path);
    }
    let key = generate()?;
    file::write(path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}
