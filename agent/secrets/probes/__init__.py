"""Try a new credential before the trader gets it.

`prove` runs one probe and returns, or raises ProofError. A value travels over the probe's own
socket or a command's standard input, never in an argument or an environment variable. What a server
says is told by its code or class alone: a message may echo what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.configrotation import Probe
from agent.secrets.errors import ProofError, SecretsError
from agent.secrets.model import Fetched
from agent.secrets.probes.wire import Wire, address_of
from agent.secrets.providers.deadline import Deadline
from agent.units import SecretName


def prove(probe: Probe, fetched: Fetched) -> None:
    """Return if the value works; blocks for at most about `probe.deadline`.

    Raises:
        ProofError: it does not, or what would tell cannot be reached.
    """
    name, deadline = fetched.name, Deadline(probe.deadline)
    try:
        _KINDS[probe.kind](probe, name, fetched, deadline)
    except TimeoutError:
        raise failed(name, probe, "no answer in time") from None
    except ProofError:
        raise
    except SecretsError as error:
        raise failed(name, probe, str(error)) from None
    except OSError as error:
        reason = getattr(error, "verify_message", None) or error.strerror
        raise failed(name, probe, str(reason or type(error).__name__)) from None
    except (ValueError, LookupError, RecursionError) as error:  # its text may quote the answer
        raise failed(name, probe, f"not understood ({type(error).__name__})") from None


def failed(name: SecretName, probe: Probe, why: str) -> ProofError:
    """The one shape of a failed proof."""
    return ProofError(
        f"the new value of {name} failed its {probe.kind} probe: {why}",
        "mend the value or what it is for; the value before stays published, and it is tried again",
    )


def _fields(fetched: Fetched) -> Mapping[str, Any]:
    try:
        tree = json.loads(fetched.value.reveal())
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _text(fetched: Fetched) -> str:
    """The value as one text: itself, or its only telling field."""
    data = fetched.value.reveal()
    tree = json.loads(data) if fetched.kind == "json" else data.decode()
    if isinstance(tree, dict):
        tree = next(
            (tree[key] for key in ("token", "key", "api_key", "value", "password") if key in tree),
            None,
        )
    if not isinstance(tree, str):
        raise LookupError  # noqa: TRY004 - a value of another shape, not a fault of ours
    return tree


def _connected(probe: Probe, fetched: Fetched, default: int | None, deadline: Deadline) -> Wire:
    fields = _fields(fetched)
    host, port = address_of(probe.address, fields, default)
    return Wire(host, port, deadline)


def _tcp(probe: Probe, _name: SecretName, fetched: Fetched, deadline: Deadline) -> None:
    _connected(probe, fetched, None, deadline).close()


def _tls(probe: Probe, _name: SecretName, fetched: Fetched, deadline: Deadline) -> None:
    with _connected(probe, fetched, 443, deadline) as wire:
        wire.secure(probe.ca_file)


def _postgres(probe: Probe, name: SecretName, fetched: Fetched, deadline: Deadline) -> None:
    from agent.secrets.probes.postgres import log_in

    fields = _fields(fetched)
    with _connected(probe, fetched, 5432, deadline) as wire:
        why = log_in(
            wire,
            user=str(fields.get("username") or fields.get("user") or ""),
            password=str(fields["password"]),
            database=probe.database or str(fields.get("database") or "postgres"),
            tls=_by_tls(probe, fields),
            ca_file=probe.ca_file,
        )
    if why:
        raise failed(name, probe, why)


def _redis(probe: Probe, name: SecretName, fetched: Fetched, deadline: Deadline) -> None:
    from agent.secrets.probes.redis import log_in

    fields = _fields(fetched)
    password = str(fields["password"]) if fields else _text(fetched)
    with _connected(probe, fetched, 6379, deadline) as wire:
        if _by_tls(probe, fields):
            wire.secure(probe.ca_file)
        why = log_in(wire, user=str(fields.get("username") or ""), password=password)
    if why:
        raise failed(name, probe, why)


def _by_tls(probe: Probe, fields: Mapping[str, Any]) -> bool:
    if probe.tls is not None:
        return probe.tls
    return fields.get("ssl_mode") in ("require", "verify-ca", "verify-full")


def _http(probe: Probe, name: SecretName, fetched: Fetched, deadline: Deadline) -> None:
    from agent.secrets.probes.calls import call

    assert probe.url is not None
    credential = ""
    if probe.auth == "bearer":
        credential = _text(fetched)
    elif probe.auth == "basic":
        fields = _fields(fetched)
        credential = f"{fields['username']}:{fields['password']}"
    status = call(probe.url, probe.auth, credential, probe.ca_file, deadline)
    if not 200 <= status < 300:
        raise failed(name, probe, f"it was answered with {status}")


def _command(probe: Probe, name: SecretName, fetched: Fetched, deadline: Deadline) -> None:
    from agent.secrets.probes.calls import run

    assert probe.command is not None
    why = run(probe.command, fetched.value.reveal(), {"JULES_SECRET": name}, deadline.left())
    if why:
        raise failed(name, probe, why)


_KINDS = {
    "tcp": _tcp,
    "tls": _tls,
    "http": _http,
    "postgres": _postgres,
    "redis": _redis,
    "command": _command,
}
