#!/bin/sh
# Collect into ROOT only what the agent runs with: no shell, no package manager, no compiler.
# Usage: rootfs.sh SITE ROOT      in the build stage; SITE is what `pip --target` filled.
set -eu
site=$1 root=$2
python=/usr/bin/python3.11
library=/usr/lib/python3.11

mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64" "$root/usr/local/bin" "$root/usr/lib/ssl" \
    "$root/etc/ssl/certs" "$root/var/lib/dpkg/status.d" "$root/run" "$root/var/lib" "$root/srv" \
    "$root/opt" "$root/proc" "$root/sys" "$root/dev"
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
install -d -m 1777 "$root/tmp"

# Of botocore's descriptions of every AWS service, keep those that a secrets or bundle store needs.
if [ -d "$site/botocore/data" ]; then
    find "$site/botocore/data" -mindepth 1 -maxdepth 1 -type d \
        ! -name secretsmanager ! -name ssm ! -name kms ! -name s3 ! -name sts ! -name sso \
        ! -name sso-oidc -exec rm -rf {} +
fi
find "$site" -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -rf {} +

# Python: the interpreter, its library without what only a person at a desk uses, and the packages.
cp -L "$python" "$root/usr/bin/python3.11"
ln -s python3.11 "$root/usr/bin/python3"
cp -R "$library" "$root/usr/lib/"
for part in __pycache__ test idlelib tkinter turtledemo lib2to3 ensurepip pydoc_data distutils \
    config-3.11-*; do
    find "$root$library" -name "$part" -prune -exec rm -rf {} +
done
rm -f "$root$library/sitecustomize.py"
mkdir -p "$root/usr/local/lib/python3.11"
cp -R "$site" "$root/usr/local/lib/python3.11/dist-packages"
rm -rf "$root/usr/local/lib/python3.11/dist-packages/bin"

# The console script as pip made it, but for -I: neither PYTHONPATH nor the current folder decides
# what is imported.
sed '1s|.*|#!/usr/bin/python3.11 -I|' "$site/bin/jules-agent" >"$root/usr/local/bin/jules-agent"
chmod 755 "$root/usr/local/bin/jules-agent"

# Every shared library that these need, under the names they ask for. libgcc_s is opened by name
# when a thread ends, so no link to it shows.
{
    find "$root" -type f \( -name '*.so' -o -name '*.so.*' \)
    echo "$python"
} | while read -r file; do
    ldd "$file" 2>/dev/null | grep -oE '/[^ ]+\.so[^ ]*' || true
done | sort -u >/tmp/libraries
echo /lib/"$(uname -m)"-linux-gnu/libgcc_s.so.1 >>/tmp/libraries
sort -u /tmp/libraries | while read -r file; do
    case $file in "$root"/*) continue ;; esac
    case $file in /usr/*) target=$root$file ;; *) target=$root/usr$file ;; esac
    mkdir -p "$(dirname "$target")"
    cp -L "$file" "$target"
done

# Time zones, for freeze windows by an exchange's own clock.
mkdir -p "$root/usr/share"
cp -R /usr/share/zoneinfo "$root/usr/share/"
rm -rf "$root/usr/share/zoneinfo/right" "$root/usr/share/zoneinfo/posix"

# Names, addresses, certificates, identity.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp -L /etc/ssl/openssl.cnf "$root/etc/ssl/"
ln -s /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
ln -s /etc/ssl/openssl.cnf "$root/usr/lib/ssl/openssl.cnf"
cp -L /usr/lib/os-release "$root/usr/lib/os-release"
ln -s ../usr/lib/os-release "$root/etc/os-release"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
cat >"$root/etc/passwd" <<EOS
root:x:0:0:root:/nonexistent:/sbin/nologin
agent:x:65532:65532:jules-agent:/nonexistent:/sbin/nologin
trader:x:65533:65532:trader:/nonexistent:/sbin/nologin
EOS
printf 'root:x:0:\npod:x:65532:\n' >"$root/etc/group"

# What a vulnerability scanner reads: the Debian packages that these files are from.
{
    cat /tmp/libraries
    echo "$python"
    echo "$library/os.py"
    find "$library/lib-dynload" -name '_ssl*'
} | while read -r file; do
    dpkg -S "$(readlink -f "$file")" "$file" "/usr$file" 2>/dev/null | sed 's/: .*//; s/:.*//' || true
done | sort -u | while read -r package; do
    dpkg-query --status "$package" >"$root/var/lib/dpkg/status.d/$package" || true
done
for package in ca-certificates tzdata; do
    dpkg-query --status "$package" >"$root/var/lib/dpkg/status.d/$package"
done

# Byte code for all of it, trusted without a look at the source: a read-only root never writes any,
# and without it every start compiles anew.
"$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    -s "$root" -p / "$root$library" "$root/usr/local/lib/python3.11/dist-packages"
