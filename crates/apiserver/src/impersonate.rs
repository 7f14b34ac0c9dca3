//! `Impersonate-*` headers: whom a request acts for, each part of which needs the right to impersonate.
//!
//! Source: upstream's `endpoints/filters/impersonation`. Invariant: a request with any such header acts for somebody or is
//! refused; what cannot be read, says two things or is not known never leaves the caller's own rights in force.

use api::Status;
use api::text::go_quote;
use auth::authn::headers::{extra_key, single, texts};
use auth::{Attributes, UserInfo};
use http::HeaderMap;

use crate::engine::Engine;

const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

/// Whom the headers ask for, as they say it; `None` without such headers.
///
/// # Errors
/// 400 for headers that cannot be acted upon.
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let mut user = UserInfo::default();
    let mut any = false;
    for key in headers.keys().map(http::HeaderName::as_str) {
        if !key.starts_with(PREFIX) {
            continue;
        }
        any = true;
        if let Some(rest) = key.strip_prefix(EXTRA) {
            let values = texts(headers, key).map_err(Status::bad_request)?;
            user.extra
                .entry(extra_key(rest))
                .or_default()
                .extend(values.into_iter().map(str::to_owned));
        } else if ![USER, UID, GROUP].contains(&key) {
            return Err(Status::bad_request(format!(
                "unknown impersonation header {}",
                go_quote(key)
            )));
        }
    }
    if !any {
        return Ok(None);
    }
    let one = |name: &str| {
        let value = single(headers, name).map_err(Status::bad_request)?;
        Ok::<_, Status>(value.unwrap_or_default().to_owned())
    };
    user.name = one(USER)?;
    user.uid = one(UID)?;
    let groups = texts(headers, GROUP).map_err(Status::bad_request)?;
    user.groups = groups.into_iter().map(str::to_owned).collect();
    if user.name.is_empty() {
        return Err(Status::bad_request(format!(
            "requested &user.DefaultInfo{{Name:\"\", UID:{}, Groups:{}, Extra:{}}} without impersonating a user name",
            go_quote(&user.uid),
            go_strings(&user.groups),
            go_extra(&user.extra),
        )));
    }
    Ok(Some(user))
}

/// Namespace and name of a service account's user name; other names are plain users, however they begin.
fn service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    let valid = api::validate::dns1123_label(namespace).is_empty()
        && api::validate::dns1123_subdomain(name).is_empty();
    valid.then_some((namespace, name))
}

/// The rights that acting for a user takes.
fn rights(caller: &UserInfo, wanted: &UserInfo) -> Vec<Attributes> {
    let ask = |group: &str, resource: &str, name: &str| Attributes {
        user: caller.clone(),
        verb: "impersonate".into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        name: name.into(),
        is_resource: true,
        ..Attributes::default()
    };
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let mut all = vec![match service_account(&wanted.name) {
        Some((namespace, name)) => Attributes {
            namespace: namespace.into(),
            ..ask("", "serviceaccounts", name)
        },
        None => ask("", "users", &wanted.name),
    }];
    all.extend(wanted.groups.iter().map(|g| ask("", "groups", g)));
    if !wanted.uid.is_empty() {
        all.push(ask(AUTHENTICATION, "uids", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        all.extend(values.iter().map(|v| Attributes {
            subresource: key.clone(),
            ..ask(AUTHENTICATION, "userextras", v)
        }));
    }
    all
}

/// The groups that everybody has.
fn complete(mut user: UserInfo) -> UserInfo {
    if user.groups.is_empty()
        && let Some((namespace, _)) = service_account(&user.name)
    {
        user.groups = vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let always = if user.name == auth::ANONYMOUS {
        auth::GROUP_UNAUTHENTICATED
    } else {
        auth::GROUP_AUTHENTICATED
    };
    // Who is to be unauthenticated stays so.
    if !user.in_group(always) && !user.in_group(auth::GROUP_UNAUTHENTICATED) {
        user.groups.push(always.to_owned());
    }
    user
}

/// The user that a request acts for: the caller, or whom its headers name.
///
/// # Errors
/// 400 for headers that cannot be acted upon, 403 without the right to one of their parts.
pub async fn impersonate(
    engine: &Engine,
    caller: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    let Some(wanted) = wanted(headers)? else {
        return Ok(caller);
    };
    for right in rights(&caller, &wanted) {
        engine.authorize(&right).await?;
    }
    Ok(complete(wanted))
}

fn go_strings(list: &[String]) -> String {
    if list.is_empty() {
        return "[]string(nil)".into();
    }
    let all: Vec<String> = list.iter().map(|s| go_quote(s)).collect();
    format!("[]string{{{}}}", all.join(", "))
}

fn go_extra(extra: &std::collections::BTreeMap<String, Vec<String>>) -> String {
    if extra.is_empty() {
        return "map[string][]string(nil)".into();
    }
    let all: Vec<String> = extra
        .iter()
        .map(|(k, v)| format!("{}:{}", go_quote(k), go_strings(v)))
        .collect();
    format!("map[string][]string{{{}}}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (k, v) in pairs {
            out.append(*k, HeaderValue::from_bytes(v).unwrap());
        }
        out
    }

    /// Identity: headers that cannot be acted upon are refused and never passed over.
    #[test]
    fn headers_that_cannot_be_acted_upon_are_refused() {
        let jane = (USER, &b"jane"[..]);
        for pairs in [
            vec![(USER, &b"j\xfcrgen"[..])],
            vec![(USER, b"")],
            vec![jane, jane],
            vec![jane, (USER, b"root")],
            vec![jane, (GROUP, b"\xff")],
            vec![jane, (UID, b"\xff")],
            vec![jane, (UID, b"1"), (UID, b"2")],
            vec![jane, ("impersonate-extra-a", b"\xff")],
            vec![("impersonate-usr", b"jane")],
            vec![jane, ("impersonate-groups", b"a")],
            vec![jane, ("impersonate-extra", b"a")],
            vec![(GROUP, b"a")],
            vec![(UID, b"")],
            vec![("impersonate-extra-a", b"x")],
        ] {
            let e = wanted(&headers(&pairs)).expect_err(&format!("{pairs:?}"));
            assert_eq!(e.code, 400, "{pairs:?}");
        }
        assert_eq!(
            wanted(&headers(&[("accept", b"\xff")])).expect("none"),
            None
        );
    }

    #[test]
    fn any_text_is_a_name() {
        let h = headers(&[
            (USER, "jürgen".as_bytes()),
            (GROUP, "größe".as_bytes()),
            (GROUP, b"b"),
            ("impersonate-extra-example.com%2fscopes", b"x"),
        ]);
        let user = wanted(&h).expect("valid").expect("some");
        assert_eq!(user.name, "jürgen");
        assert_eq!(user.groups, ["größe", "b"]);
        assert_eq!(user.extra["example.com/scopes"], ["x"]);
        let asked: Vec<String> = rights(&UserInfo::default(), &user)
            .iter()
            .map(|a| format!("{}/{} {}", a.resource, a.subresource, a.name))
            .collect();
        assert_eq!(
            asked,
            [
                "users/ jürgen",
                "groups/ größe",
                "groups/ b",
                "userextras/example.com/scopes x"
            ]
        );
        let done = complete(user);
        assert_eq!(done.groups, ["größe", "b", "system:authenticated"]);
    }

    /// What is no service account's name is a user's, and takes the right to that user.
    #[test]
    fn service_accounts_are_told_from_users() {
        assert_eq!(
            service_account("system:serviceaccount:a:b"),
            Some(("a", "b"))
        );
        for name in [
            "system:serviceaccount:a:b:c",
            "system:serviceaccount:a",
            "system:serviceaccount::b",
            "system:serviceaccount:a:",
            "system:serviceaccount:A:b",
            "system:serviceaccount:a/x:b",
            "system:node:a",
        ] {
            assert_eq!(service_account(name), None, "{name}");
            let user = UserInfo {
                name: name.into(),
                ..UserInfo::default()
            };
            let asked = rights(&UserInfo::default(), &user);
            assert_eq!(
                (asked[0].resource.as_str(), asked[0].name.as_str()),
                ("users", name)
            );
            assert_eq!(complete(user).groups, ["system:authenticated"]);
        }
    }
}
