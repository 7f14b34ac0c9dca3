#!/bin/bash
# Fuzzes every target of tests/fuzz for SECONDS_EACH seconds (60). Needs cargo-fuzz and a nightly toolchain.
set -euo pipefail
cd "$(dirname "$0")/../tests"
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "fuzz: cargo-fuzz is missing: cargo install cargo-fuzz, and rustup toolchain install nightly" >&2
  exit 1
fi
for target in $(cargo +nightly fuzz list); do
  echo "== $target"
  cargo +nightly fuzz run "$target" -- -max_total_time="${SECONDS_EACH:-60}" -rss_limit_mb=2048
done
