"""`jules-agent secrets …` for the local store as a whole: its key, copies of it, removal."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.commands.common import read_config, show
from agent.hardening import harden
from agent.secrets import verbs


def delete(arguments: argparse.Namespace) -> int:
    """Remove one secret."""
    harden()
    config = read_config(arguments)
    verbs.delete(config.secrets, arguments.name, state=config.state_path)
    show(arguments, {"deleted": arguments.name}, f"deleted {arguments.name}")
    return 0


def rekey(arguments: argparse.Namespace) -> int:
    """Encrypt the store under another key while agents go on reading it."""
    harden()
    config = read_config(arguments)
    named = Path(arguments.new_key).absolute() if arguments.new_key else None
    count, path = verbs.rekey(
        config.secrets, named, offline=arguments.offline, state=config.state_path
    )
    told = {"secrets": count, "key_file": str(path)}
    show(
        arguments,
        told,
        f"{count} secrets are under {path} now; set secrets.local.key_file to it, remove "
        "next_key_file, reload, and destroy the old key",
    )
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write everything to a new file under a passphrase."""
    harden()
    config = read_config(arguments)
    target = Path(arguments.file).absolute()
    names = verbs.export(
        config.secrets, target, Path(arguments.passphrase_file), state=config.state_path
    )
    show(arguments, {"file": str(target), "names": names}, f"{len(names)} secrets are in {target}")
    return 0


def import_from(arguments: argparse.Namespace) -> int:
    """Take in an export."""
    harden()
    config = read_config(arguments)
    versions = verbs.import_from(
        config.secrets,
        Path(arguments.file).absolute(),
        Path(arguments.passphrase_file),
        replace=arguments.replace,
        state=config.state_path,
    )
    lines = [f"{name}: version {version}" for name, version in sorted(versions.items())]
    show(arguments, versions, "\n".join(lines) or "the store holds all of it already")
    return 0


def accept_older(arguments: argparse.Namespace) -> int:
    """Take a restored older store for the newest."""
    harden()
    config = read_config(arguments)
    generation = verbs.accept_older(config.secrets, state=config.state_path)
    told = {"generation": generation}
    show(arguments, told, f"the store of generation {generation} counts as the newest from now on")
    return 0
