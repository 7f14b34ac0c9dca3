//! Keys, certificates and kubeconfigs, in the places and with the names kubeadm uses.
//!
//! Private keys are written with mode 0600 and never printed. New keys are ECDSA P-256; RSA and EC keys made by others
//! (PKCS#1, SEC1 or PKCS#8 PEM) are read. Absent on purpose: RSA key generation (ring has none), encrypted PEM.

pub mod cert;
pub mod csr;
pub mod file;
pub mod issue;
pub mod key;
pub mod kubeconfig;
pub mod layout;

/// Why a key, certificate or kubeconfig could not be made or read. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file or a text does not hold what it should.
    #[error("{what}: {why}")]
    Malformed {
        /// The file or the thing.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// Making or signing failed.
    #[error("{what}: {source}")]
    Crypto {
        /// What was to be made.
        what: String,
        /// The library's error.
        source: rcgen::Error,
    },
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>, why: impl std::fmt::Display) -> Error {
        Error::Malformed {
            what: what.into(),
            why: why.to_string(),
        }
    }

    pub(crate) fn crypto(what: impl Into<String>) -> impl FnOnce(rcgen::Error) -> Error {
        let what = what.into();
        move |source| Error::Crypto { what, source }
    }
}
