//! Kubeconfig files with everything embedded.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::cert::{Ca, LEAF_VALIDITY, Spec};
use crate::{Error, file, key};

/// How the user proves who they are.
pub enum Credential<'a> {
    /// A client certificate and its key, PEM.
    Certificate {
        /// PEM.
        cert: &'a str,
        /// PEM.
        key: &'a str,
    },
    /// Files that a daemon renews, named by path.
    Files {
        /// The certificate's path.
        cert: &'a str,
        /// The key's path.
        key: &'a str,
    },
    /// A bearer token.
    Token(&'a str),
}

/// A kubeconfig: YAML with one cluster, user and context (`<user>@<cluster>`), the authority embedded.
///
/// # Errors
/// [`Error::Malformed`] when it cannot be written as YAML.
pub fn text(
    cluster: &str,
    server: &str,
    ca_pem: &str,
    user: &str,
    credential: &Credential<'_>,
) -> Result<String, Error> {
    let b64 = |s: &str| STANDARD.encode(s);
    let who = match credential {
        Credential::Certificate { cert, key } => {
            json!({"client-certificate-data": b64(cert), "client-key-data": b64(key)})
        }
        Credential::Files { cert, key } => json!({"client-certificate": cert, "client-key": key}),
        Credential::Token(token) => json!({"token": token}),
    };
    let context = format!("{user}@{cluster}");
    let doc = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"certificate-authority-data": b64(ca_pem), "server": server}}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
        "preferences": {},
        "users": [{"name": user, "user": who}],
    });
    serde_yaml::to_string(&doc).map_err(|e| Error::malformed("kubeconfig", e))
}

/// Keeps the kubeconfig at `path` when its server, authority and certificate (signed by `ca`, saying what `spec` says,
/// not near its end) are right; otherwise writes it with a new key and certificate, mode 0600. Tells whether it wrote.
///
/// # Errors
/// Any of [`Error`].
pub fn ensure(
    path: &Path,
    ca: &Ca,
    cluster: &str,
    server: &str,
    spec: &Spec,
) -> Result<bool, Error> {
    if path.exists() && keeps(&file::read(path)?, ca, server, spec) {
        return Ok(false);
    }
    let key = key::generate()?;
    let cert = ca.sign(spec, &key, LEAF_VALIDITY)?;
    let user = spec.common_name.as_str();
    let key_pem = key.serialize_pem();
    let out = text(
        cluster,
        server,
        &ca.cert_pem,
        user,
        &Credential::Certificate {
            cert: &cert,
            key: &key_pem,
        },
    )?;
    file::write(path, out.as_bytes(), 0o600)?;
    Ok(true)
}

fn keeps(yaml: &str, ca: &Ca, server: &str, spec: &Spec) -> bool {
    let Ok(doc) = serde_yaml::from_str::<Value>(yaml) else {
        return false;
    };
    let at = |p: &str| {
        doc.pointer(p)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let data = |p: &str| {
        let bytes = STANDARD.decode(at(p)).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let Ok(key) = key::parse(&data("/users/0/user/client-key-data")) else {
        return false;
    };
    at("/clusters/0/cluster/server") == server
        && data("/clusters/0/cluster/certificate-authority-data") == ca.cert_pem
        && ca.keeps(&data("/users/0/user/client-certificate-data"), spec, &key)
}
