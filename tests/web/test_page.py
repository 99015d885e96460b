"""The status page, as HTML and as a person sees it in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.units import UnixTime
from agent.web.element import ago, badge, duration, el, link
from agent.web.page import page, to_html
from agent.web.routes import routes
from agent.web.server import Request, Response
from agent.web.view import verdict
from tests.faults.clock import FakeClock
from tests.web.browser import CHROMIUM, Seen, look, parse
from tests.web.conftest import Serve
from tests.web.face import FIRING, NOW, PENDING, FakeFace, red, rolling_out

HOSTILE = "</title></script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"

browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to look at the page")


def served(face: FakeFace) -> Seen:
    """The page as the server writes it, before any script."""
    return parse(page(face.status(), UnixTime(NOW)).decode())


def hostile() -> FakeFace:
    """Markup in every text that comes from elsewhere."""
    face = rolling_out()

    def poison(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: poison(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [poison(value) for value in tree]
        return tree + HOSTILE if isinstance(tree, str) else tree

    keep = {"state": "firing", "severity": "critical"}
    alert = {**poison(FIRING), **keep, "labels": {"job": HOSTILE, "x": "javascript:alert(1)"}}
    face.tree = poison(face.tree)
    face.tree["alerts"]["alerts"] = [alert]
    face.fail("c" + HOSTILE, HOSTILE, HOSTILE, gates=False)
    return face


# -- what is said -----------------------------------------------------------------------------


def test_a_flood_of_alerts_is_shown_as_the_first_hundred_and_how_many_more() -> None:
    face = FakeFace()
    face.tree["alerts"]["alerts"] = [PENDING] * 20_000 + [FIRING]
    html = page(face.status(), UnixTime(NOW)).decode()
    assert "and 19901 more" in parse(html).text
    assert html.count(str(FIRING["name"])) >= 1  # what fires comes first
    assert len(html) < 200_000


def test_green_says_so_and_what_is_live() -> None:
    seen = served(FakeFace())
    assert seen.title == "✓ All well · trader-7c9f-2xkqv"
    assert "✓ All well Everything the trader needs is there, and nothing fires." in seen.text
    assert "Live v2025-07-06 for 3 d" in seen.text
    assert "Before it v2025-07-01" in seen.text
    assert "database/main ✓ fresh 12 s ago 9 local" in seen.text
    assert "v2025-07-03 ✕ failed 5 d 18 h ago 800 ms operator policy.pt: sha256" in seen.text
    assert "pagerduty ✓ clear none 8 min 20 s ago 12" in seen.text


def test_what_calls_for_nobody_leaves_the_page_green_and_stands_last() -> None:
    face = FakeFace()
    face.tree["alerts"]["alerts"] = [
        {**FIRING, "name": "Watchdog", "severity": "none"},
        {**FIRING, "name": "InfoConfigurationReloaded", "severity": "info"},
    ]
    seen = served(face)
    assert seen.title.startswith("✓ All well")
    assert "✓ steady Watchdog none" in seen.text
    assert "✓ info InfoConfigurationReloaded info" in seen.text
    face.tree["alerts"]["alerts"].append({**FIRING, "severity": "warning"})
    seen = served(face)
    assert "▲ Attention 1 alert fires" in seen.text
    assert seen.text.index(str(FIRING["name"])) < seen.text.index("Watchdog")


def test_red_leads_with_what_is_missing_and_what_to_do() -> None:
    seen = served(red())
    assert seen.title.startswith("✕ Not ready")
    assert "1 thing the trader needs is missing; 1 alert fires." in seen.text
    first, second = seen.text.index("✕ blocks secrets-published"), seen.text.index("▲ warns config")
    assert first < second < seen.text.index("Alerts")
    assert "→ chown it to the agent's uid" in seen.text
    assert "the last reload was refused: line 14" in seen.text
    assert "database/main cannot be read ✕ missing never" in seen.text
    assert "broker/interactive_brokers ▲ stale 2 h 01 min ago" in seen.text
    assert "✕ failing 4 waiting, oldest 5 min 10 s HTTP 429, asked to wait 30 s" in seen.text
    assert "bundles OSError: [Errno 5] Input/output error ✕ backoff 3 d 4 h ago 3" in seen.text


def test_an_alert_shows_state_value_since_when_labels_and_summary_firing_first() -> None:
    seen = served(red())
    assert "✕ firing TradingLatencyP99High critical value 4.12e-05 for 1 min 05 s" in seen.text
    assert "p99 of an order's decision is 41.2 µs" in seen.text
    assert "instance=localhost:8000" in seen.text
    assert seen.has("a", href="https://runbooks.internal/latency", rel="noreferrer")
    assert "▲ pending OrderRejectsRising warning value +Inf for 20 s" in seen.text
    assert seen.text.index("TradingLatencyP99High") < seen.text.index("OrderRejectsRising")


def test_a_rollout_shows_its_step_its_gates_and_how_long_it_bakes_yet() -> None:
    seen = served(rolling_out())
    assert "▲ rolling out v2025-07-08 DEPLOYING started 43 s ago" in seen.text
    assert "✓ copy 412 ms ✓ validate 31 ms" in seen.text
    assert "▸ bake" in seen.text
    assert "✓ clear critical-alerts" in seen.text
    assert "✕ breached orders value 1.87e-05" in seen.text
    assert seen.has("li", aria_current="step")
    assert "2 min 19 s left to bake" in seen.text
    assert seen.has("progress", value="43", max="182")
    assert "▲ no data latency-p99 p99 > 25e-6 no scrape yet" in seen.text
    assert "v2025-07-08 is being rolled out." in seen.text


def test_a_version_that_waits_says_what_for() -> None:
    face = FakeFace()
    face.tree["bundles"].update(desired="v2025-07-09", waiting="the store has not answered")
    assert "Wanted v2025-07-09 the store has not answered" in served(face).text
    assert "Wanted" not in served(FakeFace()).text


def test_a_time_shows_its_absolute_form_on_hover() -> None:
    assert served(FakeFace()).has(
        "time", datetime="2025-07-09T23:51:40Z", title="2025-07-09 23:51:40 UTC"
    )


@pytest.mark.parametrize(
    ("alerts", "condition", "expected"),
    [
        ([], None, ("good", "All well")),
        ([PENDING], None, ("warn", "Pending")),
        ([{**PENDING, "state": "firing"}], None, ("warn", "Attention")),
        ([], False, ("warn", "Attention")),
        ([FIRING], False, ("bad", "Firing")),
        ([FIRING], True, ("bad", "Not ready")),
    ],
)
def test_the_verdict_is_the_worst_that_is_true(
    alerts: list[dict[str, Any]], condition: bool | None, expected: tuple[str, str]
) -> None:
    face = FakeFace()
    face.tree["alerts"]["alerts"] = alerts
    if condition is not None:
        face.fail("x", "is wrong", gates=condition)
    assert verdict(face.status())[:2] == expected
    face.alive = False
    assert verdict(face.status())[:2] == ("bad", "Hung")


def test_jobs_that_are_off_are_said_to_be_off() -> None:
    face = FakeFace()
    face.tree.update(secrets=None, bundles=None, alerts=None)
    assert served(face).text.count("Switched off here.") == 3


@pytest.mark.parametrize("job", ["secrets", "bundles", "alerts"])
def test_a_read_model_of_an_unknown_shape_costs_its_own_part_only(job: str) -> None:
    face = FakeFace()
    face.tree[job] = {"alerts": []}
    seen = served(face)
    assert "This part cannot be shown; the log says why." in seen.text
    assert "All well" in seen.text
    assert ("Live v2025-07-06" in seen.text) == (job != "bundles")
    assert ("database/main" in seen.text) == (job != "secrets")


# -- nothing that it shows is markup ----------------------------------------------------------


def test_hostile_texts_stay_texts_in_the_served_page() -> None:
    seen, plain = served(hostile()), served(FakeFace())
    scripts = [tag for tag, _ in seen.tags if tag in ("script", "img", "iframe", "style")]
    assert scripts == [tag for tag, _ in plain.tags if tag in ("script", "style")]
    assert not any(name.startswith("on") for _, found in seen.tags for name in found)
    assert HOSTILE in seen.text
    assert seen.dom.count("<main") == 1


def test_a_link_goes_to_http_and_https_alone() -> None:
    assert link("https://a/b")[0] == link("http://a/b")[0] == "a"
    for url in ("javascript:alert(1)", "data:text/html,x", " https://a", "//a", "HTTPS://a"):
        assert link(url) == ["span", {}, url]


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_any_text_and_attribute_come_back_unchanged_from_the_html(text: str, title: str) -> None:
    text, title = text.replace("\r", ""), title.replace("\r", "")
    seen = parse(to_html(el("p", "", el("b", "", text or "x"), title=title)))
    assert [tag for tag, _ in seen.tags] == ["p", "b"]
    assert seen.tags[0][1]["title"] == title
    assert "".join(seen.text.split()) == "".join((text or "x").split())


def test_the_policy_allows_the_one_style_and_the_one_script_by_digest_and_nothing_else() -> None:
    face = FakeFace()
    handler = routes(face, FakeClock(NOW))
    answer = handler(Request("GET", "/", {}, {}))
    policy = dict(part.split(" ", 1) for part in answer.csp.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-\S{44}'", policy["script-src"])
    assert re.fullmatch(r"'sha256-\S{44}'", policy["style-src"])
    html = answer.body.decode()
    assert " style=" not in html
    assert "innerHTML" not in html
    assert not re.search(r"(?:src|href)=\"(?!data:,|https://runbooks)", html)


def test_signs_stand_beside_every_colour() -> None:
    for tone in ("good", "warn", "bad", "off"):
        assert re.match(r"[✓▲✕–] state", parse(to_html(badge("state", tone))).text.strip()[:7])


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((-5, "0 ms"), (0.0421, "42 ms"), (1.24, "1.2 s"), (59.4, "59 s"), (59.6, "1 min 00 s")),
        *((754, "12 min"), (3599.7, "1 h 00 min"), (86_399, "23 h 59 min"), (86_400, "1 d")),
        (190_000, "2 d 4 h"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_moment_that_never_was_is_never() -> None:
    assert ago(None, UnixTime(NOW)) == "never"


# -- in a browser -----------------------------------------------------------------------------


@browser
@pytest.mark.parametrize("make", [FakeFace, red, rolling_out, hostile])
async def test_the_script_shows_exactly_what_the_server_does_and_asks_no_other_origin(
    serve: Serve, tmp_path: Path, make: Any
) -> None:
    face = make()
    handler = routes(face, FakeClock(NOW))
    asked: list[str] = []

    def counted(request: Request) -> Response:
        asked.append(request.path)
        return handler(request)

    site = await serve(counted)
    first = served(face)
    seen = await look(f"{site.url}/", tmp_path)
    assert asked[0] == "/"
    assert asked.count("/api/v1/status") >= 2
    assert (seen.title, seen.text) == (first.title, first.text)
    assert seen.tags == first.tags
    assert seen.requested == {f"{site.url}/api/v1/status?view=page"}


@browser
async def test_the_page_follows_a_change_by_itself_from_green_to_red_and_firing(
    serve: Serve, tmp_path: Path
) -> None:
    face, later = FakeFace(), red()
    first = routes(face, FakeClock(NOW))
    second = routes(later, FakeClock(NOW + 5))

    def change(request: Request) -> Response:
        return first(request) if request.path == "/" else second(request)

    seen = await look(f"{(await serve(change)).url}/", tmp_path)
    assert seen.title.startswith("✕ Not ready")
    assert seen.text == parse(page(later.status(), UnixTime(NOW + 5)).decode()).text
    assert "✕ firing TradingLatencyP99High" in seen.text
    assert "All well" not in seen.text


@browser
async def test_the_script_builds_no_element_and_no_link_that_it_was_not_made_for(
    serve: Serve, tmp_path: Path
) -> None:
    handler = routes(FakeFace(), FakeClock(NOW))
    evil = [
        "main",
        {"id": "view"},
        ["script", {}, "document.title='owned'"],
        ["a", {"href": "javascript:alert(1)", "onclick": "alert(1)"}, "click"],
        ["iframe", {"src": "http://127.0.0.1:1/"}, "<b>text</b>"],
    ]
    told = json.dumps({"title": "<i>", "view": evil}).encode()

    def hijack(request: Request) -> Response:
        return handler(request) if request.path == "/" else Response(200, told, "application/json")

    seen = await look(f"{(await serve(hijack)).url}/", tmp_path)
    assert seen.title == "<i>"
    inside = seen.dom[seen.dom.index("<main") : seen.dom.index("</main>")]
    assert "<span>document.title='owned'</span>" in inside
    assert "<a>click</a>" in inside
    assert "<span>&lt;b&gt;text&lt;/b&gt;</span>" in inside


@browser
@pytest.mark.parametrize("trouble", ["error", "gone"])
async def test_a_lost_connection_is_said_loudly_with_the_age_of_what_is_shown(
    serve: Serve, tmp_path: Path, trouble: str
) -> None:
    handler = routes(FakeFace(), FakeClock(NOW))

    def once(request: Request) -> Response:
        if request.path == "/":
            return handler(request)
        if trouble == "gone":
            for peer in site.server._peers:
                peer.writer.transport.abort()
        return Response(500, b"")

    site = await serve(once)
    seen = await look(f"{site.url}/", tmp_path, budget_ms=4500)
    why = "the agent answers with 500" if trouble == "error" else "the agent cannot be reached"
    assert re.search(rf"Connection lost: {why}\. What you see is \d+ s old\.", seen.text)
    assert seen.title.startswith("✕ Connection lost · ")
    assert seen.has("div", id="lost", role="alert")
    assert seen.has("body", class_="stale")
    assert "Live v2025-07-06" in seen.text


@browser
@pytest.mark.parametrize("make", [red, rolling_out, hostile])
async def test_the_page_fits_a_phone_without_scrolling_sideways(
    serve: Serve, tmp_path: Path, make: Any
) -> None:
    """An iframe of 390 px measures it: headless windows are never narrower than 500."""
    handler = routes(make(), FakeClock(NOW))
    ruler = (
        b"<!doctype html><title>?</title><iframe width=390 height=800 src=/></iframe><script>"
        b"onload = () => { const d = document.querySelector('iframe').contentDocument;"
        b" document.title = d.documentElement.scrollWidth + ' of ' + d.documentElement.clientWidth"
        b"}</script>"
    )

    def measured(request: Request) -> Response:
        if request.path == "/ruler":
            return Response(200, ruler, "text/html", "default-src 'self' 'unsafe-inline'")
        answer = handler(request)
        framed = answer.csp.replace("frame-ancestors 'none'", "frame-ancestors 'self'")
        return Response(answer.status, answer.body, answer.content_type, framed)

    seen = await look(f"{(await serve(measured)).url}/ruler", tmp_path)
    inner, _, width = seen.title.partition(" of ")
    assert 375 <= int(width) <= 390
    assert int(inner) <= int(width)


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_stands_out_from_its_ground_by_4_5_to_1(theme: int) -> None:
    html = page(FakeFace().status(), UnixTime(NOW)).decode()
    block = re.findall(r":root \{(.*?)\}", html, re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", block))
    pairs = [("ink", ground) for ground in ("paper", "card", "good-wash", "warn-wash", "bad-wash")]
    pairs += [("quiet", "paper"), ("quiet", "card")]
    for tone in ("good", "warn", "bad", "off"):
        pairs += [(tone, f"{tone}-wash"), (tone, "card")]
    pairs.append(("warn", "bad-wash"))  # a warning among what blocks
    for text, ground in pairs:
        light, dark = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
