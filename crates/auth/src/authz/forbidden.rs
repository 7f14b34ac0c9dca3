//! The 403 of a refused request, in upstream's words.

use api::Status;
use api::text::go_quote as q;

use crate::Attributes;

/// `User "jane" cannot list resource "pods" in API group "" in the namespace "default"`.
pub fn message(a: &Attributes) -> String {
    let user = q(&a.user.name);
    if !a.is_resource {
        return format!("User {user} cannot {} path {}", a.verb, q(&a.path));
    }
    let resource = if a.subresource.is_empty() {
        a.resource.clone()
    } else {
        format!("{}/{}", a.resource, a.subresource)
    };
    let place = if a.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {}", q(&a.namespace))
    };
    format!(
        "User {user} cannot {} resource {} in API group {} {place}",
        a.verb,
        q(&resource),
        q(&a.group)
    )
}

/// The Status; `reason` is the authorizers', may be empty.
pub fn status(a: &Attributes, reason: &str) -> Status {
    let mut text = message(a);
    if !reason.is_empty() {
        text = format!("{text}: {reason}");
    }
    if a.is_resource {
        Status::forbidden(&a.group, &a.resource, &a.name, &text)
    } else {
        Status::forbidden("", "", "", &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;

    #[test]
    fn upstreams_words() {
        let user = UserInfo {
            name: "jane".into(),
            ..UserInfo::default()
        };
        let a = Attributes {
            user: user.clone(),
            verb: "get".into(),
            namespace: "golden".into(),
            resource: "pods".into(),
            subresource: "log".into(),
            name: "minimal".into(),
            is_resource: true,
            ..Attributes::default()
        };
        assert_eq!(
            status(&a, "").message,
            "pods \"minimal\" is forbidden: User \"jane\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"golden\""
        );
        let a = Attributes {
            user,
            verb: "get".into(),
            path: "/metrics".into(),
            ..Attributes::default()
        };
        let s = status(&a, "why");
        assert_eq!(
            s.message,
            "forbidden: User \"jane\" cannot get path \"/metrics\": why"
        );
        assert_eq!(
            serde_json::to_value(&s).unwrap()["details"],
            serde_json::json!({})
        );
    }
}
