//! Authorizers, one file each, and their union.

pub mod forbidden;
pub mod node;
pub mod rbac;
pub mod rules;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Attributes, Authorizer, Decision, GROUP_MASTERS, Rule, UserInfo};

fn everything() -> Vec<Rule> {
    let all = || vec!["*".to_owned()];
    vec![
        Rule {
            verbs: all(),
            api_groups: all(),
            resources: all(),
            ..Rule::default()
        },
        Rule {
            verbs: all(),
            non_resource_urls: all(),
            ..Rule::default()
        },
    ]
}

/// Lets everything pass.
pub struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _: &Attributes) -> (Decision, String) {
        (Decision::Allow, String::new())
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Rule>, Option<String>) {
        (everything(), None)
    }
}

/// Lets nothing pass; as upstream it has no opinion, so that another may allow.
pub struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _: &Attributes) -> (Decision, String) {
        (Decision::NoOpinion, "Everything is forbidden.".to_owned())
    }

    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Rule>, Option<String>) {
        (Vec::new(), None)
    }
}

/// `system:masters` may do everything.
pub struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, a: &Attributes) -> (Decision, String) {
        let decision = if a.user.in_group(GROUP_MASTERS) {
            Decision::Allow
        } else {
            Decision::NoOpinion
        };
        (decision, String::new())
    }

    // Upstream lists nothing here: cluster-admin's binding shows the same rules.
    async fn rules_for(&self, _: &UserInfo, _: &str) -> (Vec<Rule>, Option<String>) {
        (Vec::new(), None)
    }
}

/// Asks one after the other until one decides.
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    /// [`Masters`] first, then these.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Union {
        let mut all: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters)];
        all.extend(authorizers);
        Union(all)
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, a: &Attributes) -> (Decision, String) {
        let mut reasons = Vec::new();
        for z in &self.0 {
            let (decision, reason) = z.authorize(a).await;
            if decision != Decision::NoOpinion {
                return (decision, reason);
            }
            if !reason.is_empty() {
                reasons.push(reason);
            }
        }
        (Decision::NoOpinion, reasons.join("\n"))
    }

    async fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Option<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for z in &self.0 {
            let (r, e) = z.rules_for(user, namespace).await;
            rules.extend(r);
            errors.extend(e);
        }
        let errors = match errors.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(format!("[{}]", many.join(", "))),
        };
        (rules, errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_simple_ones_decide_and_list() {
        let of = |groups: &[&str]| UserInfo {
            name: "jane".into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..UserInfo::default()
        };
        let (jane, root) = (of(&[]), of(&[GROUP_MASTERS]));
        let nothing = (vec![], None);
        for (z, of_jane, of_root, rules) in [
            (
                &AlwaysAllow as &dyn Authorizer,
                Decision::Allow,
                Decision::Allow,
                (everything(), None),
            ),
            (
                &AlwaysDeny,
                Decision::NoOpinion,
                Decision::NoOpinion,
                nothing.clone(),
            ),
            (
                &Masters,
                Decision::NoOpinion,
                Decision::Allow,
                nothing.clone(),
            ),
        ] {
            for (user, want) in [(&jane, of_jane), (&root, of_root)] {
                let ask = Attributes {
                    user: user.clone(),
                    ..Attributes::default()
                };
                assert_eq!(z.authorize(&ask).await.0, want);
                assert_eq!(z.rules_for(user, "n").await, rules);
            }
        }
        let both = Union::new(vec![Arc::new(AlwaysDeny), Arc::new(AlwaysAllow)]);
        assert_eq!(both.rules_for(&jane, "n").await, (everything(), None));
        let ask = Attributes {
            user: jane,
            ..Attributes::default()
        };
        assert_eq!(both.authorize(&ask).await.0, Decision::Allow);
        let (decision, why) = Union::new(vec![Arc::new(AlwaysDeny)]).authorize(&ask).await;
        assert_eq!(
            (decision, why.as_str()),
            (Decision::NoOpinion, "Everything is forbidden.")
        );
    }
}
