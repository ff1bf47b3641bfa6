#!/bin/sh
# Installs what chaosrun's two commands need on Debian 12, as root: says what it does, does nothing the second time.
# Usage: scripts/prepare.sh [build] [lab] [spark] [test]
set -eu

say() { printf 'prepare: %s\n' "$*" >&2; }

# Installs the Debian packages among "$@" that are missing.
packages() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        say "as root, install:$missing"
        exit 1
    fi
    say "installing from Debian:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# Debian's prometheus comes with a service of its own, which the lab does not need.
prometheus() {
    [ -x /usr/bin/prometheus ] && return 0
    packages prometheus
    if [ -d /run/systemd/system ]; then
        say "the package started a Prometheus service; the lab runs its own, so it is switched off"
        systemctl disable --quiet --now prometheus || say "it could not be switched off; that does no harm"
    fi
}

toolchain() {
    if ! command -v cargo >/dev/null 2>&1 && [ -x "$HOME/.cargo/bin/cargo" ]; then
        say "cargo is in $HOME/.cargo/bin but not on the PATH: run '. \$HOME/.cargo/env' first"
        exit 1
    fi
    if ! command -v cargo >/dev/null 2>&1; then
        say "there is no Rust toolchain. Get one (1.95 or newer) with rustup:"
        say "  apt-get install -y curl && curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y"
        say "  . \"\$HOME/.cargo/env\""
        exit 1
    fi
    # Some crates bring C code, and Rust links with cc.
    packages gcc libc6-dev
}

for part in "$@"; do
    case $part in
    build) toolchain ;;
    lab)
        packages runc nftables iproute2 iptables tini procps
        prometheus
        ;;
    spark)
        if [ ! -x /usr/bin/java ]; then packages openjdk-17-jre-headless; fi
        packages python3 python3-pip ca-certificates
        "$(dirname "$0")/install-spark.sh"
        ;;
    test)
        # Steps the clock of one process.
        packages libfaketime
        # librdkafka (the feature kafka) is built from source.
        packages make g++
        # Debian's is old and does; one that is there already, of whatever origin, is better.
        command -v kubectl >/dev/null 2>&1 || packages kubernetes-client
        if ! cargo nextest --version >/dev/null 2>&1; then
            say "installing cargo-nextest (once)"
            cargo install --locked --quiet cargo-nextest
        fi
        ;;
    *)
        say "unknown part: $part"
        exit 64
        ;;
    esac
done
