//! Whose certificates a daemon's own port knows: by flags, or by what the cluster says in the ConfigMap
//! `kube-system/extension-apiserver-authentication`.
//!
//! The ConfigMap is watched. What it says in a way that cannot be read changes nothing, and neither does its end: the last
//! that could be read counts, as upstream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use auth::Authenticator;
use auth::authn::request_header::RequestHeader;
use auth::authn::x509::{ClientCas, Verified, X509};
use component::Flags;
use component::tls::Tls;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::informer::{Informer, Selector};
use crate::resource::CONFIG_MAPS;
use crate::rest::Client;
use crate::view::ObjectMeta;
use crate::views;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
const CLIENT_CA: &str = "client-ca-file";
const PROXY_CA: &str = "requestheader-client-ca-file";

/// A front proxy and what it may say.
#[derive(Clone)]
pub struct FrontProxy {
    /// Who signs its certificate.
    pub cas: Arc<ClientCas>,
    /// Its names; any, if empty.
    pub names: Vec<String>,
    /// Headers of the user's name.
    pub user: Vec<String>,
    /// Headers of the user's UID.
    pub uid: Vec<String>,
    /// Headers of groups.
    pub group: Vec<String>,
    /// Prefixes of further headers.
    pub extra_prefix: Vec<String>,
}

impl FrontProxy {
    /// With these authorities; `list` gives the values of flags or of keys of the same names.
    fn new<E>(
        cas: ClientCas,
        list: impl Fn(&str) -> std::result::Result<Vec<String>, E>,
    ) -> std::result::Result<FrontProxy, E> {
        Ok(FrontProxy {
            cas: Arc::new(cas),
            names: list("requestheader-allowed-names")?,
            user: list("requestheader-username-headers")?,
            uid: list("requestheader-uid-headers")?,
            group: list("requestheader-group-headers")?,
            extra_prefix: list("requestheader-extra-headers-prefix")?,
        })
    }
}

#[derive(Default)]
struct Known {
    client: Option<Arc<ClientCas>>,
    proxy: Option<FrontProxy>,
    /// What the cluster said, for telling whether that changed.
    said: BTreeMap<String, String>,
    /// The authorities among it that count, by key.
    learnt: BTreeMap<&'static str, String>,
    authenticators: Vec<Arc<dyn Authenticator>>,
}

impl Known {
    fn combine(&mut self) {
        self.authenticators.clear();
        let mut proxy = None;
        if let Some(front) = &self.proxy {
            let verified = Arc::new(Verified::new(front.cas.clone(), front.names.clone()));
            proxy = Some(verified.clone());
            self.authenticators.push(Arc::new(RequestHeader {
                proxy: verified,
                alone: self.client.is_none(),
                user: front.user.clone(),
                uid: front.uid.clone(),
                group: front.group.clone(),
                extra_prefix: front.extra_prefix.clone(),
            }));
        }
        if let Some(cas) = &self.client {
            self.authenticators
                .push(Arc::new(X509::new(cas.clone(), proxy)));
        }
    }
}

/// See the module. Clones share what they know.
#[derive(Clone, Default)]
pub struct Callers(Arc<Mutex<Known>>);

impl Callers {
    /// Front proxy and client certificates, in this order, as they are known now.
    pub fn authenticators(&self) -> Vec<Arc<dyn Authenticator>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.authenticators.clone()
    }

    /// By `--client-ca-file` and the flags `--requestheader-*`.
    ///
    /// # Errors
    /// An authority that cannot be read.
    pub fn from_flags(flags: &Flags) -> std::result::Result<Callers, String> {
        let mut known = Known::default();
        if let Some(file) = flags.path(CLIENT_CA) {
            known.client = Some(Arc::new(ClientCas::new([file])?));
        }
        if let Some(file) = flags.path(PROXY_CA) {
            let list = |flag: &str| Ok::<_, String>(flags.strings(flag).to_vec());
            known.proxy = Some(FrontProxy::new(ClientCas::new([file])?, list)?);
        }
        known.combine();
        Ok(Callers(Arc::new(Mutex::new(known))))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigMap {
    metadata: ObjectMeta,
    data: BTreeMap<String, String>,
}

views!(ConfigMap);

/// Learns from the cluster what flags do not say.
pub struct Lookup {
    client: Client,
    callers: Callers,
    tls: Tls,
    clients: bool,
    proxies: bool,
}

impl Lookup {
    /// Of what the flags of `callers` leave open; `None` when that is nothing. Clients are told of the authorities by `tls`.
    pub fn new(flags: &Flags, client: &Client, callers: &Callers, tls: &Tls) -> Option<Lookup> {
        let open = |flag: &str| flags.path(flag).is_none();
        let lookup = Lookup {
            client: client.clone(),
            callers: callers.clone(),
            tls: tls.clone(),
            clients: open(CLIENT_CA),
            proxies: open(PROXY_CA),
        };
        (lookup.clients || lookup.proxies).then_some(lookup)
    }

    /// Whether a front proxy is looked for: upstream starts only when that was answered.
    pub fn proxies(&self) -> bool {
        self.proxies
    }

    /// Asks once. That there is no ConfigMap is an answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ask(&self) -> Result<()> {
        match self
            .client
            .namespaced(&CONFIG_MAPS, NAMESPACE)
            .get::<ConfigMap>(NAME)
            .await
        {
            Ok(map) => self.learn(&map.data),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Goes on learning until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let one = Selector {
            namespace: NAMESPACE.into(),
            fields: format!("metadata.name={NAME}"),
            ..Selector::default()
        };
        let client = self.client.clone();
        let (informer, work) =
            Informer::<ConfigMap>::new(client, CONFIG_MAPS.clone(), one, shutdown);
        informer.on_change(move |change| self.learn(&change.object().data));
        work.await;
    }

    fn learn(&self, data: &BTreeMap<String, String>) {
        let mut known = self
            .callers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.said == *data {
            return;
        }
        known.said.clone_from(data);
        let text = |key: &str| data.get(key).map_or("", String::as_str);
        let list = |key: &str| match text(key) {
            "" => Ok(Vec::new()),
            json => serde_json::from_str(json).map_err(|e| format!("{key}: {e}")),
        };
        for (key, wanted) in [(CLIENT_CA, self.clients), (PROXY_CA, self.proxies)] {
            if !wanted || text(key).is_empty() {
                continue;
            }
            let read = ClientCas::from_pem(text(key).as_bytes()).and_then(|cas| {
                match key {
                    CLIENT_CA => known.client = Some(Arc::new(cas)),
                    _ => known.proxy = Some(FrontProxy::new(cas, list)?),
                }
                known.learnt.insert(key, text(key).to_owned());
                Ok(())
            });
            if let Err(error) = read {
                tracing::warn!(key, error, "Keeping what {NAMESPACE}/{NAME} said before");
            }
        }
        known.combine();
        let authorities: Vec<&str> = known.learnt.values().map(String::as_str).collect();
        self.tls.name_authorities(authorities.join("\n").as_bytes());
        tracing::info!("Learnt from {NAMESPACE}/{NAME} whose certificates are good");
    }
}
