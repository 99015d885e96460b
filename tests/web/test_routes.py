"""Every path of the face: status codes, shapes, and what the probes say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from shutil import which
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.telemetry.metrics import METRICS, PREFIX
from tests.web.conftest import Site
from tests.web.face import FakeFace

ALL = (
    *("/", "/livez", "/readyz", "/startupz", "/healthz", "/health", "/metrics"),
    *(f"/api/v1/{name}" for name in ("status", "secrets", "deployments", "alerts")),
    *("/api/v1/rules", "/api/v1/status/alerts"),
)


@pytest.mark.parametrize("path", ALL)
async def test_a_well_agent_answers_200_everywhere_and_head_agrees(site: Site, path: str) -> None:
    answer = await site.get(path)
    assert answer.status == 200
    assert answer.body
    head = await site.get(path, "HEAD")
    assert head.status == 200
    assert head.headers["content-type"] == answer.headers["content-type"]
    assert (await site.get(path, "POST")).status == 405


@pytest.mark.parametrize(
    ("state", "codes"),
    [
        (
            "hung",
            {"/livez": 503, "/readyz": 200, "/startupz": 200, "/healthz": 503, "/health": 503},
        ),
        (
            "not ready",
            {"/livez": 200, "/readyz": 503, "/startupz": 200, "/healthz": 503, "/health": 503},
        ),
        (
            "degraded",
            {"/livez": 200, "/readyz": 200, "/startupz": 200, "/healthz": 200, "/health": 200},
        ),
        (
            "never ready",
            {"/livez": 200, "/readyz": 200, "/startupz": 503, "/healthz": 200, "/health": 200},
        ),
    ],
)
async def test_each_probe_answers_for_its_own_question_alone(
    site: Site, face: FakeFace, state: str, codes: dict[str, int]
) -> None:
    set_up: dict[str, Callable[[], None]] = {
        "hung": lambda: setattr(face, "alive", False),
        "not ready": lambda: face.fail("bundle-live", "there is none", "publish one"),
        "degraded": lambda: face.fail("store", "unreachable", gates=False),
        "never ready": lambda: setattr(face, "latched", False),
    }
    set_up[state]()
    assert {path: (await site.get(path)).status for path in codes} == codes


async def test_a_good_probe_says_ok_and_verbose_lists_each_check(site: Site) -> None:
    assert (await site.get("/readyz")).text == "ok"
    listed = (await site.get("/readyz?verbose")).text
    assert listed.splitlines() == [
        "[+]secrets-published ok",
        "[+]bundle-live ok",
        "[+]targets-scraped ok",
        "readyz check passed",
    ]


async def test_a_bad_probe_says_why_and_what_to_do_without_being_asked(
    site: Site, face: FakeFace
) -> None:
    face.fail("bundle-live", "no version is live", "publish one")
    face.fail("store", "unreachable", gates=False)
    lines = (await site.get("/readyz")).text.splitlines()
    assert "[-]bundle-live failed: no version is live (publish one)" in lines
    assert "[-]store failed: unreachable [does not gate readiness]" in lines
    assert lines[-1] == "readyz check failed"


async def test_an_excluded_check_does_not_count_and_an_unknown_one_is_named(
    site: Site, face: FakeFace
) -> None:
    face.fail("bundle-live", "no version is live")
    answer = await site.get("/readyz?exclude=bundle-live&exclude=typo&verbose")
    assert answer.status == 200
    assert "[+]bundle-live excluded: ok" in answer.text
    assert "warn: no check to exclude is called typo" in answer.text
    assert (await site.get("/readyz?exclude=typo")).status == 503


async def test_probes_speak_json_by_accept_and_by_format(site: Site, face: FakeFace) -> None:
    face.fail("bundle-live", "no version is live", "publish one")
    by_header = await site.get("/readyz", Accept="application/json")
    by_query = await site.get("/readyz?format=json")
    assert by_header.body == by_query.body
    assert by_header.status == 503
    told = json.loads(by_header.body)
    assert told["status"] == "failed"
    (wrong,) = [check for check in told["checks"] if not check["ok"]]
    assert (wrong["name"], wrong["remedy"], wrong["excluded"]) == (
        "bundle-live",
        "publish one",
        False,
    )


@pytest.mark.parametrize(("gates", "status"), [(True, "unhealthy"), (False, "degraded")])
async def test_health_keeps_the_shape_of_the_earlier_scripts(
    site: Site, face: FakeFace, gates: bool, status: str
) -> None:
    well = json.loads((await site.get("/health")).body)
    assert well["status"] == "healthy"
    assert well["timestamp"] == "2025-07-10T00:00:00.000+00:00"
    assert {check["status"] for check in well["checks"].values()} == {"healthy"}
    face.fail("store", "unreachable", gates=gates)
    ill = json.loads((await site.get("/health")).body)
    assert ill["status"] == status == ill["checks"]["store"]["status"]
    assert ill["checks"]["store"]["message"] == "unreachable"


async def test_the_parts_of_the_api_are_the_parts_of_the_status(site: Site) -> None:
    whole = json.loads((await site.get("/api/v1/status")).body)
    for path, key in (
        ("secrets", "secrets"),
        ("deployments", "bundles"),
        ("status/alerts", "alerts"),
    ):
        assert json.loads((await site.get(f"/api/v1/{path}")).body) == whole[key]


async def test_a_job_that_is_off_is_404_with_the_remedy(site: Site, face: FakeFace) -> None:
    face.tree["alerts"] = None
    answer = await site.get("/api/v1/status/alerts")
    assert answer.status == 404
    assert json.loads(answer.body)["remedy"] == "set alerts.enabled: true"
    for path in ("/api/v1/alerts", "/api/v1/rules"):
        answer = await site.get(path)
        assert answer.status == 404
        assert json.loads(answer.body)["status"] == "error"
    assert (await site.get("/")).status == 200


async def test_numbers_that_json_cannot_hold_are_written_as_prometheus_writes_them(
    site: Site, face: FakeFace
) -> None:
    values = (float("nan"), float("inf"), float("-inf"))
    face.tree["alerts"]["alerts"] = [
        {"name": "A", "state": "firing", "active_at": 1.0, "value": value} for value in values
    ]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    told = json.loads((await site.get("/api/v1/status/alerts")).body, parse_constant=refuse)
    assert [alert["value"] for alert in told["alerts"]] == ["NaN", "+Inf", "-Inf"]


@pytest.mark.parametrize("path", ["/nothing", "//", "/livez/", "/..%2f", "/favicon.ico"])
async def test_an_unknown_path_is_404_and_names_the_known_ones(site: Site, path: str) -> None:
    answer = await site.get(path)
    assert answer.status == 404
    assert set(ALL) <= set(answer.text.splitlines())
    told = json.loads((await site.get(path, Accept="application/json")).body)
    assert set(told["pages"]) == set(ALL)


async def test_a_face_that_raises_is_500_on_that_path_and_no_other(
    site: Site, face: FakeFace
) -> None:
    face.breaks = RuntimeError("a secret text")
    answer = await site.get("/livez")
    assert answer.status == 500
    assert "secret" not in answer.text
    assert (await site.get("/readyz")).status == 200


# -- metrics ----------------------------------------------------------------------------------


def _record_everything(face: FakeFace) -> None:
    """One sample of each metric that the agent has, by the recorder that it uses."""
    for name, spec in METRICS.items():
        labels: dict[str, Any] = dict.fromkeys(spec.labels, 'a "b"\n\\c')
        if spec.kind == "counter":
            face.recorder.inc(name, **labels)
        elif spec.kind == "gauge":
            face.recorder.set(name, 1.5, **labels)
        else:
            face.recorder.observe(name, 0.02, **labels)


async def test_metrics_are_prometheus_text_and_hold_every_declared_metric(
    site: Site, face: FakeFace
) -> None:
    _record_everything(face)
    answer = await site.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {family.name: family for family in parse_text(answer.text)}
    for name, spec in METRICS.items():
        family = found[
            (PREFIX + name).removesuffix("_total") if spec.kind == "counter" else PREFIX + name
        ]
        assert family.type == spec.kind
        assert family.documentation == spec.help


async def test_metrics_are_openmetrics_when_asked(site: Site, face: FakeFace) -> None:
    _record_everything(face)
    answer = await site.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    families = list(parse_openmetrics(answer.text))  # type: ignore[no-untyped-call]
    assert {PREFIX + name.removesuffix("_total") for name in METRICS} <= {f.name for f in families}


@pytest.mark.skipif(which("promtool") is None, reason="needs promtool (Debian: prometheus)")
async def test_promtool_finds_nothing_to_lint_in_the_metrics(site: Site, face: FakeFace) -> None:
    _record_everything(face)
    exposed = (await site.get("/metrics")).body
    linted = subprocess.run(
        ["promtool", "check", "metrics"], input=exposed, capture_output=True, timeout=30
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, b"")
