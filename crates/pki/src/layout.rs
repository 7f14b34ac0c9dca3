//! The files of a cluster, named and placed as kubeadm does: `<root>/pki/...` and `<root>/*.conf`, where `<root>` is
//! `/etc/kubernetes` on a real node.
//!
//! [`ensure`] is idempotent: authorities and keys are kept for ever, certificates and kubeconfigs until they say the wrong
//! thing or near their end.

use std::path::{Path, PathBuf};

use crate::cert::{Ca, Spec, Use};
use crate::{Error, file, key, kubeconfig};

/// What the files shall say.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The cluster's name in kubeconfigs.
    pub name: String,
    /// The apiserver's URL as clients reach it, `https://host:port`.
    pub server: String,
    /// Names and addresses by which the apiserver is reached, besides the usual `kubernetes.default…` names.
    pub apiserver_sans: Vec<String>,
    /// The cluster's DNS domain, usually `cluster.local`.
    pub dns_domain: String,
    /// Names and addresses of etcd's server and peer; empty: no etcd leaf certificates but the apiserver's client.
    pub etcd_sans: Vec<String>,
    /// The nodes that get a kubelet kubeconfig and a kubelet serving certificate.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Addresses and host names of its kubelet.
    pub sans: Vec<String>,
}

/// Paths of the layout under one root.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `/etc/kubernetes`.
    pub root: PathBuf,
}

impl Paths {
    /// `pki/<name>`: `ca.crt`, `sa.key`, `etcd/ca.crt`, ….
    pub fn pki(&self, name: &str) -> PathBuf {
        self.root.join("pki").join(name)
    }

    /// `<name>.conf`: `admin`, `super-admin`, `controller-manager`, `scheduler`, `kube-proxy`.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.conf"))
    }

    /// `kubelet-<node>.conf`: one machine may hold several nodes, so the node's name is part of the file's.
    pub fn kubelet(&self, node: &str) -> PathBuf {
        self.root.join(format!("kubelet-{node}.conf"))
    }

    /// `pki/kubelet-<node>.crt` without the extension: the kubelet's serving certificate.
    pub fn kubelet_serving(&self, node: &str) -> PathBuf {
        self.pki(&format!("kubelet-{node}"))
    }
}

fn client(common_name: &str, organization: Option<&str>) -> Spec {
    Spec {
        common_name: common_name.to_owned(),
        organization: organization.map(str::to_owned),
        sans: Vec::new(),
        usage: Use::Client,
    }
}

/// The identity of a node's kubelet: `system:node:<name>` in `system:nodes`.
pub fn kubelet_identity(node: &str) -> Spec {
    client(&format!("system:node:{node}"), Some("system:nodes"))
}

/// Makes or renews everything; gives back the paths it wrote.
///
/// # Errors
/// Any of [`Error`]; an authority whose certificate exists without its key is an error, not made anew.
pub fn ensure(root: &Path, cluster: &Cluster) -> Result<Vec<PathBuf>, Error> {
    let paths = Paths {
        root: root.to_owned(),
    };
    let mut wrote = Vec::new();
    let ca = ensure_ca(&paths, "ca", "kubernetes", &mut wrote)?;
    let front = ensure_ca(&paths, "front-proxy-ca", "front-proxy-ca", &mut wrote)?;
    let etcd = ensure_ca(&paths, "etcd/ca", "etcd-ca", &mut wrote)?;

    let mut leaf = |ca: &Ca, name: &str, spec: &Spec| -> Result<(), Error> {
        let stem = paths.pki(name);
        if ca.ensure_leaf(&stem, spec)? {
            wrote.push(crate::cert::pair(&stem).0);
        }
        Ok(())
    };
    let mut sans: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .map(str::to_owned)
        .into();
    sans.push(format!("kubernetes.default.svc.{}", cluster.dns_domain));
    sans.extend([
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ]);
    sans.extend(cluster.apiserver_sans.iter().cloned());
    let server = |cn: &str, sans: Vec<String>, usage: Use| Spec {
        common_name: cn.to_owned(),
        organization: None,
        sans,
        usage,
    };
    leaf(
        &ca,
        "apiserver",
        &server("kube-apiserver", sans, Use::Server),
    )?;
    leaf(
        &ca,
        "apiserver-kubelet-client",
        &client(
            "kube-apiserver-kubelet-client",
            Some("kubeadm:cluster-admins"),
        ),
    )?;
    leaf(
        &front,
        "front-proxy-client",
        &client("front-proxy-client", None),
    )?;
    leaf(
        &etcd,
        "apiserver-etcd-client",
        &client("kube-apiserver-etcd-client", None),
    )?;
    if !cluster.etcd_sans.is_empty() {
        let mut sans = cluster.etcd_sans.clone();
        sans.extend([
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ]);
        leaf(
            &etcd,
            "etcd/server",
            &server("etcd", sans.clone(), Use::Both),
        )?;
        leaf(&etcd, "etcd/peer", &server("etcd", sans, Use::Both))?;
        leaf(
            &etcd,
            "etcd/healthcheck-client",
            &client("kube-etcd-healthcheck-client", None),
        )?;
    }
    for node in &cluster.nodes {
        let mut sans = node.sans.clone();
        sans.push(node.name.clone());
        let spec = Spec {
            common_name: format!("system:node:{}", node.name),
            organization: Some("system:nodes".to_owned()),
            sans,
            usage: Use::Server,
        };
        leaf(&ca, &format!("kubelet-{}", node.name), &spec)?;
    }

    let (sa_pub, sa_key) = (paths.pki("sa.pub"), paths.pki("sa.key"));
    let fresh = !sa_key.exists();
    let sa = key::ensure(&sa_key)?;
    if fresh {
        wrote.push(sa_key);
    }
    if !sa_pub.exists() || file::read(&sa_pub)? != sa.public_key_pem() {
        file::write(&sa_pub, sa.public_key_pem().as_bytes(), 0o644)?;
        wrote.push(sa_pub);
    }

    let mut conf = |path: PathBuf, spec: &Spec| -> Result<(), Error> {
        if kubeconfig::ensure(&path, &ca, &cluster.name, &cluster.server, spec)? {
            wrote.push(path);
        }
        Ok(())
    };
    conf(
        paths.kubeconfig("admin"),
        &client("kubernetes-admin", Some("kubeadm:cluster-admins")),
    )?;
    conf(
        paths.kubeconfig("super-admin"),
        &client("kubernetes-super-admin", Some("system:masters")),
    )?;
    conf(
        paths.kubeconfig("controller-manager"),
        &client("system:kube-controller-manager", None),
    )?;
    conf(
        paths.kubeconfig("scheduler"),
        &client("system:kube-scheduler", None),
    )?;
    conf(
        paths.kubeconfig("kube-proxy"),
        &client("system:kube-proxy", None),
    )?;
    for node in &cluster.nodes {
        conf(paths.kubelet(&node.name), &kubelet_identity(&node.name))?;
    }
    Ok(wrote)
}

fn ensure_ca(paths: &Paths, name: &str, cn: &str, wrote: &mut Vec<PathBuf>) -> Result<Ca, Error> {
    let stem = paths.pki(name);
    let crt = crate::cert::pair(&stem).0;
    let fresh = !crt.exists();
    let ca = Ca::ensure(&stem, cn)?;
    if fresh {
        wrote.push(crt);
    }
    Ok(ca)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn cluster() -> Cluster {
        Cluster {
            name: "kubernetes".into(),
            server: "https://127.0.0.1:6443".into(),
            apiserver_sans: vec!["10.96.0.1".into()],
            dns_domain: "cluster.local".into(),
            etcd_sans: vec!["127.0.0.1".into()],
            nodes: vec![Node {
                name: "n1".into(),
                sans: vec!["10.0.0.2".into()],
            }],
        }
    }

    #[test]
    fn second_run_writes_nothing_and_a_new_san_renews_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut c = cluster();
        assert_eq!(ensure(dir.path(), &c).unwrap().len(), 3 + 4 + 3 + 1 + 2 + 6);
        assert_eq!(ensure(dir.path(), &c).unwrap(), Vec::<PathBuf>::new());
        c.apiserver_sans.push("192.0.2.9".into());
        assert_eq!(
            ensure(dir.path(), &c).unwrap(),
            vec![dir.path().join("pki/apiserver.crt")]
        );
        let facts = crate::cert::facts(&file::read(&dir.path().join("pki/apiserver.crt")).unwrap())
            .unwrap();
        for s in [
            "10.96.0.1",
            "192.0.2.9",
            "kubernetes.default.svc.cluster.local",
            "::1",
        ] {
            assert!(facts.sans.iter().any(|x| x == s), "{s} in {:?}", facts.sans);
        }
        assert!(!facts.is_ca);
        for f in ["pki/ca.key", "pki/sa.key", "admin.conf", "pki/etcd/ca.key"] {
            let mode = std::fs::metadata(dir.path().join(f))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{f}");
        }
    }

    #[test]
    fn an_authority_without_its_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), &cluster()).unwrap();
        std::fs::remove_file(dir.path().join("pki/ca.key")).unwrap();
        assert!(
            ensure(dir.path(), &cluster())
                .unwrap_err()
                .to_string()
                .contains("key is missing")
        );
    }

    #[test]
    fn a_signed_request_is_good_for_who_asked() {
        let ca = Ca::generate("kubernetes", key::generate().unwrap()).unwrap();
        let key = key::generate().unwrap();
        let pem = crate::csr::create(&kubelet_identity("n1"), &key).unwrap();
        let asked = crate::csr::parse(&pem).unwrap();
        assert_eq!(
            (asked.common_name.as_str(), asked.organizations.as_slice()),
            ("system:node:n1", &["system:nodes".to_owned()][..])
        );
        let terms = crate::issue::Terms {
            not_after: crate::issue::not_after(&ca).unwrap(),
            ..Default::default()
        };
        let cert = crate::issue::issue(&ca, &pem, &terms).unwrap();
        assert!(ca.keeps(&cert, &kubelet_identity("n1"), &key));
        assert!(!crate::cert::facts(&cert).unwrap().is_ca);
        let damaged = pem.replacen('M', "N", 1);
        assert!(crate::issue::issue(&ca, &damaged, &terms).is_err());
    }

    #[test]
    fn keys_of_other_tools_are_read() {
        // SEC1, as `openssl ecparam -genkey` writes it.
        let key = key::generate().unwrap();
        let blocks = key::pem_blocks(&key.serialize_pem()).unwrap();
        let pkcs8 = &blocks[0].der;
        // The SEC1 body is the OCTET STRING at the end of PKCS#8; it names no curve, so the curve's OID is appended by hand
        // in the optional parameters field as tools do.
        let at = pkcs8.windows(2).position(|w| w == [0x30, 0x6b]).unwrap();
        let mut sec1 = pkcs8[at..].to_vec();
        let params = [
            0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
        ];
        sec1[1] += params.len() as u8;
        let public_at = sec1.windows(2).position(|w| w == [0xa1, 0x44]).unwrap();
        sec1.splice(public_at..public_at, params);
        let read = key::parse(&key::pem_text("EC PRIVATE KEY", &sec1));
        assert_eq!(read.unwrap().public_key_raw(), key.public_key_raw());
    }
}
