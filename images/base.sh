#!/bin/sh
# Make the base image where it cannot be pulled: a minimal Debian bookworm, by debootstrap.
# Usage: base.sh [NAME]     as root, with debootstrap and docker; default debian:bookworm-slim.
# DEBIAN_MIRROR names the mirror; unset, it is the one that this machine's own apt uses.
set -eu
name=${1:-debian:bookworm-slim}
mirror=${DEBIAN_MIRROR:-$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep -oE '^(deb|URIs:).*https?://[^ ]+/debian/?( |$)' | grep -oE 'https?://[^ ]+' | head -n 1)}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# An empty mirror makes debootstrap use its own default.
debootstrap --variant=minbase bookworm "$work/root" ${mirror:+"$mirror"} >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" >&2
    exit 1
}
cd "$work/root"
# What Debian's own slim images leave out as well.
rm -rf var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/log/*
rm -rf usr/share/man usr/share/info usr/share/locale/*
find usr/share/doc -depth -type f ! -name copyright -delete
find usr/share/doc -depth -type d -empty -delete
tar --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$name" >/dev/null
echo "made $name from Debian bookworm"
