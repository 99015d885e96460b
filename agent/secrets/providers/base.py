"""What the chain asks of a provider. Calls block and are safe from any thread."""

from __future__ import annotations

from typing import Protocol

from agent.secrets.model import Fetched
from agent.units import SecretName


class Provider(Protocol):
    """A place that secrets come from."""

    name: str

    def read(self, name: SecretName) -> Fetched:
        """The current version of one secret.

        Raises:
            NotFoundError, DeniedError, UnavailableError, StoreError: told apart, so that the chain
                can decide.
        """
        ...

    def marker(self) -> str:
        """A cheap mark that changes whenever some secret may have changed."""
        ...
