"""What can be wrong with a rule, an expression, a scrape or a delivery."""

from __future__ import annotations

from agent.errors import AgentError, Exit


class AlertsError(AgentError):
    """Root of this job's errors."""

    exit_code = Exit.USAGE


class ExprError(AlertsError):
    """An expression is not PromQL, or is PromQL that is not supported here.

    `position` is the offset of the offending part in the text, in characters, where it is known.
    """

    def __init__(self, message: str, remedy: str = "", position: int | None = None) -> None:
        super().__init__(message, remedy)
        self.position = position


class EvalError(AlertsError):
    """Evaluating a sound expression on these samples is an error (many-to-many matching, say)."""


class RuleError(AlertsError):
    """Rule files that cannot be used; the message lists each problem: file, group, rule, reason."""


class ExpositionError(AlertsError):
    """A scraped body is not in an exposition format; nothing of that scrape is kept."""


class ScrapeError(AlertsError):
    """A target did not answer a scrape in time, or not with 200."""

    exit_code = Exit.BUG


class DeliveryError(AlertsError):
    """A receiver did not accept a notification.

    `permanent` says that sending the same bytes again cannot help; `retry_after` is how long the
    receiver asked to be left alone, in seconds.
    """

    exit_code = Exit.BUG

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        permanent: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, remedy)
        self.permanent = permanent
        self.retry_after = retry_after
