"""Bring in the real servers and tools that the tests speak to, where this machine lacks them.

Run by `make test` before pytest. As root on Debian the packages are installed; elsewhere the tests
that need one of them skip and say so in pytest's summary. Nothing is started here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PACKAGES = {
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
    "nginx": "nginx-light",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "strace": "strace",
    "redis-server": "redis-server",
}


def main() -> int:
    """Install what is missing; a failure is told and left to the tests' own skips."""
    missing = {tool: package for tool, package in PACKAGES.items() if not shutil.which(tool)}
    if not missing:
        return 0
    names = " ".join(sorted(set(missing.values())))
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"tests that need {', '.join(missing)} will skip: apt-get install {names}")
        return 0
    print(f"installing Debian packages for the tests: {names}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with open(os.devnull, "rb") as nothing:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names.split()],
        ):
            done = subprocess.run(
                command,
                stdin=nothing,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                check=False,
            )
            if done.returncode != 0:
                print(f"{' '.join(command[:2])} failed: {done.stderr.decode()[-400:]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
