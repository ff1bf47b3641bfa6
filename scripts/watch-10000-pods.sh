#!/usr/bin/env bash
# What one run costs that watches 10,000 pods: memory, and processor time while nothing happens. The pods are objects in the store of the
# lab's API server, which runs in the test's process; nothing runs them. About a minute after the build.
set -euo pipefail
cd "$(dirname "$0")/.."
export CHAOSRUN_PODS="${CHAOSRUN_PODS:-10000}"
export CHAOSRUN_QUIET_SECONDS="${CHAOSRUN_QUIET_SECONDS:-30}"
cargo test --release --quiet --test e2e -- --nocapture thousands_of_pods
