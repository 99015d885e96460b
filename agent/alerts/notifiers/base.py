"""What a notifier is, where its credential comes from, and the one table of status codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, runtime_checkable

from agent.alerts.errors import DeliveryError
from agent.alerts.exchange import Answer, Connection, ExchangeError, is_safe
from agent.alerts.routing import Notification, Route
from agent.confignotify import CredentialRef
from agent.errors import AgentError
from agent.units import Bytes, Seconds, UnixTime

SecretReader = Callable[[str], bytes]
Learn = Callable[[str, bytes], None]
"""Tells the redactor a credential, so that no log line or page can ever hold it."""

MAX_ANSWER = Bytes(64 * 1024)
LONGEST_RETRY_AFTER = 3600.0
SLOW_RETRY = 60.0
"""Seconds between tries with a credential that was refused: a rotated one heals it."""


_PAST = 4
"""Values of a credential that are remembered, the current one too."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a service may be spoken to: messages a second, and how many at once."""

    per_second: float
    burst: int


class Credential:
    """A credential, looked up anew at every use so that a rotated one takes effect at once."""

    def __init__(
        self, ref: CredentialRef, what: str, reader: SecretReader | None, learn: Learn
    ) -> None:
        """`what` names it in messages, such as `PagerDuty routing key`."""
        self._learn = learn
        self._ref = ref
        self._what = what
        self._reader = reader
        self._past: list[str] = []
        self.used = ""
        self.length: int | None = None
        """How many characters one has, where the service says so."""
        self.wanted: Callable[[str], bool] | None = None

    def inherit(self, other: Credential) -> None:
        """Know the values that `other` knew: a reload forgets no key that an incident needs."""
        self._past = [*other._past, *self._past]

    def check(self) -> None:
        """Look whether it could be used now; changes nothing of what a send uses. Blocking.

        Raises:
            DeliveryError: it cannot be read, or has not the form that the service takes.
        """
        value = self._current()
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise self._missing("it has characters that none has", "store the credential alone")
        if self.length is not None and len(value) != self.length:
            raise self._missing(
                f"it has not the {self.length} characters that one has", "store the right one"
            )

    @property
    def from_environment(self) -> bool:
        """Whether it comes from a variable, where every child process sees it."""
        return self._ref.env is not None

    def read(self) -> str:
        """The value; a former one when that is `wanted`, and still known. Blocking.

        Former values are kept in memory alone, the last few of them.

        Raises:
            DeliveryError: there is none; not permanent.
        """
        self.used = self._chosen(self._current())
        return self.used

    def _current(self) -> str:
        try:
            raw, where = self._raw()
        except AgentError as error:
            raise self._missing(str(error), error.remedy) from None
        except OSError as error:
            raise self._missing(f"{self._ref.file}: {error.strerror}", "make the file") from None
        value = self._pick(raw).strip()
        if not value:
            raise self._missing(f"{where} is empty", "store the credential there")
        self._learn(self._what, value.encode())
        return value

    def _chosen(self, current: str) -> str:
        if current not in self._past:
            self._past.append(current)
            del self._past[:-_PAST]
        if self.wanted is None or self.wanted(current):
            return current
        return next((value for value in reversed(self._past) if self.wanted(value)), current)

    def _raw(self) -> tuple[bytes, str]:
        ref = self._ref
        if ref.env is not None:
            return os.environ.get(ref.env, "").encode(), f"variable {ref.env}"
        if ref.file is not None:
            return ref.file.read_bytes(), f"file {ref.file}"
        assert ref.secret is not None
        if self._reader is None:
            raise self._missing("the secrets job is off", "enable it, or name a file")
        return self._reader(ref.secret), f"secret {ref.secret}"

    def _pick(self, raw: bytes) -> str:
        """The text, or the named field of a JSON object; nothing of a value reaches a message."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self._missing("it is not text", "store it as text") from None
        if self._ref.field is None:
            return text
        try:
            tree = json.loads(text)
        except ValueError:
            tree = None
        value = tree.get(self._ref.field) if isinstance(tree, dict) else None
        if not isinstance(value, str):
            raise self._missing(
                f"it has no text field {self._ref.field!r}", "correct `field`, or the secret"
            )
        return value

    def _missing(self, reason: str, remedy: str) -> DeliveryError:
        return DeliveryError(f"{self._what} cannot be read: {reason}", remedy)


class Notifier(Protocol):
    """One destination."""

    name: str
    route: Route
    rate: Rate
    timeout: Seconds

    @property
    def credential(self) -> Credential | None:
        """What it needs to be let in; None where it needs nothing."""
        ...

    def send(self, notification: Notification, now: UnixTime) -> None:
        """Deliver; blocking, for one thread at a time, at most `timeout` seconds.

        Raises:
            DeliveryError: it was not accepted; the error says whether trying again can help.
        """
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


@runtime_checkable
class Resends(Protocol):
    """A notifier whose receiver forgets what is not told again."""

    resend_every: Seconds

    def adopt(self, firing: Iterable[Notification]) -> None:
        """Resend these from now on as well: they were told before a restart."""
        ...

    def resend(self, now: UnixTime) -> int:
        """Tell again all that fires; how many. Blocking. Raises DeliveryError."""
        ...


def bearer(credential: Credential | None) -> dict[str, str]:
    """The header that carries a token; none without one. Raises DeliveryError."""
    if credential is None:
        return {}
    token = credential.read()
    if not token.isascii() or not token.isprintable():
        raise DeliveryError(
            "the token has characters that no header may hold",
            "store the token alone",
            retry_after=SLOW_RETRY,
        )
    return {"Authorization": f"Bearer {token}"}


def post(
    connection: Connection,
    name: str,
    url: str,
    body: bytes,
    timeout: Seconds,
    now: UnixTime,
    headers: Mapping[str, str] | None = None,
    *,
    guarded: bool = True,
) -> Answer:
    """POST JSON to a service and judge the status.

    Args:
        headers: what is sent beside the usual.
        guarded: whether something in it is a credential, which never travels in the clear.

    Raises:
        DeliveryError: not sent, or the status is not a success. Never names the URL.
    """
    if guarded and not is_safe(url):
        raise DeliveryError(
            f"{name}: the address is not https", "use https; http only to this machine itself",
            retry_after=SLOW_RETRY,
        )  # fmt: skip
    try:
        answer = connection.exchange(
            "POST",
            url,
            deadline=timeout,
            max_body=MAX_ANSWER,
            headers={
                "Content-Type": "application/json; charset=utf-8",
                "Accept": "application/json, text/plain",
                **(headers or {}),
            },
            body=body,
        )
    except ExchangeError as error:
        raise DeliveryError(
            f"{name}: {error}", "check the network path from this pod to the service"
        ) from None
    if not 200 <= answer.status < 300:
        raise refused(name, answer, now)
    return answer


def refused(name: str, answer: Answer, now: UnixTime) -> DeliveryError:
    """The one table: what a status that is no success means.

    429 and 408: asked to wait, or slow. 5xx: theirs, passes. 401, 403, 404, 410 and redirects: the
    credential or the address; a rotated one heals it, so tried again slowly. Other 4xx: these very
    bytes are refused, and will be again.
    """
    status = answer.status
    if status == 429:
        wait = retry_after(answer.headers, now)
        return DeliveryError(f"{name} asks to slow down (429)", retry_after=wait or 1.0)
    if status == 408 or status >= 500:
        wait = retry_after(answer.headers, now)
        return DeliveryError(f"{name} answered {status}", retry_after=wait)
    if status in (401, 403, 404, 410) or status < 400:
        return DeliveryError(
            f"{name} does not know the credential or the address ({status})",
            "store the right one; it is read anew at every try",
            retry_after=SLOW_RETRY,
        )
    return DeliveryError(f"{name} refused the message ({status})", permanent=True)


def retry_after(headers: Mapping[str, str], now: UnixTime) -> float | None:
    """Seconds that `Retry-After` (RFC 9110 10.2.3) asks for; None when it says nothing sound."""
    told = headers.get("retry-after", "").strip()
    if told.isascii() and told.isdigit():
        seconds = float(told[:9])
    else:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters; a cut is seen."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def as_json(tree: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Compact UTF-8 JSON; what JSON cannot say (NaN, infinities) must have been made text."""
    return json.dumps(tree, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode(
        "utf-8", "replace"
    )


def number(value: float | None) -> str:
    """A value for a person; empty where there is none."""
    return "" if value is None else f"{value:.6g}"


def lasted(seconds: float) -> str:
    """A duration for a person: `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    for big, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60)):
        if whole >= size:
            return _two(whole // size, big, whole % size // part, small)
    return _two(whole // 60, "min", whole % 60, "s") if whole >= 60 else f"{whole} s"


def _two(first: int, big: str, second: int, small: str) -> str:
    return f"{first} {big} {second} {small}" if second else f"{first} {big}"
