//! Service accounts.

use std::sync::Arc;

use apiserver::resource::{Context, Strategy, SubresourceKind};
use serde_json::{Value, json};

use super::token::TokenRequest;
use crate::builtin::{Config, Parts};
use crate::value::Tree;

struct ServiceAccount;

const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

impl Strategy for ServiceAccount {
    fn returns_deleted(&self) -> bool {
        true
    }

    /// Of references to secrets only the name is kept.
    fn prepare_create(&self, _: &Context<'_>, o: &mut Value) {
        for s in o.list_mut("secrets") {
            *s = json!({ "name": s.text("name") });
        }
    }

    fn prepare_update(&self, ctx: &Context<'_>, o: &mut Value, _: &Value) {
        self.prepare_create(ctx, o);
    }

    fn warnings(&self, _: &Context<'_>, o: &Value, old: Option<&Value>) -> Vec<String> {
        let has = |o: &Value| o.annotation(MOUNTABLE_SECRETS).is_some();
        if !has(o) || old.is_some_and(has) {
            return vec![];
        }
        vec![format!(
            "metadata.annotations[{MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    }
}

/// Service accounts and their tokens.
pub fn parts(config: &Config) -> Parts {
    let token = TokenRequest {
        issuer: config.tokens.clone(),
    };
    Parts::new(ServiceAccount).sub("token", SubresourceKind::Action(Arc::new(token)))
}
