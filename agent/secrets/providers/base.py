"""What the chain asks of a provider. Calls block and are safe from any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from agent.secrets.errors import SecretsError
from agent.secrets.model import Fetched
from agent.secrets.providers.deadline import Deadline
from agent.units import SecretName


class Provider(Protocol):
    """A place on this machine that secrets come from: it answers or fails at once."""

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


@runtime_checkable
class Backend(Protocol):
    """A server that secrets come from: every call has a deadline, and many names are one call."""

    name: str

    def read(self, name: SecretName, deadline: Deadline) -> Fetched:
        """As `Provider.read`, by the deadline."""
        ...

    def read_many(
        self, names: Sequence[SecretName], deadline: Deadline
    ) -> Mapping[SecretName, Fetched | SecretsError]:
        """Every name's value or error; raises neither."""
        ...

    def marker(self, deadline: Deadline) -> str:
        """As `Provider.marker`. Also where tokens and leases are looked after.

        Raises:
            SecretsError: the server could not be asked.
        """
        ...

    def close(self) -> None:
        """Close idle connections."""
        ...
