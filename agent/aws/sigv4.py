"""AWS Signature Version 4, by AWS's published algorithm. Pure.

botocore's signer says the same (the tests compare them, case by case), but importing it costs about
150 ms and 15 MiB, more than everything else that a start does.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

from agent.units import UnixTime


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys to sign with. `expires` is when AWS stops accepting them; None: never."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: UnixTime | None = None


def signed(
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    credentials: Credentials,
    region: str,
    service: str,
    now: UnixTime | None = None,
) -> dict[str, str]:
    """`headers` and those that sign the request: date, token and authorization.

    Args:
        headers: must hold `Host`; each is signed. The path has no query.
        now: time of the signature; the wall clock unless told.
    """
    moment = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
    stamp = moment.strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "X-Amz-Date": stamp}
    if credentials.token is not None:
        sent["X-Amz-Security-Token"] = credentials.token
    lowered = {name.lower(): " ".join(value.split()) for name, value in sent.items()}
    names = ";".join(sorted(lowered))
    canonical = "\n".join(
        (
            method,
            quote(path, safe="/-_.~") or "/",
            "",
            *(f"{name}:{lowered[name]}" for name in sorted(lowered)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(
        ("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest())
    )
    key = f"AWS4{credentials.secret_key}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    sent["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return sent
