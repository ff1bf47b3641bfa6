#!/usr/bin/env bash
# The same pod kill by chaosrun and by Chaos Toolkit, side by side in the lab: time, processor, memory, API requests, and what each says
# of the recovery, against what the killed workload stamped itself. Needs what the lab needs (Linux, root, runc) and Python 3 with venv;
# installs Chaos Toolkit from PyPI under the cache folder. CHAOSRUN names another chaosrun than the release build.
#
#     scripts/compare-chaostoolkit.sh [RUNS]        prints Markdown; docs/comparison-chaostoolkit.md is its output
set -euo pipefail
cd "$(dirname "$0")/.."

chaostoolkit=1.19.0
kubernetes_extension=0.39.0
cache="${XDG_CACHE_HOME:-$HOME/.cache}/chaosrun/chaostoolkit-$chaostoolkit-$kubernetes_extension"
lab=compare-chaostoolkit

if [ -z "${CHAOSRUN:-}" ]; then
    cargo build --release --quiet --bin chaosrun
    CHAOSRUN=target/release/chaosrun
fi
CHAOSRUN=$(realpath "$CHAOSRUN")

if [ ! -x "$cache/bin/chaos" ]; then
    echo "installing Chaos Toolkit $chaostoolkit into $cache" >&2
    python3 -m venv "$cache"
    "$cache/bin/pip" install --quiet "chaostoolkit==$chaostoolkit" "chaostoolkit-kubernetes==$kubernetes_extension"
fi

work=$(mktemp -d)
# On any end: no lab stays behind.
finish() {
    "$CHAOSRUN" lab down --name "$lab" >&2 || true
    rm -rf "$work"
}
trap finish EXIT

"$CHAOSRUN" lab up --name "$lab" >&2
eval "$("$CHAOSRUN" lab env --name "$lab")"
export KUBECONFIG
"$cache/bin/python" scripts/compare_chaostoolkit.py \
    --chaosrun "$CHAOSRUN" --chaos "$cache/bin/chaos" --work "$work" --runs "${1:-5}"
