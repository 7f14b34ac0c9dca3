//! The TLS client with which this server reaches kubelets.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use component::Flags;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The client's configuration; without a client certificate kubelets see an anonymous client.
pub fn client(flags: &Flags) -> Result<Option<Arc<ClientConfig>>> {
    let builder = ClientConfig::builder_with_provider(component::tls::provider())
        .with_safe_default_protocol_versions()?;
    let builder = match flags.path("kubelet-certificate-authority") {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for cert in
                CertificateDer::pem_file_iter(&path).with_context(|| path.display().to_string())?
            {
                roots.add(cert?)?;
            }
            builder.with_root_certificates(roots)
        }
        // As upstream: kubelets sign their serving certificates themselves by default.
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(component::unverified::verifier()),
    };
    let config = match (
        flags.path("kubelet-client-certificate"),
        flags.path("kubelet-client-key"),
    ) {
        (Some(cert), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(&cert)
                .with_context(|| cert.display().to_string())?
                .collect::<Result<Vec<_>, _>>()?;
            let key =
                PrivateKeyDer::from_pem_file(&key).with_context(|| key.display().to_string())?;
            builder.with_client_auth_cert(chain, key)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            return Err(anyhow!(
                "--kubelet-client-certificate and --kubelet-client-key go together"
            ));
        }
    };
    Ok(Some(Arc::new(config)))
}
