#!/usr/bin/env python3
"""Imports recorded exchanges with an upstream apiserver into tests/golden.

Usage: hack/import-golden.py <folder with exchanges.json>

Each exchange is one line of JSON, so that a change of one shows as one line.
"""

import json
import pathlib
import sys


def main() -> None:
    source = pathlib.Path(sys.argv[1]) / "exchanges.json"
    target = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/exchanges.json"
    exchanges = json.loads(source.read_text())
    lines = [json.dumps(e, ensure_ascii=False, separators=(",", ":")) for e in exchanges]
    target.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(exchanges)} exchanges")


if __name__ == "__main__":
    main()
