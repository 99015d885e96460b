"""A store in a bucket of S3, or of anything that speaks its API: read-only, as over HTTP.

The same conditional polls, parallel ranges and resumed downloads as `http`, with each request
signed (Signature Version 4) and, where it is configured, the bucket's expected owner named, so that
a bucket that somebody else took over under its name gives nothing. Credentials are a shared
credentials file that is read again for each request, so that what rotates it need tell nobody;
without one, requests are not signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as IniError
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from agent.aws.sigv4 import Credentials, signed
from agent.bundles.errors import StoreError
from agent.bundles.stores.http import HttpStore
from agent.bundles.stores.web import Origin

if TYPE_CHECKING:
    from agent.configstores import BundleStore

_NOTHING = hashlib.sha256(b"").hexdigest()
_FILE_LIMIT = 64 * 1024


def base_url(config: BundleStore) -> str:
    """What the store's objects are below: bucket in the path at an endpoint of one's own, in the
    host's name at AWS, unless the bucket's name has dots, which no certificate covers."""
    assert config.bucket is not None  # the configuration's own check
    amazon = f"s3.{config.region}.amazonaws.com"
    if config.endpoint is not None:
        base = f"{config.endpoint.rstrip('/')}/{config.bucket}"
    elif "." in config.bucket:
        base = f"https://{amazon}/{config.bucket}"
    else:
        base = f"https://{config.bucket}.{amazon}"
    return f"{base}/{config.prefix.strip('/')}" if config.prefix.strip("/") else base


class S3Store(HttpStore):
    """Versions and channels in a bucket, below a prefix. Safe from any thread."""

    def __init__(self, config: BundleStore) -> None:
        """Nothing is connected yet."""
        super().__init__(config, base_url(config))

    def _credentials(self, url: str, origin: Origin) -> Mapping[str, str]:
        """The headers that sign a GET of `url`; none for another server."""
        config = self._config
        if origin != self._origin:
            return {}
        parts = urlsplit(url)
        headers = {"Host": parts.netloc, "x-amz-content-sha256": _NOTHING}
        if config.bucket_owner is not None:
            headers["x-amz-expected-bucket-owner"] = config.bucket_owner
        if config.credentials_file is None:
            return headers
        keys = read_credentials(str(config.credentials_file), config.profile)
        return signed("GET", unquote(parts.path), headers, b"", keys, config.region, "s3")


def read_credentials(path: str, profile: str) -> Credentials:
    """Keys from a shared credentials file; raises StoreError, which holds nothing of them."""
    parser = ConfigParser(interpolation=None, strict=False)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_string(file.read(_FILE_LIMIT))
        section = dict(parser[profile])
        key, secret = section["aws_access_key_id"], section["aws_secret_access_key"]
    except (OSError, UnicodeDecodeError, IniError, KeyError):
        raise StoreError(
            f"{path} holds no credentials of profile {profile}",
            "write aws_access_key_id and aws_secret_access_key below its heading",
        ) from None
    return Credentials(key, secret, section.get("aws_session_token") or None)
