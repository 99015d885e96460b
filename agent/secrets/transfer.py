"""The local store on its way to another machine: one file under a passphrase.

An export has the form of a local store whose key scrypt derives from a passphrase, so that
docs/local-store.md describes it too and nothing new has to be trusted. It holds the newest value of
each secret with its kind, type and description; versions count on in the store that takes it in.
"""

from __future__ import annotations

from pathlib import Path

from agent import fs
from agent.secrets.errors import KeyFileError, NotFoundError, StoreError, UnavailableError
from agent.secrets.model import secret_name
from agent.secrets.providers import sealed
from agent.secrets.providers.keyfile import read_private
from agent.secrets.providers.local import LocalStore
from agent.units import SecretName

_TRAVELS = ("value", "kind", "type", "description")
_LEAST_PASSPHRASE = 12


def export(store: LocalStore, target: Path, passphrase_file: Path) -> list[SecretName]:
    """Write everything to the new file `target`; returns the names.

    Raises:
        StoreError: `target` exists, or the store cannot be read.
        KeyFileError: the passphrase is too short or open to others.
        UnavailableError: `target` cannot be written.
    """
    passphrase = _passphrase(passphrase_file)
    if target.exists():
        raise StoreError(f"{target} exists already", "name a new file")
    contents = store.contents()
    document = sealed.new_document(passphrase=True)
    document.generation = 1
    keys = sealed.Keys.derive(sealed.master_key(document, passphrase))
    for name, content in contents.items():
        fresh = {key: content[key] for key in sealed.CONTENT}
        sealed.put_entry(document, keys, name, fresh)
    try:
        fs.write_durable(target, sealed.serialise(document, keys), 0o600)
    except OSError as error:
        raise UnavailableError(
            f"{target} cannot be written: {error.strerror}", "name a folder you can write to"
        ) from None
    return sorted(contents)


def import_from(
    store: LocalStore, source: Path, passphrase_file: Path, *, replace: bool
) -> dict[SecretName, str]:
    """Take in everything of an export in one step; returns the new versions by name.

    A secret that the store has with the same value is left alone.

    Raises:
        StoreError: the store has another value of one of them and `replace` is not set, or the file
            is damaged; nothing was changed.
        SecretsError: file, passphrase or store cannot be used; nothing was changed.
    """
    _passphrase(passphrase_file)
    coming = LocalStore(source, passphrase_file=passphrase_file).contents()
    try:
        present = store.contents()
    except UnavailableError:
        present = {}  # a new store is begun; one that cannot be read refuses the write
    fresh: dict[SecretName, dict[str, str]] = {}
    for name, content in coming.items():
        have = present.get(secret_name(name))
        if have is not None and all(have[key] == content[key] for key in _TRAVELS):
            continue
        if have is not None and not replace:
            raise StoreError(
                f"the store has another {name} already", "nothing was taken in; --replace takes all"
            )
        fresh[name] = {key: content[key] for key in _TRAVELS}
    return store.write_many(fresh) if fresh else {}


def previous_value(store: LocalStore, name: SecretName) -> tuple[bytes, str]:
    """Value and version before the current one.

    Raises:
        NotFoundError: the store holds none; and as `LocalStore.read`.
    """
    before = store.read(name).previous
    if before is None:
        raise NotFoundError(f"the local store holds no version of {name} before the current one")
    return before.value.reveal(), before.version


def _passphrase(path: Path) -> bytes:
    passphrase = read_private(path).rstrip(b"\r\n")
    if len(passphrase) < _LEAST_PASSPHRASE:
        raise KeyFileError(
            f"the passphrase in {path} is shorter than {_LEAST_PASSPHRASE} bytes",
            "whoever gets the export can try passphrases at leisure: take a long one",
        )
    return passphrase
