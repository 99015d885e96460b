"""What a pattern matches leaves neither by a page nor by the disk."""

from __future__ import annotations

from agent.alerts.redact import Redaction
from agent.alerts.routing import Notification
from agent.telemetry.redaction import Redactor
from tests.alerts.made import notification


def made(*patterns: str) -> Redaction:
    redactor = Redactor()
    redactor.learn("database/main", b"hunter2hunter2")
    return Redaction(redactor, patterns)


def test_a_pattern_masks_labels_and_annotations_and_leaves_what_sorts_the_alert() -> None:
    told = notification(
        key="jules-1234-5678",
        labels={"alertname": "Acct 1234-5678", "account": "acct 1234-5678", "severity": "critical"},
        annotations={"summary": "account 1234-5678 is blocked"},
    )
    tree = made(r"\d{4}-\d{4}").scrub_tree(told.as_dict())
    seen = Notification.from_dict(tree)
    assert seen.labels["account"] == "acct [redacted]"
    assert seen.summary == "account [redacted] is blocked"
    assert seen.labels["alertname"] == "Acct 1234-5678"
    assert seen.dedup_key == told.dedup_key


def test_known_secret_values_are_masked_with_and_without_patterns() -> None:
    told = notification(annotations={"summary": "cannot log in with hunter2hunter2"})
    for redaction in (made(), made(r"\d{4}-\d{4}")):
        assert "hunter2" not in str(redaction.scrub_tree(told.as_dict()))
        assert redaction.scrub_texts({"a": "hunter2hunter2"}) == {"a": "[redacted]"}


def test_what_reaches_the_disk_is_masked_whatever_its_label_is_called() -> None:
    assert made("secret-.*").scrub_texts({"desk": "secret-fx", "x": "y"}) == {
        "desk": "[redacted]",
        "x": "y",
    }
