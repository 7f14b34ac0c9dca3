//! Properties of the encodings over a small schema that has every type.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use proptest::prelude::*;
use serde_json::{Value, json};
use wire::Error;
use wire::json::Strictness;
use wire::schema::{Field, ListKind, Message, Type, flag};

const F: Field = Field {
    json: "",
    go: "",
    tag: 0,
    ty: Type::Any,
    flags: 0,
    list: ListKind::None,
    keys: &[],
    merge_key: "",
    default: "",
    values: &[],
    go_type: "",
};

static INLINE: Message = Message {
    name: "Source",
    package: "v1",
    fields: &[Field {
        json: "inner",
        go: "Inner",
        tag: 1,
        ty: Type::String,
        flags: flag::OMITEMPTY | flag::POINTER,
        go_type: "string",
        ..F
    }],
    names: &[("inner", 0, 0)],
    tags: &[(1, 0)],
    open: false,
    atomic: false,
    type_meta: false,
};

static NODE: Message = Message {
    name: "Node",
    package: "v1",
    fields: &[
        Field {
            json: "name",
            go: "Name",
            tag: 1,
            ty: Type::String,
            go_type: "string",
            ..F
        },
        Field {
            json: "count",
            go: "Count",
            tag: 2,
            ty: Type::I32,
            flags: flag::OMITEMPTY,
            go_type: "int32",
            ..F
        },
        Field {
            json: "big",
            go: "Big",
            tag: 3,
            ty: Type::I64,
            flags: flag::OMITEMPTY | flag::POINTER,
            go_type: "int64",
            ..F
        },
        Field {
            json: "on",
            go: "On",
            tag: 4,
            ty: Type::Bool,
            flags: flag::OMITEMPTY,
            go_type: "bool",
            ..F
        },
        Field {
            json: "ratio",
            go: "Ratio",
            tag: 5,
            ty: Type::F64,
            flags: flag::OMITEMPTY | flag::POINTER,
            go_type: "float64",
            ..F
        },
        Field {
            json: "labels",
            go: "Labels",
            tag: 6,
            ty: Type::Map(&Type::String),
            flags: flag::OMITEMPTY,
            go_type: "map[string]string",
            ..F
        },
        Field {
            json: "ports",
            go: "Ports",
            tag: 7,
            ty: Type::List(&Type::I32),
            flags: flag::OMITEMPTY,
            go_type: "[]int32",
            ..F
        },
        Field {
            json: "children",
            go: "Children",
            tag: 8,
            ty: Type::List(&Type::Message(&NODE)),
            flags: flag::OMITEMPTY,
            go_type: "[]v1.Node",
            ..F
        },
        Field {
            json: "data",
            go: "Data",
            tag: 9,
            ty: Type::Bytes,
            flags: flag::OMITEMPTY,
            go_type: "[]uint8",
            ..F
        },
        Field {
            json: "at",
            go: "At",
            tag: 10,
            ty: Type::Time,
            flags: flag::OMITEMPTY | flag::POINTER,
            go_type: "v1.Time",
            ..F
        },
        Field {
            json: "amount",
            go: "Amount",
            tag: 11,
            ty: Type::Quantity,
            flags: flag::OMITEMPTY | flag::POINTER,
            go_type: "resource.Quantity",
            ..F
        },
        Field {
            json: "port",
            go: "Port",
            tag: 12,
            ty: Type::IntOrString,
            flags: flag::OMITEMPTY | flag::POINTER,
            go_type: "intstr.IntOrString",
            ..F
        },
        Field {
            json: "raw",
            go: "Raw",
            tag: 13,
            ty: Type::RawExtension,
            flags: flag::OMITEMPTY | flag::POINTER,
            go_type: "runtime.RawExtension",
            ..F
        },
        Field {
            json: "sub",
            go: "Sub",
            tag: 14,
            ty: Type::Message(&INLINE),
            flags: flag::OMITEMPTY | flag::POINTER,
            go_type: "v1.Source",
            ..F
        },
        Field {
            json: "",
            go: "Source",
            tag: 15,
            ty: Type::Message(&INLINE),
            flags: flag::INLINE,
            go_type: "v1.Source",
            ..F
        },
    ],
    names: &[
        ("amount", 10, 0),
        ("at", 9, 0),
        ("big", 2, 0),
        ("children", 7, 0),
        ("count", 1, 0),
        ("data", 8, 0),
        ("inner", 14, 1),
        ("labels", 5, 0),
        ("name", 0, 0),
        ("on", 3, 0),
        ("port", 11, 0),
        ("ports", 6, 0),
        ("ratio", 4, 0),
        ("raw", 12, 0),
        ("sub", 13, 0),
    ],
    tags: &[
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 3),
        (5, 4),
        (6, 5),
        (7, 6),
        (8, 7),
        (9, 8),
        (10, 9),
        (11, 10),
        (12, 11),
        (13, 12),
        (14, 13),
        (15, 14),
    ],
    open: false,
    atomic: false,
    type_meta: false,
};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!("")),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z<>&\u{2028}]{1,4}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn node() -> impl Strategy<Value = Value> {
    let flat = (
        ".{0,10}",
        any::<i32>(),
        prop::option::of(any::<i64>()),
        any::<bool>(),
        prop::option::of(-1e9..1e9f64),
        prop::collection::btree_map(".{0,6}", ".{0,6}", 0..4),
        prop::collection::vec(prop_oneof![Just(0), any::<i32>()], 0..4),
        prop::collection::vec(any::<u8>(), 0..20),
        prop::option::of(0..4_000_000_000i64),
        prop::option::of(any_json()),
        prop::option::of(prop_oneof![
            any::<i32>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from)
        ]),
        prop::option::of(".{0,4}"),
    )
        .prop_map(
            |(name, count, big, on, ratio, labels, ports, data, at, raw, port, inner)| {
                use base64::Engine as _;
                let mut v = json!({"name": name});
                let m = v.as_object_mut().unwrap();
                let mut put = |k: &str, v: Value| {
                    m.insert(k.to_owned(), v);
                };
                if count != 0 {
                    put("count", json!(count));
                }
                if let Some(b) = big {
                    put("big", json!(b));
                }
                if on {
                    put("on", json!(true));
                }
                if let Some(r) = ratio {
                    put("ratio", json!(r));
                }
                if !labels.is_empty() {
                    put("labels", json!(labels));
                }
                if !ports.is_empty() {
                    put("ports", json!(ports));
                }
                if !data.is_empty() {
                    put(
                        "data",
                        json!(base64::engine::general_purpose::STANDARD.encode(data)),
                    );
                }
                if let Some(s) = at {
                    put(
                        "at",
                        json!(
                            wire::time::Moment {
                                seconds: s,
                                nanos: 0
                            }
                            .rfc3339()
                        ),
                    );
                }
                if let Some(r) = raw.filter(|r| !r.is_null()) {
                    put("raw", r);
                }
                if let Some(p) = port {
                    put("port", p);
                }
                if let Some(i) = inner {
                    put("inner", json!(i));
                    put("sub", json!({"inner": i}));
                }
                put("amount", json!("1500m"));
                v
            },
        );
    flat.prop_recursive(3, 12, 3, |inner| {
        (inner.clone(), prop::collection::vec(inner, 1..3)).prop_map(|(mut v, children)| {
            v["children"] = Value::Array(children);
            v
        })
    })
}

/// A present but empty part is printed as null, which a tree leaves out.
fn without_nulls(v: Value) -> Value {
    match v {
        Value::Object(m) => Value::Object(
            m.into_iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k, without_nulls(v)))
                .collect(),
        ),
        Value::Array(a) => Value::Array(a.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Numbers compare by value: a whole float prints as an integer.
fn text(v: &Value) -> String {
    let mut out = Vec::new();
    wire::json::encode(v, &NODE, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

proptest! {
    #[test]
    fn every_encoding_gives_the_value_back(v in node()) {
        let proto = wire::proto::value_to_vec(&v, &NODE).unwrap();
        let back: Value = wire::proto::from_slice(&proto, &NODE).unwrap();
        prop_assert_eq!(text(&back), text(&v));
        prop_assert_eq!(&wire::proto::value_to_vec(&back, &NODE).unwrap(), &proto);

        let mut json = Vec::new();
        wire::transcode::proto_to_json(&proto, &NODE, "", "", &Default::default(), &mut json).unwrap();
        prop_assert_eq!(String::from_utf8(json.clone()).unwrap(), text(&v));
        let decoded = wire::json::decode(&json, &NODE, Strictness::Collect).unwrap();
        prop_assert!(decoded.strict_errors.is_empty());
        prop_assert_eq!(text(&decoded.value), text(&v));
        prop_assert_eq!(&wire::proto::value_to_vec(&decoded.value, &NODE).unwrap(), &proto);
    }

    #[test]
    fn yaml_gives_the_value_back(v in any_json()) {
        let v = json!({"a": v});
        let mut out = Vec::new();
        wire::yaml::encode_any(&v, &mut out);
        let back = wire::yaml::to_value(&out).map_err(|e| TestCaseError::fail(format!("{e}: {}", String::from_utf8_lossy(&out))))?;
        prop_assert_eq!(back, v);
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = wire::proto::from_slice::<Value>(&bytes, &NODE);
        let mut out = Vec::new();
        let _ = wire::transcode::proto_to_json(&bytes, &NODE, "", "", &Default::default(), &mut out);
        let _ = wire::json::decode(&bytes, &NODE, Strictness::Collect);
        let _ = wire::yaml::to_value(&bytes);
        let _ = wire::envelope::unwrap(&bytes);
        let _ = wire::envelope::watch_event(&bytes);
    }

    #[test]
    fn damaged_protobuf_never_panics_and_both_decoders_agree(v in node(), at in any::<prop::sample::Index>(), b in any::<u8>()) {
        let mut proto = wire::proto::value_to_vec(&v, &NODE).unwrap();
        if !proto.is_empty() {
            let i = at.index(proto.len());
            proto[i] = b;
        }
        let tree = wire::proto::from_slice::<Value>(&proto, &NODE);
        let mut json = Vec::new();
        let printed = wire::transcode::proto_to_json(&proto, &NODE, "", "", &Default::default(), &mut json);
        // What one takes the other takes. Where the tree is refused alone, it is for embedded JSON that is none, which is
        // passed on unread where it is only printed.
        match (&tree, &printed) {
            (Ok(_), Err(e)) => prop_assert!(false, "refused while printing only: {}", e),
            (Err(e), Ok(())) => prop_assert!(
                e.to_string().contains(" at line "), "refused as a tree only: {e}: {}", String::from_utf8_lossy(&json)
            ),
            _ => {}
        }
        if let (Ok(tree), Ok(())) = (&tree, &printed) {
            // Embedded JSON keeps the escapes it came with; apart from them the texts are equal.
            let printed: Value = serde_json::from_slice(&json).unwrap();
            let expected: Value = serde_json::from_str(&text(tree)).unwrap();
            let show = |v| {
                let mut out = Vec::new();
                wire::json::encode_any(&without_nulls(v), &mut out);
                String::from_utf8(out).unwrap()
            };
            prop_assert_eq!(show(printed), show(expected));
        }
    }

    #[test]
    fn field_order_does_not_matter(v in node()) {
        // A message followed by itself merges into lists of twice the length, and keeps everything else.
        let proto = wire::proto::value_to_vec(&v, &NODE).unwrap();
        let twice = [proto.clone(), proto].concat();
        let back: Value = wire::proto::from_slice(&twice, &NODE).unwrap();
        let len = |v: &Value, k: &str| v.get(k).and_then(Value::as_array).map_or(0, Vec::len);
        prop_assert_eq!(len(&back, "ports"), 2 * len(&v, "ports"));
        prop_assert_eq!(len(&back, "children"), 2 * len(&v, "children"));
        prop_assert_eq!(back.get("labels"), v.get("labels"));
        prop_assert_eq!(back.get("name"), v.get("name"));
        let mut json = Vec::new();
        wire::transcode::proto_to_json(&twice, &NODE, "", "", &Default::default(), &mut json).unwrap();
        prop_assert_eq!(String::from_utf8(json).unwrap(), text(&back));
    }

    #[test]
    fn json_numbers_and_strings(s in ".{0,40}", n in any::<i64>(), f in any::<f64>()) {
        let v = json!({"s": s, "n": n, "f": f});
        let mut out = Vec::new();
        wire::json::encode_any(&v, &mut out);
        let back = wire::json::parse(&out).unwrap();
        prop_assert_eq!(&back["s"], &v["s"]);
        prop_assert_eq!(&back["n"], &v["n"]);
        if f.is_finite() {
            prop_assert_eq!(back["f"].as_f64(), Some(f));
        }
    }
}

/// Where the fields of a message end.
fn field_ends(proto: &[u8]) -> Vec<usize> {
    let (mut at, mut ends) = (0, Vec::new());
    let varint = |at: &mut usize| {
        let (mut value, mut shift) = (0usize, 0);
        loop {
            let byte = proto[*at];
            *at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    while at < proto.len() {
        match varint(&mut at) & 7 {
            0 => {
                varint(&mut at);
            }
            1 => at += 8,
            2 => {
                let length = varint(&mut at);
                at += length;
            }
            5 => at += 4,
            other => panic!("wire type {other}"),
        }
        ends.push(at);
    }
    ends
}

#[test]
fn truncated_protobuf_is_refused_within_a_field_and_shorter_between_two() {
    let v =
        json!({"name": "n", "children": [{"name": "c", "ports": [1, 2]}], "labels": {"a": "b"}});
    let proto = wire::proto::value_to_vec(&v, &NODE).unwrap();
    // The first field is the name; a map entry, a child and what else the schema always writes follow.
    let ends = field_ends(&proto);
    assert!(
        ends.len() >= 3 && ends.last() == Some(&proto.len()),
        "{ends:?}"
    );
    let mut last = String::new();
    for end in 0..=proto.len() {
        let short = wire::proto::from_slice::<Value>(&proto[..end], &NODE);
        let mut out = Vec::new();
        let printed = wire::transcode::proto_to_json(
            &proto[..end],
            &NODE,
            "",
            "",
            &Default::default(),
            &mut out,
        );
        // Cut between two fields, what is left is a message; cut within one, it is not.
        let whole = end == 0 || ends.contains(&end);
        assert_eq!(
            (short.is_ok(), printed.is_ok()),
            (whole, whole),
            "{end} of {ends:?}"
        );
        if let Ok(short) = short {
            assert_eq!(String::from_utf8(out).unwrap(), text(&short));
            last = text(&short);
        }
    }
    assert_eq!(last, text(&v));
}

#[test]
fn packed_lists_are_read() {
    // ports (7) packed: 1, 300, -1.
    let mut proto = vec![0x3a, 13, 1, 0xac, 2];
    proto.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    let v: Value = wire::proto::from_slice(&proto, &NODE).unwrap();
    assert_eq!(v["ports"], json!([1, 300, -1]));
    let mut out = Vec::new();
    wire::transcode::proto_to_json(&proto, &NODE, "", "", &Default::default(), &mut out).unwrap();
    assert!(
        String::from_utf8(out)
            .unwrap()
            .contains("\"ports\":[1,300,-1]")
    );
}

#[test]
fn invalid_utf8_and_depth_are_refused() {
    assert_eq!(
        wire::proto::from_slice::<Value>(&[0x0a, 1, 0xff], &NODE).unwrap_err(),
        Error::Utf8
    );
    let mut deep = Vec::new();
    for _ in 0..300 {
        let mut outer = vec![0x42];
        let mut len = deep.len();
        while len >= 0x80 {
            outer.push(len as u8 | 0x80);
            len >>= 7;
        }
        outer.push(len as u8);
        outer.extend(&deep);
        deep = outer;
    }
    assert_eq!(
        wire::proto::from_slice::<Value>(&deep, &NODE).unwrap_err(),
        Error::Depth
    );
    let mut out = Vec::new();
    assert_eq!(
        wire::transcode::proto_to_json(&deep, &NODE, "", "", &Default::default(), &mut out)
            .unwrap_err(),
        Error::Depth
    );
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(wire::json::valid(nested(10_000).as_bytes()).is_ok());
    for n in [10_001, 100_000] {
        let error = Error::Syntax("invalid character '[' exceeded max depth".into());
        assert_eq!(wire::json::valid(nested(n).as_bytes()), Err(error.clone()));
        assert_eq!(wire::json::parse(nested(n).as_bytes()), Err(error));
    }
    assert!(
        wire::json::decode(
            format!("{{\"raw\":{}", "[".repeat(100_000)).as_bytes(),
            &NODE,
            Strictness::Ignore
        )
        .is_err()
    );
}

#[test]
fn json_errors_as_go() {
    let decode = |s: &str| wire::json::decode(s.as_bytes(), &NODE, Strictness::Collect);
    for (text, error) in [
        ("", "unexpected end of JSON input"),
        (
            "hello",
            "invalid character 'h' looking for beginning of value",
        ),
        ("{\"name\":", "unexpected end of JSON input"),
        (
            "{\"on\":tru",
            "invalid character ' ' in literal true (expecting 'e')",
        ),
        ("{\"count\":-", "invalid character ' ' in numeric literal"),
        ("{\"name\":\"a", "unexpected end of JSON input"),
        ("{\"name\" 1}", "invalid character '1' after object key"),
        (
            "{\"name\":1 2}",
            "invalid character '2' after object key:value pair",
        ),
        (
            "{name:1}",
            "invalid character 'n' looking for beginning of object key string",
        ),
        ("{} x", "invalid character 'x' after top-level value"),
        (
            "{\"on\":tru}",
            "invalid character '}' in literal true (expecting 'e')",
        ),
        ("{\"count\":-}", "invalid character '}' in numeric literal"),
        (
            "{\"name\":\"\\q\"}",
            "invalid character 'q' in string escape code",
        ),
        (
            "[]",
            "json: cannot unmarshal array into Go value of type v1.Node",
        ),
        (
            "{\"name\":5}",
            "json: cannot unmarshal number into Go struct field Node.name of type string",
        ),
        (
            "{\"count\":1.5}",
            "json: cannot unmarshal number 1.5 into Go struct field Node.count of type int32",
        ),
        (
            "{\"count\":4294967296}",
            "json: cannot unmarshal number 4294967296 into Go struct field Node.count of type int32",
        ),
        (
            "{\"labels\":{\"a\":1}}",
            "json: cannot unmarshal number into Go struct field Node.labels of type string",
        ),
        (
            "{\"children\":[{\"children\":\"x\"}]}",
            "json: cannot unmarshal string into Go struct field Node.children.children of type []v1.Node",
        ),
        (
            "{\"inner\":1}",
            "json: cannot unmarshal number into Go struct field Node.Source.inner of type string",
        ),
        (
            "{\"amount\":\"x\"}",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("{\"data\":\"!\"}", "illegal base64 data at input byte 0"),
        // A syntax error further on wins over a value of the wrong type, and over a quantity.
        (
            "{\"name\":5,\"amount\":\"x\",",
            "unexpected end of JSON input",
        ),
    ] {
        assert_eq!(decode(text).unwrap_err().to_string(), error, "{text}");
    }
    let d = decode("{\"name\":null,\"x\":{\"y\":1},\"children\":[{\"z\":1,\"name\":\"a\",\"name\":\"b\"}],\"labels\":{\"q\":\"1\",\"q\":\"2\"}}").unwrap();
    assert_eq!(
        d.strict_errors,
        [
            "unknown field \"x\"",
            "unknown field \"children[0].z\"",
            "duplicate field \"children[0].name\"",
            "duplicate field \"labels.q\""
        ]
    );
    assert_eq!(
        d.value,
        json!({"name": "", "children": [{"name": "b"}], "labels": {"q": "2"}})
    );
}

#[test]
fn what_a_patch_leaves_alone_keeps_its_order() {
    let old = json!({"name": "a", "inner": "x", "children": [{"name": "b", "count": 1}]});
    let old = wire::json::normalize(old, &NODE, Strictness::Ignore)
        .unwrap()
        .value;
    let printed = |value: &Value| {
        let mut out = Vec::new();
        wire::json::encode_patched(value, &old, &NODE, &mut out);
        String::from_utf8(out).unwrap()
    };
    let mut whole = Vec::new();
    wire::json::encode(&old, &NODE, &mut whole).unwrap();
    assert_eq!(printed(&old), String::from_utf8(whole).unwrap());
    let mut patched = old.clone();
    patched["count"] = json!("x");
    let mut child = Vec::new();
    wire::json::encode(&old["children"][0], &NODE, &mut child).unwrap();
    let child = String::from_utf8(child).unwrap();
    let text = printed(&patched);
    assert!(text.contains(&format!("\"children\":[{child}]")), "{text}");
    let at = |key: &str| text.find(&format!("\"{key}\":")).unwrap();
    assert!(
        at("children") < text.rfind("\"count\":\"x\"").unwrap(),
        "{text}"
    );
}

#[test]
fn trees_that_do_not_fit_are_refused_as_by_the_converter() {
    for (value, error) in [
        (json!({"name": 5}), Some("unrecognized type: string")),
        (json!({"count": "x"}), Some("unrecognized type: int32")),
        (
            json!({"labels": "x"}),
            Some("cannot restore map from string"),
        ),
        (
            json!({"labels": [1]}),
            Some("cannot restore map from slice"),
        ),
        (
            json!({"children": {}}),
            Some("cannot restore slice from map"),
        ),
        (
            json!({"children": ["x"]}),
            Some("cannot restore struct from: string"),
        ),
        (
            json!({"data": "!"}),
            Some("error decoding from json: illegal base64 data at input byte 0"),
        ),
        (json!({"name": "a", "count": null, "x": 1}), None),
    ] {
        let found = wire::json::restore_error(&value, &NODE);
        assert_eq!(found.as_deref(), error, "{value}");
    }
}
