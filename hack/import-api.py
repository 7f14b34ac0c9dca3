#!/usr/bin/env python3
"""Imports facts about the Kubernetes API into crates/api.

usage: import-api.py TYPES_JSON DISCOVERY_AGGREGATED_JSON TABLE_COLUMNS_JSON ROUNDTRIP_DIR

Writes crates/api/data/types.txt, resources.txt, columns.txt and crates/api/testdata/roundtrip.tar.gz. The formats are
described at the head of each file; crates/api/build.rs reads them.
"""

import gzip
import io
import json
import os
import re
import sys
import tarfile

PACKAGES = {
    "metav1": "meta.k8s.io/v1",
    "corev1": "/v1",
    "apiv1": "/v1",
    "batchv1": "batch/v1",
    "authenticationv1": "authentication.k8s.io/v1",
    "authorizationv1": "authorization.k8s.io/v1",
    "schedulingv1alpha3": "scheduling.k8s.io/v1alpha3",
}
# Go package name as errors print it, for types outside the API groups.
BUILTIN = {
    "string": "string", "bool": "bool", "int": "i64", "int8": "i32", "int16": "i32", "int32": "i32", "int64": "i64",
    "uint8": "u32", "uint32": "u32", "uint64": "u64", "float64": "f64", "float32": "f64", "interface{}": "any",
    "any": "any", "byte": "u32",
    "resource.Quantity": "quantity", "intstr.IntOrString": "intstr", "runtime.RawExtension": "raw",
    "types.UID": "string", "types.NamespacedName": "string", "types.NodeName": "string",
    "apimachinerytypes.UID": "string", "apimachinerytypes.NodeName": "string", "types.PatchType": "string",
    "time.Duration": "i64", "time.Time": "time",
}
SPECIAL = {
    ("meta.k8s.io/v1", "Time"): "time", ("meta.k8s.io/v1", "MicroTime"): "microtime",
    ("meta.k8s.io/v1", "Duration"): "duration", ("meta.k8s.io/v1", "FieldsV1"): "fieldsv1",
}
for v in ("v1", "v1beta1"):
    g = "apiextensions.k8s.io/" + v
    SPECIAL[(g, "JSON")] = "json"
    SPECIAL[(g, "JSONSchemaPropsOrArray")] = "schema-or-array:" + g + ".JSONSchemaProps"
    SPECIAL[(g, "JSONSchemaPropsOrBool")] = "schema-or-bool:" + g + ".JSONSchemaProps"
    SPECIAL[(g, "JSONSchemaPropsOrStringArray")] = "schema-or-strings:" + g + ".JSONSchemaProps"


RW = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
STATUS_VERBS = ["get", "patch", "update"]


def newer(group, version, kind, resource, scope, status=True):
    gvk = {"group": group, "version": version, "kind": kind}
    sub = [{"subresource": "status", "responseKind": gvk, "verbs": STATUS_VERBS}] if status else []
    return (group, version, {"resource": resource, "responseKind": gvk, "scope": scope,
                             "singularResource": kind.lower(), "verbs": RW, "subresources": sub})


# Served by default since the version of types.json, absent from the older discovery.
NEWER = [
    newer("certificates.k8s.io", "v1", "ClusterTrustBundle", "clustertrustbundles", "Cluster", status=False),
    newer("certificates.k8s.io", "v1", "PodCertificateRequest", "podcertificaterequests", "Namespaced"),
    newer("resource.k8s.io", "v1", "DeviceTaintRule", "devicetaintrules", "Cluster"),
    newer("storagemigration.k8s.io", "v1", "StorageVersionMigration", "storageversionmigrations", "Cluster"),
]


class Types:
    def __init__(self, data):
        self.data = data
        self.enums = {}

    def find(self, group, name):
        """The (group, name) that a Go type name means inside a group's package."""
        if "." in name:
            package, name = name.split(".")
            if package in PACKAGES:
                return (PACKAGES[package], name)
            for g in (["meta.k8s.io/v1"] if group.startswith(("apidiscovery", "meta.")) else []) + [
                "/v1", group.split("/")[0] + "/v1", "meta.k8s.io/v1", "authentication.k8s.io/v1",
            ]:
                if name in self.data.get(g, {}):
                    return (g, name)
            raise SystemExit(f"unknown type {package}.{name} in {group}")
        if name in self.data[group] or (group, name) in SPECIAL:
            return (group, name)
        stable = group.split("/")[0] + "/v1"  # an alias of the stable version's type
        if name in self.data.get(stable, {}):
            return (stable, name)
        # Structs without fields are not in the data.
        self.data[group][name] = {"shape": "struct", "fields": [], "markers": []}
        print("assumed to be an empty struct:", group, name)
        return (group, name)

    def resolve(self, group, text):
        """(type expression, Go text) of a Go type without its outer pointer."""
        text = text.lstrip("*")
        if text == "[]byte":
            return "bytes", "[]uint8"
        if text.startswith("[]"):
            inner, go = self.resolve(group, text[2:])
            return "[]" + inner, "[]" + ("*" if text[2:3] == "*" else "") + go
        m = re.match(r"map\[([^\]]+)\](.*)", text)
        if m:
            key = m.group(1)
            if key == "string":
                gokey = "string"
            else:
                gokey = self.resolve(group, key)[1]
            inner, go = self.resolve(group, m.group(2))
            return "{}" + inner, f"map[{gokey}]{go}"
        if text in BUILTIN:
            go = text.replace("apimachinerytypes", "types").replace("interface{}", "interface {}")
            return BUILTIN[text], go
        g, name = self.find(group, text)
        version = g.split("/")[1] or "runtime"
        go = f"{version}.{name}"
        if (g, name) in SPECIAL:
            return SPECIAL[(g, name)], go
        t = self.data[g][name]
        if t["shape"] == "struct":
            return f"m:{g}.{name}", go
        expr, _ = self.resolve(g, t["of"])
        markers = [m[0] for m in t.get("markers", [])]
        if "protobuf.nullable" in markers:
            expr = "w" + expr
        if ("enum" in markers or "k8s:enum" in markers) and t.get("values"):
            self.enums[go + "@" + g] = t["values"]
        return expr, go


def markers_of(f, name):
    return [m[1] for m in f.get("markers", []) if m[0] in (name, "k8s:" + name) and len(m) > 1]


def has(f, name):
    return any(m[0] in (name, "k8s:" + name) for m in f.get("markers", []))


def write_types(types, out):
    print("# M group/version name flags: a struct; flags: a=atomic for server-side apply, k=a kind (has kind and apiVersion).", file=out)
    print("# Then one field a line: json go tag type go-type flags list-kind keys merge-key default enum", file=out)
    print("# Flags: e omitempty, z omitzero, p pointer, i inline, o optional, r required, m/k/R patch merge/retainKeys/replace, a atomic.", file=out)
    for group in sorted(types.data):
        if group == "runtime/":
            continue
        for name, t in sorted(types.data[group].items()):
            if t["shape"] != "struct" or (group, name) in SPECIAL:
                continue
            flags = ""
            if any(m[0] in ("structType", "k8s:structType") and "atomic" in str(m[1:]) for m in t.get("markers", [])):
                flags += "a"
            rows = []
            for f in t["fields"]:
                text = f["type"]
                if text in ("TypeMeta", "metav1.TypeMeta", "v1.TypeMeta") and f.get("inline"):
                    flags += "k"
                    continue
                if not f.get("json") and not f.get("inline"):
                    continue
                expr, go = types.resolve(group, text)
                fl = ""
                fl += "e" if f.get("omitempty") else ""
                fl += "z" if f.get("omitzero") else ""
                fl += "p" if text.startswith("*") else ""
                fl += "i" if f.get("inline") else ""
                fl += "o" if has(f, "optional") else ""
                fl += "r" if has(f, "required") else ""
                strategy = f.get("patchStrategy", "").split(",")
                fl += "m" if "merge" in strategy else ""
                fl += "k" if "retainKeys" in strategy else ""
                fl += "R" if "replace" in strategy else ""
                lt = (markers_of(f, "listType") or [""])[0]
                mt = (markers_of(f, "mapType") or markers_of(f, "structType") or [""])[0]
                fl += "a" if mt == "atomic" else ""
                keys = markers_of(f, "listMapKey")
                default = (markers_of(f, "default") or [""])[0]
                tag = f.get("proto", {}).get("tag", 0)
                base = go.split("]")[-1].lstrip("*")
                enum = ""
                for key in types.enums:
                    n, g = key.split("@")
                    if n == base and base.split(".")[-1] in types.data[g] and n.split(".")[-1] != "":
                        # The same printed name may exist in several groups; resolve again to be exact.
                        inner = re.sub(r"^(\*|\[\]|map\[[^\]]+\])+", "", text)
                        if inner in BUILTIN:
                            continue
                        if types.find(group, inner) == (g, base.split(".")[-1]):
                            enum = key
                rows.append([f.get("json", ""), f["name"], str(tag), expr, go, fl, lt, ",".join(dict.fromkeys(keys)),
                             f.get("patchMergeKey", ""), default, enum])
            print("M", group, name, flags or "-", sep="\t", file=out)
            for r in rows:
                print("", *r, sep="\t", file=out)
    for key, values in sorted(types.enums.items()):
        print("E", key, ",".join(values), sep="\t", file=out)


def write_resources(discovery, types, out):
    print("# R group version resource singular kind kind-group kind-version scope verbs short-names categories", file=out)
    print("# S (of the resource above) name group version kind verbs", file=out)
    have = set()
    def one(group, version, r):
        k = r["responseKind"]
        have.add((group, version, k["kind"]))
        print("R", group, version, r["resource"], r.get("singularResource", ""), k["kind"], k["group"] or group,
              k["version"] or version, r["scope"], ",".join(r.get("verbs", [])), ",".join(r.get("shortNames", [])),
              ",".join(r.get("categories", [])), sep="\t", file=out)
        for s in r.get("subresources", []):
            k = s.get("responseKind", {})
            print("S", s["subresource"], k.get("group", "") or group, k.get("version", "") or version, k.get("kind", ""),
                  ",".join(s.get("verbs", [])), sep="\t", file=out)
    for path in ("/api", "/apis"):
        for g in discovery[path]["items"]:
            group = g.get("metadata", {}).get("name", "")
            if group and not (group.endswith(".k8s.io") or "." not in group):
                continue  # served by a distribution's own extensions
            for v in g["versions"]:
                for r in v["resources"]:
                    one(group, v["version"], r)
    for group, version, r in NEWER:
        one(group, version, r)
    return have


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crates", "api")
    types = Types(json.load(open(sys.argv[1])))
    for pass_ in (1, 2):  # the first pass collects enumerations
        buf = io.StringIO()
        write_types(types, buf)
    os.makedirs(os.path.join(root, "data"), exist_ok=True)
    open(os.path.join(root, "data", "types.txt"), "w").write(buf.getvalue())
    buf = io.StringIO()
    have = write_resources(json.load(open(sys.argv[2])), types, buf)
    open(os.path.join(root, "data", "resources.txt"), "w").write(buf.getvalue())
    columns = json.load(open(sys.argv[3]))
    buf = io.StringIO()
    print("# C resource-path; then one column a line: name type format priority", file=buf)
    for path, cols in sorted(columns.items()):
        print("C", path, sep="\t", file=buf)
        for c in cols or []:
            print("", *c, sep="\t", file=buf)
    open(os.path.join(root, "data", "columns.txt"), "w").write(buf.getvalue())

    os.makedirs(os.path.join(root, "testdata"), exist_ok=True)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(os.listdir(sys.argv[4])):
            data = open(os.path.join(sys.argv[4], name), "rb").read()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with open(os.path.join(root, "testdata", "roundtrip.tar.gz"), "wb") as f:
        with gzip.GzipFile(fileobj=f, mode="wb", compresslevel=9, mtime=0) as z:
            z.write(raw.getvalue())

    for group in types.data:
        for name, t in types.data[group].items():
            m = {x[0]: x[1] if len(x) > 1 else "" for x in t.get("markers", [])}
            g, _, v = group.rpartition("/")
            intro = m.get("k8s:prerelease-lifecycle-gen:introduced", "")
            if "genclient" in m and intro.startswith("1.3") and (g, v, name) not in have and "a" not in v and "b" not in v:
                print("GA but not in the discovery given:", group, name, "since", intro)


main()
