#!/bin/sh
# The main job, from nothing: kills the driver of a real Apache Spark streaming job in the embedded lab and prints the verdict.
set -eu
cd "$(dirname "$0")/.."

scripts/prepare.sh build lab
if scripts/prepare.sh spark; then
    set -- "$@"
else
    echo "demo: Java or Spark cannot be had here: the BUILT-IN PIPELINE runs instead of Apache Spark, a stand-in" >&2
    set -- --var MANIFEST=../kind-config/builtin-pipeline.yaml "$@"
fi
echo "demo: building chaosrun (release; some minutes the first time)" >&2
cargo build --release --bin chaosrun
exec target/release/chaosrun --lab scenarios/driver-kill.yaml "$@"
