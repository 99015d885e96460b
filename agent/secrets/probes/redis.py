"""A login to Redis: AUTH, then PING, in its wire protocol."""

from __future__ import annotations

from agent.secrets.probes.wire import Wire

_TOLD = ("WRONGPASS", "NOAUTH", "ERR", "NOPERM", "LOADING", "MASTERDOWN")


def log_in(wire: Wire, *, user: str, password: str) -> str:
    """Why the login is refused; empty where it is not. Raises OSError, ValueError."""
    arguments = (user, password) if user else (password,)
    answer = _ask(wire, "AUTH", *arguments)
    if answer != b"+OK":
        return f"AUTH is refused ({_word(answer)})"
    answer = _ask(wire, "PING")
    # who may log in and not PING is logged in all the same
    return "" if answer == b"+PONG" or answer.startswith(b"-NOPERM") else _word(answer)


def _ask(wire: Wire, *words: str) -> bytes:
    sent = [word.encode() for word in words]
    wire.send(
        b"*%d\r\n" % len(sent) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in sent)
    )
    return wire.line()


def _word(answer: bytes) -> str:
    word = answer[1:].partition(b" ")[0].decode("ascii", "replace")
    return word if word in _TOLD else "not Redis's answer"
