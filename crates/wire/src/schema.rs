//! The schema tables: one description of a type from which every encoding, patch and default follows.
//!
//! Tables of built-in types are statics; those of custom resources are made at run time and leaked by whoever owns
//! them. Invariants: fields stand in the order of the Go struct; `names` is sorted by JSON name, `tags` by tag; a field
//! inlined in JSON appears in `names` through the fields of its type.

/// A struct.
#[derive(Debug)]
pub struct Message {
    /// The Go type name, such as `PodSpec`.
    pub name: &'static str,
    /// The Go package's name as errors show it, such as `v1`.
    pub package: &'static str,
    /// The fields in the order of the Go struct.
    pub fields: &'static [Field],
    /// JSON name, index into `fields`, and, if that field is inlined, one more than the index within its type (0: not
    /// inlined). Sorted by name.
    pub names: &'static [(&'static str, u16, u16)],
    /// Protobuf tag and index into `fields`, sorted by tag. Fields without a tag are absent.
    pub tags: &'static [(u32, u16)],
    /// Unknown JSON fields are kept rather than pruned or refused (custom resources).
    pub open: bool,
    /// Server-side apply treats the whole struct as one value.
    pub atomic: bool,
    /// Whether the type has `kind` and `apiVersion` of its own.
    pub type_meta: bool,
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field {
    /// The JSON key; empty for an inlined struct.
    pub json: &'static str,
    /// The Go field name.
    pub go: &'static str,
    /// The protobuf tag, 0 when the field is not in protobuf.
    pub tag: u32,
    /// The type, aliases resolved, pointer removed.
    pub ty: Type,
    /// See [`flag`].
    pub flags: u16,
    /// How server-side apply merges a list or map.
    pub list: ListKind,
    /// The keys of a [`ListKind::Map`] list.
    pub keys: &'static [&'static str],
    /// The merge key of strategic merge patch; empty for lists of primitives.
    pub merge_key: &'static str,
    /// The default as JSON text; empty for none.
    pub default: &'static str,
    /// The allowed values; empty for any.
    pub values: &'static [&'static str],
    /// The type as Go prints it, without an outer pointer: `[]v1.Container`, `v1.PodPhase`, `map[string]string`.
    pub go_type: &'static str,
}

/// Bits of [`Field::flags`].
pub mod flag {
    /// `omitempty`
    pub const OMITEMPTY: u16 = 1;
    /// `omitzero`
    pub const OMITZERO: u16 = 2;
    /// A Go pointer: presence is kept.
    pub const POINTER: u16 = 4;
    /// Inlined in JSON.
    pub const INLINE: u16 = 8;
    /// Marked optional.
    pub const OPTIONAL: u16 = 16;
    /// Marked required.
    pub const REQUIRED: u16 = 32;
    /// Strategic merge patch merges (`patchStrategy=merge`).
    pub const PATCH_MERGE: u16 = 64;
    /// Strategic merge patch keeps only named keys (`patchStrategy=retainKeys`).
    pub const PATCH_RETAIN_KEYS: u16 = 128;
    /// Strategic merge patch replaces (`patchStrategy=replace`).
    pub const PATCH_REPLACE: u16 = 256;
    /// Packed in protobuf.
    pub const PACKED: u16 = 512;
    /// Protobuf writes it only when set although it is no pointer.
    pub const SKIP_ZERO: u16 = 1024;
    /// A struct or map that server-side apply treats as one value.
    pub const ATOMIC: u16 = 2048;
}

/// How a list or map merges in server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Not marked: lists are atomic, maps granular.
    None,
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// A list of structs identified by keys.
    Map,
}

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// `bool`
    Bool,
    /// `int32` and smaller signed integers
    I32,
    /// `int64`, `int`
    I64,
    /// `uint32`
    U32,
    /// `uint64`
    U64,
    /// `float64`
    F64,
    /// `string`
    String,
    /// `[]byte`: base64 in JSON
    Bytes,
    /// A struct.
    Message(&'static Message),
    /// A slice.
    List(&'static Type),
    /// A slice type that is a message of its own in protobuf (`repeated items = 1`).
    WrappedList(&'static Type),
    /// A map with string keys.
    Map(&'static Type),
    /// `metav1.Time`: RFC 3339 in seconds
    Time,
    /// `metav1.MicroTime`: RFC 3339 in microseconds
    MicroTime,
    /// `resource.Quantity`
    Quantity,
    /// `intstr.IntOrString`
    IntOrString,
    /// `runtime.RawExtension`: a nested object in JSON, its bytes in protobuf
    RawExtension,
    /// `metav1.FieldsV1`
    FieldsV1,
    /// `metav1.Duration`: `1m30s`
    Duration,
    /// `apiextensions.JSON`: any JSON value, `{raw = 1}` in protobuf
    Json,
    /// `apiextensions.JSONSchemaPropsOrArray`: `{schema = 1, jSONSchemas = 2}`
    SchemaOrArray(&'static Message),
    /// `apiextensions.JSONSchemaPropsOrBool`: `{allows = 1, schema = 2}`
    SchemaOrBool(&'static Message),
    /// `apiextensions.JSONSchemaPropsOrStringArray`: `{schema = 1, property = 2}`
    SchemaOrStrings(&'static Message),
    /// Any JSON value, never in protobuf (custom resources).
    Any,
}

impl Message {
    /// The field of a JSON key; for a field of an inlined struct, that field. `None` if unknown.
    #[inline]
    pub fn field(&self, json: &str) -> Option<&'static Field> {
        self.lookup(json).map(|(field, _)| field)
    }

    /// [`Message::field`], and whether the field is this struct's own rather than an inlined struct's.
    #[inline]
    pub fn lookup(&self, json: &str) -> Option<(&'static Field, bool)> {
        let at = self
            .names
            .binary_search_by(|(n, _, _)| (*n).cmp(json))
            .ok()?;
        let (_, outer, inner) = *self.names.get(at)?;
        let field = self.fields.get(usize::from(outer))?;
        if inner == 0 {
            return Some((field, true));
        }
        let Type::Message(m) = field.ty else {
            return None;
        };
        // Inlined structs may inline another.
        let inner = m.fields.get(usize::from(inner) - 1)?;
        if inner.is(flag::INLINE) {
            let Type::Message(m) = inner.ty else {
                return None;
            };
            return m.field(json).map(|f| (f, false));
        }
        Some((inner, false))
    }

    /// The field of a protobuf tag.
    #[inline]
    pub fn by_tag(&self, tag: u32) -> Option<&'static Field> {
        self.fields.get(self.position(tag)?)
    }

    /// The position in `fields` of a protobuf tag.
    #[inline]
    pub fn position(&self, tag: u32) -> Option<usize> {
        // Most messages number their fields densely, so the place is guessed before it is searched.
        let guess = (tag as usize).wrapping_sub(1);
        if let Some((t, at)) = self.tags.get(guess)
            && *t == tag
        {
            return Some(usize::from(*at));
        }
        let at = self.tags.binary_search_by(|(t, _)| t.cmp(&tag)).ok()?;
        self.tags.get(at).map(|(_, at)| usize::from(*at))
    }
}

impl Field {
    /// Whether any of the bits is set.
    #[inline]
    pub const fn is(&self, bits: u16) -> bool {
        self.flags & bits != 0
    }
}
