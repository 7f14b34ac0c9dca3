//! JSON Web Tokens (RFC 7519) as service accounts use them: RS256, ES256, ES384, on ring alone.
//!
//! A key's id is the unpadded base64url of the SHA-256 of its SubjectPublicKeyInfo, as upstream's. Absent on purpose:
//! ES512 (ring has no P-521), HMAC, `none`, encrypted tokens.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use pki::key::{Block, pem_blocks, pem_text, to_pkcs8};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

/// No token is longer; what is, is refused before any work.
pub const MAX_LENGTH: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alg {
    Rs256,
    Es256,
    Es384,
}

impl Alg {
    fn name(self) -> &'static str {
        match self {
            Alg::Rs256 => "RS256",
            Alg::Es256 => "ES256",
            Alg::Es384 => "ES384",
        }
    }

    fn verification(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Alg::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Alg::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Alg::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        }
    }
}

/// A key that verifies.
#[derive(Clone, Debug)]
pub struct PublicKey {
    alg: Alg,
    /// What ring wants: a PKCS#1 RSAPublicKey or a curve point.
    raw: Vec<u8>,
    /// The id.
    pub kid: String,
    jwk: Value,
}

impl PublicKey {
    fn from_spki(der: &[u8]) -> Result<PublicKey, String> {
        let (_, spki) =
            SubjectPublicKeyInfo::from_der(der).map_err(|_| "damaged public key".to_owned())?;
        let raw = spki.subject_public_key.data.to_vec();
        let kid = B64.encode(digest(&SHA256, der));
        let trim = |b: &[u8]| {
            B64.encode(
                b.iter()
                    .position(|x| *x != 0)
                    .and_then(|i| b.get(i..))
                    .unwrap_or_default(),
            )
        };
        let parsed = spki
            .parsed()
            .map_err(|_| "unsupported public key".to_owned())?;
        let (alg, parts) = match parsed {
            Parsed::RSA(k) => (
                Alg::Rs256,
                json!({"kty": "RSA", "n": trim(k.modulus), "e": trim(k.exponent)}),
            ),
            Parsed::EC(p) => {
                let (alg, crv, size) = match p.key_size() {
                    256 => (Alg::Es256, "P-256", 32),
                    384 => (Alg::Es384, "P-384", 48),
                    n => return Err(format!("unsupported curve of {n} bits")),
                };
                let (Some(x), Some(y)) = (raw.get(1..=size), raw.get(size + 1..)) else {
                    return Err("damaged public key".to_owned());
                };
                (
                    alg,
                    json!({"kty": "EC", "crv": crv, "x": B64.encode(x), "y": B64.encode(y)}),
                )
            }
            _ => return Err("unsupported public key".to_owned()),
        };
        let mut jwk = parts;
        if let Some(o) = jwk.as_object_mut() {
            o.insert("use".into(), "sig".into());
            o.insert("kid".into(), kid.clone().into());
            o.insert("alg".into(), alg.name().into());
        }
        Ok(PublicKey { alg, raw, kid, jwk })
    }
}

/// All keys of a PEM text: public keys, certificates, private keys (their public half).
///
/// # Errors
/// When there is none, or one cannot be used.
pub fn public_keys(pem: &str) -> Result<Vec<PublicKey>, String> {
    let mut out = Vec::new();
    for block in pem_blocks(pem).map_err(|e| e.to_string())? {
        match block.label.as_str() {
            "PUBLIC KEY" => out.push(PublicKey::from_spki(&block.der)?),
            "RSA PUBLIC KEY" => out.push(PublicKey::from_spki(&rsa_spki(&block.der))?),
            "CERTIFICATE" => {
                let (_, c) = x509_parser::parse_x509_certificate(&block.der)
                    .map_err(|_| "damaged certificate")?;
                out.push(PublicKey::from_spki(c.public_key().raw)?);
            }
            _ if to_pkcs8(&block).is_some() => out.push(Signer::from_block(&block)?.public.clone()),
            // EC PARAMETERS and the like.
            _ => {}
        }
    }
    if out.is_empty() {
        Err("data does not contain any valid RSA or ECDSA public keys".to_owned())
    } else {
        Ok(out)
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let n = content.len();
    let mut out = vec![tag];
    match n {
        0..=0x7f => out.push(n as u8),
        0x80..=0xff => out.extend([0x81, n as u8]),
        _ => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    out.extend_from_slice(content);
    out
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let mut bits = vec![0];
    bits.extend_from_slice(key);
    tlv(0x30, &[tlv(0x30, algorithm), tlv(0x03, &bits)].concat())
}

const OID_RSA: &[u8] = &[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const OID_EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

fn rsa_spki(pkcs1: &[u8]) -> Vec<u8> {
    spki(OID_RSA, pkcs1)
}

enum Secret {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

/// A key that signs.
pub struct Signer {
    secret: Secret,
    /// Its public half.
    pub public: PublicKey,
}

impl Signer {
    fn from_block(block: &Block) -> Result<Signer, String> {
        let der = to_pkcs8(block).ok_or("not a private key")?;
        let rng = SystemRandom::new();
        for (alg, curve) in [
            (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, OID_P256),
            (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, OID_P384),
        ] {
            if let Ok(k) = EcdsaKeyPair::from_pkcs8(alg, &der, &rng) {
                let public = PublicKey::from_spki(&spki(
                    &[OID_EC, curve].concat(),
                    k.public_key().as_ref(),
                ))?;
                return Ok(Signer {
                    secret: Secret::Ec(k),
                    public,
                });
            }
        }
        let k = RsaKeyPair::from_pkcs8(&der).map_err(|_| "unsupported private key".to_owned())?;
        let public = PublicKey::from_spki(&rsa_spki(k.public_key().as_ref()))?;
        Ok(Signer {
            secret: Secret::Rsa(k),
            public,
        })
    }

    /// The first private key of a PEM text.
    ///
    /// # Errors
    /// When there is none or it cannot be used.
    pub fn from_pem(pem: &str) -> Result<Signer, String> {
        let blocks = pem_blocks(pem).map_err(|e| e.to_string())?;
        let block = blocks
            .iter()
            .find(|b| to_pkcs8(b).is_some())
            .ok_or("the file holds no private key")?;
        Signer::from_block(block)
    }

    /// A signed token with these claims.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn sign(&self, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": self.public.alg.name(), "kid": self.public.kid});
        let mut token = format!(
            "{}.{}",
            B64.encode(header.to_string()),
            B64.encode(claims.to_string())
        );
        let rng = SystemRandom::new();
        let sig = match &self.secret {
            Secret::Ec(k) => k
                .sign(&rng, token.as_bytes())
                .map_err(|_| "signing failed")?
                .as_ref()
                .to_vec(),
            Secret::Rsa(k) => {
                let mut out = vec![0; k.public().modulus_len()];
                k.sign(
                    &signature::RSA_PKCS1_SHA256,
                    &rng,
                    token.as_bytes(),
                    &mut out,
                )
                .map_err(|_| "signing failed")?;
                out
            }
        };
        token.push('.');
        token.push_str(&B64.encode(sig));
        Ok(token)
    }
}

/// The claims, unverified: only to see whether a token is meant for us.
pub fn peek(token: &str) -> Option<Value> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&B64.decode(claims).ok()?).ok()
}

/// The keys that tokens may be signed with.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Arc<Vec<PublicKey>>);

impl KeySet {
    /// Keys with the same id are held once.
    pub fn new(keys: Vec<PublicKey>) -> KeySet {
        let mut out: Vec<PublicKey> = Vec::new();
        for k in keys {
            if out.iter().all(|o| o.kid != k.kid) {
                out.push(k);
            }
        }
        KeySet(Arc::new(out))
    }

    /// Verifies the signature and gives the claims; times, issuer and audience are the caller's to check.
    ///
    /// # Errors
    /// A text without any part of the token.
    pub fn verify(&self, token: &str) -> Result<Value, String> {
        if token.len() > MAX_LENGTH {
            return Err("token is too long".to_owned());
        }
        let malformed = || "malformed token".to_owned();
        let (signed, sig) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (head, claims) = signed.split_once('.').ok_or_else(malformed)?;
        let decode = |p: &str| B64.decode(p).map_err(|_| malformed());
        let head: Value = serde_json::from_slice(&decode(head)?).map_err(|_| malformed())?;
        let sig = decode(sig)?;
        if head.get("crit").is_some() {
            return Err("unsupported critical header".to_owned());
        }
        let (alg, kid) = (
            head.get("alg").and_then(Value::as_str),
            head.get("kid").and_then(Value::as_str),
        );
        // Tokens without an id, and with an id that nobody has, are tried with every key, as upstream.
        let named = kid.is_some_and(|kid| self.0.iter().any(|k| k.kid == kid));
        let candidates = self
            .0
            .iter()
            .filter(|k| !named || Some(k.kid.as_str()) == kid);
        for key in candidates.filter(|k| Some(k.alg.name()) == alg) {
            if UnparsedPublicKey::new(key.alg.verification(), &key.raw)
                .verify(signed.as_bytes(), &sig)
                .is_ok()
            {
                return serde_json::from_slice(&decode(claims)?).map_err(|_| malformed());
            }
        }
        Err("invalid signature, no keys found".to_owned())
    }

    /// The document of `/openid/v1/jwks`.
    pub fn jwks_text(&self) -> String {
        // In the order that upstream's library has.
        const ORDER: [&str; 9] = ["use", "kty", "kid", "crv", "alg", "x", "y", "n", "e"];
        let keys: Vec<String> = self
            .0
            .iter()
            .map(|k| {
                let members: Vec<String> = ORDER
                    .iter()
                    .filter_map(|name| k.jwk.get(name).map(|v| format!("\"{name}\":{v}")))
                    .collect();
                format!("{{{}}}", members.join(","))
            })
            .collect();
        format!("{{\"keys\":[{}]}}", keys.join(","))
    }

    /// The key set as a document.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.0.iter().map(|k| k.jwk.clone()).collect::<Vec<_>>()})
    }

    /// The signing algorithms, each once.
    pub fn algorithms(&self) -> Vec<&'static str> {
        let mut out: Vec<_> = self.0.iter().map(|k| k.alg.name()).collect();
        out.sort_unstable();
        out.dedup();
        out
    }
}

/// A PEM of a public key's SubjectPublicKeyInfo, for tests and tools.
pub fn spki_pem(der: &[u8]) -> String {
    pem_text("PUBLIC KEY", der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_and_verify_with_private_and_public_pem() {
        let key = pki::key::generate().unwrap();
        let signer = Signer::from_pem(&key.serialize_pem()).unwrap();
        let token = signer.sign(&json!({"sub": "x"})).unwrap();
        for pem in [key.serialize_pem(), key.public_key_pem()] {
            let keys = KeySet::new(public_keys(&pem).unwrap());
            assert_eq!(keys.verify(&token).unwrap()["sub"], "x");
            let jwk = &keys.jwks()["keys"][0];
            assert_eq!(
                (
                    jwk["kty"].as_str(),
                    jwk["alg"].as_str(),
                    jwk["use"].as_str()
                ),
                (Some("EC"), Some("ES256"), Some("sig"))
            );
        }
        let other =
            KeySet::new(public_keys(&pki::key::generate().unwrap().public_key_pem()).unwrap());
        assert_eq!(
            other.verify(&token).unwrap_err(),
            "invalid signature, no keys found"
        );
    }

    #[test]
    fn forged_tokens() {
        let key = pki::key::generate().unwrap();
        let keys = KeySet::new(public_keys(&key.public_key_pem()).unwrap());
        let token = Signer::from_pem(&key.serialize_pem())
            .unwrap()
            .sign(&json!({"sub": "x"}))
            .unwrap();
        let (signed, sig) = token.rsplit_once('.').unwrap();
        let (head, _) = signed.split_once('.').unwrap();
        let none = B64.encode(r#"{"alg":"none"}"#);
        let claims = B64.encode(r#"{"sub":"admin"}"#);
        for bad in [
            format!("{head}.{claims}.{sig}"),
            format!("{none}.{claims}."),
            "a.b.c".to_owned(),
            "x".to_owned(),
            String::new(),
            "a".repeat(MAX_LENGTH + 1),
        ] {
            let e = keys.verify(&bad).unwrap_err();
            assert!(!e.contains(&claims), "{e}");
        }
    }

    /// A key as Go's x509.MarshalPKCS1PrivateKey writes it, made once with openssl.
    #[test]
    fn rsa() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path().join("k");
        let made = std::process::Command::new("openssl")
            .args(["genrsa", "-traditional", "-out"])
            .arg(&f)
            .arg("2048")
            .output()
            .expect("openssl must be installed for this test (Debian: openssl)");
        assert!(made.status.success(), "{made:?}");
        let pem = std::fs::read_to_string(&f).unwrap();
        assert!(pem.contains("RSA PRIVATE KEY"));
        let token = Signer::from_pem(&pem)
            .unwrap()
            .sign(&json!({"sub": "x"}))
            .unwrap();
        let keys = KeySet::new(public_keys(&pem).unwrap());
        assert_eq!(keys.verify(&token).unwrap()["sub"], "x");
        assert_eq!(keys.jwks()["keys"][0]["e"], "AQAB");
        assert_eq!(keys.algorithms(), ["RS256"]);
        // Other claims under this signature.
        let other = Signer::from_pem(&pem)
            .unwrap()
            .sign(&json!({"sub": "y"}))
            .unwrap();
        let (signed, _) = other.rsplit_once('.').unwrap();
        let (_, signature) = token.rsplit_once('.').unwrap();
        assert_eq!(
            keys.verify(&format!("{signed}.{signature}")).unwrap_err(),
            "invalid signature, no keys found"
        );
    }
}
