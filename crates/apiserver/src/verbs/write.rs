//! create, update, patch, delete, deletecollection.

use std::sync::Arc;

use api::Status;
use api::field::{ErrorList, Path};
use async_trait::async_trait;
use bytes::Bytes;
use patch::PatchError;
use serde_json::{Value, json};
use wire::json::Strictness;

use super::Call;
use crate::Response;
use crate::codec;
use crate::core::Served;
use crate::engine::{Change, Replace, Request};
use crate::negotiate::{self, Media};
use crate::options::{DeleteOptions, FieldValidation, ListOptions, Listing, WriteOptions};
use crate::resource::ResourceDef;

impl Call {
    fn gvk(&self) -> (&str, &str, &str) {
        let d = &self.served.def;
        (&d.group, &d.version, &d.kind)
    }

    pub(super) async fn create(&self, body: Result<Bytes, Status>) -> Result<Response, Status> {
        // What is only posted has no table.
        let transforms = self.served.def.review.is_none();
        let output = negotiate::output(&self.headers, &self.query, transforms)?;
        let media = negotiate::input(&self.headers)?;
        let options = WriteOptions::parse(&self.query, "CreateOptions", false)?;
        let def: &ResourceDef = &self.served.def;
        let mut object =
            self.decode_body(body, media, options.validation, self.gvk(), def.schema)?;
        let request = self.write_request(options.dry_run, self.manager(&options.field_manager));
        if let Some(review) = &def.review {
            crate::engine::match_namespace(&mut object, def.namespaced, self.namespace())?;
            codec::unmanage(&mut object);
            let writer = self.writer(&request);
            let ctx = self.context(&request);
            let (code, result) = review.post(&ctx, &writer, object).await?;
            return self.respond_kind(&output, code, self.gvk(), def.schema, &result);
        }
        let created = self.server.engine.create(&request, object).await?;
        self.respond_object(&output, 201, &created)
    }

    pub(super) async fn update(&self, body: Result<Bytes, Status>) -> Result<Response, Status> {
        let output = self.output()?;
        let media = negotiate::input(&self.headers)?;
        let options = WriteOptions::parse(&self.query, "UpdateOptions", false)?;
        let mut object = self.decode_body(
            body,
            media,
            options.validation,
            self.gvk(),
            self.served.def.schema,
        )?;
        if self.served.def.namespaced {
            crate::engine::match_namespace(&mut object, true, self.namespace())?;
        }
        self.check_name(&object)?;
        let request = self.write_request(options.dry_run, self.manager(&options.field_manager));
        let (object, created) = self
            .server
            .engine
            .update(&request, &mut Replace(object))
            .await?;
        self.respond_object(&output, if created { 201 } else { 200 }, &object)
    }

    /// What becomes of keys that stand twice in an applied configuration.
    pub(super) fn duplicates(
        &self,
        found: &[String],
        validation: FieldValidation,
    ) -> Result<(), Status> {
        if found.is_empty() {
            return Ok(());
        }
        let text = wire::yaml::list_errors(found);
        match validation {
            FieldValidation::Strict => Err(Status::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {text}"
            ))),
            FieldValidation::Warn => {
                self.warn([text]);
                Ok(())
            }
            FieldValidation::Ignore => Ok(()),
        }
    }

    /// An object that is put must carry the name of the path.
    pub(super) fn check_name(&self, object: &Value) -> Result<(), Status> {
        let asked = &self.info.name;
        match codec::meta_str(object, "name") {
            "" => Err(Status::bad_request(format!(
                "the name of the object ({asked} based on URL) was undeterminable: name must be provided"
            ))),
            name if name != asked => Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({asked})"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) async fn patch(&self, body: Result<Bytes, Status>) -> Result<Response, Status> {
        let output = self.output()?;
        let kind = patch_kind(&self.headers)?;
        let options = WriteOptions::parse(
            &self.query,
            "PatchOptions",
            matches!(kind, PatchKind::Apply),
        )?;
        let bytes = body?;
        let request = self.write_request(options.dry_run, self.manager(&options.field_manager));
        let mut change = Patch {
            call: self,
            served: self.served.clone(),
            kind,
            bytes,
            options: &options,
        };
        let (object, created) = self.server.engine.update(&request, &mut change).await?;
        self.respond_object(&output, if created { 201 } else { 200 }, &object)
    }

    fn delete_options(&self, body: Result<Bytes, Status>) -> Result<DeleteOptions, Status> {
        let bytes = body?;
        if bytes.is_empty() {
            return DeleteOptions::parse(None, &self.query);
        }
        let media = negotiate::input(&self.headers)?;
        let schema = api::schema::message("v1", "DeleteOptions")
            .ok_or_else(|| Status::internal("no schema of DeleteOptions"))?;
        let value = decode_delete_options(&bytes, media, schema)?;
        DeleteOptions::parse(Some(&value), &self.query)
    }

    pub(super) async fn delete(&self, body: Result<Bytes, Status>) -> Result<Response, Status> {
        let output = self.output()?;
        let options = self.delete_options(body)?;
        let request = self.write_request(options.dry_run, "");
        let (object, gone) = self.server.engine.delete(&request, &options).await?;
        let code = if !gone && options.orphan == Some(false) {
            202
        } else {
            200
        };
        self.respond_object(&output, code, &object)
    }

    pub(super) async fn delete_collection(
        &self,
        body: Result<Bytes, Status>,
    ) -> Result<Response, Status> {
        let output = self.output()?;
        let list = ListOptions::parse(&self.query, Listing::List)?;
        let options = self.delete_options(body)?;
        let (entries, metadata) = self.select_all(&list).await?;
        let mut items = Vec::with_capacity(entries.len());
        for e in entries {
            let cache = self.served.cache()?;
            let (namespace, name) = cache.names(&e.key);
            let request = Request {
                name,
                namespace,
                ..self.write_request(options.dry_run, "")
            };
            match self.server.engine.delete(&request, &options).await {
                Ok(_) => items.push(e.clone()),
                Err(s) if s.is_not_found() => {}
                Err(s) => return Err(s),
            }
        }
        let body = self.served.lister().list(&output, &metadata, items)?;
        Ok(self.respond(200, output.media, body))
    }
}

fn decode_delete_options(
    bytes: &Bytes,
    media: Media,
    schema: &'static wire::schema::Message,
) -> Result<Value, Status> {
    let bad = |e: wire::Error| match e {
        wire::Error::Syntax(m) => unread(&m),
        e => Status::bad_request(e.to_string()),
    };
    fn unread(m: &str) -> Status {
        Status::bad_request(format!("couldn't get version/kind; json parse error: {m}"))
    }
    let check = |api_version: &str, kind: &str| {
        let api_version = if api_version.is_empty() {
            "meta.k8s.io/v1"
        } else {
            api_version
        };
        if matches!(kind, "" | "DeleteOptions") {
            return Ok(());
        }
        Err(Status::bad_request(format!(
            "no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \
             \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\""
        )))
    };
    match media {
        Media::Json => {
            let found = super::interpret(bytes).map_err(|m| unread(&m))?;
            check(&found.api_version, &found.kind)?;
            Ok(wire::json::decode(bytes, schema, Strictness::Ignore)
                .map_err(bad)?
                .value)
        }
        Media::Yaml => {
            let value =
                wire::yaml::to_value(bytes).map_err(|e| Status::bad_request(e.to_string()))?;
            let found = super::interpret_tree(&value).map_err(|m| unread(&m))?;
            check(&found.api_version, &found.kind)?;
            Ok(wire::json::normalize(value, schema, Strictness::Ignore)
                .map_err(bad)?
                .value)
        }
        Media::Protobuf => {
            let u =
                wire::envelope::unwrap(bytes).map_err(|e| Status::bad_request(e.to_string()))?;
            check(u.api_version, u.kind)?;
            wire::proto::tree(u.raw, schema).map_err(bad)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

pub(super) fn patch_kind(headers: &http::HeaderMap) -> Result<PatchKind, Status> {
    match negotiate::content_type(headers).as_str() {
        "application/json-patch+json" => Ok(PatchKind::Json),
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        "application/apply-patch+yaml" => Ok(PatchKind::Apply),
        _ => Err(negotiate::unsupported_by_route()),
    }
}

pub(super) fn patch_error(e: PatchError) -> Status {
    match e {
        PatchError::BadRequest(m) => Status::bad_request(m),
        PatchError::Unprocessable(_) => {
            let mut s = Status::failure(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request",
            );
            s.details = Some(Box::default());
            s
        }
        PatchError::Internal(m) => Status::failure(500, "", m),
        PatchError::TooLarge(m) => Status::failure(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {m}"),
        ),
    }
}

struct Patch<'a> {
    call: &'a Call,
    served: Arc<Served>,
    kind: PatchKind,
    bytes: Bytes,
    options: &'a WriteOptions,
}

#[async_trait]
impl Change for Patch<'_> {
    async fn apply(&mut self, existing: Option<&Value>) -> Result<Value, Status> {
        let def = &self.served.def;
        if self.kind == PatchKind::Apply {
            return self.server_side(existing);
        }
        let missing = || Status::not_found(&def.group, &def.resource, &self.call.info.name);
        let old = existing.ok_or_else(missing)?;
        let patched = Patched {
            kind: self.kind,
            old,
            bytes: &self.bytes,
            gvk: self.call.gvk(),
            schema: def.schema,
            validation: self.options.validation,
        };
        let object = patched.apply(self.call)?;
        self.call.check_name(&object)?;
        Ok(object)
    }

    fn creates(&self) -> bool {
        self.kind == PatchKind::Apply
    }

    fn patches(&self) -> bool {
        true
    }

    fn manages(&self) -> bool {
        self.kind == PatchKind::Apply
    }
}

/// An applied configuration, and the keys that stand twice in it.
pub(super) fn configuration(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    let (config, duplicates) = wire::yaml::to_value_strict(bytes).map_err(|e| {
        Status::bad_request(format!(
            "error decoding YAML: error converting YAML to JSON: {e}"
        ))
    })?;
    if !config.is_object() && !config.is_null() {
        return Err(Status::bad_request(format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value \
             of type map[string]interface {{}}",
            wire::json::go_kind(&config)
        )));
    }
    Ok((config, duplicates))
}

impl Patch<'_> {
    fn server_side(&self, existing: Option<&Value>) -> Result<Value, Status> {
        let (config, duplicates) = configuration(&self.bytes)?;
        let def = &self.served.def;
        let call = self.call;
        let actor = crate::meta::actor(
            &self.served,
            &self.options.field_manager,
            &call.info.subresource,
            &call.now,
        );
        let force = self.options.force == Some(true);
        let merged = patch::ssa::apply(existing, &config, def.schema, &actor, force)
            .map_err(Status::from)?;
        call.duplicates(&duplicates, self.options.validation)?;
        if existing.is_none() {
            self.check_created(&config)?;
        }
        let mut value = wire::json::normalize(merged, def.schema, Strictness::Ignore)
            .map_err(|e| {
                let gvk = format!("{}, Kind={}", self.served.api_version, def.kind);
                Status::failure(
                    500,
                    "",
                    format!(
                        "failed to convert new object ({}/{}; {gvk}) to proper version: unable to convert \
                         unstructured object to {gvk}: {e}",
                        codec::meta_str(&config, "namespace"),
                        codec::meta_str(&config, "name"),
                    ),
                )
            })?
            .value;
        codec::meta_mut(&mut value);
        Ok(value)
    }

    /// What an apply that creates must say of the object, and may not.
    fn check_created(&self, config: &Value) -> Result<(), Status> {
        let def = &self.served.def;
        let uid = codec::meta_str(config, "uid");
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(Status::conflict(
                &def.group,
                &def.resource,
                &self.call.info.name,
                &why,
            ));
        }
        self.call.check_name(config)
    }
}

/// A patch of a tree: an object, or what a subresource shows of it.
pub(super) struct Patched<'a> {
    pub kind: PatchKind,
    pub old: &'a Value,
    pub bytes: &'a Bytes,
    pub gvk: (&'a str, &'a str, &'a str),
    pub schema: &'static wire::schema::Message,
    pub validation: FieldValidation,
}

impl Patched<'_> {
    /// Applies it and checks the result against the schema.
    pub(super) fn apply(&self, call: &Call) -> Result<Value, Status> {
        let mut patched = match self.kind {
            PatchKind::Json => patch::json_patch(self.old, self.bytes),
            PatchKind::Merge => patch::merge_patch(self.old, self.bytes),
            PatchKind::Strategic => patch::strategic_merge(self.old, self.bytes, self.schema),
            PatchKind::Apply => Err(PatchError::BadRequest("not a patch of an object".into())),
        }
        .map_err(patch_error)?;
        let strategic = self.kind == PatchKind::Strategic;
        let shown = patched.clone();
        let refuse = |why: &str| {
            // A strategic merge works on trees and shows the patch, the others on text and show the result.
            let text = if strategic {
                patch::shown(self.bytes)
            } else {
                let mut text = Vec::new();
                wire::json::encode_patched(&shown, self.old, self.schema, &mut text);
                String::from_utf8_lossy(&text).into_owned()
            };
            let mut errors = ErrorList::new();
            errors.invalid(&Path::new("patch"), text.as_str(), why);
            Status::invalid("", "", "", &errors)
        };
        let text = |key: &str| {
            shown
                .get(key)
                .and_then(Value::as_str)
                .filter(|t| !t.is_empty())
        };
        let (group, version, kind) = self.gvk;
        let own = codec::group_version(group, version);
        let found = (
            text("apiVersion").unwrap_or(&own),
            text("kind").unwrap_or(kind),
        );
        if !strategic && found != (own.as_str(), kind) {
            return Err(refuse(&super::other_type(found.0, found.1, self.gvk)));
        }
        // An empty list forgets all managers, and would be lost as empty: one empty entry says the same.
        if let Some(list) = patched
            .pointer_mut("/metadata/managedFields")
            .filter(|l| l.as_array().is_some_and(Vec::is_empty))
        {
            *list = json!([{}]);
        }
        let strictness = if self.validation == FieldValidation::Ignore {
            Strictness::Ignore
        } else {
            Strictness::Collect
        };
        let decoded = wire::json::normalize(patched, self.schema, strictness).map_err(|e| {
            let restored = wire::json::restore_error(&shown, self.schema);
            refuse(&restored.filter(|_| strategic).unwrap_or(e.to_string()))
        })?;
        let mut found = patch::strict_errors(self.bytes, self.kind == PatchKind::Json);
        found.extend(decoded.strict_errors);
        if self.validation != FieldValidation::Ignore {
            self.strict(call, found, &refuse)?;
        }
        let mut value = decoded.value;
        if value.get("metadata").is_none() {
            codec::meta_mut(&mut value);
        }
        Ok(value)
    }

    fn strict(
        &self,
        call: &Call,
        found: Vec<String>,
        refuse: &impl Fn(&str) -> Status,
    ) -> Result<(), Status> {
        if found.is_empty() {
            return Ok(());
        }
        match self.validation {
            FieldValidation::Strict => Err(refuse(&format!(
                "strict decoding error: {}",
                found.join(", ")
            ))),
            FieldValidation::Warn => {
                call.warn(found);
                Ok(())
            }
            FieldValidation::Ignore => Ok(()),
        }
    }
}
