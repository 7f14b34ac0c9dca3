//! get and list.

use std::sync::Arc;

use api::Status;
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage::Revision;

use super::Call;
use crate::Response;
use crate::cache::{Cache, Entry, entry_of, store_error, too_large};
use crate::codec;
use crate::encode::Source;
use crate::options::{ListOptions, Listing, parse_revision};
use crate::select::{Fields, Labels};
use crate::shares::Account;

/// Upstream's continue token: the revision of the list and the key to go on from, relative to the list's prefix.
#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: Revision,
    #[serde(default)]
    start: String,
}

fn encode_token(revision: Revision, start: &str) -> String {
    let t = Token {
        v: "meta.k8s.io/v1".into(),
        rv: revision,
        start: start.to_owned(),
    };
    // Go escapes NUL as \u0000, and so does serde_json.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&t).unwrap_or_default())
}

/// Go takes tokens with or without padding, whatever their last bits are.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn illegal_base64(e: &base64::DecodeError, token: &str) -> String {
    let at = match e {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            *at
        }
        // Go names the beginning of the last group.
        _ => token.len() / 4 * 4,
    };
    format!("illegal base64 data at input byte {at}")
}

fn decode_token(token: &str) -> Result<Token, Status> {
    let bad = |why: String| {
        Status::bad_request(format!(
            "invalid continue token: continue key is not valid: {why}"
        ))
    };
    let bytes = LENIENT
        .decode(token)
        .map_err(|e| bad(illegal_base64(&e, token)))?;
    let value = wire::json::parse(&bytes).map_err(|e| bad(e.to_string()))?;
    let Value::Object(members) = &value else {
        return Err(bad(format!(
            "json: cannot unmarshal {} into Go value of type storage.continueToken",
            wire::json::go_kind(&value)
        )));
    };
    for (field, ty) in [("v", "string"), ("rv", "int64"), ("start", "string")] {
        let fits = match members.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::Number(n)) => ty == "int64" && n.is_i64(),
            Some(v) => ty == "string" && v.is_string(),
        };
        if !fits {
            let what = members.get(field).map_or("null", wire::json::go_kind);
            return Err(bad(format!(
                "json: cannot unmarshal {what} into Go struct field continueToken.{field} of type {ty}"
            )));
        }
    }
    let t: Token = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
    if t.v != "meta.k8s.io/v1" {
        return Err(bad(format!(
            "server does not recognize this encoded version {}",
            t.v
        )));
    }
    if t.rv == 0 {
        return Err(bad(
            "incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into(),
        ));
    }
    if t.start.is_empty() {
        return Err(bad(
            "encoded start key empty (version meta.k8s.io/v1)".into()
        ));
    }
    if t.start.split('/').any(|p| p == "..") {
        return Err(bad(t.start));
    }
    Ok(t)
}

/// The 410 of a continue token whose revision is gone, with a token that goes on from the newest state.
fn expired_continue(start: &str) -> Status {
    let mut s = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    s.metadata.continue_ = encode_token(-1, start);
    s
}

/// What a list selects.
pub(super) struct Selection {
    labels: Labels,
    fields: Fields,
}

impl Selection {
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    pub(super) fn matches(&self, cache: &Cache, call: &Call, entry: &Entry) -> bool {
        self.matches_def(cache, &call.served.def, entry)
    }

    pub(super) fn matches_def(
        &self,
        cache: &Cache,
        def: &crate::resource::ResourceDef,
        entry: &Entry,
    ) -> bool {
        (self.labels.is_empty() || self.labels.matches(entry.labels(&cache.storage)))
            && cache.matches_fields(entry, def, &self.fields)
    }
}

/// A page of a list.
struct Page {
    items: Vec<Arc<Entry>>,
    revision: Revision,
    /// The key after which more follows, relative to the prefix.
    next: Option<String>,
    remaining: Option<i64>,
    /// Of what was read from the store for it, until it is sent.
    account: Option<Account>,
}

/// Keys read at once from the store where it is not known how many of them are wanted.
const READ: usize = 500;

fn crowded() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}

impl Call {
    /// The key of the named object.
    /// The named object: the newest from the store, or from the cache when a resourceVersion allows it.
    pub(super) async fn find(&self, name: &str) -> Result<Arc<Entry>, Status> {
        let cache = self.served.cache()?;
        let key = self.served.key(self.namespace(), name)?;
        let missing = || Status::not_found(self.group(), self.resource(), name);
        let rv = self.query.str("resourceVersion");
        if rv.is_empty() {
            let got = self
                .server
                .engine
                .core
                .store()
                .get(&key, 0)
                .await
                .map_err(store_error)?;
            return got.kv.map(|kv| Arc::new(entry_of(kv))).ok_or_else(missing);
        }
        let revision = parse_revision(rv).map_err(|e| Status::failure(500, "", e))?;
        if revision == 0 {
            cache.wait_ready().await;
        } else {
            at_least(cache, revision).await?;
        }
        cache.entry(&key).ok_or_else(missing)
    }

    pub(super) async fn get(&self) -> Result<Response, Status> {
        let output = self.output()?;
        if let Some(computed) = &self.served.def.computed {
            let name = &self.info.name;
            let mut object = computed
                .get(name)
                .await
                .ok_or_else(|| Status::not_found("", &self.served.def.singular, name))?;
            let encoder = self.served.encoder();
            if let Some(o) = object.as_object_mut() {
                o.insert("kind".into(), self.served.def.kind.as_str().into());
                o.insert("apiVersion".into(), encoder.api_version.into());
            }
            let bytes = encoder.object(&output, Source::Tree(&object))?;
            return Ok(self.respond(200, output.media, bytes));
        }
        let entry = self.find(&self.info.name).await?;
        let bytes = self
            .served
            .encoder()
            .object(&output, Source::Stored(&entry))?;
        Ok(self.respond(200, output.media, bytes))
    }

    pub(super) fn selection(&self, o: &ListOptions) -> Result<Selection, Status> {
        Ok(Selection {
            labels: Labels::parse(&o.label_selector)?,
            fields: Fields::parse_for(&o.field_selector, &self.served.def)?,
        })
    }

    pub(super) async fn list(&self) -> Result<Response, Status> {
        let output = self.output()?;
        let options = ListOptions::parse(&self.query, Listing::List)?;
        let selection = self.selection(&options)?;
        if let Some(computed) = &self.served.def.computed {
            let mut items = computed.list().await;
            items.retain(|o| {
                let name = codec::meta_str(o, "name");
                // They have no labels.
                selection.labels.matches(&[])
                    && selection.fields.matches("", name, |_| String::new())
            });
            let bytes = self.served.encoder().trees(&output, &items)?;
            return Ok(self.respond(200, output.media, bytes));
        }
        let page = self.page(&options, &selection).await?;
        let metadata = list_meta(&page);
        let body = self.served.lister().list(&output, &metadata, page.items)?;
        let body = body.keeping(page.account);
        Ok(self.respond(200, output.media, body))
    }

    /// What a selection selects now, up to its limit, with the metadata of the list.
    pub(super) async fn select_all(
        &self,
        options: &ListOptions,
    ) -> Result<(Vec<Arc<Entry>>, Value), Status> {
        let selection = self.selection(options)?;
        let page = self.page(options, &selection).await?;
        let metadata = list_meta(&page);
        Ok((page.items, metadata))
    }

    async fn page(&self, o: &ListOptions, selection: &Selection) -> Result<Page, Status> {
        let cache = self.served.cache()?;
        let prefix = self.served.scope(self.namespace())?;
        let asked = o
            .revision()
            .map_err(|e| Status::bad_request(format!("invalid resource version: {e}")))?;
        if !o.continue_token.is_empty() {
            let token = decode_token(&o.continue_token)?;
            if asked.is_some_and(|r| r != 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            // As in a first page, revision 0 asks for everything.
            let limit = if asked == Some(0) { 0 } else { o.limit };
            let mut start = prefix.clone();
            start.extend_from_slice(token.start.trim_start_matches('/').as_bytes());
            if token.rv < 0 {
                cache.wait_current().await?;
                let snapshot = cache.snapshot();
                return Ok(self.cut(cache, snapshot, &prefix, &start, limit, selection));
            }
            exists(cache, token.rv).await?;
            return match self
                .page_at(cache, &prefix, &start, token.rv, limit, selection)
                .await
            {
                Err(s) if s.code == 410 => Err(expired_continue(&token.start)),
                other => other,
            };
        }
        let exact = match (o.version_match.as_str(), asked) {
            ("Exact", Some(r)) => Some(r),
            ("", Some(r)) if o.limit > 0 && r > 0 => Some(r),
            _ => None,
        };
        if let Some(r) = exact {
            exists(cache, r).await?;
            return match self
                .page_at(cache, &prefix, &prefix, r, o.limit, selection)
                .await
            {
                Err(s) if s.code == 410 => Err(Status::expired(
                    "The resourceVersion for the provided list is too old.",
                )),
                other => other,
            };
        }
        match asked {
            None => cache.wait_current().await?,
            Some(0) => cache.wait_ready().await,
            Some(r) => at_least(cache, r).await?,
        }
        let limit = if asked == Some(0) { 0 } else { o.limit };
        Ok(self.cut(cache, cache.snapshot(), &prefix, &prefix, limit, selection))
    }

    async fn page_at(
        &self,
        cache: &Arc<Cache>,
        prefix: &[u8],
        start: &[u8],
        revision: Revision,
        limit: usize,
        selection: &Selection,
    ) -> Result<Page, Status> {
        if let Some(snapshot) = cache.snapshot_at(revision) {
            return Ok(self.cut(cache, snapshot, prefix, start, limit, selection));
        }
        // What is read here is this request's alone, so it is counted as a body is.
        let mut account = self.account().ok_or_else(crowded)?;
        let (mut items, mut held) = (Vec::new(), 0);
        let mut start = start.to_vec();
        loop {
            let want = if limit == 0 || !selection.is_empty() {
                READ
            } else {
                limit - items.len()
            };
            let (found, listed) = cache.list_at(prefix, &start, revision, want).await?;
            let count = found.len();
            if let Some(last) = found.last() {
                start = last.key.to_vec();
                start.push(0);
            }
            for (i, entry) in found.into_iter().enumerate() {
                let key = entry.key.clone();
                if selection.matches(cache, self, &entry) {
                    let bytes = entry.value.len();
                    // A list of any length is let in beside others of its user.
                    if held < crate::shares::TREE && !account.grow(bytes) {
                        return Err(crowded());
                    }
                    held += bytes;
                    items.push(entry);
                }
                if limit > 0 && items.len() >= limit {
                    let read = i + 1;
                    let more = read < count || listed.more;
                    let left = listed.count - i64::try_from(read).unwrap_or(0);
                    return Ok(Page {
                        items,
                        revision,
                        next: more.then(|| relative(prefix, &key)),
                        remaining: (more && selection.is_empty()).then_some(left.max(0)),
                        account: Some(account),
                    });
                }
            }
            if !listed.more || count == 0 {
                return Ok(Page {
                    items,
                    revision,
                    next: None,
                    remaining: None,
                    account: Some(account),
                });
            }
        }
    }

    fn account(&self) -> Option<Account> {
        let level = crate::shares::level(&self.user, &self.info);
        self.server.budget.open(&self.user, level)
    }

    fn cut(
        &self,
        cache: &Arc<Cache>,
        snapshot: crate::cache::Snapshot,
        prefix: &[u8],
        start: &[u8],
        limit: usize,
        selection: &Selection,
    ) -> Page {
        let mut items: Vec<Arc<Entry>> = Vec::new();
        let mut next = None;
        let mut remaining = 0;
        // A required name leaves at most one candidate in one namespace.
        if let Some(name) = selection.fields().required_name()
            && (!self.served.def.namespaced || !self.namespace().is_empty())
        {
            let mut key = prefix.to_vec();
            key.extend_from_slice(name.as_bytes());
            if let Some(e) = snapshot.items.get(key.as_slice())
                && key.as_slice() >= start
                && selection.matches(cache, self, e)
            {
                items.push(e.clone());
            }
            return Page {
                items,
                revision: snapshot.revision,
                next: None,
                remaining: None,
                account: None,
            };
        }
        for e in snapshot.range(prefix, start) {
            // Whether what follows is selected shows on the next page only.
            if limit > 0 && items.len() >= limit {
                next = next.or_else(|| items.last().map(|l| relative(prefix, &l.key)));
                if selection.is_empty() {
                    remaining += 1;
                    continue;
                }
                break;
            }
            if !selection.matches(cache, self, e) {
                continue;
            }
            items.push(e.clone());
        }
        if next.is_some() {
            cache.remember(&snapshot);
        }
        let remaining = (next.is_some() && selection.is_empty()).then_some(remaining);
        Page {
            items,
            revision: snapshot.revision,
            next,
            remaining,
            account: None,
        }
    }
}

/// The start of the next page: the last key with a NUL, relative to the prefix.
fn relative(prefix: &[u8], key: &[u8]) -> String {
    let tail = key.get(prefix.len()..).unwrap_or_default();
    format!("{}\0", String::from_utf8_lossy(tail))
}

/// Waits for a revision; one that has not happened anywhere is refused at once.
pub(super) async fn at_least(cache: &Cache, revision: Revision) -> Result<(), Status> {
    if cache.ready() && cache.revision() >= revision {
        return Ok(());
    }
    let newest = cache.store().revision().await.map_err(store_error)?;
    if revision > newest {
        return Err(too_large(revision, newest));
    }
    cache.wait_for(revision).await
}

/// [`at_least`] for exactly this revision: waiting a little would not help.
async fn exists(cache: &Cache, revision: Revision) -> Result<(), Status> {
    at_least(cache, revision).await.map_err(|mut s| {
        if let Some(d) = &mut s.details {
            d.retry_after_seconds = 0;
        }
        s
    })
}

fn list_meta(page: &Page) -> Value {
    let mut m = json!({"resourceVersion": page.revision.to_string()});
    if let (Some(map), Some(next)) = (m.as_object_mut(), &page.next) {
        map.insert("continue".into(), encode_token(page.revision, next).into());
        if let Some(r) = page.remaining {
            map.insert("remainingItemCount".into(), r.into());
        }
    }
    m
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_are_upstreams() {
        // From a running upstream server.
        let theirs = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NDY0LCJzdGFydCI6ImZ1bGxkZWZcdTAwMDAifQ";
        assert_eq!(encode_token(464, "fulldef\0"), theirs);
        let t = decode_token(theirs).expect("valid");
        assert_eq!((t.rv, t.start.as_str()), (464, "fulldef\0"));
        let e = decode_token("abc").err().expect("invalid");
        assert_eq!(
            e.message,
            "invalid continue token: continue key is not valid: invalid character 'i' looking for beginning of value"
        );
    }

    #[test]
    fn tokens_cannot_leave_their_prefix() {
        for start in ["../x\0", "a/../../b\0", "/../x\0"] {
            let e = decode_token(&encode_token(5, start)).err().expect(start);
            let why = format!("continue key is not valid: {start}");
            assert!(e.code == 400 && e.message.ends_with(&why), "{}", e.message);
        }
    }
}
