#!/usr/bin/env python3
"""Imports upstream's flags and feature gates into crates/component/data.

usage: hack/import-flags.py FLAGS_JSON [UPSTREAM_SOURCE]

FLAGS_JSON: {daemon: {flag: {type, section, default?, deprecated?, short?}}}, as the daemons' help prints them.
UPSTREAM_SOURCE: a kubernetes source tree; its *features*.go give data/features.tsv.

flags.tsv: daemon, flag, type, default, section, short, "deprecated" or empty; one line per flag.
features.tsv: gate, stage (ALPHA, BETA, GA, DEPRECATED), default, "locked" or empty.
"""

import json
import pathlib
import re
import sys

# Flags of one distribution, not of Kubernetes.
FOREIGN = {"unsupported-kube-api-over-localhost", "openshift-config", "openshift-managed"}
LEVEL = (1, 37)


def flags(source, out):
    lines = []
    for daemon, table in json.load(open(source)).items():
        for name, f in sorted(table.items()):
            if name in FOREIGN:
                continue
            default = f.get("default", "")
            if default.startswith('"'):
                default = json.loads(default)
            deprecated = "deprecated" if f.get("deprecated") else ""
            row = [daemon, name, f["type"], default, f["section"], f.get("short", ""), deprecated]
            assert not any("\t" in c or "\n" in c for c in row), row
            lines.append("\t".join(row))
    out.write_text("\n".join(lines) + "\n")


def gates(tree, out):
    found = {"AllAlpha": ("ALPHA", "false", ""), "AllBeta": ("BETA", "false", "")}
    files = list(pathlib.Path(tree, "pkg/features").glob("kube_features.go"))
    libraries = pathlib.Path(tree, "staging/src/k8s.io")
    files += libraries.rglob("kube_features.go")
    files += libraries.glob("client-go/features/known_features.go")
    for path in files:
        text = path.read_text()
        names = dict(re.findall(r'^\s*(\w+)\s+(?:(?:featuregate\.)?Feature)?\s*=\s*(?:featuregate\.Feature\()?"(\w+)"', text, re.M))
        for const, specs in re.findall(r"^\t+(?:[a-z]\w*\.)?(\w+): \{\n(.*?)^\t+\},$", text, re.M | re.S):
            best = None
            for major, minor, rest in re.findall(r'MustParse\("(\d+)\.(\d+)"\),(.*?)\}', specs):
                if (int(major), int(minor)) <= LEVEL:
                    best = rest
            if best is None:
                continue
            stage = re.search(r"PreRelease:\s*(?:featuregate\.)?(\w+)", best)
            stage = {"Alpha": "ALPHA", "Beta": "BETA", "GA": "GA", "Deprecated": "DEPRECATED"}.get(stage.group(1) if stage else "GA", "ALPHA")
            on = "true" if re.search(r"\bDefault:\s*true", best) else "false"
            locked = "locked" if "LockToDefault: true" in best else ""
            found[names.get(const, const)] = (stage, on, locked)
    out.write_text("".join("\t".join((n, *found[n])) + "\n" for n in sorted(found)))


here = pathlib.Path(__file__).resolve().parent.parent / "crates/component/data"
here.mkdir(exist_ok=True)
flags(sys.argv[1], here / "flags.tsv")
if len(sys.argv) > 2:
    gates(sys.argv[2], here / "features.tsv")
