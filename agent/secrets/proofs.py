"""Which answers may be published: a new value of a probed secret only once its probe succeeds.

A value that is published already needs no proof. One that fails is held back: the value before is
published on, from memory or as it stands in the directory, and the new one is tried again after a
pause that doubles, with jitter, or at once when another value comes. Where there is no value
before, `first` decides whether the trader gets one that may not work or none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.clock import Clock
from agent.configrotation import Probe
from agent.configsecrets import Secrets
from agent.errors import AgentError
from agent.secrets.errors import ProofError, afresh
from agent.secrets.model import Fetched
from agent.secrets.providers.fanout import fan_out
from agent.telemetry.logs import get_logger
from agent.units import Monotonic, Seconds, SecretName

_log = get_logger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_WORKERS = 4

Answers = Mapping[SecretName, Fetched | AgentError]
Prove = Callable[[Probe, Fetched], None]


@dataclass(frozen=True, slots=True)
class Unproven:
    """A value that failed: how often, why, when it is tried again, and whether it is published."""

    fetched: Fetched
    error: ProofError
    failures: int
    retry_at: Monotonic
    published: bool


class Proofs:
    """The proofs of one configuration. Used by one thread at a time, as publishing is."""

    def __init__(
        self,
        config: Secrets,
        clock: Clock,
        told: Callable[[SecretName, str], None],
        *,
        prove: Prove | None = None,
        roll: Callable[[], float] = random.random,
    ) -> None:
        """`told` hears of each try: `ok` or `failed`."""
        self._probes = {item.name: item.probe for item in config.items if item.probe is not None}
        self._clock, self._told, self._roll = clock, told, roll
        self._prove = prove or _prove
        self._proven: dict[SecretName, Fetched] = {}
        self.unproven: dict[SecretName, Unproven] = {}

    def sift(
        self, answers: Answers, stands: Callable[[SecretName, Answers], bool | None]
    ) -> Answers:
        """`answers`, with what must not be published yet replaced by the value before or by a
        ProofError.

        Args:
            stands: whether the directory shows this very value: True, False, or None where it shows
                none of that secret.
        """
        if not self._probes:
            return answers
        now = self._clock.monotonic()
        wanting: list[SecretName] = []
        for name in self._probes:
            answer = answers[name]
            if not isinstance(answer, Fetched) or self._is_proven(name, answer):
                continue
            failed = self.unproven.get(name)
            same = failed is not None and failed.fetched.value == answer.value
            if failed is not None and same and now < failed.retry_at:
                continue
            if not same and stands(name, answers):
                self._passed(name, answer)
                continue
            wanting.append(name)
        self._try(wanting, answers, stands)
        return {name: self._allowed(name, answer) for name, answer in answers.items()}

    def due_in(self) -> Seconds:
        """Seconds until the next try; 0: now."""
        now = self._clock.monotonic()
        return Seconds(
            min((max(0.0, one.retry_at - now) for one in self.unproven.values()), default=3600.0)
        )

    def _try(
        self,
        names: list[SecretName],
        answers: Answers,
        stands: Callable[[SecretName, Answers], bool | None],
    ) -> None:
        found: dict[SecretName, ProofError | None] = {}

        def one(name: SecretName) -> None:
            answer = answers[name]
            assert isinstance(answer, Fetched)
            try:
                self._prove(self._probes[name], answer)
                found[name] = None
            except ProofError as error:
                found[name] = afresh(error)

        fan_out(one, names, _WORKERS)
        for name, error in found.items():
            answer = answers[name]
            assert isinstance(answer, Fetched)
            self._told(name, "failed" if error else "ok")
            if error is None:
                self._passed(name, answer)
            else:
                self._failed(name, answer, error, stands(name, answers))

    def _passed(self, name: SecretName, answer: Fetched) -> None:
        self._proven[name] = answer
        if self.unproven.pop(name, None) is not None:
            _log.info("a value that had failed its probe works", secret=name)

    def _failed(
        self, name: SecretName, answer: Fetched, error: ProofError, shown: bool | None
    ) -> None:
        before = self.unproven.get(name)
        again = before is not None and before.fetched.value == answer.value
        failures = before.failures + 1 if before is not None and again else 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
        first = self._probes[name].first == "publish"
        published = shown is True or (shown is None and name not in self._proven and first)
        self.unproven[name] = Unproven(
            answer,
            error,
            failures,
            Monotonic(self._clock.monotonic() + pause * (0.5 + 0.5 * self._roll())),
            published,
        )
        _log.warning(
            "a new value failed its probe",
            secret=name,
            error=error.told(),
            failures=failures,
            published=published,
        )

    def _is_proven(self, name: SecretName, answer: Fetched) -> bool:
        proven = self._proven.get(name)
        if proven is None or proven.value != answer.value:
            return False
        self._proven[name] = answer  # the same value, perhaps of a later version
        if self.unproven.pop(name, None) is not None:
            _log.info("the value before has come back", secret=name)
        return True

    def _allowed(self, name: SecretName, answer: Fetched | AgentError) -> Fetched | AgentError:
        failed = self.unproven.get(name)
        if not isinstance(answer, Fetched) or failed is None or failed.published:
            return answer
        return self._proven.get(name) or afresh(failed.error)


def _prove(probe: Probe, fetched: Fetched) -> None:
    from agent.secrets.probes import prove  # only where a probe is configured

    prove(probe, fetched)
