"""The KV engine's paths and shapes. Pure: no call is made here.

The engine's version and mount are configured, so no preflight asks for them. KV holds objects: one
whose only field is `value` with a text is that text, one whose only field is `value_base64` is
those bytes; this is how texts and bytes are written.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.secrets.errors import NotFoundError, ShapeError
from agent.secrets.model import Kind, SecretType
from agent.units import SecretName, UnixTime

UNVERSIONED = "unversioned"


class MalformedError(ValueError):
    """The answer has not the shape that the API promises. Holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """One secret as KV holds it."""

    data: bytes
    kind: Kind
    version: str
    created_at: UnixTime | None
    custom: Mapping[str, str]


def data_path(mount: str, kv: int, key: str) -> str:
    """Where the value of `key` is read and written."""
    return f"{mount}/data/{key}" if kv == 2 else f"{mount}/{key}"


def metadata_path(mount: str, key: str) -> str:
    """Where KV v2 tells of versions without a value."""
    return f"{mount}/metadata/{key}"


def parse_v2(answer: Mapping[str, Any], name: SecretName) -> Found:
    """A KV v2 read.

    Raises:
        MalformedError: not that.
        NotFoundError: the version is deleted or destroyed.
    """
    outer = _mapping(answer.get("data"))
    metadata = _mapping(outer.get("metadata"))
    version = metadata.get("version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise MalformedError
    if outer.get("data") is None:
        raise NotFoundError(
            f"version {version} of {name} in vault is deleted", "write or undelete a version"
        )
    data, kind = from_object(_mapping(outer["data"]))
    custom = metadata.get("custom_metadata")
    known = custom if isinstance(custom, dict) else {}
    return Found(
        data,
        kind,
        str(version),
        parse_time(metadata.get("created_time")),
        {str(key): str(value) for key, value in known.items()},
    )


def parse_v1(answer: Mapping[str, Any]) -> Found:
    """A KV v1 read, which has no version. A digest of the value would be one, and would let whoever
    sees a status or an audit log try guesses at a weak value: it is not made.

    Raises:
        MalformedError: not that.
    """
    data, kind = from_object(_mapping(answer.get("data")))
    return Found(data, kind, UNVERSIONED, None, {})


def parse_version(answer: Mapping[str, Any]) -> str:
    """The current version in a metadata read.

    Raises:
        MalformedError: not that.
    """
    version = _mapping(answer.get("data")).get("current_version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise MalformedError
    return str(version)


def secret_type(custom: Mapping[str, str]) -> SecretType:
    """What the secret is for, where its custom metadata says so."""
    try:
        return SecretType(custom.get("type", ""))
    except ValueError:
        return SecretType.API_KEY


def from_object(tree: Mapping[str, Any]) -> tuple[bytes, Kind]:
    """The bytes of a secret and their kind, from KV's object."""
    if len(tree) == 1:
        text = tree.get("value")
        if isinstance(text, str):
            return json.dumps(text).encode(), "json"
        encoded = tree.get("value_base64")
        if isinstance(encoded, str):
            try:
                return base64.b64decode(encoded, validate=True), "bytes"
            except (binascii.Error, ValueError):
                pass  # then it is a field like any other
    return json.dumps(tree).encode(), "json"


def to_object(value: bytes, kind: Kind) -> dict[str, Any]:
    """KV's object for a secret's bytes.

    Raises:
        ShapeError: said to be JSON, and is not.
    """
    if kind == "bytes":
        return {"value_base64": base64.b64encode(value).decode()}
    if kind == "text":
        return {"value": value.decode()}
    try:
        tree = json.loads(value)
    except ValueError:
        raise ShapeError("the value is not JSON", "write JSON, or store it as bytes") from None
    return tree if isinstance(tree, dict) else {"value": tree}


def parse_time(value: object) -> UnixTime | None:
    """An RFC 3339 time with any number of fraction digits, as Go writes it."""
    if not isinstance(value, str):
        return None
    whole, _, rest = value.partition(".")
    zone = "+00:00" if rest.endswith("Z") or whole.endswith("Z") else ""
    fraction = rest.rstrip("Z")[:6]
    try:
        moment = datetime.fromisoformat(whole.rstrip("Z") + zone).timestamp()
        return UnixTime(moment + (float(f"0.{fraction}") if fraction.isdecimal() else 0.0))
    except (ValueError, OverflowError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError
    return value
