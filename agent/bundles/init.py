"""The init container's part: a complete, verified bundle is live when this returns, or an error.

1. links and leftovers are put right; a live version that was banned is put back
2. every byte of the live version is compared with its manifest
3. when the channel asks for another one, and nothing speaks against it, that is staged, validated
   and flipped to; there is no trader yet, so no health is asked. A hold or a freeze window speaks
   against it, unless nothing sound is live
What is live and sound stays live whenever the channel's wish cannot be had: an unreachable store or
a bad new version must not keep a pod from starting. Synchronous, and light: no event loop, no
metrics library, no database.
"""

from __future__ import annotations

from pathlib import Path

from agent.audit import AuditLog
from agent.bundles.desired import why_not
from agent.bundles.errors import BundleError, MissingError, RejectedError, StoreError
from agent.bundles.flip import back, forward, reconcile, set_previous
from agent.bundles.layout import Layout
from agent.bundles.model import Desired, Manifest, digest_of
from agent.bundles.orders import Orders
from agent.bundles.staging import stage
from agent.bundles.stores.base import Store
from agent.bundles.stores.make import make_store
from agent.bundles.trust import Proof, Trust
from agent.bundles.verdicts import Verdicts
from agent.bundles.verified import Verified, sound, verify
from agent.clock import Clock
from agent.configpod import Bundles
from agent.telemetry.logs import get_logger
from agent.units import UnixTime, Version

_log = get_logger(__name__)


def init_bundle(
    config: Bundles,
    *,
    channel: str,
    manifest_required: bool,
    production: bool = False,
    state_dir: Path,
    audit: AuditLog,
    clock: Clock,
) -> Version:
    """Make a bundle live and return its version.

    Raises:
        StoreError: nothing sound is live, and the store cannot say or give what should be.
        RejectedError: nothing sound is live, and what the channel asks for is not good.
        BundleError: this file system refused.
        BusyError: another process is changing the same root.
    """
    layout = Layout(Path(config.root))
    layout.prepare()
    orders, now = Orders(state_dir), clock.now()
    trust = Trust(config.trust, state_dir, channel=channel, production=production)
    work = _Init(config, layout, Verdicts(state_dir), audit, manifest_required, orders, now, trust)
    with layout.lock(f"a change of {layout.root}"):
        began = clock.monotonic()
        version = work.run(channel)
        _log.debug("bundle is live", version=version, seconds=round(clock.monotonic() - began, 3))
        return version


class _Init:
    def __init__(
        self,
        config: Bundles,
        layout: Layout,
        verdicts: Verdicts,
        audit: AuditLog,
        manifest_required: bool,
        orders: Orders,
        now: UnixTime,
        trust: Trust,
    ) -> None:
        self._config = config
        self._layout = layout
        self._verdicts = verdicts
        self._audit = audit
        self._manifest_required = manifest_required
        self._verified = Verified()
        self._orders = orders
        self._now = now
        self._trust = trust

    def run(self, channel: str) -> Version:
        for what in reconcile(self._layout, (), adopt=not self._manifest_required):
            self._note("bundle.reconcile", str(self._layout.root), "repaired", what)
        live = self._live()
        try:
            wanted = self._wanted(channel, live)
            if wanted is not None:
                live = self._bring(*wanted, live)
        except BundleError as error:
            if live is None:
                fallback = self._fallback()
                if fallback is None:
                    raise
                live = fallback
            _log.warning("the channel's wish cannot be had; what is live stays", why=error.told())
            self._note("bundle.init", live.version, "kept", str(error))
        assert live is not None
        return live.version

    def _live(self) -> Manifest | None:
        """The live version, if it is sound and may stay."""
        layout = self._layout
        version = layout.live()
        if version is None or layout.flaw(version) is not None:
            return None
        manifest = layout.require(version)
        banned = self._verdicts.why_banned(manifest.digest)
        if banned is not None and (earlier := self._fallback()) is not None:
            self._note("bundle.flip", earlier.version, "active", f"{version} was banned: {banned}")
            return earlier
        try:
            verify(layout.folder(version), manifest, self._verified)
        except RejectedError as error:
            _log.error("what is live is damaged", why=str(error))
            self._note("bundle.init", version, "damaged", str(error))
            return None
        return manifest

    def _fallback(self) -> Manifest | None:
        """Go back to the previous version, if that is sound."""
        layout = self._layout
        version = layout.version_at(layout.previous)
        if version is None or version == layout.live() or layout.flaw(version) is not None:
            return None
        manifest = layout.require(version)
        if self._verdicts.why_banned(manifest.digest) is not None:
            return None
        if not sound(layout.folder(version), manifest, self._verified):
            return None
        back(layout, version, None)
        return manifest

    def _wanted(self, channel: str, live: Manifest | None) -> tuple[Store, Desired] | None:
        """What to bring; None when what is live is right."""
        if self._config.store is None:
            if live is None:
                raise StoreError(
                    "no bundle is live and no store is configured", "set bundles.store"
                )
            return None
        store = make_store(self._config)
        assert store is not None
        desired = store.desired(channel)
        if desired is None:
            raise MissingError(
                f"the store has no channel {channel}", "publish with `jules-agent bundle publish`"
            )
        digest = desired.digest
        if digest is None and (raw := store.manifest(desired.version)) is not None:
            digest = digest_of(raw)
        reason = why_not(
            desired,
            live=live.version if live else None,
            live_digest=live.digest if live else None,
            digest=digest,
            verdicts=self._verdicts,
        )
        if reason is None and live is not None:
            from agent.bundles.gates import forbidden  # 4 ms that a restarted pod never needs

            stopped = forbidden(self._orders, self._config.freeze, self._now, hotfix=False)
            if stopped is not None:
                _log.warning("what is live stays", version=live.version, why=stopped)
                self._note("bundle.init", live.version, "kept", stopped)
                return None
        if reason is None:
            return store, Desired(desired.version, digest, desired.way_back)
        if live is None:
            raise RejectedError(reason, f"deploy a good version, or remove {desired.version}'s ban")
        return None

    def _bring(self, store: Store, desired: Desired, live: Manifest | None) -> Manifest:
        draft = stage(
            self._layout,
            store,
            desired.version,
            limits=self._config.limits,
            manifest_required=self._manifest_required,
            digest=desired.digest,
            verified=self._verified,
            proof=Proof(self._trust, self._now, person=False, way_back=desired.way_back),
        )
        forward(self._layout, desired.version)
        if live is None:  # what was live before, if anything, was not good
            set_previous(self._layout, None)
        self._note("bundle.flip", desired.version, "active", draft.told())
        return draft.manifest

    def _note(self, action: str, subject: str, outcome: str, what: str) -> None:
        self._audit.append("init", action, subject, outcome, {"what": what})
