#!/bin/sh
# All tests: unit, property and snapshot tests, and the end-to-end ones in real labs, with real Spark among them.
set -eu
cd "$(dirname "$0")/.."

scripts/prepare.sh build lab spark test
echo "test: cargo nextest run --workspace" >&2
cargo nextest run --workspace "$@"
echo "test: documentation examples" >&2
cargo test --workspace --doc --quiet
# librdkafka is built from source for it, and brings its own double of a broker.
if command -v make >/dev/null; then
    echo "test: ledgers in Kafka (cargo nextest run --lib --features kafka)" >&2
    cargo nextest run --lib --features kafka -E 'test(kafka)'
else
    echo "test: there is no make here, so ledgers in Kafka are not tested (apt-get install make)" >&2
fi
