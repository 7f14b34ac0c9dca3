//! Subresources: status and its like, scale, actions, and byte streams.

use api::Status;
use api::field::ErrorList;
use async_trait::async_trait;
use bytes::Bytes;
use patch::ssa::{Actor, Window};
use serde_json::Value;
use wire::json::Strictness;

use super::write::{PatchKind, Patched, configuration, patch_kind};
use super::{Call, connect};
use crate::Response;
use crate::body::Input;
use crate::codec::{self, meta_str};
use crate::engine::{Change, Request, Writer};
use crate::negotiate;
use crate::options::WriteOptions;
use crate::resource::{Connection, Context, MappedSubresource, Subresource, SubresourceKind};

impl Call {
    pub(super) fn writer<'a>(&'a self, request: &'a Request<'_>) -> Writer<'a> {
        Writer {
            engine: &self.server.engine,
            user: &self.user,
            subresource: &self.info.subresource,
            dry_run: request.dry_run,
            manager: "",
        }
    }

    pub(super) fn context<'a>(&'a self, request: &'a Request<'_>) -> Context<'a> {
        Context {
            user: &self.user,
            namespace: request.namespace,
            name: request.name,
            asked: &self.info.name,
            subresource: &self.info.subresource,
            dry_run: request.dry_run,
            now: &self.now,
            reader: &*self.server.engine.reader,
            authorizer: &*self.server.engine.authorizer,
            warnings: &self.warnings,
        }
    }

    pub(super) async fn subresource(
        &self,
        request: http::Request<Input>,
    ) -> Result<Response, Status> {
        let def = self.served.def.clone();
        let Some(sub) = def
            .subresources
            .iter()
            .find(|s| s.name == self.info.subresource)
        else {
            return Err(Status::no_such_path());
        };
        if let SubresourceKind::Connect(c) = &sub.kind {
            return self.connect(&**c, request).await;
        }
        let verb = self.info.verb.as_str();
        let body = request.into_body().whole();
        match (&sub.kind, verb) {
            (SubresourceKind::Same, "get") => self.get().await,
            (SubresourceKind::Same, "update") => self.update(body).await,
            (SubresourceKind::Same, "patch") => self.patch(body).await,
            (SubresourceKind::Same, "delete") => self.delete(body).await,
            (SubresourceKind::Mapped(m), "get") => {
                let output = self.output()?;
                let entry = self.find(&self.info.name).await?;
                let object = crate::codec::decode(&def, &entry.value, entry.revision)?;
                self.respond_kind(&output, 200, sub.gvk, sub.schema, &m.view(&object)?)
            }
            (SubresourceKind::Mapped(m), "update" | "patch") => {
                self.write_mapped(sub, &**m, body).await
            }
            (SubresourceKind::Action(a), "create") => {
                let output = self.output()?;
                let media = negotiate::input(&self.headers)?;
                let options = WriteOptions::parse(&self.query, "CreateOptions", false)?;
                let mut body =
                    self.decode_body(body, media, options.validation, sub.gvk, sub.schema)?;
                crate::engine::match_namespace(&mut body, def.namespaced, self.namespace())?;
                let request =
                    self.write_request(options.dry_run, self.manager(&options.field_manager));
                let engine = &self.server.engine;
                codec::unmanage(&mut body);
                let attributes =
                    engine.attributes(&request, admission::Operation::Create, &self.info.name);
                engine.admit(&attributes, Some(&mut body), None).await?;
                engine
                    .validate_admission(&attributes, Some(&body), None)
                    .await?;
                let writer = self.writer(&request);
                let (code, result) = a.post(&self.context(&request), &writer, body).await?;
                self.respond_kind(&output, code, sub.gvk, sub.schema, &result)
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    async fn write_mapped(
        &self,
        sub: &Subresource,
        mapped: &dyn MappedSubresource,
        body: Result<Bytes, Status>,
    ) -> Result<Response, Status> {
        let output = self.output()?;
        let patch = self.info.verb == "patch";
        let kind = if patch {
            "PatchOptions"
        } else {
            "UpdateOptions"
        };
        let patch_kind = patch.then(|| patch_kind(&self.headers)).transpose()?;
        let apply = patch_kind == Some(PatchKind::Apply);
        let options = WriteOptions::parse(&self.query, kind, apply)?;
        let source = if let Some(kind) = patch_kind {
            Body::Patch(kind, body?)
        } else {
            let media = negotiate::input(&self.headers)?;
            let body = self.decode_body(body, media, options.validation, sub.gvk, sub.schema)?;
            self.check_name(&body)?;
            Body::Whole(body)
        };
        let request = self.write_request(options.dry_run, self.manager(&options.field_manager));
        let mut change = Mapped {
            call: self,
            sub,
            mapped,
            source,
            options: &options,
        };
        let (object, _) = self.server.engine.update(&request, &mut change).await?;
        self.respond_kind(&output, 200, sub.gvk, sub.schema, &mapped.view(&object)?)
    }

    async fn connect(
        &self,
        handler: &dyn crate::resource::ConnectSubresource,
        request: http::Request<Input>,
    ) -> Result<Response, Status> {
        let engine = &self.server.engine;
        let upgrade = connect::asks_upgrade(request.headers());
        if let Some(verb) = handler.needs(&self.info.rest, upgrade)
            && verb != self.info.verb
        {
            let own = crate::chain::attributes(&self.info, &self.query, self.user.clone());
            let right = auth::Attributes {
                verb: verb.to_owned(),
                ..own
            };
            engine.authorize(&right).await?;
        }
        let entry = self.find(handler.object_name(&self.info.name)?).await?;
        let object = crate::codec::decode(&self.served.def, &entry.value, entry.revision)?;
        let write = self.write_request(false, "");
        let attributes = engine.attributes(&write, admission::Operation::Connect, &self.info.name);
        engine.admit(&attributes, None, Some(&object)).await?;
        engine
            .validate_admission(&attributes, None, Some(&object))
            .await?;
        let ctx = self.context(&write);
        let connection = handler
            .connect(
                &ctx,
                &object,
                &self.method,
                &self.info.rest,
                &self.raw_query,
            )
            .await?;
        match connection {
            Connection::NoContent => {
                let mut r = Response::new(crate::body::Body::empty());
                *r.status_mut() = http::StatusCode::NO_CONTENT;
                Ok(r)
            }
            Connection::Proxy(target) => {
                let (parts, body) = request.into_parts();
                let Input::Stream(body) = body else {
                    return Err(Status::internal("the body of a stream was read"));
                };
                let request = http::Request::from_parts(parts, body);
                // What stands here for the root of the other side.
                let path = request.uri().path();
                let root = (self.info.subresource == "proxy").then(|| {
                    let root = path.strip_suffix(&self.info.rest).unwrap_or(path);
                    root.to_owned()
                });
                connect::proxy(&self.server, target, root, request).await
            }
        }
    }
}

enum Body {
    Whole(Value),
    Patch(super::write::PatchKind, Bytes),
}

struct Mapped<'a> {
    call: &'a Call,
    sub: &'a Subresource,
    mapped: &'a dyn MappedSubresource,
    source: Body,
    options: &'a WriteOptions,
}

#[async_trait]
impl Change for Mapped<'_> {
    async fn apply(&mut self, existing: Option<&Value>) -> Result<Value, Status> {
        let def = &self.call.served.def;
        let missing = || Status::not_found(&def.group, &def.resource, &self.call.info.name);
        let old = existing.ok_or_else(missing)?;
        let shown = self.shown();
        let mut view = self.mapped.view(old)?;
        self.window(&shown).show(old, &mut view);
        let body = match &self.source {
            Body::Whole(v) => self.tracked(&view, v.clone(), &shown),
            Body::Patch(PatchKind::Apply, bytes) => self.server_side(&view, bytes, &shown)?,
            Body::Patch(kind, bytes) => {
                let patched = Patched {
                    kind: *kind,
                    old: &view,
                    bytes,
                    gvk: self.sub.gvk,
                    schema: self.sub.schema,
                    validation: self.options.validation,
                };
                let body = patched.apply(self.call)?;
                self.call.check_name(&body)?;
                self.tracked(&view, body, &shown)
            }
        };
        let errors: ErrorList = self.mapped.validate(&body);
        if !errors.is_empty() {
            let (group, _, kind) = self.sub.gvk;
            return Err(Status::invalid(group, kind, &self.call.info.name, &errors));
        }
        let asked = meta_str(&body, "resourceVersion");
        if !asked.is_empty() && asked != meta_str(old, "resourceVersion") {
            return Err(Status::modified(
                &def.group,
                &def.resource,
                &self.call.info.name,
            ));
        }
        let mut object = old.clone();
        self.mapped.apply(&mut object, &body);
        self.window(&shown).write(&body, &mut object);
        Ok(object)
    }

    fn manages(&self) -> bool {
        true
    }
}

impl Mapped<'_> {
    /// The version of the body.
    fn shown(&self) -> String {
        let (group, version, _) = self.sub.gvk;
        crate::codec::group_version(group, version)
    }

    fn window<'a>(&'a self, shown: &'a str) -> Window<'a> {
        Window {
            path: self.mapped.path(),
            api_version: &self.call.served.api_version,
            shown,
        }
    }

    fn actor<'a>(&'a self, manager: &'a str, shown: &'a str) -> Actor<'a> {
        Actor {
            manager,
            api_version: shown,
            kind: self.sub.gvk.2,
            subresource: self.sub.name,
            now: &self.call.now,
            reset: &[],
        }
    }

    /// The body with its writer among the owners.
    fn tracked(&self, view: &Value, mut body: Value, shown: &str) -> Value {
        let manager = self.call.manager(&self.options.field_manager);
        let actor = self.actor(manager, shown);
        patch::ssa::update(Some(view), &mut body, self.sub.schema, &actor);
        body
    }

    fn server_side(&self, view: &Value, bytes: &Bytes, shown: &str) -> Result<Value, Status> {
        let (config, duplicates) = configuration(bytes)?;
        let actor = self.actor(&self.options.field_manager, shown);
        let force = self.options.force == Some(true);
        let merged = patch::ssa::apply(Some(view), &config, self.sub.schema, &actor, force)
            .map_err(Status::from)?;
        self.call.duplicates(&duplicates, self.options.validation)?;
        wire::json::normalize(merged, self.sub.schema, Strictness::Ignore)
            .map(|d| d.value)
            .map_err(|e| Status::failure(500, "", e.to_string()))
    }
}
