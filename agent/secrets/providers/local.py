"""The local encrypted store as a provider: key file or passphrase, locked durable writes.

A read opens the file, checks the seal over the whole, and decrypts one entry. A write holds a lock
file against other processes, reads again under it, keeps the file it replaces as `NAME.previous`,
and replaces it in one durable step. Whatever is wrong, the file stays byte for byte as it was.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import random
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent import fs
from agent.clock import Clock, SystemClock
from agent.errors import BusyError
from agent.secrets import errors
from agent.secrets.model import Fetched, Kind, Listed, SecretType, SecretValue
from agent.secrets.providers import sealed
from agent.units import Seconds, SecretName, UnixTime

_LOCK_WAIT = Seconds(10.0)
_MAX_KEY_FILE = 4096


class LocalStore:
    """Provider `local`."""

    name = "local"

    def __init__(
        self,
        path: Path,
        *,
        key_file: Path | None = None,
        passphrase_file: Path | None = None,
        passphrase: bytes | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Nothing is read yet. `passphrase` is for callers that hold one in memory already."""
        self.path = path
        self._key_file = key_file
        self._passphrase_file = passphrase_file
        self._passphrase = SecretValue(passphrase) if passphrase is not None else None
        self._clock = clock or SystemClock()
        self._derived: dict[str, SecretValue] = {}  # scrypt is slow by design: once

    def read(self, name: SecretName) -> Fetched:
        """One secret. Raises as `Provider.read`."""
        document, keys = self._open()
        content = sealed.get_entry(document, keys, name)
        if content is None:
            raise errors.NotFoundError(
                f"the local store holds no secret {name}",
                f"store it: jules-agent secrets put {name}",
            )
        return _fetched(name, content, self._clock.now())

    def marker(self) -> str:
        """Changes with every write of the file."""
        try:
            seen = self.path.stat()
        except OSError:
            return "absent"
        return f"{seen.st_ino}.{seen.st_mtime_ns}.{seen.st_size}"

    def write(
        self,
        name: SecretName,
        value: bytes,
        *,
        kind: Kind = "json",
        secret_type: SecretType = SecretType.API_KEY,
        description: str = "",
    ) -> str:
        """Store a new version; returns it.

        Raises:
            StoreError, WrongKeyError, KeyFileError, UnavailableError: nothing was changed.
        """
        with self._locked():
            document, keys = self._open() if self.path.exists() else self._begin()
            before = sealed.get_entry(document, keys, name)
            version = str(int(before["version"]) + 1 if before else 1)
            now = self._clock.now()
            content = {
                "value": base64.b64encode(value).decode(),
                "kind": kind,
                "type": secret_type.value,
                "description": description,
                "version": version,
                "created_at": before["created_at"] if before else now,
                "updated_at": now,
            }
            sealed.put_entry(document, keys, name, content)
            document.generation += 1
            self._replace(sealed.serialise(document, keys))
        return version

    def list(self) -> list[Listed]:
        """Every secret's name and what is known of it, by name."""
        document, keys = self._open()
        found = []
        for name in sorted(document.entries):
            content = sealed.get_entry(document, keys, name) or {}
            found.append(
                Listed(
                    name,
                    str(content["type"]),
                    str(content["version"]),
                    UnixTime(float(content["updated_at"])),
                    str(content["description"]),
                )
            )
        return found

    def _open(self) -> tuple[sealed.Document, sealed.Keys]:
        try:
            with self.path.open("rb") as file:
                data = file.read(sealed.MAX_BYTES + 1)
        except FileNotFoundError:
            raise errors.UnavailableError(
                f"there is no local store at {self.path}",
                "store a first secret: jules-agent secrets put NAME",
            ) from None
        except OSError as error:
            raise errors.UnavailableError(
                f"the local store {self.path} cannot be read: {error.strerror}",
                "make it readable for the agent's uid",
            ) from error
        try:
            document, _seal = sealed.parse(data)
            return sealed.open_document(data, self._master(document))
        except errors.StoreError as error:
            raise type(error)(f"{self.path}: {error}", error.remedy) from None

    def _master(self, document: sealed.Document) -> bytes:
        given = self._given(document)
        if document.kdf.get("name") == "none":
            return given
        about = json.dumps(document.kdf, sort_keys=True) + hashlib.sha256(given).hexdigest()
        if about not in self._derived:
            self._derived = {about: SecretValue(sealed.master_key(document, given))}
        return self._derived[about].reveal()

    def _begin(self) -> tuple[sealed.Document, sealed.Keys]:
        document = sealed.new_document(passphrase=self._uses_passphrase)
        fs.make_dirs_durable(self.path.parent)
        return document, sealed.Keys.derive(self._master(document))

    def _replace(self, data: bytes) -> None:
        previous = self.path.with_name(self.path.name + ".previous")
        try:
            if self.path.exists():
                fs.write_durable(previous, self.path.read_bytes(), 0o600)
            fs.write_durable(self.path, data, 0o600)
        except OSError as error:
            raise errors.UnavailableError(
                f"the local store {self.path} cannot be written: {error.strerror}",
                "free space or make its folder writable; it is as it was",
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fs.make_dirs_durable(self.path.parent)
        path = self.path.with_name(self.path.name + ".lock")
        give_up = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                with fs.lock(path, "a write to the local store"):
                    yield
                    return
            except BusyError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(random.uniform(0.005, 0.03))

    @property
    def _uses_passphrase(self) -> bool:
        return self._passphrase is not None or self._passphrase_file is not None

    def _given(self, document: sealed.Document) -> bytes:
        """The key or passphrase that the document's derivation asks for."""
        wants_passphrase = document.kdf.get("name") != "none"
        if wants_passphrase != self._uses_passphrase:
            raise errors.WrongKeyError(
                "the store was written with a "
                + ("passphrase" if wants_passphrase else "key file"),
                "configure secrets.local accordingly",
            )
        if self._passphrase is not None:
            return self._passphrase.reveal()
        if self._passphrase_file is not None:
            text = read_private(self._passphrase_file).rstrip(b"\r\n")
            if not text:
                raise errors.KeyFileError(f"passphrase file {self._passphrase_file} is empty")
            return text
        if self._key_file is None:
            raise errors.KeyFileError(
                "the local store has no key",
                "set secrets.local.key_file; `jules-agent secrets new-key FILE` makes one",
            )
        return parse_key(read_private(self._key_file), self._key_file)


def read_private(path: Path) -> bytes:
    """The bytes of a file that nobody else can read.

    Raises:
        KeyFileError: missing, a link, not a file, owned by another, or readable by group or others.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise errors.KeyFileError(
            f"key file {path}: {error.strerror}", "name a regular file that the agent's uid owns"
        ) from None
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise errors.KeyFileError(f"key file {path} is not a regular file")
        if seen.st_mode & 0o077:
            raise errors.KeyFileError(
                f"key file {path} can be read or written by others", f"chmod 0400 {path}"
            )
        if seen.st_uid not in (0, os.geteuid()):
            raise errors.KeyFileError(
                f"key file {path} belongs to another user", "chown it to the agent's uid"
            )
        return os.read(fd, _MAX_KEY_FILE)
    finally:
        os.close(fd)


def parse_key(data: bytes, path: Path) -> bytes:
    """32 bytes: raw, as 64 hex digits, or as base64.

    Raises:
        KeyFileError: it is none of them.
    """
    if len(data) == sealed.KEY_BYTES:
        return data
    text = data.strip()
    for decode in (binascii.unhexlify, lambda raw: base64.b64decode(raw, validate=True)):
        try:
            key = decode(text)
        except (binascii.Error, ValueError):
            continue
        if len(key) == sealed.KEY_BYTES:
            return key
    raise errors.KeyFileError(
        f"key file {path} holds no 32-byte key",
        "make one: jules-agent secrets new-key FILE (raw, hex and base64 are read)",
    )


def _fetched(name: SecretName, content: dict[str, object], now: UnixTime) -> Fetched:
    try:
        return Fetched(
            name=name,
            value=SecretValue(base64.b64decode(str(content["value"]))),
            version=str(content["version"]),
            provider="local",
            fetched_at=now,
            kind=content["kind"],  # type: ignore[arg-type]
            secret_type=SecretType(content["type"]),
            description=str(content["description"]),
            created_at=UnixTime(float(str(content["created_at"]))),
        )
    except (KeyError, ValueError):
        raise errors.StoreError(f"the entry of {name} is not one we write") from None
