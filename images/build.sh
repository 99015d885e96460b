#!/bin/sh
# Build jules-agent and jules-demo. Usage: images/build.sh     from anywhere; needs docker and pip.
# The wheels are fetched by this machine's pip, with this machine's settings, and checked against
# the lock's hashes; the build itself then needs no package index, only a Debian mirror.
# BASE, TAG, PYTHON and DOCKER override the defaults below.
set -eu
cd "$(dirname "$0")/.."
base=${BASE:-debian:bookworm-slim} docker=${DOCKER:-docker} python=${PYTHON:-python3}
version=$("$python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
tag=${TAG:-$version}
revision=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

if ! $docker image inspect "$base" >/dev/null 2>&1 && ! $docker pull --quiet "$base" 2>/dev/null; then
    echo "$base cannot be pulled here: making it with debootstrap"
    sh images/base.sh "$base"
fi

machine=$(uname -m)
wheels=images/local/wheels
sum=$(cat requirements.lock requirements-dev.lock | sha256sum | cut -d ' ' -f 1)
if [ "$(cat $wheels/.made-from 2>/dev/null)" != "$sum" ]; then
    rm -rf "$wheels"
    mkdir -p "$wheels"
    # What builds the agent's own wheel, with its hashes as well.
    sed -n '/^setuptools==/,/[^\\]$/p' requirements-dev.lock >"$wheels/build.lock"
    for lock in requirements.lock "$wheels/build.lock"; do
        "$python" -m pip download --quiet --require-hashes --no-deps --only-binary :all: \
            --dest "$wheels" --python-version 3.11 --implementation cp --abi cp311 --abi abi3 \
            --abi none --platform "manylinux_2_36_$machine" --platform "manylinux_2_35_$machine" \
            --platform "manylinux_2_34_$machine" --platform "manylinux_2_28_$machine" \
            --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" -r "$lock"
    done
    echo "$sum" >"$wheels/.made-from"
fi

$docker build --file images/agent.Dockerfile --build-arg BASE="$base" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    --tag "jules-agent:$tag" --tag jules-agent:latest .
$docker build --file images/trader.Dockerfile --build-arg AGENT="jules-agent:$tag" \
    --tag "jules-demo:$tag" --tag jules-demo:latest .
$docker image ls --filter reference='jules-*'
