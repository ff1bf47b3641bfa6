#!/bin/sh
# Puts Apache Spark where the lab looks for it. The jars come with the PyPI source package `pyspark`.
#
#   scripts/install-spark.sh            installs below $CHAOSRUN_SPARK_HOME (default /var/cache/chaosrun/spark-4.3.0)
#   PYSPARK_SDIST=file.tar.gz           uses a package that is already here instead of downloading it
#
# A second run changes nothing. Exit 0: Spark is in place; any other: it is not, and the last line says why.
set -eu

version=4.3.0
home=${CHAOSRUN_SPARK_HOME:-/var/cache/chaosrun/spark-$version}
stamp=$home/.complete

say() { printf 'install-spark: %s\n' "$*"; }
fail() { printf 'install-spark: %s\n' "$*" >&2; exit 1; }

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$version" ]; then
    say "Spark $version is already in $home"
    exit 0
fi

need_packages=""
[ -x /usr/bin/python3 ] || need_packages="$need_packages python3"
# setuptools: pip asks a source package for its metadata even when it only downloads it.
if [ -z "${PYSPARK_SDIST:-}" ] && ! /usr/bin/python3 -c 'import pip, setuptools, wheel' >/dev/null 2>&1; then
    need_packages="$need_packages python3-pip python3-setuptools python3-wheel"
fi
command -v java >/dev/null 2>&1 || need_packages="$need_packages openjdk-17-jre-headless"
command -v tini >/dev/null 2>&1 || need_packages="$need_packages tini"
if [ -n "$need_packages" ]; then
    [ "$(id -u)" = 0 ] || fail "missing:$need_packages (install them, or run this as root)"
    command -v apt-get >/dev/null 2>&1 || fail "missing:$need_packages (no apt-get here: install them by hand)"
    say "installing$need_packages"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of words on purpose
    apt-get install -y --no-install-recommends $need_packages >/dev/null 2>&1 \
        || { apt-get update -qq && apt-get install -y --no-install-recommends $need_packages >/dev/null; } \
        || fail "apt-get could not install$need_packages"
fi

mkdir -p "$(dirname "$home")" || fail "cannot create $(dirname "$home")"
# Beside the goal, so that the last step is one rename on one file system.
work=$(mktemp -d "$(dirname "$home")/.install-spark.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

sdist=${PYSPARK_SDIST:-}
if [ -z "$sdist" ]; then
    say "downloading pyspark $version (about 450 MB, once)"
    /usr/bin/python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation \
        --dest "$work" "pyspark==$version" >"$work/pip.log" 2>&1 \
        || { cat "$work/pip.log" >&2; fail "pip could not download pyspark $version"; }
    sdist=$work/pyspark-$version.tar.gz
fi
[ -f "$sdist" ] || fail "no package at $sdist"

say "unpacking"
tar -xzf "$sdist" -C "$work" || fail "cannot unpack $sdist"
source=$work/pyspark-$version
[ -d "$source/deps/jars" ] || fail "$sdist holds no deps/jars: not a pyspark source package"

# The layout of a Spark distribution: what the scripts in bin/ and the Python launcher expect.
new=$work/home
mkdir -p "$new/python/lib" "$new/conf" "$new/work-dir"
mv "$source/deps/jars" "$source/deps/bin" "$source/deps/sbin" "$new/"
mv "$source/pyspark" "$new/python/pyspark"
cp "$source"/lib/py4j-*-src.zip "$new/python/lib/"
cp "$source/lib/pyspark.zip" "$new/python/lib/" 2>/dev/null \
    || (cd "$new/python" && /usr/bin/python3 -c 'import shutil; shutil.make_archive("lib/pyspark", "zip", ".", "pyspark")')
cp "$source/LICENSE" "$source/NOTICE" "$new/" 2>/dev/null || true
# The marker that tells bin/load-spark-env.sh that this is a release and not a source tree.
printf 'Spark %s, assembled from the PyPI package pyspark\n' "$version" >"$new/RELEASE"
chmod +x "$new"/bin/*
# Containers run with a read-only root and may run as another user.
chmod -R a+rX "$new"
printf '%s' "$version" >"$new/.complete"

rm -rf "$home"
mv "$new" "$home"
say "Spark $version is in $home"
