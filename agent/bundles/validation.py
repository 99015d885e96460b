"""Prove a bundle's folder before anything points at it: nothing in it is executed or loaded.

In order: every name and kind of file, counts and sizes, required files, the manifest's list,
config.yaml, metadata.json, then each file by what it holds: archives and pickles are walked
whatever their name says. The first thing wrong ends it. Digests are not computed here: whoever
copied the bytes hashed them on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agent.bundles.allowed import PLAIN
from agent.bundles.errors import RejectedError
from agent.bundles.folders import list_files, open_file, opened_folder
from agent.bundles.manifest import parse_json
from agent.bundles.model import REQUIRED_FILES, Manifest
from agent.bundles.pickles import Budget, probe, walk
from agent.bundles.stores.base import StoreFile
from agent.bundles.torchfile import ZIP_MAGIC, check_torch_file
from agent.configpod import Limits
from agent.units import Bytes, Version

MAX_CONFIG = 1024**2
MAX_EVENTS = 100_000
MAX_YAML_DEPTH = 32
MAX_ALIASES = 64

_TORCH = (".pt", ".pth", ".ptl", ".pt2", ".ckpt")
_PICKLE = (".pkl", ".pickle", ".joblib")
_TEXT = ("config.yaml", "metadata.json")


@dataclass(frozen=True, slots=True)
class Report:
    """What a sound bundle holds."""

    files: int
    bytes: Bytes
    kinds: dict[str, str] = field(default_factory=dict)
    """Path → `state_dict`, `torchscript` or `pickle`, for each file that holds a model."""


class Metadata(BaseModel):
    """What metadata.json must say; whatever else it says is the trainer's own affair."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    version: str = Field(min_length=1, max_length=128)
    created_at: str | float = Field(description="ISO 8601, or seconds since the epoch.")
    model_type: str = Field(min_length=1, max_length=200)
    training_data_hash: str = Field(min_length=1, max_length=200)

    @field_validator("created_at")
    @classmethod
    def _is_a_time(cls, value: str | float) -> str | float:
        if isinstance(value, str):
            datetime.fromisoformat(value)
        elif not 0 < value < 1e11:
            raise ValueError("not seconds since the epoch")
        return value


def validate_bundle(
    folder: Path, manifest: Manifest | None, *, limits: Limits, version: Version
) -> Report:
    """Prove what `folder` holds to be a sound bundle of `version`.

    Raises:
        RejectedError: the first thing that is wrong; names the file, the reason and the remedy.
        OSError: the folder or a file cannot be read.
    """
    try:
        with opened_folder(folder) as root:
            return _validate(root, manifest, limits, version)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RejectedError(
            f"{error.filename or folder} is missing or no folder", "name a folder that holds one"
        ) from None


def _validate(root: int, manifest: Manifest | None, limits: Limits, version: Version) -> Report:
    files = list_files(root, limits.max_files)
    size = sum(file.size for file in files)
    if size > limits.max_size:
        raise RejectedError(
            f"the bundle has {size} bytes, more than {limits.max_size}",
            "raise bundles.limits.max_size if that is meant",
        )
    _check_listed(files, manifest, version)
    _check_config(_read(root, "config.yaml", MAX_CONFIG))
    _check_metadata(_read(root, "metadata.json", MAX_CONFIG), version)
    kinds: dict[str, str] = {}
    budget = Budget()
    for file in files:
        if file.path not in _TEXT and (kind := _check_file(root, file, budget)):
            kinds[file.path] = kind
    return Report(len(files), Bytes(size), kinds)


def _check_listed(files: list[StoreFile], manifest: Manifest | None, version: Version) -> None:
    present = {file.path: file.size for file in files}
    for name in REQUIRED_FILES:
        if name not in present:
            raise RejectedError(
                f"{name} is missing", f"a bundle holds at least {', '.join(REQUIRED_FILES)}"
            )
    if manifest is None:
        return
    if manifest.version != version:
        raise RejectedError(
            f"manifest.json is of version {manifest.version}, not {version}", "publish it again"
        )
    listed = {entry.path: entry.size for entry in manifest.files}
    for path in sorted(set(present) ^ set(listed)):
        what = "is not in the manifest" if path in present else "is in the manifest, but missing"
        raise RejectedError(f"{path} {what}", "publish the bundle again as it should be")
    for path, size in sorted(present.items()):
        if size != listed[path]:
            raise RejectedError(
                f"{path} has {size} bytes, the manifest says {listed[path]}", "copy it again"
            )


@contextmanager
def _opened(root: int, path: str) -> Iterator[tuple[BinaryIO, int]]:
    fd = open_file(root, path)
    with open(fd, "rb") as file:
        yield file, os.fstat(fd).st_size


def _read(root: int, path: str, limit: int) -> bytes:
    with _opened(root, path) as (file, size):
        if size > limit:
            raise RejectedError(f"{path} has {size} bytes, more than {limit}")
        return file.read(limit)


def _check_file(root: int, file: StoreFile, budget: Budget) -> str | None:
    """Judge one file by its name and, whatever that is, by its first bytes."""
    suffix = os.path.splitext(file.path)[1].lower()
    with _opened(root, file.path) as (opened, size):
        if suffix in _TORCH:
            return check_torch_file(opened, size, file.path, budget)
        if suffix in _PICKLE:
            seen = walk(opened, 0, size, file.path, PLAIN, budget)
            if seen.size != size:
                raise RejectedError(
                    f"{file.path}: {size - seen.size} bytes follow the pickle",
                    "save it again with pickle.dump, one object a file",
                )
            return "pickle"
        head = opened.read(len(ZIP_MAGIC))
        if head == ZIP_MAGIC:
            return check_torch_file(opened, size, file.path, budget)
        opened.seek(0)
        probe(opened, 0, size, file.path, PLAIN, budget)
    return None


def _check_config(raw: bytes) -> None:
    """config.yaml: one mapping of plain values, of bounded size, depth and aliases."""
    try:
        _bound_yaml(raw)
        tree = yaml.load(raw, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        what = str(getattr(error, "problem", None) or "it cannot be read")[:160]
        raise RejectedError(f"config.yaml{line}: {what!a}", "mend the file") from None
    except (ValueError, TypeError, OverflowError, RecursionError, AttributeError) as error:
        # what the loader's own constructors raise on odd dates, numbers and keys
        raise RejectedError(f"config.yaml: a value cannot be read: {str(error)[:160]!a}") from None
    if not isinstance(tree, dict):
        raise RejectedError("config.yaml is not a mapping", "write `key: value` lines")


def _bound_yaml(raw: bytes) -> None:
    depth = aliases = 0
    open_anchors: list[str | None] = []
    for number, event in enumerate(yaml.parse(raw, Loader=yaml.CSafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            open_anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            open_anchors.pop()
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if event.anchor in open_anchors:
                raise RejectedError("config.yaml: an alias stands for what contains it")
        if depth > MAX_YAML_DEPTH or aliases > MAX_ALIASES or number > MAX_EVENTS:
            raise RejectedError(
                f"config.yaml is deeper than {MAX_YAML_DEPTH}, or has more than {MAX_ALIASES}"
                f" aliases or {MAX_EVENTS} nodes",
                "write it plainly",
            )


def _check_metadata(raw: bytes, version: Version) -> None:
    tree: dict[str, Any] = parse_json(raw, "metadata.json")
    try:
        metadata = Metadata.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        raise RejectedError(
            f"metadata.json: `{key}`: {first['msg']}",
            "version, created_at, model_type and training_data_hash are required",
        ) from None
    if metadata.version != version:
        raise RejectedError(
            f"metadata.json says version {metadata.version[:120]!a}, the bundle is {version}",
            "publish it under its own version, or mend the file",
        )
