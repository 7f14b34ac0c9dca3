#!/bin/bash
# Fuzzes the targets of tests/fuzz, or those named, for SECONDS_EACH seconds (60) each, two at a time, from the inputs in
# tests/fuzz/seeds. What coverage found goes to CORPUS (a folder of the build), so that a later run goes on from it.
#
# Needs Rust as it is and a C++ compiler: the coverage that libFuzzer looks at is a pass of LLVM that stable rustc has.
# A find is written to tests/fuzz/finds/TARGET-…; run it again with: REPLAY=1 hack/fuzz.sh TARGET < FIND
set -euo pipefail
cd "$(dirname "$0")/../tests/fuzz"

seconds=${SECONDS_EACH:-60}
jobs=${JOBS:-2}
folder=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
corpus=${CORPUS:-$folder/corpus}
host=$(rustc -vV | sed -n 's/^host: //p')

# A target of its own, so that build scripts and macros are not instrumented.
CARGO_TARGET_DIR=$folder RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
  ${CARGO:-cargo} build --release --locked --target "$host"
binary=$folder/$host/release/keelson-fuzz

# Trees of ten thousand levels are dropped recursively, as on the apiserver's threads.
ulimit -s 131072

if [ $# = 1 ] && [ ! -t 0 ] && [ -n "${REPLAY:-}" ]; then
  find=$(mktemp)
  cat >"$find"
  FUZZ_TARGET=$1 exec "$binary" "$find"
fi

fuzz() {
  local target=$1 log
  mkdir -p "$corpus/$target" finds
  log=$(mktemp)
  if FUZZ_TARGET=$target "$binary" "$corpus/$target" "seeds/$target" -max_total_time="$seconds" -max_len=65536 \
    -seed="${SEED:-1}" -timeout=20 -rss_limit_mb=2048 -artifact_prefix="finds/$target-" -print_final_stats=1 >"$log" 2>&1; then
    echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: //p' "$log") runs in $seconds s"
    rm -f "$log"
  else
    tail -40 "$log"
    echo "fuzz: $target failed; the input is in tests/fuzz/finds" >&2
    return 1
  fi
}

if [ $# -gt 0 ]; then targets=("$@"); else
  targets=(seeds/*/)
  targets=("${targets[@]%/}")
  targets=("${targets[@]#seeds/}")
fi

failed=0
for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || failed=1; done
  fuzz "$target" &
done
while [ -n "$(jobs -p)" ]; do wait -n || failed=1; done
exit "$failed"
