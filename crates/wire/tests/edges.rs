//! Places where encodings turn: nesting at its limit, parts that are absent, empty or said twice, and amounts at their ends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Map, Value, json};
use wire::json::Strictness;
use wire::quantity::Quantity;
use wire::schema::{Field, ListKind, Message, Type, flag};

const fn field(json: &'static str, tag: u32, ty: Type, flags: u16) -> Field {
    Field {
        json,
        go: json,
        tag,
        ty,
        flags,
        list: ListKind::None,
        keys: &[],
        merge_key: "",
        default: "",
        values: &[],
        go_type: "",
    }
}

const fn message(
    name: &'static str,
    fields: &'static [Field],
    names: &'static [(&'static str, u16, u16)],
    tags: &'static [(u32, u16)],
) -> Message {
    Message {
        name,
        package: "v1",
        fields,
        names,
        tags,
        open: false,
        atomic: false,
        type_meta: false,
    }
}

static LEAF: Message = message(
    "Leaf",
    &[
        field("a", 1, Type::String, flag::OMITEMPTY),
        field("b", 2, Type::String, flag::OMITEMPTY),
        field("n", 3, Type::I64, 0),
    ],
    &[("a", 0, 0), ("b", 1, 0), ("n", 2, 0)],
    &[(1, 0), (2, 1), (3, 2)],
);

static MIDDLE: Message = message(
    "Middle",
    &[field("leaf", 1, Type::Message(&LEAF), 0)],
    &[("leaf", 0, 0)],
    &[(1, 0)],
);

static OUTER: Message = message(
    "Outer",
    &[
        field("mid", 1, Type::Message(&MIDDLE), 0),
        field("gone", 2, Type::Message(&MIDDLE), flag::OMITZERO),
        field("amounts", 3, Type::Map(&Type::Quantity), flag::OMITEMPTY),
        field("words", 4, Type::List(&Type::String), flag::OMITEMPTY),
        field(
            "next",
            5,
            Type::List(&Type::Message(&OUTER)),
            flag::OMITEMPTY,
        ),
        field("switches", 6, Type::List(&Type::Bool), flag::OMITEMPTY),
        // In JSON alone, as parts of some types are.
        field("untagged", 0, Type::Message(&LEAF), flag::OMITEMPTY),
    ],
    &[
        ("amounts", 2, 0),
        ("gone", 1, 0),
        ("mid", 0, 0),
        ("next", 4, 0),
        ("switches", 5, 0),
        ("untagged", 6, 0),
        ("words", 3, 0),
    ],
    &[(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)],
);

static LOOSE: Message = message(
    "Loose",
    &[
        field("any", 1, Type::Any, 0),
        field("a", 2, Type::String, flag::OMITEMPTY),
    ],
    &[("a", 1, 0), ("any", 0, 0)],
    &[(1, 0), (2, 1)],
);

static KINDS: Message = message(
    "Kinds",
    &[
        field("share", 1, Type::F64, 0),
        field("pointer", 2, Type::String, flag::POINTER),
        field(
            "of",
            3,
            Type::SchemaOrStrings(&LEAF),
            flag::POINTER | flag::OMITEMPTY,
        ),
        field(
            "list",
            4,
            Type::List(&Type::Message(&LEAF)),
            flag::OMITEMPTY,
        ),
        field(
            "items",
            5,
            Type::SchemaOrArray(&LEAF),
            flag::POINTER | flag::OMITEMPTY,
        ),
    ],
    &[
        ("items", 4, 0),
        ("list", 3, 0),
        ("of", 2, 0),
        ("pointer", 1, 0),
        ("share", 0, 0),
    ],
    &[(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)],
);

static WHOLE: Message = Message {
    type_meta: true,
    ..message(
        "Whole",
        &[field("a", 1, Type::String, flag::OMITEMPTY)],
        &[("a", 0, 0)],
        &[(1, 0)],
    )
};

fn print(value: &Value) -> String {
    let mut out = Vec::new();
    wire::json::encode(value, &OUTER, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn transcode(proto: &[u8]) -> Result<String, wire::Error> {
    transcode_of(&OUTER, proto)
}

fn transcode_of(msg: &'static Message, proto: &[u8]) -> Result<String, wire::Error> {
    let mut out = Vec::new();
    wire::transcode::proto_to_json(proto, msg, "", "", &Default::default(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn decode(text: &str) -> Value {
    wire::json::decode(text.as_bytes(), &OUTER, Strictness::Ignore)
        .unwrap()
        .value
}

#[test]
fn a_part_said_twice_is_merged_at_every_depth() {
    let twice = decode(
        r#"{"mid":{"leaf":{"a":"1","b":"2"}},"mid":{"leaf":{"b":"3"}},"words":["x"],"words":["y"]}"#,
    );
    assert_eq!(twice["mid"]["leaf"], json!({"a": "1", "b": "3", "n": 0}));
    assert_eq!(twice["words"], json!(["y"]));
}

#[test]
fn absent_parts_are_printed_where_go_has_no_pointer() {
    assert_eq!(print(&json!({})), r#"{"mid":{"leaf":{"n":0}}}"#);
    let proto = wire::proto::value_to_vec(&json!({}), &OUTER).unwrap();
    assert_eq!(transcode(&proto).unwrap(), r#"{"mid":{"leaf":{"n":0}}}"#);
    let mut filled = Map::new();
    wire::json::fill(&mut filled, &MIDDLE);
    assert_eq!(Value::Object(filled), json!({"leaf": {"n": 0}}));
    // A float takes eight bytes, a pointer none.
    let proto = wire::proto::value_to_vec(&json!({}), &KINDS).unwrap();
    assert_eq!(proto, [&[0x09][..], &[0; 8]].concat());
    let mut text = Vec::new();
    wire::json::encode(&json!({}), &KINDS, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text, r#"{"share":0,"pointer":null}"#);
}

#[test]
fn fields_out_of_order_are_brought_into_it_in_every_list() {
    let item = [0x22, 5, 0x18, 7, 0x0a, 1, b'x'];
    let share = [&[0x09][..], &1.5_f64.to_le_bytes()].concat();
    let want = r#"{"share":1.5,"pointer":null,"list":[{"a":"x","n":7}]}"#;
    for proto in [
        [&share[..], &item[..]].concat(),
        [&item[..], &share[..]].concat(),
    ] {
        assert_eq!(transcode_of(&KINDS, &proto).unwrap(), want, "{proto:x?}");
    }
}

#[test]
fn a_schema_may_be_a_list() {
    let decode = |text: &str| wire::json::decode(text.as_bytes(), &KINDS, Strictness::Ignore);
    for text in [
        r#"{"share":0,"pointer":null,"of":["a","b"]}"#,
        r#"{"share":0,"pointer":null,"of":{"a":"x","n":0}}"#,
        r#"{"share":0,"pointer":null,"items":{"a":"x","n":0}}"#,
        r#"{"share":0,"pointer":null,"items":[{"a":"x","n":0},{"a":"y","n":1}]}"#,
    ] {
        let value = decode(text).unwrap().value;
        let yaml = wire::yaml::decode(text.as_bytes(), &KINDS, Strictness::Ignore);
        assert_eq!(yaml.unwrap().value, value);
        let proto = wire::proto::value_to_vec(&value, &KINDS).unwrap();
        assert_eq!(transcode_of(&KINDS, &proto).unwrap(), text);
        let mut printed = Vec::new();
        wire::json::encode(&value, &KINDS, &mut printed).unwrap();
        assert_eq!(String::from_utf8(printed).unwrap(), text);
    }
    for bad in [
        r#"{"of":[1]}"#,
        r#"{"of":[{"a":"x"}]}"#,
        r#"{"of":"a"}"#,
        r#"{"items":["a"]}"#,
    ] {
        assert!(decode(bad).is_err(), "{bad}");
        let yaml = wire::yaml::decode(bad.as_bytes(), &KINDS, Strictness::Ignore);
        assert!(yaml.is_err(), "{bad}");
    }
}

#[test]
fn a_part_that_is_left_out_when_zero_is_zero_in_all_its_parts() {
    for (value, shown) in [
        (json!({"gone": {"leaf": {}}}), false),
        (json!({"gone": {"leaf": {"a": "", "n": 0}}}), false),
        (json!({"gone": {"leaf": {"n": 1}}}), true),
        (json!({"gone": {"leaf": {"b": "x"}}}), true),
    ] {
        let proto = wire::proto::value_to_vec(&value, &OUTER).unwrap();
        assert_eq!(
            transcode(&proto).unwrap().contains("\"gone\""),
            shown,
            "{value}"
        );
    }
    // As Go writes it: every level is there, and empty.
    let empty = [0x12, 4, 0x0a, 2, 0x18, 0];
    assert_eq!(transcode(&empty).unwrap(), r#"{"mid":{"leaf":{"n":0}}}"#);
    let tree: Value = wire::proto::from_slice(&empty, &OUTER).unwrap();
    assert_eq!(print(&tree), r#"{"mid":{"leaf":{"n":0}}}"#);
}

#[test]
fn amounts_may_be_numbers_and_null() {
    let value = json!({"amounts": {"a": 5, "b": null, "c": "1500m", "d": 0.5}});
    let proto = wire::proto::value_to_vec(&value, &OUTER).unwrap();
    let back: Value = wire::proto::from_slice(&proto, &OUTER).unwrap();
    assert_eq!(
        back["amounts"],
        json!({"a": "5", "b": "0", "c": "1500m", "d": "500m"})
    );
    let wrong = json!({"amounts": {"a": true}});
    assert!(matches!(
        wire::proto::value_to_vec(&wrong, &OUTER),
        Err(wire::Error::Mismatch(_))
    ));
}

#[test]
fn amounts_round_up_only_what_is_no_whole() {
    let q = |s: &str| Quantity::parse(s).unwrap();
    for (text, value, milli) in [
        ("2", 2, 2000),
        ("3000m", 3, 3000),
        ("3001m", 4, 3001),
        ("-2000m", -2, -2000),
        ("1n", 1, 1),
        ("0", 0, 0),
        ("1000000n", 1, 1),
        ("1000001n", 1, 2),
    ] {
        assert_eq!(
            (q(text).value(), q(text).milli_value()),
            (value, milli),
            "{text}"
        );
    }
    for (input, output) in [
        ("9999999Ei", "9223372036854775807"),
        ("7E", "7E"),
        ("99999999E", "99999999E"),
        ("1023Pi", "1023Pi"),
        ("-9999999Ei", "-9223372036854775807"),
        // Less than one has no binary suffix.
        ("0.0001Ki", "102400u"),
        ("0Ki", "0"),
        ("0.5Ki", "512"),
    ] {
        assert_eq!(Quantity::canonical(input).unwrap(), output, "{input}");
    }
    assert_eq!(q("2500m").as_f64().to_string(), "2.5");
}

#[test]
fn nesting_that_can_be_written_in_protobuf_can_be_read_and_printed() {
    let nested = |depth: usize| {
        let mut value = json!({"words": ["x"]});
        let mut proto = vec![0x22, 1, b'x'];
        for _ in 0..depth {
            value = json!({"next": [value]});
            let mut outer = vec![0x2a];
            let mut length = proto.len();
            while length >= 0x80 {
                outer.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            outer.push(u8::try_from(length).unwrap());
            outer.extend(&proto);
            proto = outer;
        }
        (value, proto)
    };
    let limit =
        |works: &dyn Fn(&(Value, Vec<u8>)) -> bool| (0..200).find(|d| !works(&nested(*d))).unwrap();
    let read = limit(&|(_, p)| wire::proto::from_slice::<Value>(p, &OUTER).is_ok());
    let written = limit(&|(v, _)| wire::proto::value_to_vec(v, &OUTER).is_ok());
    let printed = limit(&|(_, p)| transcode(p).is_ok());
    // The innermost text counts as a level where trees are walked; so what can be written can be read and printed.
    assert_eq!((read, written, printed), (100, 99, 99));
}

#[test]
fn aliases_may_be_a_small_part_of_a_document() {
    let document = |plain: usize, uses: usize| {
        let mut text = String::from("a: &a [1, 2, 3, 4, 5]\nplain:\n");
        text.extend((0..plain).map(|i| format!("- {i}\n")));
        text.push_str("uses:\n");
        text.extend((0..uses).map(|_| "- *a\n".to_owned()));
        wire::yaml::to_value(text.as_bytes())
    };
    let many = document(2000, 40).unwrap();
    assert_eq!(many["uses"].as_array().unwrap().len(), 40);
    assert_eq!(many["uses"][39], json!([1, 2, 3, 4, 5]));
    // Half of a document of this size may be, not all of a larger one.
    assert!(document(10, 300).is_ok());
    // The larger the document, the smaller the part.
    let long = vec!["1"; 100].join(",");
    let text = format!("a: &a [{long}]\nuses:\n{}", "- *a\n".repeat(8000));
    assert_eq!(
        wire::yaml::to_value(text.as_bytes())
            .unwrap_err()
            .to_string(),
        "yaml: document contains excessive aliasing"
    );
    let laughs = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
        let uses = vec![format!("*a{}", i - 1); 8].join(",");
        format!("{text}a{i}: &a{i} [{uses}]\n")
    });
    assert_eq!(
        wire::yaml::to_value(laughs.as_bytes())
            .unwrap_err()
            .to_string(),
        "yaml: document contains excessive aliasing"
    );
}

#[test]
fn a_patched_object_is_printed_as_upstreams_library_does() {
    let old = json!({"words": ["a", "b"], "mid": {"leaf": {"n": 1, "a": "x"}}});
    let show = |value: &Value| {
        let mut out = Vec::new();
        wire::json::encode_patched(value, &old, &OUTER, &mut out);
        String::from_utf8(out).unwrap()
    };
    // What was left alone is in the order of the fields, what was gone through in the order of its keys.
    assert_eq!(
        show(&old),
        r#"{"mid":{"leaf":{"a":"x","n":1}},"words":["a","b"]}"#
    );
    assert_eq!(
        show(
            &json!({"words": ["a", "c", "d"], "mid": {"leaf": {"n": 1, "a": "x"}}, "zzz": 1, "amounts": {}})
        ),
        r#"{"amounts":{},"mid":{"leaf":{"a":"x","n":1}},"words":["a","c","d"],"zzz":1}"#
    );
    assert_eq!(
        show(&json!({"mid": {"leaf": {"n": 2, "b": "y"}}})),
        r#"{"mid":{"leaf":{"b":"y","n":2}}}"#
    );
    assert_eq!(show(&Value::Object(Map::new())), "{}");
}

#[test]
fn types_in_errors_have_their_go_names() {
    let error = |text: &str| {
        wire::json::decode(text.as_bytes(), &OUTER, Strictness::Ignore)
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        error(r#"{"switches":["x"]}"#),
        "json: cannot unmarshal string into Go struct field Outer.switches of type bool"
    );
    assert_eq!(
        error(r#"{"words":[true]}"#),
        "json: cannot unmarshal bool into Go struct field Outer.words of type string"
    );
    assert_eq!(
        error(r#"{"next":{}}"#),
        "json: cannot unmarshal object into Go struct field Outer.next of type []v1.Outer"
    );
    assert_eq!(
        error(r#"{"mid":{"leaf":{"n":"x"}}}"#),
        "json: cannot unmarshal string into Go struct field Leaf.mid.leaf.n of type int64"
    );
}

#[test]
fn kind_and_version_are_no_fields_of_the_table() {
    let decode = |text: &str, of: &'static Message| {
        wire::json::decode(text.as_bytes(), of, Strictness::Collect).unwrap()
    };
    let whole = decode(r#"{"kind":"K","apiVersion":"v1","a":"x"}"#, &WHOLE);
    assert!(whole.strict_errors.is_empty(), "{:?}", whole.strict_errors);
    assert_eq!(whole.value["a"], "x");
    let twice = decode(r#"{"kind":"K","a":"x","kind":"L","b":1}"#, &WHOLE);
    assert_eq!(
        twice.strict_errors,
        ["duplicate field \"kind\"", "unknown field \"b\""]
    );
    let part = decode(r#"{"kind":"K","a":"x"}"#, &LEAF);
    assert_eq!(part.strict_errors, ["unknown field \"kind\""]);
}

#[test]
fn groups_of_unknown_fields_are_skipped_whole() {
    let skip = |group: &[u8]| {
        let proto = [group, &[0x22, 1, b'x']].concat();
        let tree = wire::proto::from_slice::<Value>(&proto, &OUTER);
        let text = transcode(&proto);
        assert_eq!(tree.is_ok(), text.is_ok(), "{group:x?}");
        tree.map(|t| t["words"].clone())
    };
    // Field 20: a varint, eight and four bytes, a text, and a group within.
    let inside = [
        0xa3, 0x01, 0x08, 5, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1d, 1, 2, 3, 4, 0x22, 2, b'a', b'b',
        0xab, 0x01, 0x08, 1, 0xac, 0x01, 0xa4, 0x01,
    ];
    assert_eq!(skip(&inside), Ok(json!(["x"])));
    for bad in [
        &[0xa3, 0x01][..],                                 // Never ends.
        &[0xa4, 0x01],                                     // Never began.
        &[0xa3, 0x01, 0xab, 0x01, 0xa4, 0x01, 0xac, 0x01], // Ends crosswise.
        &[0xa3, 0x01, 0x0f, 0xa4, 0x01],                   // No such wire type.
    ] {
        assert!(skip(bad).is_err(), "{bad:x?}");
    }
}

#[test]
fn only_whole_numbers_in_range_are_integers() {
    let write = |n: Value| {
        let value = json!({"mid": {"leaf": {"n": n}}});
        let proto = wire::proto::value_to_vec(&value, &OUTER)?;
        let back: Value = wire::proto::from_slice(&proto, &OUTER)?;
        Ok::<_, wire::Error>(back["mid"]["leaf"]["n"].clone())
    };
    assert_eq!(write(json!(3.0)), Ok(json!(3)));
    assert_eq!(write(json!(-4e15)), Ok(json!(-4_000_000_000_000_000_i64)));
    assert_eq!(write(json!(i64::MIN)), Ok(json!(i64::MIN)));
    for bad in [json!(1.5), json!(1e19), json!(-1e19), json!("1"), json!([])] {
        assert!(
            matches!(write(bad.clone()), Err(wire::Error::Mismatch(_))),
            "{bad}"
        );
    }
}

#[test]
fn what_has_no_form_in_protobuf_is_not_written() {
    let proto = wire::proto::value_to_vec(&json!({"a": "x"}), &LOOSE).unwrap();
    assert_eq!(proto, [0x12, 1, b'x']);
    // A part without a tag is never there, and not printed as if it were.
    assert!(!transcode(&[]).unwrap().contains("untagged"));
}

/// Recursion is counted: groups side by side take no more stack than one.
#[test]
fn groups_beside_each_other_are_passed_over_in_a_loop() {
    let mut raw = [0x0b, 0x0c].repeat(1_000_000);
    wire::proto::put_bytes(1, b"x", &mut raw);
    let tree: Value = wire::proto::tree(&raw, &LEAF).unwrap();
    assert_eq!(tree["a"], "x");
}
