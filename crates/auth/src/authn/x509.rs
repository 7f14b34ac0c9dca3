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

/// The authorities of client certificates; those from files are reloaded when their files change.
pub struct ClientCas(Source);

enum Source {
    Files(Reloaded<Anchors>),
    Memory(Arc<Anchors>),
}

struct Anchors {
    list: Vec<TrustAnchor<'static>>,
    stamp: Vec<u8>,
}

impl Anchors {
    fn parse(contents: &[Vec<u8>]) -> Result<Anchors, String> {
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
    }
}

impl ClientCas {
    /// Reads bundles of PEM certificates.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no usable certificate.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Result<ClientCas, String> {
        Reloaded::new(files, Anchors::parse).map(|files| ClientCas(Source::Files(files)))
    }

    /// From a bundle of PEM certificates.
    ///
    /// # Errors
    /// One that cannot be used, or none at all.
    pub fn from_pem(pem: &[u8]) -> Result<ClientCas, String> {
        Anchors::parse(&[pem.to_vec()]).map(|a| ClientCas(Source::Memory(Arc::new(a))))
    }

    fn get(&self) -> Arc<Anchors> {
        match &self.0 {
            Source::Files(files) => files.get(),
            Source::Memory(anchors) => Arc::clone(anchors),
        }
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
        let id = rdn.attr_type().to_id_string();
        if !["2.5.4.3", "2.5.4.10", UID].contains(&id.as_str()) {
            continue;
        }
        // Left out, it would make another user of this one.
        let text = rdn
            .as_str()
            .map_err(|_| "a name in the subject cannot be read".to_owned())?;
        match id.as_str() {
            "2.5.4.3" => user.name = text.to_owned(),
            "2.5.4.10" => user.groups.push(text.to_owned()),
            _ if user.uid.is_empty() => user.uid = text.to_owned(),
            _ => return Err("more than one UID in the subject".to_owned()),
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
    /// Whose certificate is good though it names no user here, where the request has another credential.
    proxy: Option<Arc<Verified>>,
    seen: Cache<UserInfo>,
}

impl X509 {
    /// Verifies against these; `proxy` is the front proxy, which may pass on requests that carry a token.
    pub fn new(cas: Arc<ClientCas>, proxy: Option<Arc<Verified>>) -> X509 {
        // The time within which an expiry is noticed on a connection that goes on.
        X509 {
            cas,
            proxy,
            seen: Cache::new(Duration::from_secs(30)),
        }
    }
}

#[async_trait]
impl Authenticator for X509 {
    async fn authenticate(
        &self,
        peer: &Peer,
        headers: &http::HeaderMap,
    ) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(leaf) = peer.certificates.first() else {
            return Ok(None);
        };
        let anchors = self.cas.get();
        let id = key(&[leaf, &anchors.stamp]);
        if let Some(user) = self.seen.get(&id) {
            return Ok(Some(user));
        }
        if let Err(e) = self
            .cas
            .verify(&peer.certificates, &anchors, UnixTime::now())
        {
            let passes_on = headers.contains_key(http::header::AUTHORIZATION)
                && self
                    .proxy
                    .as_ref()
                    .is_some_and(|p| matches!(p.check(peer), Ok(true)));
            return if passes_on {
                Ok(None)
            } else {
                Err(AuthenticationError(e))
            };
        }
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
        let anchors = self.cas.get();
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
        Peer::new(None, vec![der(&ca.sign(&spec, &key, validity).unwrap())])
    }

    #[tokio::test]
    async fn who_and_who_not() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::generate("kubernetes", pki::key::generate().unwrap()).unwrap();
        let other = Ca::generate("kubernetes", pki::key::generate().unwrap()).unwrap();
        let file = dir.path().join("ca.crt");
        std::fs::write(&file, &ca.cert_pem).unwrap();
        let cas = Arc::new(ClientCas::new([file]).unwrap());
        let x = X509::new(Arc::clone(&cas), None);
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
        let stranger = peer(&other, "jane", Use::Client, LEAF_VALIDITY);
        assert_eq!(
            x.authenticate(&stranger, &h).await.unwrap_err().0,
            "verifying certificate: InvalidSignatureForPublicKey"
        );
        let server = peer(&ca, "jane", Use::Server, LEAF_VALIDITY);
        assert_eq!(
            x.authenticate(&server, &h).await.unwrap_err().0,
            "verifying certificate: RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required: KeyPurposeId(1.3.6.1.5.5.7.3.2), present: [KeyPurposeId(1.3.6.1.5.5.7.3.1)] })"
        );
        let later = UnixTime::since_unix_epoch(
            Duration::from_secs(UnixTime::now().as_secs()) + LEAF_VALIDITY * 2,
        );
        let p = peer(&ca, "jane", Use::Client, LEAF_VALIDITY);
        let e = cas.verify(&p.certificates, &cas.get(), later).unwrap_err();
        // It goes on with when.
        assert!(e.starts_with("verifying certificate: CertExpired {"), "{e}");
        let garbage = Peer::new(None, vec![vec![1, 2, 3]]);
        assert_eq!(
            x.authenticate(&garbage, &h).await.unwrap_err().0,
            "TrailingData(SignedData)"
        );
        assert_eq!(x.authenticate(&Peer::default(), &h).await.unwrap(), None);
        let v = Verified::new(cas, vec!["front".into()]);
        assert!(
            v.check(&peer(&ca, "front", Use::Client, LEAF_VALIDITY))
                .unwrap()
        );
        assert_eq!(
            v.check(&peer(&ca, "back", Use::Client, LEAF_VALIDITY))
                .unwrap_err()
                .0,
            "x509: subject with cn=back is not in the allowed list"
        );
    }

    /// Identity: a certificate that is bad or unknown fails the request, whatever else it shows; what a front proxy says
    /// must be readable; and whoever is no proxy says nothing.
    #[tokio::test]
    async fn bad_certificates_and_headers_leave_no_other_identity() {
        use crate::authn::request_header::RequestHeader;
        use crate::authn::token_file::TokenFile;
        use crate::authn::{Tokens, Union};

        let dir = tempfile::tempdir().unwrap();
        let ca = |name: &str| {
            let ca = Ca::generate(name, pki::key::generate().unwrap()).unwrap();
            let file = dir.path().join(name);
            std::fs::write(&file, &ca.cert_pem).unwrap();
            (ca, Arc::new(ClientCas::new([file]).unwrap()))
        };
        let ((clients, client_cas), (front, front_cas), (other, _)) =
            (ca("clients"), ca("front"), ca("other"));
        let union = |alone: bool| {
            let proxy = Arc::new(Verified::new(front_cas.clone(), vec!["proxy".into()]));
            let s = |x: &str| vec![x.to_owned()];
            let mut all: Vec<Arc<dyn Authenticator>> = vec![Arc::new(RequestHeader {
                proxy: proxy.clone(),
                alone,
                user: s("X-Remote-User"),
                uid: s("X-Remote-Uid"),
                group: s("X-Remote-Group"),
                extra_prefix: s("X-Remote-Extra-"),
            })];
            if !alone {
                all.push(Arc::new(X509::new(client_cas.clone(), Some(proxy))));
            }
            let file = TokenFile::parse("t1,tom,1\n").unwrap();
            all.push(Arc::new(Tokens(vec![Arc::new(file)])));
            Union::new(all, true)
        };
        let (both, alone) = (union(false), union(true));
        let jane = peer(&clients, "jane", Use::Client, LEAF_VALIDITY);
        let proxy = peer(&front, "proxy", Use::Client, LEAF_VALIDITY);
        let impostor = peer(&front, "impostor", Use::Client, LEAF_VALIDITY);
        let stranger = peer(&other, "jane", Use::Client, LEAF_VALIDITY);
        let nobody = Peer::default();
        let utf8 = "j\u{fc}rgen";
        let token: (&str, &[u8]) = ("authorization", b"Bearer t1");
        let user = |v: &'static [u8]| ("x-remote-user", v);
        // Who is connected, what they send, who they are; `None`: refused.
        type Row<'a> = (
            &'a Union,
            &'a Peer,
            Vec<(&'static str, &'static [u8])>,
            Option<&'a str>,
        );
        let table: Vec<Row<'_>> = vec![
            (&both, &jane, vec![], Some("jane")),
            (&both, &jane, vec![user(b"root")], Some("jane")),
            (&both, &jane, vec![token], Some("jane")),
            (
                &both,
                &nobody,
                vec![user(b"root")],
                Some("system:anonymous"),
            ),
            (&both, &nobody, vec![user(b"root"), token], Some("tom")),
            (&both, &proxy, vec![user(b"ann")], Some("ann")),
            (&both, &proxy, vec![user(utf8.as_bytes())], Some(utf8)),
            (&both, &proxy, vec![token], Some("tom")),
            (&both, &proxy, vec![], None),
            (&both, &proxy, vec![user(b"j\xfcrgen")], None),
            (&both, &proxy, vec![user(b"j\xfcrgen"), token], None),
            (&both, &proxy, vec![user(b"")], None),
            (&both, &proxy, vec![user(b"ann"), user(b"root")], None),
            (
                &both,
                &proxy,
                vec![user(b"ann"), ("x-remote-group", b"\xff")],
                None,
            ),
            (
                &both,
                &proxy,
                vec![user(b"ann"), ("x-remote-uid", b"\xff")],
                None,
            ),
            (
                &both,
                &proxy,
                vec![user(b"ann"), ("x-remote-extra-a", b"\xff")],
                None,
            ),
            (&both, &impostor, vec![user(b"ann")], None),
            (&both, &impostor, vec![user(b"ann"), token], None),
            (&both, &stranger, vec![], None),
            (&both, &stranger, vec![token], None),
            (&both, &stranger, vec![user(b"ann")], None),
            (&alone, &proxy, vec![user(b"ann")], Some("ann")),
            (&alone, &proxy, vec![token], Some("tom")),
            (&alone, &stranger, vec![], None),
            (&alone, &stranger, vec![token], None),
            (&alone, &nobody, vec![], Some("system:anonymous")),
        ];
        for (i, (union, peer, sent, want)) in table.into_iter().enumerate() {
            let mut headers = http::HeaderMap::new();
            for (k, v) in sent {
                headers.append(k, http::HeaderValue::from_bytes(v).unwrap());
            }
            let got = union.authenticate(peer, &headers).await;
            let name = got.ok().flatten().map(|u| u.name);
            assert_eq!(name.as_deref(), want, "row {i}: {headers:?}");
        }
    }
}
