#!/bin/sh
# Make a virtual environment from a hash-locked requirements file and link this checkout into it.
# Usage: venv.sh FOLDER LOCKFILE
set -eu
folder=$1 lock=$2
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "jules-agent needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2
    exit 2
fi
echo "setting up $folder ..."
rm -rf "$folder"
if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv "$folder"
    install="$folder/bin/python -m pip"
elif "$python" -m pip --version >/dev/null 2>&1; then
    # Debian without python3-venv: the environment is made bare and filled from outside.
    "$python" -m venv --without-pip "$folder"
    install="$python -m pip --python $folder/bin/python"
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv
    "$python" -m venv "$folder"
    install="$folder/bin/python -m pip"
else
    echo "this Python has neither venv nor pip: install Debian's python3-venv, then run make again" >&2
    exit 2
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
$install install --quiet --require-hashes --no-deps --only-binary :all: -r "$lock"
# Python 3.11's venv puts setuptools in, whose path file costs every start; the lock decides.
grep -q '^setuptools==' "$lock" || $install uninstall --quiet --yes setuptools 2>/dev/null || true
# The checkout itself, without building anything: a path file and the console script.
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
pwd >"$site/jules-agent.pth"
cat >"$folder/bin/jules-agent" <<EOS
#!$(pwd)/$folder/bin/python
from agent.cli import entry

entry()
EOS
chmod 755 "$folder/bin/jules-agent"
# Compiled here, since a read-only or PYTHONDONTWRITEBYTECODE environment never would.
"$folder/bin/python" -m compileall -q agent
