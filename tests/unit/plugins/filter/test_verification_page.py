# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page that the role verify makes of a report: what it says, and that nothing in it runs or loads."""

from __future__ import annotations

import re
import typing as t
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.voicefleet.cosyvoice.plugins.filter.verification_page import verification_page

Report = dict[str, t.Any]
TEMPLATE = (Path(__file__).parents[4] / "roles/verify/templates/report.html.j2").read_text()
VOID = {"meta", "br", "link", "img", "input"}


class Page(HTMLParser):
    """Every element and the text of a page; unbalanced elements are an error."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _tag, attrs in self.elements if name in (attrs.get("class") or "").split()]


def page_of(report: Report) -> Page:
    return Page(verification_page(report, TEMPLATE))


@pytest.fixture(params=["good", "bad", "cpu", "nothing"])
def any_report(request: pytest.FixtureRequest) -> Report:
    return t.cast(Report, request.getfixturevalue(request.param))


def test_every_check_replica_card_and_route_is_on_the_page(any_report: Report) -> None:
    page = page_of(any_report)
    for check in any_report["checks"]:
        assert all(" ".join(check[key].split()) in page.text for key in ("name", "found", "wanted", "remedy"))
    for replica in any_report["replicas"]:
        assert all(replica[key] in page.text for key in ("name", "image", "revision"))
    for card in any_report["cards"]:
        assert card["uuid"] in page.text
        assert card["reason"] in page.text
    for router in any_report["routes"].get("routers", []):
        assert router["name"] in page.text
        assert router["rule"] in page.text
    for service in any_report["routes"].get("services", []):
        assert all(server["url"] in page.text for server in service["loadBalancer"]["servers"])
    assert any_report["host"] in page.text
    assert any_report["generated_at"] in [attrs.get("datetime") for _tag, attrs in page.elements]


def test_the_page_loads_nothing_and_runs_nothing(any_report: Report) -> None:
    source = verification_page(any_report, TEMPLATE)
    tags = {tag for tag, _attrs in Page(source).elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form"}
    assert not re.search(r"url\(|@import|\son\w+=", source)
    assert "default-src 'none'" in source


def test_the_verdict_stands_in_the_title_and_on_top(good: Report, bad: Report) -> None:
    assert page_of(good).text.startswith("✓ gpu-01.example.com")
    assert "All 19 checks passed" in page_of(good).text
    assert page_of(bad).text.startswith("✗ gpu-02.example.com")
    assert "4 of 21 checks failed" in page_of(bad).text


def test_failures_come_first_each_with_its_remedy(bad: Report) -> None:
    text = page_of(bad).text
    for check in bad["checks"]:
        if not check["ok"]:
            assert text.index(check["remedy"]) < text.index("Cards and slots")
    table = text[text.index("Every check") :]
    last_failure = max(table.index(check["name"]) for check in bad["checks"] if not check["ok"])
    assert last_failure < min(table.index(check["name"]) for check in bad["checks"] if check["ok"])


def test_nothing_is_said_of_failures_when_there_are_none(good: Report) -> None:
    assert "What failed" not in page_of(good).text
    assert page_of(good).of_class("bad") == []


def test_markup_in_names_stays_text(any_report: Report) -> None:
    evil = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7 * 7 }}"
    any_report["host"] = evil
    for kind in ("checks", "replicas", "cards", "answers"):
        for thing in any_report[kind]:
            thing.update(
                {key: evil for key, value in thing.items() if isinstance(value, str) and key != "state"}
            )
    for things in any_report["routes"].values():
        for thing in things:
            thing.update({key: evil for key, value in thing.items() if isinstance(value, str)})
    page = page_of(any_report)
    tags = {tag for tag, _attrs in page.elements}
    assert not tags & {"script", "img"}
    assert "<script>alert('x')</script>" in page.text
    assert "49" not in page.text.replace("{{ 7 * 7 }}", "").split()


def bars(page: Page) -> list[list[tuple[str, int]]]:
    """Each bar's parts: its classes, and its share of the bar."""
    found: list[list[tuple[str, int]]] = []
    for tag, attrs in page.elements:
        if "bar" in (attrs.get("class") or "").split():
            found.append([])
        elif tag == "span" and (share := re.match(r"flex-grow:(\d+)$", attrs.get("style") or "")):
            found[-1].append((attrs["class"] or "", int(share.group(1))))
    return found


def test_a_memory_bar_is_drawn_to_scale(good: Report) -> None:
    first, second = bars(page_of(good))
    taken = ("slot taken", 8192)
    assert first == [("reserved", 354), taken, taken, ("left", 24564 - 354 - 2 * 8192)]
    assert second == [
        ("reserved", 354),
        ("foreign", 612),
        taken,
        taken,
        ("left", 24564 - 354 - 612 - 2 * 8192),
    ]


def test_ill_free_mig_and_lost_are_told_apart(bad: Report) -> None:
    page = page_of(bad)
    whole, mig_1, mig_2, lost = bars(page)
    assert [kind for kind, _share in whole] == ["reserved", "slot taken", "slot ill", "left"]
    assert [kind for kind, _share in mig_1] == ["slot taken", "slot vacant", "left"]
    assert [kind for kind, _share in mig_2] == ["foreign", "slot vacant", "left"]
    assert lost == []
    assert len(page.of_class("unknown")) == 1
    # Not by colour alone.
    assert "cosyvoice-2, unhealthy" in page.text
    assert "memory unknown: GPU is lost" in page.text


def test_a_host_without_cards_says_so(cpu: Report) -> None:
    text = page_of(cpu).text
    assert "Cards and slots" not in text
    assert "on the CPU" in text


def test_a_sentence_that_was_saved_gets_a_player(good: Report) -> None:
    source = verification_page(good, TEMPLATE)
    assert 'src="audio:0"' in source
    good["answers"][0]["dest"] = ""
    assert "<audio" not in verification_page(good, TEMPLATE)


def test_tables_keep_their_meaning_when_a_phone_lays_them_out_as_blocks(bad: Report) -> None:
    page = page_of(bad)
    roles = {"table": "table", "tbody": "rowgroup", "tr": "row", "td": "cell"}
    for tag, attrs in page.elements:
        if tag in roles:
            assert attrs.get("role") == roles[tag]
        if tag == "th":
            assert attrs.get("role") in ("columnheader", "rowheader")


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="give a report"):
        verification_page("text", TEMPLATE)


def test_a_broken_template_is_named_as_such() -> None:
    with pytest.raises(AnsibleFilterError, match="cannot be filled"):
        verification_page({}, "{% if %}")
