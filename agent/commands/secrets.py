"""`jules-agent secrets …`: the local store, and a nudge for the running agent.

A value is read from a file or standard input, never from the command line, where every process of
the machine could read it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Literal

from agent.commands.common import ago, read_config, show, table
from agent.errors import UsageError
from agent.hardening import harden
from agent.secrets import servers, verbs
from agent.secrets.model import SecretType
from agent.secrets.rotation import Wish


def put(arguments: argparse.Namespace) -> int:
    """Store one secret."""
    harden()
    config = read_config(arguments)
    value = _given(arguments.file)
    kind: Literal["json", "bytes"] = "json"
    if arguments.raw:
        kind = "bytes"
    else:
        value = _checked_json(value)
    secret_type, state = _secret_type(arguments.type), config.state_path
    if arguments.provider != "local":
        version = servers.put(
            config.secrets,
            arguments.provider,
            arguments.name,
            value,
            kind=kind,
            secret_type=secret_type,
            description=arguments.description,
            cas=arguments.cas,
            state=state,
        )
    elif arguments.cas is not None:
        raise UsageError("the local store has no check-and-set", "leave out --cas")
    else:
        version = verbs.put(
            config.secrets,
            arguments.name,
            value,
            kind=kind,
            secret_type=secret_type,
            description=arguments.description,
            state=state,
        )
    told = {"name": arguments.name, "version": version}
    show(arguments, told, f"stored {arguments.name}, version {version}")
    return 0


def _given(file: str | None) -> bytes:
    if file is None:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", "name a readable file") from None


def _checked_json(value: bytes) -> bytes:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        raise UsageError(
            "the value is not JSON",
            'pass JSON, such as {"a": "b"} or "text", or --raw for plain bytes',
        ) from None
    return value


def _secret_type(name: str) -> SecretType:
    try:
        return SecretType(name)
    except ValueError:
        known = ", ".join(kind.value for kind in SecretType)
        raise UsageError(f"no such secret type: {name}", f"use one of {known}") from None


def get(arguments: argparse.Namespace) -> int:
    """Print a value: what a person asked for by name, on standard output and nowhere else."""
    harden()
    config = read_config(arguments)
    state = config.state_path
    if arguments.provider != "local":
        if arguments.previous:
            raise UsageError("--previous is the local store's", "name the version by --version")
        value = servers.get(
            config.secrets, arguments.provider, arguments.name, arguments.version, state=state
        ).value.reveal()
    elif arguments.version is not None:
        raise UsageError("the local store keeps one version and --previous", "leave out --version")
    elif arguments.previous:
        value = verbs.previous(config.secrets, arguments.name, state=state)
    else:
        value = verbs.get(config.secrets, arguments.name, state=state).value.reveal()
    sys.stdout.flush()
    sys.stdout.buffer.write(value)
    if sys.stdout.isatty():
        sys.stdout.write("\n")
    sys.stdout.flush()
    return 0


def rotate(arguments: argparse.Namespace) -> int:
    """Rotate one secret where it is kept, or have the running agent get a new lease for it."""
    harden()
    config = read_config(arguments)
    name, vault = arguments.name, config.secrets.vault
    leased = arguments.provider == "vault" and vault is not None and name in vault.leased
    if leased and arguments.root is None:
        return _reissue(arguments, config.admin_socket)
    version = servers.rotate(
        config.secrets,
        arguments.provider,
        name,
        Wish(arguments.length, arguments.alphabet, arguments.field),
        generate=arguments.generate,
        root=arguments.root,
        state=config.state_path,
    )
    told = {"name": name, "provider": arguments.provider, "version": version}
    what = f", version {version}" if version else ""
    show(arguments, told, f"rotated {name} in {arguments.provider}{what}")
    return 0


def _reissue(arguments: argparse.Namespace, socket: Path) -> int:
    from agent.web.client import call

    answer = call(socket, "reissue", {"name": arguments.name}, timeout=60.0)
    generation = answer.get("generation")
    show(arguments, answer, f"{arguments.name} is issued anew, generation {generation}")
    return 0


def list_names(arguments: argparse.Namespace) -> int:
    """Names and what is known of them; never a value."""
    import time

    entries = verbs.list_names(read_config(arguments).secrets)
    now = time.time()
    rows = [
        (
            entry.name,
            entry.secret_type,
            entry.version,
            ago(now - entry.updated_at),
            entry.description,
        )
        for entry in entries
    ]
    tree = [
        {
            "name": entry.name,
            "type": entry.secret_type,
            "version": entry.version,
            "updated_at": entry.updated_at,
            "description": entry.description,
        }
        for entry in entries
    ]
    text = table(rows, ("NAME", "TYPE", "VERSION", "AGE", "DESCRIPTION"))
    show(arguments, tree, text or "the store holds no secret")
    return 0


def new_key(arguments: argparse.Namespace) -> int:
    """Make a key file; one that exists is never replaced."""
    harden()
    path = Path(arguments.file).absolute()
    verbs.new_key_file(path)
    show(arguments, {"key_file": str(path)}, f"wrote a new 32-byte key to {path}, mode 0600")
    return 0


def refresh(arguments: argparse.Namespace) -> int:
    """Ask the running agent to fetch and publish now."""
    from agent.web.client import call

    answer = call(read_config(arguments).admin_socket, "refresh", {}, timeout=60.0)
    what = "published" if answer.get("changed") else "nothing changed in"
    show(arguments, answer, f"{what} generation {answer.get('generation')}")
    return 0
