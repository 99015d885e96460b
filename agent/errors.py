"""The root of every error that this program raises on purpose.

An error names the thing that is wrong, carries a `remedy` (what a person does next) and the exit
code that a command ends with. No message, argument or attribute of an error ever holds a secret
value. Each job has its own tree in its own `errors.py`, rooted here; edges translate foreign
exceptions into that tree once.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line: the contract that a pod's operator reads."""

    GOOD = 0
    BUG = 1
    USAGE = 2
    SECRETS = 3
    BUNDLE = 4
    HEALTH = 5
    STORE = 6
    UNREACHABLE = 7


class AgentError(Exception):
    """Something is wrong that a person can mend.

    `str(error)` names the thing; `remedy` says what to do about it; `exit_code` is what a command
    that ends because of it returns.
    """

    exit_code: Exit = Exit.BUG

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def told(self) -> str:
        """Message and remedy in one text, for a terminal or a log line."""
        return f"{self} ({self.remedy})" if self.remedy else str(self)


class UsageError(AgentError):
    """The command line or a request is not one that can be carried out."""

    exit_code = Exit.USAGE


class UnreachableError(AgentError):
    """No running agent answers on its admin socket."""

    exit_code = Exit.UNREACHABLE


class BusyError(AgentError):
    """Another process holds the lock that this one needs."""

    exit_code = Exit.UNREACHABLE
