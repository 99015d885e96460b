"""Whether the channel's wish calls for a rollout now. Pure, so that every case can be told."""

from __future__ import annotations

from agent.bundles.model import Desired
from agent.bundles.verdicts import Verdicts
from agent.units import Digest, Version


def why_not(
    desired: Desired | None,
    *,
    live: Version | None,
    live_digest: Digest | None,
    digest: Digest | None,
    verdicts: Verdicts,
) -> str | None:
    """Why nothing is to be rolled out; None when `desired` is.

    Args:
        desired: what the channel asks for.
        live: the version that `current` names.
        live_digest: its manifest's digest.
        digest: the digest of the desired version's manifest: the channel's, else the store's.
        verdicts: what was decided before.
    """
    if desired is None:
        return "the channel asks for nothing"
    if desired.version == live and digest in (None, live_digest):
        return "it is live"
    if verdicts.overridden(desired):
        return "a person chose another version; it stays until the channel asks for something new"
    banned = verdicts.why_banned(digest)
    if banned is not None:
        return f"{desired.version} is in quarantine: {banned}"
    return None
