"""Providers in order: the first that has the secret answers; what the others said is kept.

Not found and unavailable are told apart: a provider that is down is passed over, one that answers
"no such secret" ends the search there unless a later one has it, and "denied" ends it at once, so
that a missing permission is never papered over by an older copy elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.secrets.errors import (
    DeniedError,
    NotFoundError,
    SecretsError,
    StoreError,
    UnavailableError,
)
from agent.secrets.model import Fetched
from agent.secrets.providers.base import Provider
from agent.units import SecretName

Told = Callable[[str, SecretName, str], None]
"""Called with provider, secret and outcome for every try: for audit and metrics."""

_OUTCOMES: tuple[tuple[type[SecretsError], str], ...] = (
    (NotFoundError, "not_found"),
    (DeniedError, "denied"),
    (UnavailableError, "unavailable"),
    (StoreError, "damaged"),
)


def outcome_of(error: SecretsError) -> str:
    """The one word for an error in audit and metrics."""
    for kind, word in _OUTCOMES:
        if isinstance(error, kind):
            return word
    return "error"


class Chain:
    """A fallback chain over `providers`, asked in order."""

    def __init__(self, providers: Sequence[Provider], told: Told) -> None:
        self._providers = tuple(providers)
        self._told = told

    def read(self, name: SecretName) -> Fetched:
        """The secret from the first provider that has it.

        Raises:
            SecretsError: the most telling of what the providers said: denied, else damaged or
                unavailable, else not found.
        """
        worst: SecretsError | None = None
        for provider in self._providers:
            try:
                fetched = provider.read(name)
            except SecretsError as error:
                self._told(provider.name, name, outcome_of(error))
                if isinstance(error, DeniedError):
                    raise
                if worst is None or isinstance(worst, NotFoundError):
                    worst = error
                continue
            self._told(provider.name, name, "ok")
            return fetched
        raise worst or UnavailableError("no secret provider is configured", "set secrets.local")

    def marker(self) -> str:
        """Changes whenever some provider's content may have changed."""
        return "|".join(provider.marker() for provider in self._providers)
