"""Numbers and texts as Go prints them: what templates of alert rules are written against."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import inf, isinf, isnan
from typing import Any

_VERB = re.compile(r"%([-+# 0]*)([0-9]*)(?:\.([0-9]*))?(.)", re.DOTALL)
_KILO = ("k", "M", "G", "T", "P", "E", "Z", "Y")
_MILLI = ("m", "u", "n", "p", "f", "a", "z", "y")
_KIBI = ("ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_float(value: Any) -> float:
    """A template's value as a number.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"can't convert {type(value).__name__} to float")
    return float(value)


def show(value: Any) -> str:
    """What `%v` prints."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _shortest(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{show(v)}" for k, v in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(show(item) for item in value) + "]"
    return "<no value>" if value is None else str(value)


def _special(value: float) -> str | None:
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "+Inf" if value == inf else "-Inf"
    return None


def _shortest(value: float) -> str:
    """Go's `%v` of a float64: the fewest digits that read back, with an exponent from 10^6 up."""
    special = _special(value)
    if special is not None:
        return special
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    if value == 0:
        return "-0" if sign else "0"
    point = len(digits) + exponent - 1
    if -4 <= point < 6:
        return format(Decimal(repr(value)).normalize(), "f")
    text = "".join(map(str, digits))
    mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
    return f"{'-' if sign else ''}{mantissa}e{'-' if point < 0 else '+'}{abs(point):02d}"


def general(value: float, digits: int = 4) -> str:
    """`%.4g`."""
    return _special(value) or format(value, f".{digits}g")


def sprintf(pattern: str, *args: Any) -> str:
    """Go's `fmt.Sprintf` for the verbs that templates use; a verb that does not fit its argument
    is told in the text, as Go does."""
    rest = list(args)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        return _padded(_verb(verb, flags, precision, rest.pop(0)), flags, width)

    text = _VERB.sub(one, pattern)
    if rest:
        text += "%!(EXTRA " + ", ".join(f"{_type(v)}={show(v)}" for v in rest) + ")"
    return text


def _padded(text: str, flags: str, width: str) -> str:
    wide = int(width or 0)
    if "-" in flags:
        return text.ljust(wide)
    if "0" in flags and text[-1:].isdigit():
        sign = text[:1] if text[:1] in "+-" else ""
        return sign + text[len(sign) :].rjust(wide - len(sign), "0")
    return text.rjust(wide)


def _verb(verb: str, flags: str, precision: str | None, value: Any) -> str:
    places = None if precision is None else int(precision or 0)
    if verb == "v":
        return show(value)
    if verb in "eEfFgG" and isinstance(value, float):
        return _float_verb(verb, flags, places, value)
    if isinstance(value, int) and not isinstance(value, bool) and verb in "dxXob":
        text = format(value, verb)
        return "+" + text if "+" in flags and value >= 0 else text
    if verb == "t" and isinstance(value, bool):
        return show(value)
    if isinstance(value, str) and verb in "sqxX":
        return _text_verb(verb, places, value)
    return f"%!{verb}({_type(value)}={show(value)})"


def _float_verb(verb: str, flags: str, places: int | None, value: float) -> str:
    special = _special(value)
    if special is not None:
        text = special if "+" in flags else special.removeprefix("+")
        return "+Inf" if value == inf else text
    if verb in "gG" and places is None:
        text = _shortest(value)
    else:
        text = format(value, f".{6 if places is None else places}{verb}")
    return "+" + text if "+" in flags and value >= 0 else text


def _text_verb(verb: str, places: int | None, value: str) -> str:
    if verb == "q":
        inner = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{inner}"'
    if verb == "s":
        return value if places is None else value[:places]
    return value.encode().hex() if verb == "x" else value.encode().hex().upper()


def _type(value: Any) -> str:
    names = {bool: "bool", int: "int", float: "float64", str: "string"}
    return names.get(type(value), "map[string]string" if isinstance(value, dict) else "<nil>")


def humanize(raw: Any) -> str:
    """A number with a metric prefix: 1234 is 1.234k."""
    value = to_float(raw)
    if value == 0 or isnan(value) or isinf(value):
        return general(value)
    if abs(value) >= 1:
        return _scaled(value, 1000, _KILO)
    return _diminished(value)


def humanize1024(raw: Any) -> str:
    """A number with a binary prefix."""
    value = to_float(raw)
    if abs(value) <= 1 or isnan(value) or isinf(value):
        return general(value)
    return _scaled(value, 1024, _KIBI)


def _scaled(value: float, step: int, prefixes: tuple[str, ...]) -> str:
    prefix = ""
    for candidate in prefixes:
        if abs(value) < step:
            break
        prefix = candidate
        value /= step
    return general(value) + prefix


def _diminished(value: float) -> str:
    prefix = ""
    for candidate in _MILLI:
        if abs(value) >= 1:
            break
        prefix = candidate
        value *= 1000
    return general(value) + prefix


def humanize_duration(raw: Any) -> str:
    """Seconds as days, hours, minutes and seconds; below one second with a metric prefix."""
    value = to_float(raw)
    if isnan(value) or isinf(value):
        return general(value)
    if value == 0:
        return general(value) + "s"
    if abs(value) < 1:
        return _diminished(value) + "s"
    sign, value = ("-", -value) if value < 0 else ("", value)
    whole = int(value)
    seconds, minutes = whole % 60, whole // 60 % 60
    hours, days = whole // 3600 % 24, whole // 86400
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {seconds}s"
    if minutes:
        return f"{sign}{minutes}m {seconds}s"
    return f"{sign}{general(value)}s"


def humanize_percentage(raw: Any) -> str:
    """0.123 is 12.3%."""
    return general(to_float(raw) * 100) + "%"


def humanize_timestamp(raw: Any) -> str:
    """Seconds since the epoch as Go prints a UTC time, to the millisecond."""
    value = to_float(raw)
    if isnan(value) or isinf(value):
        return general(value)
    whole, milliseconds = divmod(int(value * 1e9 / 1e6), 1000)
    fraction = f"{milliseconds:03d}".rstrip("0")
    try:
        told = (_EPOCH + timedelta(seconds=whole)).strftime("%Y-%m-%d %H:%M:%S")
    except OverflowError as error:
        raise ValueError(f"{value} is not a time") from error
    return f"{told}{'.' + fraction if fraction else ''} +0000 UTC"
