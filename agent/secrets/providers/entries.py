"""What an entry of the local store says once decrypted: its versions, its value, the one before."""

from __future__ import annotations

import base64
from typing import Any

from agent.secrets import errors
from agent.secrets.model import Fetched, Previous, SecretType, SecretValue
from agent.units import SecretName, UnixTime


def next_version(before: dict[str, Any] | None) -> str:
    """The version after that of an entry; raises StoreError where it is no number."""
    if before is None:
        return "1"
    if not before["version"].isdecimal():
        raise errors.StoreError("the entry's version is not a number", "put it under another name")
    return str(int(before["version"]) + 1)


def previous_of(
    before: dict[str, Any] | None, content: dict[str, Any], now: UnixTime
) -> dict[str, Any] | None:
    """What an entry keeps of the version before; an equal value put again replaces nothing."""
    if before is None:
        return None
    if (before["value"], before["kind"]) == (content["value"], content["kind"]):
        kept = before.get("previous")
        return kept if isinstance(kept, dict) else None
    old = {key: before[key] for key in ("value", "kind", "version")}
    return {**old, "replaced_at": now}


def _previous(content: dict[str, Any]) -> Previous | None:
    kept = content.get("previous")
    if kept is None:
        return None
    try:
        return Previous(
            SecretValue(base64.b64decode(kept["value"], validate=True)),
            str(kept["version"]),
            UnixTime(float(kept["replaced_at"])),
            kept["kind"],
        )
    except (KeyError, TypeError, ValueError):
        raise ValueError from None


def fetched(name: SecretName, content: dict[str, Any], now: UnixTime) -> Fetched:
    """An entry as the chain takes it; raises StoreError where it is none of ours."""
    try:
        return Fetched(
            name=name,
            value=SecretValue(base64.b64decode(content["value"], validate=True)),
            version=content["version"],
            provider="local",
            fetched_at=now,
            kind=content["kind"],
            secret_type=SecretType(content["type"]),
            description=content["description"],
            created_at=UnixTime(float(content["created_at"])),
            previous=_previous(content),
        )
    except ValueError:
        raise errors.StoreError(f"the entry of {name} is not one that we write") from None
