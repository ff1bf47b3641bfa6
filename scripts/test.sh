#!/bin/sh
# All tests: unit, property and snapshot tests, and the end-to-end ones in real labs, with real Spark among them.
set -eu
cd "$(dirname "$0")/.."

scripts/prepare.sh build lab spark test
echo "test: cargo nextest run --workspace" >&2
cargo nextest run --workspace "$@"
echo "test: documentation examples" >&2
cargo test --workspace --doc --quiet
