//! Objects, lists and watch frames in the encodings and forms that clients ask for.
//!
//! Stored protobuf of a version without conversion is transcoded without a tree. Lists are streamed: the whole is never
//! held.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::Status;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::{Frame, SizeHint};
use serde_json::{Map, Value, json};
use storage::Revision;
use wire::schema::Message;
use wire::{envelope, transcode};

use crate::Response;
use crate::body::{Body, BoxError};
use crate::cache::Entry;
use crate::codec;
use crate::negotiate::{Form, Include, Media, Output};
use crate::resource::ResourceDef;

/// What an encoder must know about a type.
#[derive(Clone, Copy)]
pub struct Kind<'a> {
    /// The schema.
    pub schema: &'static Message,
    /// `apps/v1`
    pub api_version: &'a str,
    /// `Deployment`
    pub kind: &'a str,
    /// Printed with sorted keys and never as protobuf (custom resources).
    pub dynamic: bool,
}

/// Where an object comes from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// The cache or the store.
    Stored(&'a Entry),
    /// A tree of the served version.
    Tree(&'a Value),
}

fn failed(e: impl std::fmt::Display) -> Status {
    Status::internal(format!("unable to encode: {e}"))
}

/// Seconds since the epoch.
pub fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Bytes of a tree in an encoding. JSON ends with a newline, as Go's encoder does.
pub fn tree(media: Media, pretty: bool, kind: Kind<'_>, value: &Value) -> Result<Vec<u8>, Status> {
    let mut out = Vec::with_capacity(512);
    match media {
        Media::Json => {
            if kind.dynamic {
                wire::json::encode_any(value, &mut out);
            } else {
                wire::json::encode(value, kind.schema, &mut out).map_err(failed)?;
            }
            // Go's encoder ends with a newline, its indented form does not.
            if pretty {
                out = indent(&out);
            } else {
                out.push(b'\n');
            }
        }
        Media::Yaml => wire::yaml::encode(value, kind.schema, &mut out).map_err(failed)?,
        Media::Protobuf if kind.dynamic => {
            return Err(Status::failure(
                406,
                "NotAcceptable",
                "this type has no protobuf encoding",
            ));
        }
        Media::Protobuf => {
            let raw = wire::proto::value_to_vec(value, kind.schema).map_err(failed)?;
            out = envelope::wrap(kind.api_version, kind.kind, &raw);
        }
    }
    Ok(out)
}

/// Re-indents compact JSON by two spaces, as Go's `json.Indent`.
pub fn indent(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    Indent::default().push(compact, &mut out);
    out
}

/// [`indent`] piece by piece, wherever the pieces are cut.
#[derive(Default)]
struct Indent {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// An object or array was opened and nothing of it was seen yet.
    opened: bool,
}

impl Indent {
    fn newline(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + self.depth * 2, b' ');
    }

    fn push(&mut self, mut compact: &[u8], out: &mut Vec<u8>) {
        while let Some((b, rest)) = compact.split_first() {
            if self.in_string {
                if self.escaped {
                    self.escaped = false;
                    out.push(*b);
                    compact = rest;
                    continue;
                }
                // Most of a text is copied as it is.
                let special = |b: &u8| matches!(*b, b'"' | b'\\');
                let plain = compact.iter().position(special).unwrap_or(compact.len());
                let (text, rest) = compact.split_at(plain);
                out.extend_from_slice(text);
                compact = rest;
                if let Some((b, rest)) = rest.split_first() {
                    out.push(*b);
                    self.in_string = *b != b'"';
                    self.escaped = *b == b'\\';
                    compact = rest;
                }
                continue;
            }
            compact = rest;
            let empty = std::mem::take(&mut self.opened);
            if matches!(b, b'}' | b']') {
                self.depth = self.depth.saturating_sub(1);
                if !empty {
                    self.newline(out);
                }
                out.push(*b);
                continue;
            }
            if empty {
                self.newline(out);
            }
            out.push(*b);
            match b {
                b'{' | b'[' => {
                    self.depth += 1;
                    self.opened = true;
                }
                b',' => self.newline(out),
                b':' => out.push(b' '),
                b'"' => self.in_string = true,
                _ => {}
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct OnlyMetadata {
    #[serde(default)]
    metadata: Value,
}

/// The served version of one resource, as encoders use it.
pub struct Encoder<'a> {
    /// The definition.
    pub def: &'a ResourceDef,
    /// `apps/v1`
    pub api_version: &'a str,
}

impl Encoder<'_> {
    fn kind(&self) -> Kind<'_> {
        Kind {
            schema: self.def.schema,
            api_version: self.api_version,
            kind: &self.def.kind,
            dynamic: self.def.storage.as_ref().is_some_and(|s| s.json),
        }
    }

    fn direct(&self) -> bool {
        self.def.conversion.is_none() && self.def.storage.as_ref().is_some_and(|s| !s.json)
    }

    /// Runs `f` on the tree of a source.
    fn with_tree<T>(
        &self,
        source: Source<'_>,
        f: impl FnOnce(&Value) -> Result<T, Status>,
    ) -> Result<T, Status> {
        match source {
            Source::Tree(v) => f(v),
            Source::Stored(e) => f(&codec::decode(self.def, &e.value, e.revision)?),
        }
    }

    /// Appends compact JSON without a newline; `bare` leaves out kind and apiVersion, as in lists.
    pub fn json_into(
        &self,
        source: Source<'_>,
        bare: bool,
        revision: Option<Revision>,
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        if let Source::Stored(e) = source
            && self.direct()
        {
            let rv = revision.unwrap_or(e.revision).to_string();
            let options = transcode::Options {
                resource_version: Some(&rv),
            };
            let (api_version, kind) = if bare {
                ("", "")
            } else {
                (self.api_version, self.def.kind.as_str())
            };
            let raw = codec::stored_raw(&e.value)?;
            return transcode::proto_to_json(
                raw,
                self.def.schema,
                api_version,
                kind,
                &options,
                out,
            )
            .map_err(failed);
        }
        let mut value = match source {
            Source::Tree(v) => Cow::Borrowed(v),
            Source::Stored(e) => Cow::Owned(codec::decode(self.def, &e.value, e.revision)?),
        };
        if let Some(r) = revision {
            codec::set_meta(value.to_mut(), "resourceVersion", &r.to_string());
        }
        if self.kind().dynamic {
            wire::json::encode_any(&value, out);
            return Ok(());
        }
        if bare && let Some(m) = value.to_mut().as_object_mut() {
            m.remove("kind");
            m.remove("apiVersion");
        }
        wire::json::encode(&value, self.def.schema, out).map_err(failed)
    }

    /// The protobuf message (no envelope).
    pub fn proto_raw(
        &self,
        source: Source<'_>,
        revision: Option<Revision>,
    ) -> Result<Vec<u8>, Status> {
        if let Source::Stored(e) = source
            && self.direct()
        {
            let rv = revision.unwrap_or(e.revision).to_string();
            return transcode::with_resource_version(
                codec::stored_raw(&e.value)?,
                self.def.schema,
                &rv,
            )
            .map_err(failed);
        }
        if self.kind().dynamic {
            return Err(Status::failure(
                406,
                "NotAcceptable",
                "this type has no protobuf encoding",
            ));
        }
        self.with_tree(source, |v| {
            let mut v = Cow::Borrowed(v);
            if let Some(r) = revision {
                codec::set_meta(v.to_mut(), "resourceVersion", &r.to_string());
            }
            wire::proto::value_to_vec(&v, self.def.schema).map_err(failed)
        })
    }

    /// PartialObjectMetadata.
    fn partial(&self, source: Source<'_>, beta: bool) -> Result<Value, Status> {
        let wrap = |mut metadata: Value| {
            strip(&mut metadata);
            json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": meta_version(beta),
                "metadata": metadata,
            })
        };
        if let Source::Stored(e) = source
            && self.direct()
        {
            // Everything but the metadata is skipped by length.
            let raw = codec::stored_raw(&e.value)?;
            let found: OnlyMetadata = wire::proto::tree(raw, self.def.schema).map_err(failed)?;
            let mut partial = wrap(found.metadata);
            codec::set_meta(&mut partial, "resourceVersion", &e.revision.to_string());
            return Ok(partial);
        }
        self.with_tree(source, |v| {
            Ok(wrap(
                v.get("metadata").cloned().unwrap_or_else(|| json!({})),
            ))
        })
    }

    fn row(
        &self,
        source: Source<'_>,
        beta: bool,
        include: Include,
        now: i64,
    ) -> Result<Value, Status> {
        self.with_tree(source, |v| {
            let cells = (self.def.printer.cells)(v, now);
            let object = match include {
                Include::None => None,
                Include::Metadata => Some(self.partial(Source::Tree(v), beta)?),
                Include::Object => Some(v.clone()),
            };
            let mut row = json!({"cells": cells});
            if let (Some((reason, message)), Some(m)) =
                ((self.def.printer.completed)(v), row.as_object_mut())
            {
                let condition = json!({
                    "type": "Completed", "status": "True", "reason": reason, "message": message,
                });
                m.insert("conditions".into(), json!([condition]));
            }
            if let (Some(o), Some(m)) = (object, row.as_object_mut()) {
                m.insert("object".into(), o);
            }
            Ok(row)
        })
    }

    /// Appends a Table in the order of upstream's structs.
    fn table_json(&self, table: &Value, beta: bool, out: &mut Vec<u8>) -> Result<(), Status> {
        let list = |key: &str| {
            table
                .get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        };
        members(out, table, &["kind", "apiVersion"]);
        out.extend_from_slice(b",\"metadata\":");
        let metadata = table.get("metadata").unwrap_or(&Value::Null);
        wire::json::encode(metadata, api::schema::list_meta(), out).map_err(failed)?;
        out.extend_from_slice(b",\"columnDefinitions\":[");
        for (i, column) in list("columnDefinitions").enumerate() {
            if i > 0 {
                out.push(b',');
            }
            let keys = ["name", "type", "format", "description", "priority"];
            members(out, column, &keys);
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"rows\":[");
        for (i, row) in list("rows").enumerate() {
            if i > 0 {
                out.push(b',');
            }
            self.row_json(row, beta, out)?;
        }
        out.extend_from_slice(b"]}");
        Ok(())
    }

    /// Appends a row of a Table.
    fn row_json(&self, row: &Value, beta: bool, out: &mut Vec<u8>) -> Result<(), Status> {
        members(out, row, &["cells"]);
        if let Some(Value::Array(all)) = row.get("conditions") {
            for (i, c) in all.iter().enumerate() {
                out.extend_from_slice(if i == 0 { b",\"conditions\":[" } else { b"," });
                members(out, c, &["type", "status", "reason", "message"]);
                out.push(b'}');
            }
            out.push(b']');
        }
        out.extend_from_slice(b",\"object\":");
        match row.get("object") {
            None => out.extend_from_slice(b"null"),
            Some(o) if o.get("kind").and_then(Value::as_str) == Some("PartialObjectMetadata") => {
                wire::json::encode(o, partial_kind(beta)?.schema, out).map_err(failed)?;
            }
            Some(o) if self.kind().dynamic => wire::json::encode_any(o, out),
            Some(o) => wire::json::encode(o, self.def.schema, out).map_err(failed)?,
        }
        out.push(b'}');
        Ok(())
    }

    /// A Table in an encoding.
    fn table_bytes(&self, output: &Output, table: &Value, beta: bool) -> Result<Vec<u8>, Status> {
        if output.media == Media::Yaml {
            return any(Media::Yaml, false, table);
        }
        let mut out = Vec::with_capacity(1024);
        self.table_json(table, beta, &mut out)?;
        if output.pretty {
            return Ok(indent(&out));
        }
        out.push(b'\n');
        Ok(out)
    }

    fn table(&self, beta: bool, metadata: Value, rows: Vec<Value>) -> Value {
        let columns: Vec<Value> = self
            .def
            .printer
            .columns
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "type": c.type_, "format": c.format,
                    "description": c.description, "priority": c.priority,
                })
            })
            .collect();
        json!({
            "kind": "Table",
            "apiVersion": meta_version(beta),
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": rows,
        })
    }

    /// One object in the form and encoding asked for.
    pub fn object(&self, output: &Output, source: Source<'_>) -> Result<Vec<u8>, Status> {
        match (output.form, output.media) {
            (Form::Object, Media::Json) => {
                let mut out = Vec::with_capacity(1024);
                self.json_into(source, false, None, &mut out)?;
                if output.pretty {
                    out = indent(&out);
                } else {
                    out.push(b'\n');
                }
                Ok(out)
            }
            (Form::Object, Media::Protobuf) => {
                let raw = self.proto_raw(source, None)?;
                Ok(envelope::wrap(self.api_version, &self.def.kind, &raw))
            }
            (Form::Object, Media::Yaml) => {
                self.with_tree(source, |v| tree(Media::Yaml, false, self.kind(), v))
            }
            (Form::Partial(beta), media) => tree(
                media,
                output.pretty,
                partial_kind(beta)?,
                &self.partial(source, beta)?,
            ),
            (Form::Table(beta, include), _) => {
                let row = self.row(source, beta, include, unix_now())?;
                let rv = self.with_tree(source, |v| {
                    Ok(codec::meta_str(v, "resourceVersion").to_owned())
                })?;
                let table = self.table(beta, json!({"resourceVersion": rv}), vec![row]);
                self.table_bytes(output, &table, beta)
            }
        }
    }

    /// A list of objects that are not stored, in the form and encoding asked for.
    pub fn trees(&self, output: &Output, items: &[Value]) -> Result<Vec<u8>, Status> {
        let (kind, api_version, items) = match output.form {
            Form::Table(beta, include) => {
                let now = unix_now();
                let rows = items
                    .iter()
                    .map(|i| self.row(Source::Tree(i), beta, include, now))
                    .collect::<Result<_, _>>()?;
                let table = self.table(beta, json!({}), rows);
                return self.table_bytes(output, &table, beta);
            }
            Form::Partial(beta) => {
                let partial = items.iter().map(|i| self.partial(Source::Tree(i), beta));
                (
                    "PartialObjectMetadataList",
                    meta_version(beta),
                    partial.collect::<Result<_, _>>()?,
                )
            }
            Form::Object => (
                self.def.list_kind.as_str(),
                self.api_version,
                items.to_vec(),
            ),
        };
        let list = json!({"kind": kind, "apiVersion": api_version, "metadata": {}, "items": items});
        let schema = api::schema::message(api_version, kind)
            .ok_or_else(|| Status::internal(format!("no schema of {kind}")))?;
        let kind = Kind {
            schema,
            api_version,
            kind,
            dynamic: false,
        };
        tree(output.media, output.pretty, kind, &list)
    }

    /// One object of a watch event, as the bytes of a frame. `revision` replaces the object's own (deletions).
    pub fn frame(
        &self,
        output: &Output,
        event: &str,
        entry: &Entry,
        revision: Revision,
    ) -> Result<Bytes, Status> {
        let source = Source::Stored(entry);
        match (output.form, output.media) {
            (Form::Object, Media::Protobuf) => {
                let raw = self.proto_raw(source, Some(revision))?;
                let whole = envelope::wrap(self.api_version, &self.def.kind, &raw);
                Ok(envelope::watch_frame(event, &whole).into())
            }
            (Form::Object, _) => {
                let mut out = frame_head(event);
                self.json_into(source, false, Some(revision), &mut out)?;
                out.extend_from_slice(b"}\n");
                Ok(out.into())
            }
            (Form::Partial(beta), media) => {
                let mut p = self.partial(source, beta)?;
                codec::set_meta(&mut p, "resourceVersion", &revision.to_string());
                frame_of(media, event, partial_kind(beta)?, &p)
            }
            (Form::Table(beta, include), _) => {
                let row = self.row(source, beta, include, unix_now())?;
                let table = self.table(
                    beta,
                    json!({"resourceVersion": revision.to_string()}),
                    vec![row],
                );
                let mut out = frame_head(event);
                self.table_json(&table, beta, &mut out)?;
                out.extend_from_slice(b"}\n");
                Ok(out.into())
            }
        }
    }

    /// A bookmark: an object of the watched kind with nothing but a resourceVersion.
    pub fn bookmark(
        &self,
        output: &Output,
        revision: Revision,
        initial_end: bool,
    ) -> Result<Bytes, Status> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end && let Some(m) = metadata.as_object_mut() {
            m.insert(
                "annotations".into(),
                json!({"k8s.io/initial-events-end": "true"}),
            );
        }
        match output.form {
            Form::Partial(beta) => {
                let v = json!({"kind": "PartialObjectMetadata", "apiVersion": meta_version(beta), "metadata": metadata});
                frame_of(output.media, "BOOKMARK", partial_kind(beta)?, &v)
            }
            Form::Table(beta, _) => {
                let object = json!({"kind": "PartialObjectMetadata", "apiVersion": meta_version(beta), "metadata": metadata});
                let columns = self.def.printer.columns.len();
                let row = json!({"cells": vec![Value::Null; columns], "object": object});
                let table = self.table(
                    beta,
                    json!({"resourceVersion": revision.to_string()}),
                    vec![row],
                );
                let mut out = frame_head("BOOKMARK");
                self.table_json(&table, beta, &mut out)?;
                out.extend_from_slice(b"}\n");
                Ok(out.into())
            }
            Form::Object => {
                let v = json!({"kind": self.def.kind, "apiVersion": self.api_version, "metadata": metadata});
                frame_of(output.media, "BOOKMARK", self.kind(), &v)
            }
        }
    }
}

/// An encoder that owns its definition, for streamed lists.
#[derive(Clone)]
pub struct Lister {
    /// The definition.
    pub def: Arc<ResourceDef>,
    /// `apps/v1`
    pub api_version: String,
}

impl Lister {
    fn encoder(&self) -> Encoder<'_> {
        Encoder {
            def: &self.def,
            api_version: &self.api_version,
        }
    }

    /// A list in the form and encoding asked for. `metadata` is a ListMeta tree.
    pub fn list(
        &self,
        output: &Output,
        metadata: &Value,
        items: Vec<Arc<Entry>>,
    ) -> Result<Body, Status> {
        let e = self.encoder();
        let list_meta = |out: &mut Vec<u8>| {
            wire::json::encode(metadata, api::schema::list_meta(), out).map_err(failed)
        };
        let (kind, api_version) = match output.form {
            Form::Object => (self.def.list_kind.as_str(), self.api_version.as_str()),
            Form::Partial(beta) => ("PartialObjectMetadataList", meta_version(beta)),
            Form::Table(beta, _) => ("Table", meta_version(beta)),
        };
        let table = match output.form {
            Form::Table(beta, _) => Some((beta, e.table(beta, metadata.clone(), Vec::new()))),
            _ => None,
        };
        let (mut head, mut tail) = (Vec::with_capacity(256), Vec::new());
        match (output.media, &table) {
            // A Table has no protobuf.
            (Media::Protobuf, None) => {
                return self.proto_list(output.form, kind, api_version, metadata, items);
            }
            (Media::Json | Media::Protobuf, Some((beta, table))) => {
                e.table_json(table, *beta, &mut head)?;
                tail = head.split_off(head.len().saturating_sub(2));
            }
            (Media::Json, None) => {
                head.extend_from_slice(b"{\"kind\":");
                wire::json::encode_any(&Value::String(kind.into()), &mut head);
                head.extend_from_slice(b",\"apiVersion\":");
                wire::json::encode_any(&Value::String(api_version.into()), &mut head);
                head.extend_from_slice(b",\"metadata\":");
                list_meta(&mut head)?;
                head.extend_from_slice(b",\"items\":[");
                tail.extend_from_slice(b"]}");
            }
            // Keys are sorted.
            (Media::Yaml, Some((_, table))) => {
                let mut table = table.clone();
                if let Some(m) = table.as_object_mut() {
                    m.remove("rows");
                }
                wire::yaml::encode_any(&table, &mut head);
                head.extend_from_slice(b"rows:");
            }
            (Media::Yaml, None) => {
                wire::yaml::encode_any(&json!({"apiVersion": api_version}), &mut head);
                head.extend_from_slice(b"items:");
                let mut meta = Vec::new();
                list_meta(&mut meta)?;
                let meta: Value = serde_json::from_slice(&meta).map_err(failed)?;
                wire::yaml::encode_any(&json!({"kind": kind, "metadata": meta}), &mut tail);
            }
        }
        let yaml = output.media == Media::Yaml;
        if !yaml && !output.pretty {
            // Go's encoder ends with a newline, its indented form does not.
            tail.push(b'\n');
        }
        if yaml {
            head.extend_from_slice(if items.is_empty() { b" []\n" } else { b"\n" });
        }
        let stream = TextList {
            lister: self.clone(),
            form: output.form,
            yaml,
            buffer: head,
            tail,
            items: items.into_iter(),
            pretty: (output.pretty && !yaml).then(Indent::default),
            now: unix_now(),
            first: true,
            done: false,
        };
        Ok(Body::Stream(Box::pin(stream)))
    }

    fn proto_list(
        &self,
        form: Form,
        kind: &str,
        api_version: &str,
        metadata: &Value,
        items: Vec<Arc<Entry>>,
    ) -> Result<Body, Status> {
        let e = self.encoder();
        let meta = wire::proto::value_to_vec(metadata, api::schema::list_meta()).map_err(failed)?;
        let mut raw_len = 1 + varint_len(meta.len()) + meta.len();
        let streamed = form == Form::Object && e.direct();
        let mut ready: Vec<Vec<u8>> = Vec::new();
        let mut lens = Vec::with_capacity(items.len());
        for i in &items {
            let len = match form {
                Form::Partial(beta) => {
                    let p = e.partial(Source::Stored(i), beta)?;
                    let raw = wire::proto::value_to_vec(&p, partial_kind(beta)?.schema)
                        .map_err(failed)?;
                    let n = raw.len();
                    ready.push(raw);
                    n
                }
                _ if streamed => match spliced_len(codec::stored_raw(&i.value)?, i.revision) {
                    Some(n) => n,
                    None => e.proto_raw(Source::Stored(i), None)?.len(),
                },
                _ => {
                    let raw = e.proto_raw(Source::Stored(i), None)?;
                    let n = raw.len();
                    ready.push(raw);
                    n
                }
            };
            lens.push(len);
            raw_len += 1 + varint_len(len) + len;
        }
        let mut head = Vec::with_capacity(64 + meta.len());
        head.extend_from_slice(&envelope::MAGIC);
        let mut types = Vec::new();
        put_bytes(&mut types, 1, api_version.as_bytes());
        put_bytes(&mut types, 2, kind.as_bytes());
        put_bytes(&mut head, 1, &types);
        head.push(0x12);
        put_varint(&mut head, raw_len);
        put_bytes(&mut head, 1, &meta);
        // contentEncoding and contentType, both empty.
        let tail: &[u8] = &[0x1a, 0, 0x22, 0];
        let total = head.len() + raw_len - (1 + varint_len(meta.len()) + meta.len()) + tail.len();
        if !streamed {
            for raw in &ready {
                put_bytes(&mut head, 2, raw);
            }
            head.extend_from_slice(tail);
            return Ok(head.into());
        }
        Ok(Body::Stream(Box::pin(ProtoList {
            lister: self.clone(),
            buffer: head,
            items: items.into_iter().zip(lens),
            left: total as u64,
            done: false,
        })))
    }
}

fn take_varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut n = 0usize;
    for (i, b) in bytes.iter().take(5).enumerate() {
        n |= usize::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            return Some((n, bytes.get(i + 1..)?));
        }
    }
    None
}

/// The length of a stored message once `metadata.resourceVersion` is spliced in; `None` when its shape is unusual.
fn spliced_len(raw: &[u8], revision: Revision) -> Option<usize> {
    let (first, rest) = raw.split_first()?;
    if *first != 0x0a {
        return None;
    }
    let (len, rest) = take_varint(rest)?;
    let mut meta = rest.get(..len)?;
    // The strings before resourceVersion (field 6), which may be there and empty.
    let mut has = None;
    while let Some((tag, tail)) = meta.split_first() {
        if *tag > 0x32 || tag & 7 != 2 {
            break;
        }
        let (n, tail) = take_varint(tail)?;
        if *tag == 0x32 {
            has = Some(1 + varint_len(n) + n);
            break;
        }
        meta = tail.get(n..)?;
    }
    let digits = revision.checked_ilog10()? as usize + 1;
    let grown = len - has.unwrap_or(0) + 2 + digits;
    Some(raw.len() - varint_len(len) - len + varint_len(grown) + grown)
}

fn varint_len(n: usize) -> usize {
    let mut n = n >> 7;
    let mut len = 1;
    while n > 0 {
        len += 1;
        n >>= 7;
    }
    len
}

fn put_varint(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag << 3 | 2);
    put_varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Bytes per piece of a streamed list.
const CHUNK: usize = 64 * 1024;

/// A list, or a Table, in JSON or YAML.
struct TextList {
    lister: Lister,
    form: Form,
    yaml: bool,
    /// For people.
    pretty: Option<Indent>,
    buffer: Vec<u8>,
    /// What comes after the items.
    tail: Vec<u8>,
    items: std::vec::IntoIter<Arc<Entry>>,
    /// Of the ages in a Table: one moment for all.
    now: i64,
    first: bool,
    done: bool,
}

impl TextList {
    fn fill(&mut self) -> Result<(), Status> {
        while self.buffer.len() < CHUNK {
            let Some(item) = self.items.next() else {
                self.buffer.append(&mut self.tail);
                self.done = true;
                break;
            };
            if self.yaml {
                let item = [self.tree(&item)?];
                wire::yaml::encode_any(&Value::Array(item.into()), &mut self.buffer);
            } else {
                if !self.first {
                    self.buffer.push(b',');
                }
                self.json(&item)?;
            }
            self.first = false;
        }
        Ok(())
    }

    fn json(&mut self, item: &Entry) -> Result<(), Status> {
        let (e, source) = (self.lister.encoder(), Source::Stored(item));
        let out = &mut self.buffer;
        match self.form {
            Form::Object => e.json_into(source, true, None, out),
            Form::Partial(beta) => {
                let p = e.partial(source, beta)?;
                wire::json::encode(&p, partial_kind(beta)?.schema, out).map_err(failed)
            }
            Form::Table(beta, include) => {
                let row = e.row(source, beta, include, self.now)?;
                e.row_json(&row, beta, out)
            }
        }
    }

    /// The item as YAML shows it.
    fn tree(&self, item: &Entry) -> Result<Value, Status> {
        let (e, source) = (self.lister.encoder(), Source::Stored(item));
        let mut json = Vec::new();
        match self.form {
            Form::Object if e.kind().dynamic => {
                return codec::decode(&self.lister.def, &item.value, item.revision);
            }
            Form::Table(beta, include) => return e.row(source, beta, include, self.now),
            // The printed form decides which zero values are shown. Elements of typed lists have no type.
            Form::Object => e.json_into(source, true, None, &mut json)?,
            Form::Partial(beta) => {
                let p = e.partial(source, beta)?;
                wire::json::encode(&p, partial_kind(beta)?.schema, &mut json).map_err(failed)?;
            }
        }
        wire::json::parse(&json).map_err(failed)
    }
}

impl http_body::Body for TextList {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        if let Err(s) = this.fill() {
            this.done = true;
            return Poll::Ready(Some(Err(s.into())));
        }
        let piece = std::mem::replace(
            &mut this.buffer,
            Vec::with_capacity(if this.done { 0 } else { CHUNK + 4096 }),
        );
        let piece = match &mut this.pretty {
            None => piece,
            Some(indent) => {
                let mut out = Vec::with_capacity(piece.len() * 2);
                indent.push(&piece, &mut out);
                out
            }
        };
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }
}

struct ProtoList {
    lister: Lister,
    buffer: Vec<u8>,
    items: std::iter::Zip<std::vec::IntoIter<Arc<Entry>>, std::vec::IntoIter<usize>>,
    left: u64,
    done: bool,
}

impl ProtoList {
    fn fill(&mut self) -> Result<(), Status> {
        let e = self.lister.encoder();
        while self.buffer.len() < CHUNK {
            let Some((item, len)) = self.items.next() else {
                self.buffer.extend_from_slice(&[0x1a, 0, 0x22, 0]);
                self.done = true;
                break;
            };
            let raw = e.proto_raw(Source::Stored(&item), None)?;
            if raw.len() != len {
                return Err(Status::internal("a stored object has an unusual shape"));
            }
            put_bytes(&mut self.buffer, 2, &raw);
        }
        Ok(())
    }
}

impl http_body::Body for ProtoList {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        if let Err(s) = this.fill() {
            this.done = true;
            return Poll::Ready(Some(Err(s.into())));
        }
        let piece = std::mem::replace(
            &mut this.buffer,
            Vec::with_capacity(if this.done { 0 } else { CHUNK + 4096 }),
        );
        this.left = this.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Begins an object with some of the members of another.
fn members(out: &mut Vec<u8>, of: &Value, keys: &[&str]) {
    for (i, key) in keys.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",\"" } else { b"{\"" });
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\":");
        wire::json::encode_any(of.get(key).unwrap_or(&Value::Null), out);
    }
}

fn meta_version(beta: bool) -> &'static str {
    if beta {
        "meta.k8s.io/v1beta1"
    } else {
        "meta.k8s.io/v1"
    }
}

fn partial_kind(beta: bool) -> Result<Kind<'static>, Status> {
    let schema = api::schema::message("meta.k8s.io/v1", "PartialObjectMetadata")
        .ok_or_else(|| Status::internal("no schema of PartialObjectMetadata"))?;
    Ok(Kind {
        schema,
        api_version: meta_version(beta),
        kind: "PartialObjectMetadata",
        dynamic: false,
    })
}

fn strip(metadata: &mut Value) {
    if let Some(m) = metadata.as_object_mut() {
        m.retain(|_, v| !v.is_null());
    }
}

fn frame_head(event: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out
}

/// A watch frame around a tree.
pub fn frame_of(media: Media, event: &str, kind: Kind<'_>, value: &Value) -> Result<Bytes, Status> {
    if media == Media::Protobuf {
        let whole = tree(media, false, kind, value)?;
        return Ok(envelope::watch_frame(event, &whole).into());
    }
    let mut out = frame_head(event);
    if kind.dynamic {
        wire::json::encode_any(value, &mut out);
    } else {
        wire::json::encode(value, kind.schema, &mut out).map_err(failed)?;
    }
    out.extend_from_slice(b"}\n");
    Ok(out.into())
}

/// A tree without a schema.
pub fn any(media: Media, pretty: bool, value: &Value) -> Result<Vec<u8>, Status> {
    let mut out = Vec::new();
    wire::json::encode_any(value, &mut out);
    match media {
        Media::Yaml => {
            out.clear();
            wire::yaml::encode_any(value, &mut out);
            Ok(out)
        }
        _ if pretty => {
            out = indent(&out);
            Ok(out)
        }
        _ => {
            out.push(b'\n');
            Ok(out)
        }
    }
}

/// The tree of a Status.
pub fn status_tree(status: &Status) -> Value {
    serde_json::to_value(status).unwrap_or_else(|_| Value::Object(Map::new()))
}

/// How Status is encoded.
pub fn status_kind() -> Option<Kind<'static>> {
    Some(Kind {
        schema: api::schema::message("v1", "Status")?,
        api_version: "v1",
        kind: "Status",
        dynamic: false,
    })
}

/// A Status as a watch's ERROR event.
pub fn status_frame(media: Media, status: &Status) -> Bytes {
    status_kind()
        .and_then(|k| frame_of(media, "ERROR", k, &status_tree(status)).ok())
        .unwrap_or_default()
}

/// A Status as a response.
pub fn status_response(output: &Output, status: &Status) -> Response {
    let code = http::StatusCode::from_u16(if status.code == 0 { 200 } else { status.code })
        .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let value = status_tree(status);
    let encoded = status_kind().and_then(|k| tree(output.media, output.pretty, k, &value).ok());
    let (media, bytes) = match encoded {
        Some(b) => (output.media, b),
        None => (Media::Json, serde_json::to_vec(&value).unwrap_or_default()),
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media.name()));
    if let Some(after) = status
        .details
        .as_ref()
        .map(|d| d.retry_after_seconds)
        .filter(|s| *s > 0)
    {
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(after));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_go_does() {
        let v = br#"{"a":[],"b":{"c":"x:{\"y\"}","d":[1,2]}}"#;
        let want = "{\n  \"a\": [],\n  \"b\": {\n    \"c\": \"x:{\\\"y\\\"}\",\n    \"d\": [\n      1,\n      2\n    ]\n  }\n}";
        assert_eq!(String::from_utf8(indent(v)).expect("UTF-8"), want);
    }

    #[test]
    fn indenting_does_not_depend_on_where_pieces_are_cut() {
        let v = br#"{"a":[],"b":{"c":"x:{\"y\"}\\","d":[1,{},"[",[[]]]}}"#;
        let whole = indent(v);
        let again: Value = serde_json::from_slice(&whole).expect("JSON");
        let before: Value = serde_json::from_slice(v).expect("JSON");
        assert_eq!(again, before);
        assert_eq!(
            serde_json::to_string_pretty(&again)
                .expect("JSON")
                .into_bytes(),
            whole
        );
        for size in 1..v.len() {
            let (mut i, mut out) = (Indent::default(), Vec::new());
            v.chunks(size).for_each(|piece| i.push(piece, &mut out));
            assert_eq!(out, whole, "{size}");
        }
    }

    #[test]
    fn spliced_lengths_are_right() {
        // metadata { name: "a" }, then field 2.
        let raw = [0x0a, 3, 0x0a, 1, b'a', 0x12, 0];
        // resourceVersion "1234" adds tag, length and four digits.
        assert_eq!(spliced_len(&raw, 1234), Some(raw.len() + 6));
        // As Go writes it: resourceVersion is there and empty.
        let raw = [0x0a, 5, 0x0a, 1, b'a', 0x32, 0, 0x12, 0];
        assert_eq!(spliced_len(&raw, 1234), Some(raw.len() + 4));
    }
}
