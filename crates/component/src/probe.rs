//! Asking a server whether it is well, over TLS that does not ask who it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest body that is read.
const MAX_BODY: usize = 10 * 1024;

/// A TLS client that accepts any certificate: a probe asks whether something answers, not who.
pub fn insecure() -> Arc<rustls::ClientConfig> {
    let provider = crate::tls::provider();
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS);
    #[expect(clippy::expect_used, reason = "ring supports the default versions")]
    let builder = builder.expect("ring supports the default versions");
    Arc::new(
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Any(provider)))
            .with_no_client_auth(),
    )
}

#[derive(Debug)]
struct Any(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `GET https://ADDRESS/PATH`: the code and the beginning of the body, within `limit`. Redirects are not followed.
///
/// # Errors
/// In Go's words, `Get "https://…": …`.
pub async fn get(
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<(u16, String), String> {
    let url = format!("https://{address}{path}");
    let work = async {
        let stream = TcpStream::connect(address).await.map_err(|e| {
            let why = if e.kind() == std::io::ErrorKind::ConnectionRefused {
                "connect: connection refused".to_owned()
            } else {
                e.to_string()
            };
            format!("dial tcp {address}: {why}")
        })?;
        let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
        let stream = tokio_rustls::TlsConnector::from(insecure())
            .connect(name, stream)
            .await
            .map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        let request = http::Request::get(path)
            .header(http::header::HOST, address.to_string())
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let code = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
            let body = body.map(|b| b.to_bytes()).unwrap_or_default();
            Ok::<_, hyper::Error>((code, String::from_utf8_lossy(&body).into_owned()))
        };
        // It may end before what it brought has been read.
        let connection = tokio::spawn(connection);
        let answer = answer.await.map_err(|e| e.to_string());
        connection.abort();
        answer
    };
    match tokio::time::timeout(limit, work).await {
        Ok(r) => r.map_err(|e| format!("Get \"{url}\": {e}")),
        Err(_) => Err(format!("Get \"{url}\": context deadline exceeded")),
    }
}
