#!/usr/bin/env python3
"""Import facts about the built-in resources into crates/registry.

usage: hack/import-registry-data.py GOLDEN_DIR

Reads table-columns.json and bootstrap-objects.json of a facts directory and writes
  crates/registry/src/print/columns.rs    the columns of every resource's table
  crates/registry/data/bootstrap.json     what the apiserver creates by itself
Objects of the distribution the facts were taken from are left out.
"""
import json
import pathlib
import sys

HEAD = '''//! The columns of every resource's table. Written by hack/import-registry-data.py; do not edit.

use apiserver::resource::Column;

const fn column(name: &'static str, type_: &'static str, format: &'static str, priority: i32) -> Column {
    Column { name, type_, format, description: "", priority }
}

'''


def key(path):
    parts = path.strip("/").split("/")
    return ("", parts[1], parts[2]) if parts[0] == "api" else tuple(parts[1:])


def columns(facts, out):
    text = [HEAD]
    rows = []
    for path, cols in sorted(facts.items(), key=lambda kv: key(kv[0])):
        group, version, resource = key(path)
        name = "_".join(x for x in (group.split(".")[0], version, resource) if x).upper()
        text.append(f"static {name}: [Column; {len(cols)}] = [\n")
        for n, t, f, p in cols:
            text.append(f"    column({json.dumps(n)}, {json.dumps(t)}, {json.dumps(f)}, {p}),\n")
        text.append("];\n\n")
        rows.append(f'        ("{group}", "{version}", "{resource}") => &{name},\n')
    text.append("/// The columns of a resource; `None` for resources without a table.\n")
    text.append("pub fn columns(group: &str, version: &str, resource: &str) -> Option<&'static [Column]> {\n")
    text.append("    let found: &'static [Column] = match (group, version, resource) {\n")
    text.extend(rows)
    text.append("        _ => return None,\n    };\n    Some(found)\n}\n")
    out.write_text("".join(text))


KEEP = {
    "/apis/rbac.authorization.k8s.io/v1/clusterroles": "rbac.authorization.k8s.io/v1 ClusterRole",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings": "rbac.authorization.k8s.io/v1 ClusterRoleBinding",
    "/apis/rbac.authorization.k8s.io/v1/roles": "rbac.authorization.k8s.io/v1 Role",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings": "rbac.authorization.k8s.io/v1 RoleBinding",
    "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas": "flowcontrol.apiserver.k8s.io/v1 FlowSchema",
    "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations":
        "flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration",
    "/apis/scheduling.k8s.io/v1/priorityclasses": "scheduling.k8s.io/v1 PriorityClass",
    "/api/v1/namespaces": "v1 Namespace",
    "/apis/apiregistration.k8s.io/v1/apiservices": "apiregistration.k8s.io/v1 APIService",
}
FOREIGN = ("openshift", "microshift", "securitycontextconstraints", "service-ca-cert-publisher")


def foreign(obj):
    return any(word in json.dumps(obj).lower() for word in FOREIGN)


def bootstrap(facts, out):
    objects = []
    for path, kind in KEEP.items():
        api_version, kind = kind.split(" ")
        resource = path.rsplit("/", 1)[1]
        for o in facts[path]:
            meta = o["metadata"]
            if kind == "Namespace" and meta["name"] not in (
                    "default", "kube-system", "kube-public", "kube-node-lease"):
                continue
            o = {k: v for k, v in o.items() if k not in ("status", "apiVersion", "kind")}
            o["metadata"] = {k: v for k, v in meta.items() if k in ("name", "namespace", "labels", "annotations")}
            if foreign(o):
                print("left out:", resource, meta["name"])
                continue
            objects.append({"apiVersion": api_version, "kind": kind, "resource": resource, **o})
    lines = ",\n".join(json.dumps(o, sort_keys=True, separators=(",", ":")) for o in objects)
    out.write_text("[\n" + lines + "\n]\n")
    print(len(objects), "bootstrap objects")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    golden = pathlib.Path(sys.argv[1])
    crate = pathlib.Path(__file__).resolve().parent.parent / "crates/registry"
    (crate / "data").mkdir(exist_ok=True)
    (crate / "src/print").mkdir(exist_ok=True)
    columns(json.loads((golden / "table-columns.json").read_text()), crate / "src/print/columns.rs")
    bootstrap(json.loads((golden / "bootstrap-objects.json").read_text()), crate / "data/bootstrap.json")


if __name__ == "__main__":
    main()
