//! Service accounts.

use std::sync::Arc;

use apiserver::resource::{Context, Strategy, SubresourceKind};
use serde_json::{Value, json};

use super::token::TokenRequest;
use crate::builtin::{Config, Parts};
use crate::value::Tree;

struct ServiceAccount;

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
}

/// Service accounts and their tokens.
pub fn parts(config: &Config) -> Parts {
    let token = TokenRequest {
        issuer: config.tokens.clone(),
    };
    Parts::new(ServiceAccount).sub("token", SubresourceKind::Action(Arc::new(token)))
}
