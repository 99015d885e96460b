"""Credentials that an engine issues for a time: held, renewed, replaced before they run out.

The same credential is given out while its lease lives, so that a look at it is no new database
user. Past two thirds of its time a lease is renewed; when a renewal brings less than half of the
first duration, its max TTL is near and it is marked as due, which changes `serial`: the next read
asks for a new one while the old still works, and both are valid while they overlap. Nothing is
revoked at close, since the trader may be using it.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from agent.clock import Clock
from agent.secrets.errors import DeniedError, NotFoundError, SecretsError, UnavailableError
from agent.secrets.model import Fetched, SecretValue
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.vault.client import RefusedError, malformed
from agent.secrets.providers.vault.session import Session, seconds
from agent.units import Monotonic, Seconds, SecretName


@dataclass(slots=True)
class Lease:
    """One credential and how long it lives."""

    lease_id: str
    fetched: Fetched
    first: Seconds
    renewable: bool
    ends: Monotonic
    look: Monotonic
    due: bool = False


class Leases:
    """The leases of one provider. Safe from any thread."""

    def __init__(
        self,
        session: Session,
        clock: Clock,
        shown: str,
        roll: Callable[[], float] = random.random,
    ) -> None:
        self._session, self._clock, self._shown, self._roll = session, clock, shown, roll
        self._lock = threading.Lock()
        self._held: dict[SecretName, Lease] = {}
        self.serial = 0

    def read(self, name: SecretName, path: str, deadline: Deadline) -> Fetched:
        """The credential for `name`, issued at `path` where none is held.

        Raises:
            SecretsError: none is held that still lives, and none was issued.
        """
        with self._lock:
            lease = self._held.get(name)
        now = self._clock.monotonic()
        if lease is not None and not lease.due and now < lease.ends:
            return lease.fetched
        try:
            fresh = self._issue(name, path, deadline)
        except SecretsError:
            if lease is not None and now < lease.ends:
                return lease.fetched  # it still works, and the next look tries again
            raise
        with self._lock:
            self._held[name] = fresh
        return fresh.fetched

    def reissue(self, name: SecretName) -> None:
        """Ask for a new credential at the next read; the old one still works until its end."""
        with self._lock:
            lease = self._held.get(name)
            if lease is not None:
                lease.due = True
                self.serial += 1

    def maintain(self, deadline: Deadline) -> None:
        """Renew what is past two thirds of its time; mark what must be issued anew.

        Raises:
            UnavailableError: Vault cannot be asked; leases stay as they are.
        """
        now = self._clock.monotonic()
        with self._lock:
            held = list(self._held.values())
        wanting = [lease for lease in held if not lease.due and now >= lease.look]
        for lease in wanting:
            if not (lease.renewable and self._renewed(lease, deadline)):
                lease.due = True
                with self._lock:
                    self.serial += 1

    def _renewed(self, lease: Lease, deadline: Deadline) -> bool:
        began = self._clock.monotonic()
        try:
            answer = self._session.call(
                "PUT",
                "sys/leases/renew",
                deadline=deadline,
                body={"lease_id": lease.lease_id, "increment": int(lease.first)},
                repeatable=True,
            )
        except (DeniedError, NotFoundError, RefusedError):
            return False
        got = seconds(answer.get("lease_duration"))
        lease.ends = Monotonic(began + got)
        lease.look = self._when(began, got)
        return got >= lease.first / 2

    def _issue(self, name: SecretName, path: str, deadline: Deadline) -> Lease:
        began = self._clock.monotonic()
        answer = self._session.call("GET", path, deadline=deadline)
        data, lease_id = answer.get("data"), answer.get("lease_id")
        if not isinstance(data, dict) or not isinstance(lease_id, str) or not lease_id:
            raise malformed(self._shown, path)
        lasts = seconds(answer.get("lease_duration"))
        if not lasts:
            raise UnavailableError(
                f"{path} at {self._shown} issues a lease without an end",
                "set its role's default_ttl",
            )
        digest = hashlib.sha256(lease_id.encode()).hexdigest()[:12]
        fetched = Fetched(
            name=name,
            value=SecretValue(json.dumps(data).encode()),
            version=f"lease-{digest}",
            provider="vault",
            fetched_at=self._clock.now(),
        )
        return Lease(
            lease_id=lease_id,
            fetched=fetched,
            first=lasts,
            renewable=answer.get("renewable") is True,
            ends=Monotonic(began + lasts),
            look=self._when(began, lasts),
        )

    def _when(self, began: Monotonic, lasts: Seconds) -> Monotonic:
        return Monotonic(began + lasts * (2 / 3 - 0.1 * self._roll()))
