"""The local encrypted store as a provider: key file or passphrase, locked durable writes.

A read opens the file, checks the seal over the whole, and decrypts one entry. A write holds a lock
file against other processes, reads again under it, keeps the file it replaces as `NAME.previous`,
and replaces it in one durable step. Whatever is wrong, the file stays byte for byte as it was.
Where the key comes from is in `keyfile`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent import fs
from agent.clock import Clock, SystemClock
from agent.errors import BusyError
from agent.secrets import errors
from agent.secrets.model import Fetched, Kind, Listed, SecretType, SecretValue
from agent.secrets.providers import sealed
from agent.secrets.providers.keyfile import parse_key, read_private
from agent.units import Seconds, SecretName, UnixTime

_LOCK_WAIT = Seconds(10.0)
_LEFTOVER_AGE = Seconds(600.0)


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
        self._derived: tuple[bytes, SecretValue] | None = None  # scrypt is slow by design: once
        self._deriving = threading.Lock()
        self._opened: tuple[bytes, SecretValue, sealed.Document, sealed.Keys] | None = None

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
            document, keys = self._open() if self._exists() else self._begin()
            before = sealed.get_entry(document, keys, name)
            version = _next_version(before)
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
            document = replace(document, entries=dict(document.entries))  # reads share the other
            sealed.put_entry(document, keys, name, content)
            document.generation += 1
            self._replace(sealed.serialise(document, keys))
        return version

    def list(self) -> list[Listed]:
        """Every secret's name and what is known of it, by name."""
        document, keys = self._open()
        found = []
        for name in sorted(document.entries):
            content = sealed.get_entry(document, keys, name)
            assert content is not None
            found.append(
                Listed(
                    name,
                    content["type"],
                    content["version"],
                    UnixTime(float(content["updated_at"])),
                    content["description"],
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
        last = self._opened
        try:
            if last is not None and last[0] == data and self._master(last[2]) == last[1].reveal():
                return last[2], last[3]  # the same bytes and key as at the last read
            document, seal = sealed.parse(data)
            master = self._master(document)
            keys = sealed.unseal(document, seal, master)
            self._opened = data, SecretValue(master), document, keys
            return document, keys
        except errors.StoreError as error:
            raise type(error)(f"{self.path}: {error}", error.remedy) from None

    def _master(self, document: sealed.Document) -> bytes:
        given = self._given(document)
        if document.kdf.get("name") == "none":
            return given
        salted = json.dumps(document.kdf, sort_keys=True).encode() + given
        about = hashlib.sha256(salted).digest()
        with self._deriving:  # several threads would each take scrypt's memory
            if self._derived is None or self._derived[0] != about:
                self._derived = about, SecretValue(sealed.master_key(document, given))
            return self._derived[1].reveal()

    def _begin(self) -> tuple[sealed.Document, sealed.Keys]:
        document = sealed.new_document(passphrase=self._uses_passphrase)
        return document, sealed.Keys.derive(self._master(document))

    def _replace(self, data: bytes) -> None:
        previous = self.path.with_name(self.path.name + ".previous")
        try:
            if self.path.exists():
                fs.write_durable(previous, self.path.read_bytes(), 0o600)
            fs.write_durable(self.path, data, 0o600)
        except OSError as error:
            raise self._not_writable(error) from error

    def _exists(self) -> bool:
        try:
            self.path.lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._not_writable(error) from error
        return True

    def _not_writable(self, error: OSError) -> errors.UnavailableError:
        return errors.UnavailableError(
            f"the local store {self.path} cannot be written: {error.strerror}",
            "free space or make its folder writable; it is as it was",
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store against other writers, threads and processes alike."""
        path = self.path.with_name(self.path.name + ".lock")
        give_up = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fs.make_dirs_durable(self.path.parent)
                held = fs.lock(path, "a write to the local store")
                held.__enter__()
                break
            except OSError as error:
                raise self._not_writable(error) from error
            except BusyError as error:
                if time.monotonic() > give_up:
                    raise errors.UnavailableError(str(error), error.remedy) from None
                time.sleep(random.uniform(0.005, 0.03))
        try:
            self._sweep()
            yield
        finally:
            held.__exit__(None, None, None)

    def _sweep(self) -> None:
        """Remove what a killed write left. Younger files may be another program's, under way."""
        with suppress(OSError):
            for left in self.path.parent.glob(fs.TEMP_PREFIX + "*"):
                if self._clock.now() - left.lstat().st_mtime > _LEFTOVER_AGE:
                    left.unlink()

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


def _next_version(before: dict[str, Any] | None) -> str:
    if before is None:
        return "1"
    if not before["version"].isdecimal():
        raise errors.StoreError("the entry's version is not a number", "put it under another name")
    return str(int(before["version"]) + 1)


def _fetched(name: SecretName, content: dict[str, Any], now: UnixTime) -> Fetched:
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
        )
    except ValueError:
        raise errors.StoreError(f"the entry of {name} is not one that we write") from None
