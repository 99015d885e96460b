"""What can be wrong with a secret or the place it comes from. No message ever holds a value."""

from __future__ import annotations

from typing import TypeVar

from agent.errors import AgentError, Exit

Kept = TypeVar("Kept", bound=AgentError)


class SecretsError(AgentError):
    """Root of this job's errors."""

    exit_code = Exit.SECRETS


class NotFoundError(SecretsError):
    """The provider answered: there is no such secret."""


class DeniedError(SecretsError):
    """The provider answered: not for you."""


class UnavailableError(SecretsError):
    """The provider did not answer, or its store cannot be read just now."""


class StoreError(SecretsError):
    """The local store is damaged, foreign, or was written with another key."""


class RolledBackError(StoreError):
    """The local store is an older one than this machine has seen."""


class WrongKeyError(StoreError):
    """The key does not fit the store."""


class KeyFileError(SecretsError):
    """The key file is missing, open to others, or holds no key."""


class PublishError(SecretsError):
    """The directory cannot take a new generation; the old one is as it was."""


class ProofError(UnavailableError):
    """A new value does not work, or what would tell cannot be reached; it is not published."""


class ShapeError(SecretsError):
    """The value does not fit the format it is to be written in, or its name is no name."""


def afresh(error: Kept) -> Kept:
    """The same error without its traceback, to be kept and raised again: a kept traceback grows
    with every raise, and holds the frames, and so the values, of whoever met it first."""
    return type(error)(str(error), error.remedy)
