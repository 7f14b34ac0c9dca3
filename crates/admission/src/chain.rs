//! The chain: which plugins run, and in what order.

use std::sync::Arc;

use api::Status;
use auth::Authorizer;
use component::support::{Instead, Support};
use serde_json::Value;

use crate::config::Limited;
use crate::{Attributes, Plugin, Quotas, plugins};

/// What plugins are made from.
#[derive(Clone)]
pub struct Deps {
    /// For the plugins that ask whether a user may do something else.
    pub authorizer: Arc<dyn Authorizer>,
    /// `--default-not-ready-toleration-seconds`.
    pub not_ready_seconds: i64,
    /// `--default-unreachable-toleration-seconds`.
    pub unreachable_seconds: i64,
    /// Where quotas are charged; without it there are none.
    pub quotas: Option<Arc<dyn Quotas>>,
    /// What can be had under a quota only.
    pub limited: Vec<Limited>,
}

impl Deps {
    /// With upstream's defaults of what flags can set.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Deps {
        Deps {
            authorizer,
            not_ready_seconds: 300,
            unreachable_seconds: 300,
            quotas: None,
            limited: Vec::new(),
        }
    }
}

/// Makes a plugin.
pub type Make = fn(&Deps) -> Arc<dyn Plugin>;

/// One plugin in the list.
pub struct Descriptor {
    /// As the flags have it.
    pub name: &'static str,
    /// Whether it runs without being asked for.
    pub default_on: bool,
    /// How far it is there; naming an absent one in `--enable-admission-plugins` is an error.
    pub support: Support,
    /// `None` for absent ones.
    pub make: Option<Make>,
}

/// Why the flags were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Upstream has no such plugin either.
    #[error("{0} plugin {1:?} is unknown")]
    Unknown(&'static str, String),
    /// Upstream has it, we do not.
    #[error("enable-admission-plugins plugin {0:?} is not implemented: {1}")]
    NotImplemented(String, &'static str),
    /// On and off at once.
    #[error("{0} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Overlap(String),
}

/// The plugins that run, in upstream's order.
#[derive(Clone, Default)]
pub struct Chain(Vec<Arc<dyn Plugin>>);

impl Chain {
    /// Whether the flags name plugins that can be had.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn check(enable: &[String], disable: &[String]) -> Result<(), ChainError> {
        let find = |n: &String| plugins::ALL.iter().find(|d| d.name == n);
        for (flag, names) in [
            ("enable-admission-plugins", enable),
            ("disable-admission-plugins", disable),
        ] {
            if let Some(n) = names.iter().find(|n| find(n).is_none()) {
                return Err(ChainError::Unknown(flag, n.clone()));
            }
        }
        if let Some(n) = enable.iter().find(|n| disable.contains(n)) {
            return Err(ChainError::Overlap(n.clone()));
        }
        for d in enable.iter().filter_map(find) {
            if let Support::Absent(Instead::Refused(why) | Instead::Warned(why)) = d.support {
                return Err(ChainError::NotImplemented(d.name.to_owned(), why));
            }
        }
        Ok(())
    }

    /// The default plugins, more or fewer.
    ///
    /// # Errors
    /// As [`Chain::check`].
    pub fn new(enable: &[String], disable: &[String], deps: &Deps) -> Result<Chain, ChainError> {
        Chain::check(enable, disable)?;
        let on = |d: &&Descriptor| {
            let named = |l: &[String]| l.iter().any(|n| n == d.name);
            named(enable) || (d.default_on && !named(disable))
        };
        Ok(Chain(
            plugins::ALL
                .iter()
                .filter(on)
                .filter_map(|d| d.make.map(|make| make(deps)))
                .collect(),
        ))
    }

    /// The plugins that upstream would run with these flags and that are not there, but for those whose absence nobody
    /// can tell.
    pub fn missing(disable: &[String]) -> Vec<&'static str> {
        plugins::ALL
            .iter()
            .filter(|d| d.default_on && !disable.iter().any(|n| n == d.name))
            .filter(|d| matches!(d.support, Support::Absent(Instead::Refused(_))))
            .map(|d| d.name)
            .collect()
    }

    /// The names of the plugins that run.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|p| p.name()).collect()
    }

    /// The plugins themselves.
    pub fn into_plugins(self) -> Vec<Arc<dyn Plugin>> {
        self.0
    }

    /// Appends a plugin (webhooks and policies, which have their own state).
    pub fn push(&mut self, plugin: Arc<dyn Plugin>) {
        self.0.push(plugin);
    }

    /// Lets every plugin change or refuse, in order. `object` is absent for deletes.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(
        &self,
        a: &Attributes<'_>,
        mut object: Option<&mut Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        for p in self.0.iter().filter(|p| p.handles(a)) {
            p.admit(a, object.as_deref_mut(), old).await?;
        }
        Ok(())
    }

    /// Lets every plugin refuse the final object.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        for p in self.0.iter().filter(|p| p.handles(a)) {
            p.validate(a, object, old).await?;
        }
        Ok(())
    }
}
