"""Logging: one JSON object a line in production, readable lines on a terminal.

Tracebacks are rendered without local variables (structlog's ready-made JSON tracebacks print them,
and a secret in a local would land in the log); chatty libraries are held at WARNING whatever the
root level, because botocore at DEBUG logs whole response bodies; every string passes the redactor.

structlog brings asyncio and ssl along (25 ms, 8 MiB), and an init container that goes well logs
nothing: the logger here is a name and a level until its first event, and only then is structlog
imported and set up.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TextIO

from agent.telemetry.redaction import REDACTOR

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

_CLAMPED = ("botocore", "boto3", "urllib3", "s3transfer", "hvac", "watchdog", "asyncio")


def _redact(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {key: REDACTOR.scrub_tree(value) for key, value in event.items()}


def configure_logging(
    level: LogLevel = "info",
    fmt: LogFormat = "auto",
    stream: TextIO | None = None,
    *,
    at_first_event: bool = False,
) -> None:
    """Set up structlog and the standard library's logging, both ending in one handler.

    Args:
        level: the lowest level that is written.
        fmt: `json`, `console`, or `auto`: console on a terminal, JSON elsewhere.
        stream: where lines go; standard error unless told.
        at_first_event: do so only when this program logs something that is to be written. Foreign
            libraries' own lines are in their form until then: for a process that runs none.
    """
    stream = stream or sys.stderr
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in _CLAMPED:
        logging.getLogger(name).setLevel(logging.WARNING)
    _SET_UP.later(lambda: _set_up(fmt, stream))
    if not at_first_event:
        _SET_UP.now()


class _SetUp:
    """The set-up that is still to be done, done once, by whichever thread comes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: Callable[[], None] | None = None

    def later(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._pending = work

    def now(self) -> None:
        if self._pending is None:
            return
        with self._lock:
            work, self._pending = self._pending, None
            if work is not None:
                work()


_SET_UP = _SetUp()


def _set_up(fmt: LogFormat, stream: TextIO) -> None:
    import structlog
    from structlog.tracebacks import ExceptionDictTransformer

    as_json = fmt == "json" or (fmt == "auto" and not stream.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    if as_json:
        tail: list[Any] = [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            _redact,
            structlog.processors.JSONRenderer(),
        ]
    else:
        tail = [
            structlog.processors.format_exc_info,
            _redact,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="ts"),
        ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
        )
    )
    logging.getLogger().handlers[:] = [handler]


class Logger:
    """The logger of one module; events are short phrases, everything else goes in as keywords."""

    __slots__ = ("_bound", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._bound: Any = None

    def debug(self, event: str, *args: Any, **keywords: Any) -> None:
        self._emit(logging.DEBUG, event, args, keywords)

    def info(self, event: str, *args: Any, **keywords: Any) -> None:
        self._emit(logging.INFO, event, args, keywords)

    def warning(self, event: str, *args: Any, **keywords: Any) -> None:
        self._emit(logging.WARNING, event, args, keywords)

    def error(self, event: str, *args: Any, **keywords: Any) -> None:
        self._emit(logging.ERROR, event, args, keywords)

    def exception(self, event: str, *args: Any, **keywords: Any) -> None:
        """As `error`, with the traceback of the exception being handled, locals left out."""
        self._emit(logging.ERROR, event, args, {"exc_info": True, **keywords})

    def _emit(self, level: int, event: str, args: Any, keywords: dict[str, Any]) -> None:
        if not logging.getLogger(self._name).isEnabledFor(level):
            return
        _SET_UP.now()
        if self._bound is None:
            import structlog

            self._bound = structlog.stdlib.get_logger(self._name)
        self._bound.log(level, event, *args, **keywords)


def get_logger(name: str) -> Logger:
    """The logger for `name`; nothing is imported before its first event."""
    return Logger(name)
