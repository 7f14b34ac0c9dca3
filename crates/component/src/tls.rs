//! TLS for servers: rustls on ring, TLS 1.2 and later, certificates that reload while the daemon runs.
//!
//! Client certificates are asked for, and the peer must prove that it holds the key, but the chain is not verified here:
//! that is authentication's work, so that a bad certificate gets a 401 and not a broken connection, as upstream does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use crate::metrics::Registry;
use crate::reload::Reloaded;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate, key or authority file.
    #[error("{0}")]
    File(String),
    /// `--tls-min-version` or `--tls-cipher-suites`.
    #[error("{0}")]
    Option(String),
    /// Making a self-signed certificate.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// rustls refuses the configuration.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// What a server's TLS is made of.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--tls-cert-file`: the chain, leaf first.
    pub cert_file: Option<PathBuf>,
    /// `--tls-private-key-file`.
    pub key_file: Option<PathBuf>,
    /// `--cert-dir`: where a self-signed pair is kept when no files are given; none: it is kept in memory only.
    pub cert_dir: Option<PathBuf>,
    /// The name of the pair in `cert_dir`: `apiserver`, `kubelet`, ….
    pub pair_name: String,
    /// Names and addresses of the self-signed certificate.
    pub self_signed_sans: Vec<String>,
    /// `--tls-sni-cert-key`: `cert,key` or `cert,key:name,name`.
    pub sni: Vec<String>,
    /// `--client-ca-file` and the like: only their names are told to clients, who choose a certificate by them.
    pub client_ca_files: Vec<PathBuf>,
    /// `--tls-min-version`: `VersionTLS12` (also for the older ones) or `VersionTLS13`; empty: 1.2.
    pub min_version: String,
    /// `--tls-cipher-suites`: Go's names; empty: all.
    pub cipher_suites: Vec<String>,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
}

/// The provider every TLS connection of the project uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Go's names of the cipher suites that exist here; TLS 1.3's cannot be switched off, as in Go.
fn with_suites(names: &[String]) -> Result<CryptoProvider, TlsError> {
    let mut p = ring::default_provider();
    if names.is_empty() {
        return Ok(p);
    }
    let known = |name: &str| {
        // Go has a second, older spelling for the two ChaCha suites.
        let name = name
            .strip_suffix("_CHACHA20_POLY1305")
            .map_or(name.to_owned(), |n| format!("{n}_CHACHA20_POLY1305_SHA256"));
        ring::ALL_CIPHER_SUITES.iter().find(|s| {
            let ours = format!("{:?}", s.suite()).replace("TLS13_", "TLS_");
            ours == name
        })
    };
    let mut wanted = Vec::new();
    for name in names {
        match known(name) {
            Some(s) => wanted.push(s.suite()),
            None if name.starts_with("TLS_") => {
                tracing::warn!(suite = name, "Cipher suite is not supported and left out");
            }
            None => {
                return Err(TlsError::Option(format!(
                    "Cipher suite {name} not supported or doesn't exist"
                )));
            }
        }
    }
    p.cipher_suites
        .retain(|s| s.tls13().is_some() || wanted.contains(&s.suite()));
    Ok(p)
}

fn versions(min: &str) -> Result<&'static [&'static SupportedProtocolVersion], TlsError> {
    static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    match min {
        "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => Ok(rustls::DEFAULT_VERSIONS),
        "VersionTLS13" => Ok(ONLY_13),
        other => Err(TlsError::Option(format!("unknown tls version {other:?}"))),
    }
}

fn certified(cert: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    if chain.is_empty() {
        return Err("no certificate found".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "no private key found".to_owned())?;
    let key =
        ring::sign::any_supported_type(&key).map_err(|_| "unsupported private key".to_owned())?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(pair)
        }
        Err(_) => Err("private key does not match public key".to_owned()),
    }
}

struct Pair {
    key: Arc<CertifiedKey>,
    not_after: i64,
    names: Vec<String>,
}

fn pair(cert: &[u8], key: &[u8]) -> Result<Pair, String> {
    let key = certified(cert, key)?;
    let facts = key.cert.first().and_then(|c| pki::cert::facts_der(c).ok());
    Ok(Pair {
        not_after: facts.as_ref().map_or(0, |f| f.not_after),
        names: facts.map(|f| f.sans).unwrap_or_default(),
        key: Arc::new(key),
    })
}

enum Source {
    Files(Reloaded<Pair>),
    Memory(Pair),
}

impl Source {
    fn with<T>(&self, f: impl FnOnce(&Pair) -> T) -> T {
        match self {
            Source::Files(r) => f(&r.get()),
            Source::Memory(p) => f(p),
        }
    }
}

struct Resolver {
    default: Source,
    /// Names (empty: those of the certificate) and the pair.
    sni: Vec<(Vec<String>, Source)>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(suffix) => name
            .split_once('.')
            .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(suffix)),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            for (names, source) in &self.sni {
                let found = source.with(|p| {
                    let names = if names.is_empty() { &p.names } else { names };
                    names
                        .iter()
                        .any(|n| name_matches(n, name))
                        .then(|| Arc::clone(&p.key))
                });
                if found.is_some() {
                    return found;
                }
            }
        }
        Some(self.default.with(|p| Arc::clone(&p.key)))
    }
}

/// Checks that a peer holds the key of the certificate it shows; says nothing about who issued it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldsKey(WebPkiSupportedAlgorithms);

impl HoldsKey {
    pub(crate) fn of(provider: &CryptoProvider) -> HoldsKey {
        HoldsKey(provider.signature_verification_algorithms)
    }

    pub(crate) fn tls12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    pub(crate) fn tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    pub(crate) fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Asks for a certificate, of whomever.
#[derive(Debug)]
struct AskOnly {
    key: HoldsKey,
    hints: Vec<DistinguishedName>,
}

/// The subjects of the authorities in PEM files.
fn subjects(files: &[Vec<u8>]) -> Vec<DistinguishedName> {
    let certificates = files
        .iter()
        .flat_map(|f| CertificateDer::pem_slice_iter(f).flatten());
    certificates
        .filter_map(|c| pki::cert::subject_der(&c).map(DistinguishedName::from))
        .collect()
}

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.key.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.key.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.key.schemes()
    }
}

/// A server's TLS. Certificates, and the names of the authorities that clients are told, reload when their files change,
/// looked at when a handshake happens.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
    http2: bool,
    resolver: Arc<Resolver>,
    hints: Option<Reloaded<Vec<DistinguishedName>>>,
    current: Mutex<Current>,
}

/// A configuration, and the names of authorities that it was made with.
struct Current {
    config: Arc<ServerConfig>,
    /// From files.
    hints: Option<Arc<Vec<DistinguishedName>>>,
    /// From [`Tls::name_authorities`].
    more: Vec<DistinguishedName>,
}

impl Inner {
    fn make(&self, hints: Vec<DistinguishedName>) -> Result<Arc<ServerConfig>, rustls::Error> {
        make(
            &self.provider,
            self.versions,
            self.http2,
            &self.resolver,
            hints,
        )
    }
}

fn make(
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    http2: bool,
    resolver: &Arc<Resolver>,
    hints: Vec<DistinguishedName>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let key = HoldsKey::of(provider);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(AskOnly { key, hints }))
        .with_cert_resolver(Arc::clone(resolver) as Arc<dyn ResolvesServerCert>);
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    // Resumed sessions would skip nothing that we check, but they hold memory for every client.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn files(cert: &Path, key: &Path) -> Result<Source, TlsError> {
    let parse = |c: &[Vec<u8>]| match c {
        [cert, key] => pair(cert, key),
        _ => Err("two files are needed".to_owned()),
    };
    Reloaded::new([cert, key], parse)
        .map(Source::Files)
        .map_err(TlsError::File)
}

impl Tls {
    /// Reads or makes the certificates.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(o: &Options) -> Result<Tls, TlsError> {
        let provider = Arc::new(with_suites(&o.cipher_suites)?);
        let versions = versions(&o.min_version)?;
        let mut sni = Vec::new();
        for entry in &o.sni {
            let (pair, names) = entry.split_once(':').unwrap_or((entry, ""));
            let Some((cert, key)) = pair.split_once(',') else {
                return Err(TlsError::Option(format!(
                    "expected comma separated certificate and key file paths: {entry}"
                )));
            };
            let names = names
                .split(',')
                .filter(|n| !n.is_empty())
                .map(str::to_owned)
                .collect();
            sni.push((names, files(Path::new(cert), Path::new(key))?));
        }
        let hints = match o.client_ca_files.as_slice() {
            [] => None,
            files => Some(Reloaded::new(files, |f| Ok(subjects(f))).map_err(TlsError::File)?),
        };
        // A certificate is made last: what is wrong with the rest leaves no files behind.
        let default = match (&o.cert_file, &o.key_file) {
            (Some(c), Some(k)) => files(c, k)?,
            (None, None) => self_signed(o)?,
            _ => {
                return Err(TlsError::Option(
                    "--tls-cert-file and --tls-private-key-file must be given together".to_owned(),
                ));
            }
        };
        let resolver = Arc::new(Resolver { default, sni });
        let first = hints.as_ref().map(Reloaded::get);
        let names = first.as_deref().cloned().unwrap_or_default();
        let config = make(&provider, versions, o.http2, &resolver, names)?;
        Ok(Tls(Arc::new(Inner {
            provider,
            versions,
            http2: o.http2,
            resolver,
            hints,
            current: Mutex::new(Current {
                config,
                hints: first,
                more: Vec::new(),
            }),
        })))
    }

    /// For `tokio_rustls::TlsAcceptor`; to be asked for every connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current();
        let hints = self.0.hints.as_ref().map(Reloaded::get);
        let same = match (&hints, &current.hints) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => true,
        };
        if !same {
            self.renew(&mut current, hints);
        }
        Arc::clone(&current.config)
    }

    /// Tells clients from now on of the authorities in this PEM bundle too, in place of those named so before.
    pub fn name_authorities(&self, pem: &[u8]) {
        let mut current = self.current();
        current.more = subjects(&[pem.to_vec()]);
        let hints = current.hints.clone();
        self.renew(&mut current, hints);
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        let current = self.0.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self, current: &mut Current, hints: Option<Arc<Vec<DistinguishedName>>>) {
        let mut names = hints.as_deref().cloned().unwrap_or_default();
        names.extend(current.more.iter().cloned());
        match self.0.make(names) {
            Ok(config) => {
                current.config = config;
                current.hints = hints;
            }
            Err(err) => tracing::warn!(%err, "Keeping the TLS configuration"),
        }
    }

    /// Days until the serving certificate ends, as it is now; negative when it has.
    pub fn days_left(&self) -> f64 {
        let not_after = self.0.resolver.default.with(|p| p.not_after);
        let now = jiff::Timestamp::now().as_second();
        (not_after - now) as f64 / 86_400.0
    }

    /// Adds `keelson_serving_certificate_days_left`.
    pub fn register(&self, metrics: &Registry) {
        let tls = self.clone();
        metrics.gauge_fn(
            "keelson_serving_certificate_days_left",
            "Days until the serving certificate ends; negative when it has.",
            move || tls.days_left(),
        );
    }
}

fn self_signed(o: &Options) -> Result<Source, TlsError> {
    let name = if o.pair_name.is_empty() {
        "server"
    } else {
        o.pair_name.as_str()
    };
    let host = o
        .self_signed_sans
        .first()
        .map_or("localhost", String::as_str);
    let make = || pki::cert::self_signed(host, o.self_signed_sans.get(1..).unwrap_or(&[]));
    let Some(dir) = &o.cert_dir else {
        let (cert, key) = make()?;
        return pair(cert.as_bytes(), key.as_bytes())
            .map(Source::Memory)
            .map_err(TlsError::File);
    };
    let (crt, key) = pki::cert::pair(&dir.join(name));
    let good = crt.exists()
        && key.exists()
        && std::fs::read_to_string(&crt)
            .is_ok_and(|pem| pki::cert::days_left(&pem).is_ok_and(|d| d > 0));
    if !good {
        let (cert_pem, key_pem) = make()?;
        pki::file::write(&key, key_pem.as_bytes(), 0o600)?;
        pki::file::write(&crt, cert_pem.as_bytes(), 0o644)?;
        tracing::info!(cert = %crt.display(), "Generated self-signed cert");
    }
    files(&crt, &key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::ResolvesClientCert;
    use rustls::pki_types::ServerName;

    /// Remembers whom the server asked for.
    #[derive(Debug, Default)]
    struct Asked(Mutex<Vec<Vec<u8>>>);

    impl ResolvesClientCert for Asked {
        fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            *self.0.lock().unwrap() = hints.iter().map(|h| h.to_vec()).collect();
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    struct Met {
        suite: rustls::SupportedCipherSuite,
        hints: Vec<Vec<u8>>,
        certificate: Vec<u8>,
    }

    /// A handshake in memory.
    fn meet(
        tls: &Tls,
        versions: &[&'static SupportedProtocolVersion],
        name: &str,
    ) -> Result<Met, rustls::Error> {
        let asked = Arc::new(Asked::default());
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(crate::unverified::verifier())
            .with_no_client_auth();
        config.client_auth_cert_resolver = Arc::clone(&asked) as Arc<dyn ResolvesClientCert>;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name)?;
        let mut server = rustls::ServerConnection::new(tls.config())?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        let hints = asked.0.lock().unwrap().clone();
        Ok(Met {
            suite: client.negotiated_cipher_suite().unwrap(),
            hints,
            certificate: client.peer_certificates().unwrap()[0].to_vec(),
        })
    }

    fn options() -> Options {
        Options {
            self_signed_sans: vec!["localhost".into()],
            ..Options::default()
        }
    }

    #[test]
    fn clients_are_told_the_authorities_as_the_files_are_now() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        let ca = |name: &str| {
            pki::cert::Ca::generate(name, pki::key::generate().unwrap())
                .unwrap()
                .cert_pem
        };
        let name = |pem: &str| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            pki::cert::subject_der(&der).unwrap()
        };
        let (first, second, third) = (ca("first"), ca("second"), ca("third"));
        std::fs::write(&file, &first).unwrap();
        let tls = Tls::new(&Options {
            client_ca_files: vec![file.clone()],
            ..options()
        })
        .unwrap();
        for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
            let met = meet(&tls, versions, "localhost").unwrap();
            assert_eq!(met.hints, [name(&first)]);
        }
        std::fs::write(&file, format!("{first}{second}")).unwrap();
        if let Some(hints) = &tls.0.hints {
            hints.get_fresh();
        }
        let met = meet(&tls, rustls::ALL_VERSIONS, "localhost").unwrap();
        assert_eq!(met.hints, [name(&first), name(&second)]);
        // Those that are learnt besides, in place of those learnt before.
        for learnt in [&third, &first] {
            tls.name_authorities(learnt.as_bytes());
            let met = meet(&tls, rustls::ALL_VERSIONS, "localhost").unwrap();
            assert_eq!(met.hints, [name(&first), name(&second), name(learnt)]);
        }
    }

    #[test]
    fn versions_and_suites() {
        let with = |min: &str, suites: &[&str]| {
            Tls::new(&Options {
                min_version: min.into(),
                cipher_suites: suites.iter().map(|s| (*s).to_owned()).collect(),
                ..options()
            })
        };
        let only_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
        let tls = with("VersionTLS13", &[]).unwrap();
        assert!(meet(&tls, only_12, "localhost").is_err());
        assert!(meet(&tls, rustls::ALL_VERSIONS, "localhost").is_ok());
        assert!(with("VersionTLS14", &[]).is_err());
        for name in [
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        ] {
            let tls = with("", &[name]).unwrap();
            let met = meet(&tls, only_12, "localhost").unwrap();
            let chosen = format!("{:?}", met.suite.suite());
            assert!(chosen.starts_with(name), "{name} {chosen}");
            // Those of TLS 1.3 cannot be switched off.
            assert!(meet(&tls, rustls::ALL_VERSIONS, "localhost").is_ok());
        }
        let tls = with("", &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]).unwrap();
        assert!(
            meet(&tls, only_12, "localhost").is_err(),
            "the key is ECDSA"
        );
        assert!(with("", &["none"]).is_err());
    }

    #[test]
    fn a_name_has_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pki::cert::self_signed("other", &["*.wild.example".into()]).unwrap();
        let paths = [dir.path().join("c"), dir.path().join("k")];
        std::fs::write(&paths[0], &cert).unwrap();
        std::fs::write(&paths[1], key).unwrap();
        let der = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let pair = format!("{},{}", paths[0].display(), paths[1].display());
        for (entry, name, special) in [
            (pair.clone(), "other", true),
            (pair.clone(), "a.wild.example", true),
            (pair.clone(), "localhost", false),
            (format!("{pair}:named"), "named", true),
            (format!("{pair}:named"), "other", false),
        ] {
            let tls = Tls::new(&Options {
                sni: vec![entry.clone()],
                ..options()
            })
            .unwrap();
            let met = meet(&tls, rustls::ALL_VERSIONS, name).unwrap();
            assert_eq!(met.certificate == der.to_vec(), special, "{entry} {name}");
        }
    }
}
