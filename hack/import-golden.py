#!/usr/bin/env python3
"""Imports recorded exchanges with an upstream apiserver, and the names of upstream's metrics, into tests/golden.

Usage: hack/import-golden.py <folder with exchanges.json and metrics.json>

Each exchange is one line of JSON, so that a change of one shows as one line. metrics.tsv: daemon, metric family.
"""

import json
import pathlib
import sys


def main() -> None:
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(__file__).resolve().parent.parent / "tests/golden"
    exchanges = json.loads((source / "exchanges.json").read_text())
    lines = [json.dumps(e, ensure_ascii=False, separators=(",", ":")) for e in exchanges]
    (target / "exchanges.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    metrics = json.loads((source / "metrics.json").read_text())
    rows = [f"{daemon}\t{name}\n" for daemon, families in metrics.items() for name in sorted(families)]
    (target / "metrics.tsv").write_text("".join(rows))
    print(f"{len(exchanges)} exchanges, {len(rows)} metric families")


if __name__ == "__main__":
    main()
