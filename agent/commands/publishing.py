"""`jules-agent bundle pack | sign | verify | publish | point | new-key`: the publisher's side.

Made for a pipeline: quiet but for one line, `--json` for all of it, and the exit codes of every
other verb: 2 a mistake in the call or a key, 4 a bundle that is not good, 6 a store that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.bundles.errors import RejectedError
from agent.commands.bar import bar
from agent.commands.common import config_path, read_config, show
from agent.configtypes import parse_duration
from agent.errors import UsageError
from agent.units import UnixTime

if TYPE_CHECKING:
    from agent.bundles.model import Terms
    from agent.bundles.packing import Signer


def publish(arguments: argparse.Namespace) -> int:
    """Files first, then the manifest and its signatures, then the channel document."""
    from agent.bundles.publish import publish as put

    source = Path(arguments.source).absolute()
    store, channel = _where(arguments)
    version = arguments.version or _version_of(source)
    signer = _signer(arguments)
    manifest = put(
        source,
        store,
        version,
        channel,
        terms=_terms(arguments, signed=signer is not None),
        signer=signer,
        progress=bar(arguments, f"publishing {version}"),
    )
    told = {
        "version": version,
        "channel": channel,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "digest": manifest.digest,
        "sequence": manifest.terms.sequence,
    }
    text = f"published {version}: {told['files']} files, {told['bytes']} bytes, channel {channel}"
    show(arguments, told, text)
    return 0


def pack(arguments: argparse.Namespace) -> int:
    """Write the manifest of a bundle's folder."""
    from agent.bundles.manifest import check_version
    from agent.bundles.packing import pack as write

    folder = Path(arguments.source).absolute()
    version = check_version(arguments.version or _version_of(folder))
    with _readable(folder):
        manifest = write(folder, version, _terms(arguments, signed=False))
    told = {"version": version, "files": len(manifest.files), "digest": manifest.digest}
    show(arguments, told, f"packed {version}: {len(manifest.files)} files, {manifest.digest}")
    return 0


def sign(arguments: argparse.Namespace) -> int:
    """Add a signature to a packed folder."""
    from agent.bundles.packing import sign_folder

    folder = Path(arguments.source).absolute()
    signer = _signer(arguments)
    if signer is None:
        raise UsageError("no key to sign with", "give --key FILE or --key-secret NAME")
    with _readable(folder):
        manifest = sign_folder(folder, signer)
    told = {"version": manifest.version, "digest": manifest.digest, "key_id": arguments.key_id}
    show(arguments, told, f"signed {manifest.version} with key {arguments.key_id}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Prove a packed folder as an agent would."""
    from agent.bundles.packing import verify_folder

    folder = Path(arguments.source).absolute()
    trusted, threshold = _trusted(arguments)
    with _readable(folder):
        manifest, report, signed = verify_folder(folder, trusted, threshold)
    told = {
        "version": manifest.version,
        "digest": manifest.digest,
        "files": report.files,
        "bytes": report.bytes,
        "kinds": report.kinds,
        "signed_by": signed,
        "sequence": manifest.terms.sequence,
        "expires": manifest.terms.expires,
    }
    by = f"signed by {', '.join(signed)}" if signed else "no signature was asked for"
    show(arguments, told, f"{manifest.version} is sound: {report.files} files, {by}")
    return 0


def point(arguments: argparse.Namespace) -> int:
    """Make a channel ask for a version that is in the store; `--back` allows an older one."""
    from agent.bundles.manifest import channel_document, check_version, parse_manifest
    from agent.bundles.model import WayBack
    from agent.bundles.publish import channel_bytes, swap_channel
    from agent.bundles.signing import told as written
    from agent.bundles.stores.folder import FolderStore
    from agent.bundles.trust import way_back_statement

    store, channel = _where(arguments)
    there = FolderStore(store)
    version = check_version(arguments.version)
    raw = there.manifest(version)
    if raw is None:
        raise RejectedError(f"{version} has no manifest in the store", "publish it first")
    manifest = parse_manifest(raw)
    with _readable(store):
        seen = channel_bytes(store, channel)
    back = None
    if arguments.back:
        signer = _signer(arguments)
        if signer is None:
            raise UsageError("a way back must be signed", "give --key FILE --key-id ID")
        since = arguments.since
        if since is None:
            desired = there.desired(channel)
            left = there.manifest(desired.version) if desired is not None else None
            since = parse_manifest(left).terms.sequence if left is not None else None
        if since is None:
            raise UsageError(
                "what the channel asks for now has no sequence", "give --from SEQUENCE"
            )
        until = UnixTime(int(time.time() + _seconds(arguments.valid, "--valid")))
        statement = way_back_statement(channel, version, manifest.digest, since, until)
        back = WayBack(since, until, (written(signer(statement)),))
    with _readable(store):
        swap_channel(store, channel, seen, channel_document(version, manifest.digest, back))
    told = {"version": version, "channel": channel, "digest": manifest.digest}
    show(arguments, told, f"channel {channel} asks for {version}" + ", going back" * bool(back))
    return 0


def new_key(arguments: argparse.Namespace) -> int:
    """Write a private key, and print its public half for `bundles.trust.keys`."""
    from agent.bundles.signing import check_key_id, new_private_key

    path = Path(arguments.file)
    key_id = check_key_id(arguments.key_id)
    pem, public = new_private_key()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(fd)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name a file that can be made") from None
    told = {"file": str(path), "key_id": key_id, "public": public}
    show(arguments, told, f"bundles.trust.keys: {{{key_id}: {public}}}")
    return 0


class _readable:  # noqa: N801  read as a word after `with`
    """A folder that cannot be read or written ends as an error of ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise RejectedError(
                f"{error.filename or self._folder}: {error.strerror}", "make it readable, writable"
            ) from None


def _where(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The store and the channel: as named, else as configured."""
    store, channel = arguments.store, arguments.channel
    if store is None or channel is None:
        if config_path(arguments) is None:
            raise UsageError("no store named", "give --store and --channel, or --config")
        config = read_config(arguments)
        channel = channel or config.channel
        if store is None:
            told = config.bundles.store
            if told is None or told.path is None:
                raise UsageError(
                    "bundles.store is no folder that could be written", "give --store FOLDER"
                )
            store = str(told.path)
    return Path(store).absolute(), channel


def _version_of(source: Path) -> str:
    if not source.is_dir():
        raise UsageError(f"there is no folder {source}", "name the folder with the bundle's files")
    try:
        return str(json.loads((source / "metadata.json").read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{source}/metadata.json names no version", "give --version, or mend the file"
        ) from None


def _terms(arguments: argparse.Namespace, *, signed: bool) -> Terms:
    """The manifest's terms. What is signed gets a sequence: the time, unless one is given."""
    from agent.bundles.model import Terms

    expires = None
    if arguments.expires is not None:
        expires = UnixTime(int(time.time() + _seconds(arguments.expires, "--expires")))
    sequence = arguments.sequence
    if sequence is None and signed:
        sequence = int(time.time())
    return Terms(sequence, expires, arguments.requires_agent)


def _seconds(text: str, option: str) -> float:
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if not isinstance(value, float | int) or value <= 0:
        raise UsageError(f"{option}: not a duration to come", "write 30d or 12h")
    return float(value)


def _signer(arguments: argparse.Namespace) -> Signer | None:
    """Signs with the key from a file or from the local store of secrets; None without a key."""
    from agent.bundles.signing import private_key, read_private_key
    from agent.bundles.signing import sign as put

    if arguments.key is None and arguments.key_secret is None:
        return None
    if arguments.key is not None and arguments.key_secret is not None:
        raise UsageError("two keys named", "give --key or --key-secret, not both")
    if arguments.key_id is None:
        raise UsageError("the key has no id", "give --key-id, as bundles.trust.keys names it")
    if arguments.key is not None:
        key = read_private_key(Path(arguments.key))
    else:
        from agent.secrets.verbs import get

        config = read_config(arguments)
        fetched = get(config.secrets, arguments.key_secret, state=config.state_path)
        key = private_key(fetched.value.reveal(), f"secret {arguments.key_secret}")
    key_id = arguments.key_id
    return lambda document: put(document, key, key_id)


def _trusted(arguments: argparse.Namespace) -> tuple[dict[str, bytes], int]:
    """The keys given with --trust, else those of the configuration, where one is named."""
    from pydantic import ValidationError

    from agent.bundles.signing import public_bytes
    from agent.configstores import Trust

    section: Any = Trust()
    if arguments.trust:
        keys = dict(item.partition("=")[::2] for item in arguments.trust)
        try:
            section = Trust(keys=keys, threshold=arguments.threshold)
        except ValidationError as error:
            what = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise UsageError(f"--trust: {what}", "write ID=BASE64 or ID=/FILE") from None
    elif config_path(arguments) is not None:
        section = read_config(arguments).bundles.trust
    return {name: public_bytes(value) for name, value in section.keys.items()}, section.threshold
