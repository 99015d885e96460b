"""Whether a manifest may be brought: signed by whom we trust, not expired, not older than before.

 1. enough different trusted keys have signed the manifest's exact bytes
 2. it has not expired, and this agent is new enough for it
 3. its sequence is not below the highest that was ever accepted here (as in The Update Framework):
    whoever can write the store, but not sign, cannot bring back an old version
 4. a person on this machine may go back anyway, and so may a channel document with a signed
    `way_back`: for its version, from the mark that it names, until its time

The mark is a small file in the state folder, replaced durably before the version can go live. Only
a signed sequence counts: anybody can write a number. A mark that cannot be read refuses everything
that a channel brings, because what it guarded against would otherwise pass.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from agent import __version__, fs
from agent.bundles.errors import BundleError, RejectedError, RolloutError
from agent.bundles.manifest import MAX_SEQUENCE, format_time, why_too_old
from agent.bundles.model import Manifest, WayBack
from agent.configstores import Trust as Section
from agent.units import Digest, UnixTime, Version

FILE = "sequence.json"
_MARK_LIMIT = 4096


class TrustError(BundleError):
    """Nobody whom we trust says that it may go live now. Its content is not banned for that: with
    the missing signature beside it, the same bytes are good."""


class MarkError(TrustError):
    """The high-water mark cannot be read."""


def way_back_statement(
    channel: str, version: Version, digest: Digest, since: int, until: UnixTime
) -> bytes:
    """What a `way_back` signs. It begins like no manifest can, so neither passes for the other."""
    lines = ("jules-agent way back", channel, version, digest, str(since), format_time(until))
    return ("\n".join(lines) + "\n").encode()


class Trust:
    """The keys of one configuration and the mark of one state folder. Safe from any thread."""

    def __init__(self, section: Section, folder: Path, *, channel: str, production: bool) -> None:
        self.required = section.demanded(production=production)
        self._section = section
        self._channel = channel
        self._path = folder / FILE
        self._lock = threading.Lock()

    @property
    def mark(self) -> int:
        """The highest sequence that was accepted; 0 before the first.

        Raises:
            MarkError: the file is damaged.
        """
        try:
            with open(self._path, "rb") as file:
                tree = json.loads(file.read(_MARK_LIMIT))
            mark = tree["sequence"]
            if type(mark) is int and 0 <= mark <= MAX_SEQUENCE:
                return mark
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise MarkError(
            f"{self._path} cannot be read, so it is not known which versions are old",
            "make it readable; or remove it, and know that an old version could come back once",
        )

    def judge(
        self,
        manifest: Manifest,
        signatures: bytes | None,
        *,
        now: UnixTime,
        person: bool,
        way_back: WayBack | None = None,
    ) -> int | None:
        """Rules 1 to 4. Returns the sequence to `accept` once the content is proved.

        Args:
            manifest: what the store gave.
            signatures: its manifest.sig, where there is one.
            now: the wall clock.
            person: whether somebody on this machine named the version, instead of the channel.
            way_back: what the channel document says of going back.

        Raises:
            TrustError: it may not be brought; says by which rule.
            KeyFileError: a trusted key's file cannot be read.
        """
        too_old = why_too_old(manifest.terms, __version__)
        if too_old is not None:
            raise TrustError(f"{manifest.version}: {too_old}", "update the agent")
        signed = self._signed(manifest, signatures)
        if not signed or not self._back(manifest, way_back, now):
            self._check_expiry(manifest, now)
            if signed and not person:
                self._check_sequence(manifest)
        return manifest.terms.sequence if signed else None

    def _signed(self, manifest: Manifest, raw: bytes | None) -> bool:
        """Rule 1; False where nothing demands a signature and no key could judge one."""
        from agent.bundles.signing import good_keys, parse_signatures, public_bytes

        if not self._section.keys and not self.required:
            return False
        version = manifest.version
        if raw is None:
            if not self.required:
                return False
            raise TrustError(
                f"{version} is not signed", "sign it: `jules-agent bundle sign`, then publish again"
            )
        trusted = {name: public_bytes(value) for name, value in self._section.keys.items()}
        try:
            found = parse_signatures(raw)
        except RejectedError as error:
            raise TrustError(f"{version}: {error}", "sign and publish it again") from None
        good = good_keys(manifest.raw, found, trusted)
        if len(good) >= self._section.threshold:
            return True
        names = ", ".join(item.key_id for item in found)
        raise TrustError(
            f"{version}: {len(good)} good signatures by trusted keys, {self._section.threshold}"
            f" needed; signed with {names}, trusted are {', '.join(sorted(trusted)) or 'none'}",
            "add the publisher's key to bundles.trust.keys, or find out who changed the manifest",
        )

    def _check_expiry(self, manifest: Manifest, now: UnixTime) -> None:
        expires = manifest.terms.expires
        if expires is not None and now >= expires:
            raise TrustError(
                f"{manifest.version} expired at {format_time(expires)}",
                "publish it anew, and check this machine's clock",
            )

    def _check_sequence(self, manifest: Manifest) -> None:
        mark, sequence = self.mark, manifest.terms.sequence
        if sequence is not None and sequence >= mark:
            return
        if sequence is None and mark == 0:
            return
        has = "no sequence" if sequence is None else f"sequence {sequence}"
        raise TrustError(
            f"{manifest.version} has {has}; {mark} was accepted here before",
            "to go back on purpose: `bundle rollback` here, or `bundle point --back` in the store",
        )

    def _back(self, manifest: Manifest, back: WayBack | None, now: UnixTime) -> bool:
        """Whether a signed way back leads to this manifest, from here, now."""
        from agent.bundles.signing import good_keys, parse_signature, public_bytes

        if back is None or now >= back.until or self.mark > back.since:
            return False
        try:
            signatures = [parse_signature(item, "way_back") for item in back.signatures]
        except RejectedError as error:
            raise TrustError(f"channel document: {error}", "point the channel again") from None
        trusted = {name: public_bytes(value) for name, value in self._section.keys.items()}
        statement = way_back_statement(
            self._channel, manifest.version, manifest.digest, back.since, back.until
        )
        return len(good_keys(statement, signatures, trusted)) >= self._section.threshold

    def accept(self, sequence: int) -> None:
        """Move the mark up: the version of `sequence` may go live now.

        Raises:
            RolloutError: it cannot be written down.
            MarkError: the mark is damaged.
        """
        with self._lock:
            if sequence <= self.mark:
                return
            try:
                fs.write_durable(self._path, json.dumps({"sequence": sequence}).encode() + b"\n")
            except OSError as error:
                raise RolloutError(
                    f"{self._path} cannot be written: {error.strerror}", "free space on its volume"
                ) from error


@dataclass(frozen=True, slots=True)
class Proof:
    """What is known of one attempt when its manifest is judged."""

    trust: Trust
    now: UnixTime
    person: bool
    way_back: WayBack | None = None

    @property
    def required(self) -> bool:
        """Whether a signature is, and with it a manifest."""
        return self.trust.required

    def judge(self, manifest: Manifest, signatures: bytes | None) -> int | None:
        """See `Trust.judge`."""
        return self.trust.judge(
            manifest, signatures, now=self.now, person=self.person, way_back=self.way_back
        )
