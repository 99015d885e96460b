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
from collections.abc import Iterator, Mapping
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
from agent.secrets.providers.entries import fetched, next_version, previous_of
from agent.secrets.providers.highwater import HighWater
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
        next_key_file: Path | None = None,
        state: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Nothing is read yet. `passphrase` is for callers that hold one in memory already; the
        store may be under `next_key_file` as well; the high-water mark is in the folder `state`."""
        self.path = path
        self._key_file = key_file
        self._next_key_file = next_key_file
        self._passphrase_file = passphrase_file
        self._highest = HighWater(path, state)
        self._passphrase = SecretValue(passphrase) if passphrase is not None else None
        self._clock = clock or SystemClock()
        self._derived: tuple[bytes, SecretValue] | None = None  # scrypt is slow by design: once
        self._deriving = threading.Lock()
        self._opened: (
            tuple[bytes, SecretValue, sealed.Document, sealed.Keys, dict[str, str]] | None
        ) = None

    def read(self, name: SecretName) -> Fetched:
        """One secret. Raises as `Provider.read`."""
        document, keys = self._open()
        content = sealed.get_entry(document, keys, name)
        if content is None:
            raise errors.NotFoundError(
                f"the local store holds no secret {name}",
                f"store it: jules-agent secrets put {name}",
            )
        return fetched(name, content, self._clock.now())

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
        new = {
            "value": base64.b64encode(value).decode(),
            "kind": kind,
            "type": secret_type.value,
            "description": description,
        }
        return self.write_many({name: new})[name]

    def write_many(self, contents: Mapping[SecretName, Mapping[str, Any]]) -> dict[SecretName, str]:
        """Store new versions of several secrets in one step; returns the versions.

        Args:
            contents: by name: `value` (base64), `kind`, `type`, `description`.

        Raises:
            As `write`.
        """
        versions = {}
        with self._changing() as (document, keys):
            now = self._clock.now()
            for name, new in contents.items():
                before = sealed.get_entry(document, keys, name)
                versions[name] = next_version(before)
                content = {
                    **new,
                    "version": versions[name],
                    "created_at": before["created_at"] if before else now,
                    "updated_at": now,
                }
                kept = previous_of(before, content, now)
                if kept is not None:
                    content["previous"] = kept
                sealed.put_entry(document, keys, name, content)
        return versions

    def delete(self, name: SecretName) -> None:
        """Remove a secret and the version before it from the file.

        Raises:
            NotFoundError: there is none; and as `write`.
        """
        with self._changing() as (document, _):
            if document.entries.pop(name, None) is None:
                raise errors.NotFoundError(
                    f"the local store holds no secret {name}", "see: jules-agent secrets list"
                )

    def rekey(self, new_key: bytes) -> int:
        """Encrypt everything anew under another 32-byte key; returns how many secrets that were.

        The file before is replaced as well, so that nothing under the old key stays beside it.

        Raises:
            KeyFileError: it is under that key already; and as `write`.
        """
        with self._locked():
            document, keys = self._open()
            fresh = sealed.Keys.derive(new_key)
            if fresh.check == keys.check:
                raise errors.KeyFileError(
                    "the store is under this key already", "name a new one: secrets new-key FILE"
                )
            made = sealed.Document({"name": "none"}, generation=document.generation + 1)
            for name in document.entries:
                content = sealed.get_entry(document, keys, name)
                assert content is not None
                sealed.put_entry(made, fresh, name, content)
            data = sealed.serialise(made, fresh)
            self._replace(data)
            try:
                fs.write_durable(self._previous, data, 0o600)
            except OSError as error:
                raise errors.UnavailableError(
                    f"{self._previous} is still under the old key: {error.strerror}",
                    "the store itself is under the new one; remove that file",
                ) from error
        return len(made.entries)

    def contents(self) -> dict[SecretName, dict[str, Any]]:
        """Everything that the store holds, decrypted: for an export."""
        document, keys = self._open()
        found = {}
        for name in document.entries:
            content = sealed.get_entry(document, keys, name)
            assert content is not None
            found[SecretName(name)] = content
        return found

    def accept_older(self) -> int:
        """Take the file as it is for the newest; returns its generation."""
        document, seal, _ = self._unsealed()
        self._highest.accept(document.generation, seal)
        return document.generation

    @contextmanager
    def _changing(self) -> Iterator[tuple[sealed.Document, sealed.Keys]]:
        """The store under its lock; what the body does to the document is written afterwards."""
        with self._locked():
            document, keys = self._open() if self._exists() else self._begin()
            document = replace(document, entries=dict(document.entries))  # reads share the other
            yield document, keys
            document.generation += 1
            self._replace(sealed.serialise(document, keys))

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
        document, seal, keys = self._unsealed()
        try:
            self._highest.check(document.generation, seal)
        except errors.StoreError as error:
            raise type(error)(f"{self.path}: {error}", error.remedy) from None
        return document, keys

    def _unsealed(self) -> tuple[sealed.Document, dict[str, str], sealed.Keys]:
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
                return last[2], last[4], last[3]  # the same bytes and key as at the last read
            document, seal = sealed.parse(data)
            master = self._master(document)
            keys = sealed.unseal(document, seal, master)
            self._opened = data, SecretValue(master), document, keys, seal
            return document, seal, keys
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
        document.generation = self._highest.generation()  # a store begun anew is not an older one
        return document, sealed.Keys.derive(self._master(document))

    def _replace(self, data: bytes) -> None:
        try:
            if self.path.exists():
                fs.write_durable(self._previous, self.path.read_bytes(), 0o600)
            fs.write_durable(self.path, data, 0o600)
        except OSError as error:
            raise self._not_writable(error) from error
        with suppress(errors.SecretsError):  # the new generation is the newest from now on
            self._open()

    @property
    def _previous(self) -> Path:
        return self.path.with_name(self.path.name + ".previous")

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
        if not wants_passphrase and (self._next_key_file or not self._uses_passphrase):
            return self._key_for(document)
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
        raise AssertionError("a store under a key file is read by _key_for")

    def _key_for(self, document: sealed.Document) -> bytes:
        """Of the configured keys the one that the document was written with; else the first."""
        paths = [path for path in (self._key_file, self._next_key_file) if path is not None]
        if not paths:
            raise errors.KeyFileError(
                "the local store has no key",
                "set secrets.local.key_file; `jules-agent secrets new-key FILE` makes one",
            )
        found: list[bytes] = []
        wrong: list[errors.KeyFileError] = []
        for path in paths:
            try:
                key = parse_key(read_private(path), path)
            except errors.KeyFileError as error:
                wrong.append(error)
                continue
            if sealed.Keys.derive(key).check == document.key_check:
                return key
            found.append(key)
        if wrong:
            raise wrong[0]
        return found[0]
