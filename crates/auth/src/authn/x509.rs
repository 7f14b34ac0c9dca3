//! Client certificates: CN is the user, each O a group.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component::reload::Reloaded;
use ring::digest::{SHA256, digest};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::cache::{Cache, key};
use crate::{AuthenticationError, Authenticator, Peer, UserInfo};

/// The object identifier of a UID in a subject (KEP-5284).
const UID: &str = "1.3.6.1.4.1.57683.2";

/// The authorities of client certificates, reloaded when their files change.
pub struct ClientCas(Reloaded<Anchors>);

struct Anchors {
    list: Vec<TrustAnchor<'static>>,
    stamp: Vec<u8>,
}

impl ClientCas {
    /// Reads bundles of PEM certificates.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no usable certificate.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Result<ClientCas, String> {
        let parse = |contents: &[Vec<u8>]| {
            let mut list = Vec::new();
            for c in contents {
                for cert in CertificateDer::pem_slice_iter(c) {
                    let cert = cert.map_err(|e| e.to_string())?;
                    list.push(
                        anchor_from_trusted_cert(&cert)
                            .map_err(|e| e.to_string())?
                            .to_owned(),
                    );
                }
            }
            if list.is_empty() {
                return Err("no certificate found".to_owned());
            }
            Ok(Anchors {
                list,
                stamp: digest(&SHA256, &contents.concat()).as_ref().to_vec(),
            })
        };
        Reloaded::new(files, parse).map(ClientCas)
    }

    /// Verifies a chain (leaf first) for use as a client at a time.
    fn verify(&self, chain: &[Vec<u8>], anchors: &Anchors, now: UnixTime) -> Result<(), String> {
        let Some((leaf, rest)) = chain.split_first() else {
            return Err("no certificate".to_owned());
        };
        let leaf = CertificateDer::from(leaf.as_slice());
        let rest: Vec<CertificateDer<'_>> = rest
            .iter()
            .map(|c| CertificateDer::from(c.as_slice()))
            .collect();
        let cert = EndEntityCert::try_from(&leaf).map_err(|e| e.to_string())?;
        cert.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors.list,
            &rest,
            now,
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map(|_| ())
        .map_err(|e| format!("verifying certificate: {e}"))
    }
}

fn subject(leaf: &[u8]) -> Result<UserInfo, String> {
    let (_, cert) =
        X509Certificate::from_der(leaf).map_err(|_| "damaged certificate".to_owned())?;
    let mut user = UserInfo::default();
    for rdn in cert.subject().iter_attributes() {
        let Ok(text) = rdn.as_str() else { continue };
        match rdn.attr_type().to_id_string().as_str() {
            "2.5.4.3" => user.name = text.to_owned(),
            "2.5.4.10" => user.groups.push(text.to_owned()),
            UID if user.uid.is_empty() => user.uid = text.to_owned(),
            UID => return Err("more than one UID in the subject".to_owned()),
            _ => {}
        }
    }
    let print: String = digest(&SHA256, leaf)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    user.extra.insert(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("X509SHA256={print}")],
    );
    Ok(user)
}

/// Users by client certificate.
pub struct X509 {
    cas: Arc<ClientCas>,
    seen: Cache<UserInfo>,
}

impl X509 {
    /// Verifies against these.
    pub fn new(cas: Arc<ClientCas>) -> X509 {
        // The time within which an expiry is noticed on a connection that goes on.
        X509 {
            cas,
            seen: Cache::new(Duration::from_secs(30)),
        }
    }
}

#[async_trait]
impl Authenticator for X509 {
    async fn authenticate(
        &self,
        peer: &Peer,
        _: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(leaf) = peer.certificates.first() else {
            return Ok(None);
        };
        let anchors = self.cas.0.get();
        let id = key(&[leaf, &anchors.stamp]);
        if let Some(user) = self.seen.get(&id) {
            return Ok(Some(user));
        }
        self.cas
            .verify(&peer.certificates, &anchors, UnixTime::now())
            .map_err(AuthenticationError)?;
        let user = subject(leaf).map_err(AuthenticationError)?;
        if user.name.is_empty() {
            return Ok(None);
        }
        self.seen.put(id, user.clone());
        Ok(Some(user))
    }
}

/// Verifies that a peer is one of `names` (any, if empty) by its certificate: the front proxy.
pub struct Verified {
    cas: Arc<ClientCas>,
    names: Vec<String>,
    seen: Cache<()>,
}

impl Verified {
    /// `names` are `--requestheader-allowed-names`.
    pub fn new(cas: Arc<ClientCas>, names: Vec<String>) -> Verified {
        Verified {
            cas,
            names,
            seen: Cache::new(Duration::from_secs(30)),
        }
    }

    /// Whether it is.
    ///
    /// # Errors
    /// A certificate that does not verify, or has another name.
    pub fn check(&self, peer: &Peer) -> Result<bool, AuthenticationError> {
        let Some(leaf) = peer.certificates.first() else {
            return Ok(false);
        };
        let anchors = self.cas.0.get();
        let id = key(&[leaf, &anchors.stamp]);
        if self.seen.get(&id).is_some() {
            return Ok(true);
        }
        self.cas
            .verify(&peer.certificates, &anchors, UnixTime::now())
            .map_err(AuthenticationError)?;
        let name = subject(leaf).map_err(AuthenticationError)?.name;
        if !self.names.is_empty() && !self.names.contains(&name) {
            return Err(AuthenticationError(format!(
                "x509: subject with cn={name} is not in the allowed list"
            )));
        }
        self.seen.put(id, ());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::cert::{Ca, LEAF_VALIDITY, Spec, Use};

    fn der(pem: &str) -> Vec<u8> {
        pki::key::pem_blocks(pem).unwrap().remove(0).der
    }

    fn peer(ca: &Ca, cn: &str, usage: Use, validity: Duration) -> Peer {
        let spec = Spec {
            common_name: cn.into(),
            organization: Some("devs".into()),
            sans: vec![],
            usage,
        };
        let key = pki::key::generate().unwrap();
        Peer {
            address: None,
            certificates: vec![der(&ca.sign(&spec, &key, validity).unwrap())],
        }
    }

    #[tokio::test]
    async fn who_and_who_not() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::generate("kubernetes", pki::key::generate().unwrap()).unwrap();
        let other = Ca::generate("kubernetes", pki::key::generate().unwrap()).unwrap();
        let file = dir.path().join("ca.crt");
        std::fs::write(&file, &ca.cert_pem).unwrap();
        let cas = Arc::new(ClientCas::new([file]).unwrap());
        let x = X509::new(Arc::clone(&cas));
        let h = http::HeaderMap::new();
        for _ in 0..2 {
            let p = peer(&ca, "jane", Use::Client, LEAF_VALIDITY);
            let user = x.authenticate(&p, &h).await.unwrap().unwrap();
            assert_eq!(
                (user.name.as_str(), user.groups.as_slice()),
                ("jane", &["devs".to_owned()][..])
            );
            assert!(
                user.extra["authentication.kubernetes.io/credential-id"][0]
                    .starts_with("X509SHA256=")
            );
        }
        assert!(
            x.authenticate(&peer(&other, "jane", Use::Client, LEAF_VALIDITY), &h)
                .await
                .is_err()
        );
        assert!(
            x.authenticate(&peer(&ca, "jane", Use::Server, LEAF_VALIDITY), &h)
                .await
                .is_err()
        );
        let later = UnixTime::since_unix_epoch(
            Duration::from_secs(UnixTime::now().as_secs()) + LEAF_VALIDITY * 2,
        );
        let p = peer(&ca, "jane", Use::Client, LEAF_VALIDITY);
        assert!(cas.verify(&p.certificates, &cas.0.get(), later).is_err());
        assert!(
            x.authenticate(
                &Peer {
                    address: None,
                    certificates: vec![vec![1, 2, 3]]
                },
                &h
            )
            .await
            .is_err()
        );
        assert_eq!(x.authenticate(&Peer::default(), &h).await.unwrap(), None);
        let v = Verified::new(cas, vec!["front".into()]);
        assert!(
            v.check(&peer(&ca, "front", Use::Client, LEAF_VALIDITY))
                .unwrap()
        );
        assert!(
            v.check(&peer(&ca, "back", Use::Client, LEAF_VALIDITY))
                .is_err()
        );
    }
}
