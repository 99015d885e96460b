"""What can be wrong with a bundle, its store or its rollout."""

from __future__ import annotations

from agent.errors import AgentError, Exit


class BundleError(AgentError):
    """Root of this job's errors."""

    exit_code = Exit.BUNDLE


class RejectedError(BundleError):
    """The bundle is not good: names the file, what is wrong in it and, for bytes, the offset."""


class StoreError(BundleError):
    """The store does not answer, or what it says cannot be read."""

    exit_code = Exit.STORE


class MissingError(StoreError):
    """The store answered: there is no such version or channel."""


class GateError(BundleError):
    """Something outside the bundle says "not now": the trader's health, secrets, disk, a metric."""

    exit_code = Exit.HEALTH


class NoRoomError(GateError):
    """The disk is too full for what is to be staged."""


class RolloutError(BundleError):
    """A step of a rollout failed; the last good version is live."""
