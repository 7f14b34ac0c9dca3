#!/usr/bin/env python3
"""Mutation test on a random sample: changes one place at a time and tells which changes no test notices.

    hack/mutants.py [--seed N] [--count N] [--crates a,b] [--round N] [--list] [--output DIR]

Needs cargo-mutants (cargo install cargo-mutants --locked). Works on a copy of the tracked files at HEAD in a temporary
directory, so that the tree is not touched; what it builds goes to target/mutants, or CARGO_TARGET_DIR. The sample is drawn
evenly from all mutants of the crates: the same commit and seed give the same sample. cargo-mutants passes over its own
filters where it deletes a field of a struct, so those are not drawn, and all of a crate's run beside its part of the sample.
Each mutant costs a build and a run of its crate's tests, so a sample of 300 takes hours. It is gone through in rounds, each a
smaller sample of all the crates, so that a run that is stopped has been fair to each. Writes caught.txt, missed.txt,
timeout.txt and unviable.txt for each round and crate into the output directory, target/mutants.out, and prints the sums after
each round. Ends with 1 if a mutant was missed.
"""

import argparse
import collections
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

CRATES = "wire,patch,auth,scheduler,storage,admission"
OUTCOMES = ["caught", "missed", "timeout", "unviable"]
ROOT = pathlib.Path(__file__).resolve().parent.parent


def mutants(crate, place):
    """The names of all mutants of a crate: file, place and change."""
    command = ["cargo", "mutants", "--list", "--package", f"keelson-{crate}"]
    out = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    found = [line for line in out.stdout.splitlines() if line.startswith("crates/")]
    return [name for name in found if ": delete field " not in name]


def exactly(name):
    """A regular expression that matches this name alone."""
    return "^" + re.sub(r"[^\w /:<>=&,;'\"!%@-]", lambda m: "\\" + m.group(), name) + "$"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--crates", default=CRATES)
    parser.add_argument("--round", type=int, default=40, help="mutants in a round")
    parser.add_argument("--list", action="store_true", help="print the sample and end")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "target" / "mutants.out")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as place:
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
        all_of = {crate: mutants(crate, place) for crate in options.crates.split(",")}
        every = sorted((crate, name) for crate, names in all_of.items() for name in names)
        sample = random.Random(options.seed).sample(every, min(options.count, len(every)))
        if options.list:
            print("\n".join(name for _, name in sorted(sample)))
            return 0

        environment = {"CARGO_TARGET_DIR": str(ROOT / "target" / "mutants"), **os.environ}
        sums = collections.Counter()
        tested = set()
        for start in range(0, len(sample), options.round):
            by_crate = collections.defaultdict(list)
            for crate, name in sample[start : start + options.round]:
                by_crate[crate].append(name)
            for crate, names in sorted(by_crate.items()):
                output = options.output / f"{start:03}" / crate
                output.mkdir(parents=True, exist_ok=True)
                command = ["cargo", "mutants", "--in-place", "--package", f"keelson-{crate}"]
                command += ["--timeout", "300", "--output", str(output), "--colors", "never", "--no-times"]
                # The unchanged crate passes its tests or the run ends, but it has to show it only once.
                if crate in tested:
                    command += ["--baseline", "skip"]
                tested.add(crate)
                for name in names:
                    command += ["--re", exactly(name)]
                subprocess.run(command, cwd=place, env=environment, check=False)
                for outcome in OUTCOMES:
                    found = output / "mutants.out" / f"{outcome}.txt"
                    sums[outcome] += len(found.read_text().splitlines()) if found.exists() else 0
            done = min(start + options.round, len(sample))
            told = ", ".join(f"{sums[outcome]} {outcome}" for outcome in OUTCOMES)
            print(f"== {told}; {done} of {len(sample)} drawn from {len(every)}, seed {options.seed}", flush=True)
    return 1 if sums["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
