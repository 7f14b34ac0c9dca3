//! Compiles `data/types.txt` and `data/resources.txt` into static tables.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a data file that cannot be read stops the build"
)]

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

struct Field<'a> {
    json: &'a str,
    go: &'a str,
    tag: u32,
    ty: &'a str,
    go_type: &'a str,
    flags: &'a str,
    list: &'a str,
    keys: &'a str,
    merge_key: &'a str,
    default: &'a str,
    values: &'a str,
}

struct Message<'a> {
    group: &'a str,
    name: &'a str,
    flags: &'a str,
    fields: Vec<Field<'a>>,
}

/// The Rust expression of a type; `ids` gives the number of each `group.Name`.
fn type_expr(text: &str, ids: &HashMap<String, usize>) -> String {
    let message = |name: &str| {
        format!(
            "&M{}",
            ids.get(name)
                .unwrap_or_else(|| panic!("unknown type {name}"))
        )
    };
    if let Some(inner) = text.strip_prefix("w[]") {
        return format!("Type::WrappedList(&{})", type_expr(inner, ids));
    }
    if let Some(inner) = text.strip_prefix("[]") {
        return format!("Type::List(&{})", type_expr(inner, ids));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        return format!("Type::Map(&{})", type_expr(inner, ids));
    }
    if let Some((kind, name)) = text.split_once(':') {
        let variant = match kind {
            "m" => "Message",
            "schema-or-array" => "SchemaOrArray",
            "schema-or-bool" => "SchemaOrBool",
            "schema-or-strings" => "SchemaOrStrings",
            other => panic!("unknown type {other}"),
        };
        return format!("Type::{variant}({})", message(name));
    }
    let variant = match text {
        "string" => "String",
        "bool" => "Bool",
        "i32" => "I32",
        "i64" => "I64",
        "u32" => "U32",
        "u64" => "U64",
        "f64" => "F64",
        "bytes" => "Bytes",
        "time" => "Time",
        "microtime" => "MicroTime",
        "duration" => "Duration",
        "quantity" => "Quantity",
        "intstr" => "IntOrString",
        "raw" => "RawExtension",
        "fieldsv1" => "FieldsV1",
        "json" => "Json",
        "any" => "Any",
        other => panic!("unknown type {other}"),
    };
    format!("Type::{variant}")
}

fn strings(list: &str) -> String {
    let mut out = String::from("&[");
    for s in list.split(',').filter(|s| !s.is_empty()) {
        let _ = write!(out, "{s:?},");
    }
    out.push(']');
    out
}

/// Flattened JSON names: name, outer index, inner index + 1.
fn names<'a>(
    m: &Message<'a>,
    all: &HashMap<String, &Message<'a>>,
) -> BTreeMap<&'a str, (usize, usize)> {
    let mut out = BTreeMap::new();
    for (i, f) in m.fields.iter().enumerate() {
        if !f.flags.contains('i') {
            out.insert(f.json, (i, 0));
        }
    }
    for (i, f) in m.fields.iter().enumerate() {
        if f.flags.contains('i') {
            let inner = all[f.ty.trim_start_matches("m:")];
            for (name, (at, _)) in names(inner, all) {
                out.entry(name).or_insert((i, at + 1));
            }
        }
    }
    out
}

fn types(text: &str) -> String {
    let mut messages: Vec<Message<'_>> = Vec::new();
    let mut enums: HashMap<&str, &str> = HashMap::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let c: Vec<&str> = line.split('\t').collect();
        match c[0] {
            "M" => messages.push(Message {
                group: c[1],
                name: c[2],
                flags: c[3],
                fields: Vec::new(),
            }),
            "E" => {
                enums.insert(c[1], c[2]);
            }
            _ => messages
                .last_mut()
                .expect("a field follows its message")
                .fields
                .push(Field {
                    json: c[1],
                    go: c[2],
                    tag: c[3].parse().expect("a tag"),
                    ty: c[4],
                    go_type: c[5],
                    flags: c[6],
                    list: c[7],
                    keys: c[8],
                    merge_key: c[9],
                    default: c[10],
                    values: c[11],
                }),
        }
    }
    let ids: HashMap<String, usize> = messages
        .iter()
        .enumerate()
        .map(|(i, m)| (format!("{}.{}", m.group, m.name), i))
        .collect();
    let all: HashMap<String, &Message<'_>> = messages
        .iter()
        .map(|m| (format!("{}.{}", m.group, m.name), m))
        .collect();

    let mut out = String::new();
    let mut index: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (id, m) in messages.iter().enumerate() {
        let api_version = m.group.strip_prefix('/').unwrap_or(m.group);
        index.insert((api_version, m.name), id);
        let package = m.group.rsplit('/').next().unwrap_or_default();
        let _ = write!(
            out,
            "static M{id}:Message=Message{{name:{:?},package:{package:?},fields:&[",
            m.name
        );
        for f in &m.fields {
            let mut bits = 0u16;
            for (c, bit) in [
                ('e', 1),
                ('z', 2),
                ('p', 4),
                ('i', 8),
                ('o', 16),
                ('r', 32),
                ('m', 64),
                ('k', 128),
                ('R', 256),
                ('a', 2048),
            ] {
                if f.flags.contains(c) {
                    bits |= bit;
                }
            }
            let list = match f.list {
                "" => "None",
                "atomic" => "Atomic",
                "set" => "Set",
                "map" => "Map",
                other => panic!("unknown list type {other}"),
            };
            let _ = write!(
                out,
                "Field{{json:{:?},go:{:?},tag:{},ty:{},flags:{bits},go_type:{:?}",
                f.json,
                f.go,
                f.tag,
                type_expr(f.ty, &ids),
                f.go_type
            );
            if list != "None" {
                let _ = write!(out, ",list:ListKind::{list}");
            }
            if !f.keys.is_empty() {
                let _ = write!(out, ",keys:{}", strings(f.keys));
            }
            if !f.merge_key.is_empty() {
                let _ = write!(out, ",merge_key:{:?}", f.merge_key);
            }
            if !f.default.is_empty() {
                let _ = write!(out, ",default:{:?}", f.default);
            }
            if !f.values.is_empty() {
                let _ = write!(out, ",values:{}", strings(enums[f.values]));
            }
            out.push_str(",..F},");
        }
        out.push_str("],names:&[");
        for (name, (at, inner)) in names(m, &all) {
            let _ = write!(out, "({name:?},{at},{inner}),");
        }
        out.push_str("],tags:&[");
        let mut tags: Vec<(u32, usize)> = m
            .fields
            .iter()
            .enumerate()
            .filter(|(_, f)| f.tag > 0)
            .map(|(i, f)| (f.tag, i))
            .collect();
        tags.sort_unstable();
        for (tag, at) in tags {
            let _ = write!(out, "({tag},{at}),");
        }
        let _ = writeln!(
            out,
            "],open:false,atomic:{},type_meta:{}}};",
            m.flags.contains('a'),
            m.flags.contains('k')
        );
    }
    let _ = writeln!(out, "static INDEX:&[(&str,&str,&Message)]=&[");
    for ((api_version, name), id) in &index {
        let _ = writeln!(out, "({api_version:?},{name:?},&M{id}),");
    }
    out.push_str("];\n");
    let _ = writeln!(
        out,
        "static OBJECT_META:&Message=&M{};",
        ids["meta.k8s.io/v1.ObjectMeta"]
    );
    let _ = writeln!(
        out,
        "static LIST_META:&Message=&M{};",
        ids["meta.k8s.io/v1.ListMeta"]
    );
    out
}

fn resources(text: &str) -> String {
    let mut out = String::from(
        "/// All built-in resources, in discovery's order of groups, versions and resources.\npub static ALL: &[Resource] = &[\n",
    );
    let mut open = false;
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let c: Vec<&str> = line.split('\t').collect();
        match c[0] {
            "R" => {
                if open {
                    out.push_str("]},\n");
                }
                open = true;
                let _ = write!(
                    out,
                    "Resource{{group:{:?},version:{:?},resource:{:?},singular:{:?},kind:{:?},kind_group:{:?},kind_version:{:?},\
                     namespaced:{},verbs:{},short_names:{},categories:{},subresources:&[",
                    c[1],
                    c[2],
                    c[3],
                    c[4],
                    c[5],
                    c[6],
                    c[7],
                    c[8] == "Namespaced",
                    strings(c[9]),
                    strings(c[10]),
                    strings(c[11])
                );
            }
            "S" => {
                let _ = write!(
                    out,
                    "Subresource{{name:{:?},group:{:?},version:{:?},kind:{:?},verbs:{}}},",
                    c[1],
                    c[2],
                    c[3],
                    c[4],
                    strings(c[5])
                );
            }
            other => panic!("unknown line {other}"),
        }
    }
    if open {
        out.push_str("]},\n");
    }
    out.push_str("];\n");
    out
}

fn main() {
    println!("cargo::rerun-if-changed=data");
    println!("cargo::rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let read = |name: &str| {
        fs::read_to_string(Path::new("data").join(name)).expect("the data file is readable")
    };
    fs::write(Path::new(&out).join("types.rs"), types(&read("types.txt")))
        .expect("OUT_DIR is writable");
    fs::write(
        Path::new(&out).join("resources.rs"),
        resources(&read("resources.txt")),
    )
    .expect("OUT_DIR is writable");
}
