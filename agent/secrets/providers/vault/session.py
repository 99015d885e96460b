"""Who the agent is to Vault: one token, got by a login method, kept alive ahead of its expiry.

The token is looked after in the calls that use it, so there is no thread for it:
1. no token, or the method says that its source changed: log in
2. past two thirds of its time, less up to a tenth, so that a fleet does not come at once: renew it,
   or log in anew where it cannot be renewed or a renewal no longer brings much (max TTL)
3. that failed and the token has time left: use it, and try again a little later
4. "denied" with a token that is not fresh: it may have been revoked; log in once and ask again, at
   most every `_RELOGIN`, so that one forbidden secret does not become a storm of logins
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.clock import Clock
from agent.secrets.errors import DeniedError, SecretsError
from agent.secrets.model import SecretValue
from agent.secrets.providers.deadline import Deadline, Held
from agent.secrets.providers.vault.client import RefusedError, VaultClient, malformed
from agent.units import Monotonic, Seconds

_RELOGIN = Seconds(30.0)
_RETRY = Seconds(5.0)


@dataclass(frozen=True, slots=True)
class Token:
    """What a login brings. A `ttl` of 0: it does not expire; None: not known yet."""

    value: SecretValue
    ttl: Seconds | None
    renewable: bool


class LoginMethod(Protocol):
    """One way of proving who the agent is."""

    def login(self, client: VaultClient, deadline: Deadline) -> Token:
        """A new token.

        Raises:
            SecretsError: none could be had.
        """
        ...

    def changed(self) -> bool:
        """Whether what the last login used has been replaced. Cheap: asked before every call."""
        ...


class Session:
    """Authenticated calls. Safe from any thread."""

    def __init__(
        self,
        client: VaultClient,
        method: LoginMethod,
        clock: Clock,
        roll: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is asked yet. `roll` gives 0 to 1, for the spread of renewals."""
        self._client, self._method, self._clock, self._roll = client, method, clock, roll
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._got_at = Monotonic(0.0)  # when the present time to live began
        self._logged_in_at = Monotonic(0.0)
        self._first_ttl = Seconds(0.0)
        self._due: Monotonic | None = None
        self.logins = 0
        self.renewals = 0

    def call(
        self,
        method: str,
        path: str,
        *,
        deadline: Deadline,
        body: Mapping[str, Any] | None = None,
        query: str = "",
        repeatable: bool = False,
    ) -> dict[str, Any]:
        """As `VaultClient.call`, with the token of this session."""

        def ask(token: str) -> dict[str, Any]:
            return self._client.call(
                method,
                path,
                deadline=deadline,
                token=token,
                body=body,
                query=query,
                repeatable=repeatable,
            )

        used = self.token(deadline)
        try:
            return ask(used)
        except DeniedError:
            fresh = self._instead_of(used, deadline)
            if fresh is None:
                raise
            return ask(fresh)

    def token(self, deadline: Deadline) -> str:
        """The token to use now.

        Raises:
            SecretsError: there is none and none could be had.
        """
        with self._held(deadline):
            now = self._clock.monotonic()
            if self._token is None or self._method.changed():
                self._log_in(deadline)
            elif self._due is not None and now >= self._due:
                self._refresh(deadline, now)
            assert self._token is not None
            return self._token.value.reveal().decode()

    def maintain(self, deadline: Deadline) -> None:
        """Learn the time to live of a token that came without one; renew what is due."""
        self.token(deadline)
        with self._held(deadline):
            token = self._token
            if token is None or token.ttl is not None:
                return
            text = token.value.reveal().decode()
            path = "auth/token/lookup-self"
            try:
                answer = self._client.call("GET", path, deadline=deadline, token=text)
            except DeniedError:
                self._take(Token(token.value, Seconds(0.0), False), self._clock.monotonic())
                return  # its policy hides even itself: it serves as long as it serves
            data = answer.get("data")
            if not isinstance(data, dict):
                raise malformed(self._client.shown, path)
            ttl = seconds(data.get("ttl"))
            renewable = data.get("renewable") is True
            self._take(Token(token.value, ttl, renewable), self._clock.monotonic())

    def _held(self, deadline: Deadline) -> Held:
        return Held(self._lock, deadline, f"a login at {self._client.shown}")

    def _log_in(self, deadline: Deadline) -> None:
        began = self._clock.monotonic()
        try:
            token = self._method.login(self._client, deadline)
        except RefusedError as error:  # Vault says 400 to a wrong role or credential
            raise DeniedError(
                f"vault at {self._client.shown} refuses the login",
                "check secrets.vault.auth: method, mount, role and credential",
            ) from error
        self.logins += 1
        self._logged_in_at = began
        self._first_ttl = token.ttl or Seconds(0.0)
        self._take(token, began)

    def _take(self, token: Token, began: Monotonic) -> None:
        self._token, self._got_at = token, began
        share = 2 / 3 - 0.1 * self._roll()
        self._due = Monotonic(began + token.ttl * share) if token.ttl else None

    def _refresh(self, deadline: Deadline, now: Monotonic) -> None:
        token = self._token
        assert token is not None
        assert token.ttl is not None
        try:
            if not token.renewable or not self._renewed(token, deadline):
                self._log_in(deadline)
        except SecretsError:
            if now - self._got_at >= token.ttl:
                raise
            self._due = Monotonic(now + min(_RETRY, token.ttl / 20))

    def _renewed(self, token: Token, deadline: Deadline) -> bool:
        """Whether a renewal brought a good part of the first time to live."""
        began = self._clock.monotonic()
        try:
            answer = self._client.call(
                "POST",
                "auth/token/renew-self",
                deadline=deadline,
                token=token.value.reveal().decode(),
                body={},
                repeatable=True,
            )
        except (DeniedError, RefusedError):
            return False
        fresh = parse_auth(answer, self._client.shown, "auth/token/renew-self")
        self.renewals += 1
        self._take(Token(token.value, fresh.ttl, fresh.renewable), began)
        return (fresh.ttl or 0.0) >= self._first_ttl / 3

    def _instead_of(self, used: str, deadline: Deadline) -> str | None:
        """Another token than the one that was denied, or None where asking again is no use."""
        with self._held(deadline):
            if self._token is not None and self._token.value.reveal().decode() != used:
                return self._token.value.reveal().decode()  # another thread was faster
            now = self._clock.monotonic()
            if now - self._logged_in_at < _RELOGIN:
                return None
            self._log_in(deadline)
            fresh = self._token.value.reveal().decode() if self._token else used
            return fresh if fresh != used else None


def parse_auth(answer: Mapping[str, Any], shown: str, path: str) -> Token:
    """The token in a login's or a renewal's answer.

    Raises:
        UnavailableError: there is none in it.
    """
    auth = answer.get("auth")
    if not isinstance(auth, dict):
        raise malformed(shown, path)
    text = auth.get("client_token")
    if not isinstance(text, str) or not text or not text.isascii() or not text.isprintable():
        raise malformed(shown, path)
    return Token(
        SecretValue(text.encode()),
        seconds(auth.get("lease_duration")),
        auth.get("renewable") is True,
    )


def seconds(value: object) -> Seconds:
    """A time to live; what is no number of seconds does not expire as far as we know."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e10:
        return Seconds(0.0)
    return Seconds(float(value))
