"""What may not leave in a notification: known secret values, and what the site's patterns match.

Known values are masked wherever they stand. A pattern (`alerts.redact`) is looked for in the values
of labels and annotations alone, before anything is remembered or queued, so that neither the disk
nor a receiver ever sees what it matches. An alert's identity stays that of its labels as they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from agent.telemetry.redaction import MASK, Redactor

_FIELDS = ("labels", "annotations")


class Redaction:
    """The redactor of the process, and the patterns of one configuration."""

    def __init__(self, redactor: Redactor, patterns: Iterable[str] = ()) -> None:
        """Raises re.error for what is no regular expression; the configuration has checked it."""
        self._redactor = redactor
        self.patterns = patterns

    @property
    def patterns(self) -> Iterable[str]:
        """The regular expressions in force."""
        return tuple(pattern.pattern for pattern in self._patterns)

    @patterns.setter
    def patterns(self, patterns: Iterable[str]) -> None:
        self._patterns = tuple(re.compile(pattern) for pattern in patterns)

    def scrub_tree(self, tree: Any) -> Any:
        """A JSON-like tree without known secret values; below `labels` and `annotations` also
        without what a pattern matches."""
        scrubbed = self._redactor.scrub_tree(tree)
        if not self._patterns or not isinstance(scrubbed, Mapping):
            return scrubbed
        masked = {
            key: self.texts(scrubbed[key])
            for key in _FIELDS
            if isinstance(scrubbed.get(key), Mapping)
        }
        return {**scrubbed, **masked}

    def scrub_texts(self, texts: Mapping[str, str]) -> dict[str, str]:
        """Labels or annotations without known secret values and without what a pattern matches."""
        return self.texts(self._redactor.scrub_tree(dict(texts)))

    def texts(self, texts: Mapping[str, str]) -> dict[str, str]:
        """`texts` without what a pattern matches. The alert's name and severity stay: by them a
        receiver sorts it."""
        return {key: self._masked(key, text) for key, text in texts.items()}

    def _masked(self, key: str, text: str) -> str:
        if key in ("alertname", "severity"):
            return text
        for pattern in self._patterns:
            text = pattern.sub(MASK, text)
        return text
