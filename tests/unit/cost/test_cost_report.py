"""One report, four renderings: the figures agree, hostile text stays text, and simulated prices are called so."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import date, timedelta
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from cost_story import (
    T0,
    at,
    ended,
    job_of,
    launched,
    loss_at,
    on_demand_prices,
    placed,
    spot_prices,
    story,
    submitted,
    trained,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from spotrun.cost.axis import nice_ticks, thin, time_ticks
from spotrun.cost.category import Category
from spotrun.cost.entry import Extra
from spotrun.cost.export import SCHEMA, to_csv, to_json
from spotrun.cost.html import render_html
from spotrun.cost.ledger import build_ledger
from spotrun.cost.loss_curve import POINTS_MAX, draw_loss
from spotrun.cost.report import Metric, PriceCurve, PriceSource, Report, make_report, money_lines, total_shown
from spotrun.cost.terminal import render_terminal
from spotrun.cost.timeline import draw_timeline
from spotrun.job.event import EndReason
from spotrun.job.state import Phase

HOSTILE = "</title><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>[bold]=cmd|' /C calc'!A0"
GENERATED = PriceSource(name="market generator, seed 7", simulated=True)
LISTED = PriceSource(name="AWS on-demand list prices, Linux", as_of=date(2026, 7, 20))


def report_of(events=None, *, phase=Phase.COMPLETED, extras=(), metrics=True, spot=GENERATED) -> Report:
    events = events or story()
    ledger = build_ledger(events, spot_prices, on_demand_prices, extras=extras)
    losses = [
        Metric(step, row.launched_at, loss_at(step), row.number)
        for row in ledger.rows
        for step in range(row.first_step + 1, row.last_step + 1)
    ]
    return make_report(
        job_of(events, phase),
        ledger,
        spot_prices=spot,
        on_demand_prices=LISTED,
        metrics=losses if metrics else (),
        curves=[PriceCurve(zone="use1-az4", instance_type="g5.xlarge", steps=spot_prices(1))],
    )


def running_report(events) -> Report:
    ledger = build_ledger(events, {}, {}, until=at("09:00"))
    return make_report(job_of(events, Phase.TRAINING), ledger, spot_prices=GENERATED, on_demand_prices=LISTED)


def printed(report: Report, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    console.print(render_terminal(report))
    return console.export_text()


class Page(HTMLParser):
    """The tags of a page, their attributes, and what a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skipped = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skipped += tag in ("style", "script")

    def handle_endtag(self, tag):
        self._skipped -= tag in ("style", "script")

    def handle_data(self, data):
        if not self._skipped:
            self.text += data


class TestTerminal:
    def test_it_tells_the_attempts_the_savings_and_where_each_dollar_went(self):
        text = printed(report_of())
        assert "Saved $3.52" in text
        assert "40.7 %" in text
        assert re.search(r"paid +\$5\.12", text)
        assert re.search(r"on demand would have cost +\$8\.64", text)
        assert re.search(r"goodput +91\.7 %", text)
        assert "free" in text
        assert "Useful training $4.75" in text
        assert "simulated prices" in text
        assert "estimated" in text

    @pytest.mark.parametrize("width", [60, 80, 104, 200])
    def test_it_fits_the_terminal(self, width):
        assert max(len(line.rstrip()) for line in printed(report_of(), width).splitlines()) <= width

    def test_columns_that_do_not_fit_are_left_out_rather_than_cut(self):
        assert "from step" not in printed(report_of(), 80)
        assert "from step" in printed(report_of(), 120)
        assert "2:34:02" in printed(report_of(), 80)

    def test_of_gangs_it_tells_how_many_nodes_each_attempt_had(self):
        hour = timedelta(hours=1)
        events = [submitted(nodes="2..4", provider="ec2"), placed(1, T0), launched(1, T0, nodes=3), ended(1, T0 + hour)]
        second = T0 + 2 * hour
        events += [placed(2, second), launched(2, second, nodes=2), ended(2, second + hour)]
        for width in (80, 140):
            lines = printed(report_of(events, metrics=False), width=width).splitlines()
            head = next(line for line in lines if "nodes" in line)
            counts = [line.split()[2] for line in lines if line.strip().startswith(("1 ", "2 ")) and "use1" in line]
            assert (head.split()[2], counts) == ("nodes", ["3", "2"])
        assert "nodes" not in printed(report_of(), width=140)

    def test_text_from_outside_is_not_read_as_markup(self):
        text = printed(report_of(story(name="[bold red]x[/] [link=http://evil]")))
        assert "[bold red]x[/] [link=http://evil]" in text

    def test_a_job_that_never_ran_says_so(self):
        report = running_report([submitted()])
        assert "No attempt has run" in printed(report)
        assert report.headline == "Paid $0.00 so far, nothing kept yet"


class TestJson:
    def test_its_keys_and_key_figures_are_stable(self):
        extras = [Extra(kind="volumes", usd=Decimal("0.11"), source="gp3, 2026-07")]
        document = json.loads(to_json(report_of(extras=extras)))
        assert document["schema"] == SCHEMA == "spotrun.report/1"
        assert document["basis"] == "estimated"
        assert document["simulated"] is True
        assert document["prices"]["on_demand"] == {"source": LISTED.name, "as_of": "2026-07-20", "simulated": False}
        assert document["savings"]["paid_usd"] == "5.227380333"
        assert document["interruptions"] == 4
        assert document["steps"] == {"kept": 3400, "lost": 148}
        assert [attempt["attempt"] for attempt in document["attempts"]] == [1, 2, 4, 5, 6]
        assert document["attempts"][0]["margin_s"] == 99.0
        assert list(document) == [
            *("schema", "basis", "simulated", "final", "job", "prices", "headline", "savings", "time_s", "money_usd"),
            *("steps", "interruptions", "refused", "attempts", "waits", "extras", "notes"),
        ]

    def test_its_strings_of_money_add_up_to_the_total(self):
        money = json.loads(to_json(report_of(extras=[Extra(kind="volumes", usd=Decimal("0.11"))])))["money_usd"]
        assert sum(Decimal(usd) for name, usd in money.items() if name != "total") == Decimal(money["total"])

    def test_shares_that_do_not_exist_are_null(self):
        savings = json.loads(to_json(running_report([submitted()])))["savings"]
        assert savings["net_share"] is None
        assert savings["usd_per_step"] is None


class TestCsv:
    def test_the_cost_column_adds_up_to_what_was_paid(self):
        extras = [Extra(kind="volumes", usd=Decimal("0.11"))]
        report = report_of(extras=extras)
        lines = list(csv.DictReader(io.StringIO(to_csv(report))))
        assert len(lines) == 6
        assert sum(Decimal(line["cost_usd"]) for line in lines) == report.savings.paid_usd
        assert lines[1]["zone"] == "use1-az6"
        assert lines[1]["cost_usd"] == "0.000000000"

    def test_text_that_a_spreadsheet_would_run_is_quoted(self):
        events = [submitted(), placed(1, T0, zone="=HYPERLINK(1)"), launched(1, T0), ended(1, at("09:00"))]
        ledger = build_ledger(events, {}, {}, extras=[Extra(kind="-1+cmd|x", usd=Decimal("0.5"))])
        report = make_report(job_of(events), ledger, spot_prices=GENERATED, on_demand_prices=LISTED)
        lines = list(csv.DictReader(io.StringIO(to_csv(report))))
        assert lines[0]["zone"] == "'=HYPERLINK(1)"
        assert lines[1]["entry"] == "'-1+cmd|x"


class TestPage:
    def test_it_tells_the_key_figures_and_where_every_price_comes_from(self):
        page = Page(render_html(report_of()))
        for said in (
            "Saved $3.52",
            "40.7 %",
            "$5.12",
            "$8.64",
            "Simulated prices",
            "Estimated",
        ):
            assert said in page.text
        assert "market generator, seed 7 (simulated)" in page.text
        assert "AWS on-demand list prices, Linux, as of 2026-07-20" in page.text
        assert "NS = CF − T" in page.text

    def test_nothing_comes_from_outside_and_nothing_runs(self):
        """No script, link, picture or font; a policy in the page forbids them."""
        page = Page(render_html(report_of()))
        tags = {tag for tag, _ in page.tags}
        assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
        for _, attributes in page.tags:
            assert not {name for name in attributes if name in ("src", "href") or name.startswith(("on", "xlink"))}
        text = render_html(report_of())
        assert "@import" not in text
        assert not re.search(r"url\((?!#)", text)
        assert "http-equiv" in text
        assert "default-src 'none'" in text

    def test_hostile_names_answers_and_warnings_stay_text(self):
        """A job's name, a provider's answer, a zone, a reason and an extra that try to be markup are shown as they are."""
        events = [
            *story(name=HOSTILE, answer=HOSTILE)[:-1],
            ended(6, at("18:31"), EndReason.TERMINATED, HOSTILE),
        ]
        ledger = build_ledger(
            events, spot_prices, on_demand_prices, extras=[Extra(kind=HOSTILE, usd=Decimal(1), source=HOSTILE)]
        )
        job = job_of(events, cause=HOSTILE)
        source = PriceSource(name=HOSTILE, simulated=True)
        text = render_html(make_report(job, ledger, spot_prices=source, on_demand_prices=source))
        page = Page(text)
        assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
        assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
        assert page.text.count(HOSTILE) >= 4
        assert "<script" not in text

    def test_attempts_and_charts_are_told_to_a_screen_reader(self):
        page = Page(render_html(report_of()))
        charts = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
        assert [chart["aria-labelledby"] for chart in charts] == [
            "timeline-title timeline-description",
            "loss-title loss-description",
        ]
        assert "Attempt 4, lost work: 18 min 00 s, 14:33:00 to 14:51:00 UTC" in page.text
        assert "5 attempts in 3 zones over 10 h 30 min" in page.text

    def test_a_loss_is_called_one(self):
        """Spot at the on-demand price, and everything lost once: the page does not say 'saved'."""
        events = [submitted(), placed(1, T0, price_usd_per_hour=Decimal("1.006")), launched(1, T0)]
        events += trained(1, attach=at("08:05"), begin=at("08:06"), last=at("09:50"), commits=(at("08:30"),))
        events += [ended(1, at("10:00"))]
        ledger = build_ledger(events, {}, {})
        report = make_report(job_of(events, Phase.STOPPED), ledger, spot_prices=LISTED, on_demand_prices=LISTED)
        assert report.savings.net_usd < 0
        assert report.headline.startswith("Cost $")
        assert "more than the on-demand run" in report.verdict
        page = Page(render_html(report))
        assert "Saved" not in page.text
        assert "Simulated" not in page.text
        assert ("section", "hero bad") in [(tag, attributes.get("class")) for tag, attributes in page.tags]

    @pytest.mark.parametrize(
        "events",
        [
            [submitted()],
            [submitted(), placed(1, T0)],
            [submitted(), placed(1, T0), launched(1, T0)],
            [submitted(), placed(1, T0), launched(1, T0), ended(1, T0)],
        ],
        ids=["nothing yet", "asked for", "starting", "ended at once"],
    )
    def test_every_renderer_takes_a_job_that_has_hardly_begun(self, events):
        report = running_report(events)
        assert "so far" in report.headline
        assert "<svg" in render_html(report)
        assert json.loads(to_json(report))["final"] is False
        assert to_csv(report).startswith("job,")
        assert printed(report)

    def test_a_weeks_long_job_stays_a_page_of_bounded_size(self):
        """Ninety attempts, fifty thousand steps each: curves are thinned out, spikes and ends stay."""
        events = [submitted()]
        moment = T0
        for number in range(1, 91):
            start = moment
            events += [placed(number, start, zone=f"use1-az{number % 9}"), launched(number, start)]
            moment += timedelta(hours=3)
            events += [ended(number, moment)]
            moment += timedelta(minutes=7)
        ledger = build_ledger(events, {}, {})
        metrics = [(step, T0, 40.0 if step == 30_011 else loss_at(step), 1) for step in range(50_000)]
        report = make_report(job_of(events), ledger, spot_prices=LISTED, on_demand_prices=LISTED, metrics=metrics)
        drawn = draw_loss(report)
        assert drawn is not None
        points = [point for curve in drawn.curves for point in curve.points.split()]
        assert len(points) <= POINTS_MAX
        assert len(render_html(report)) < 400_000


class TestShown:
    @settings(deadline=None)
    @given(st.lists(st.decimals("0", "50", places=9), min_size=6, max_size=6))
    def test_shown_amounts_add_up_to_the_shown_total(self, amounts):
        """Rounded together: no reader finds a cent missing."""
        extras = [Extra(kind=f"extra {index}", usd=usd) for index, usd in enumerate(amounts)]
        ledger = build_ledger(
            [submitted(), placed(1, T0), launched(1, T0), ended(1, at("10:17"))], {}, {}, extras=extras
        )
        shown = [Decimal(line.shown.removeprefix("$").replace(",", "")) for line in money_lines(ledger)]
        assert sum(shown) == Decimal(total_shown(ledger).removeprefix("$").replace(",", ""))

    def test_notes_name_what_a_careful_reader_must_know(self):
        notes = " ".join(report_of().notes)
        for said in (
            "Simulated prices",
            "not read from an invoice",
            "No extras",
            "Free of charge: attempt 2.",
            "refused",
        ):
            assert said in notes
        assert "price seen at placement" in " ".join(
            running_report([submitted(), placed(1, T0), launched(1, T0)]).notes
        )

    def test_the_time_line_has_a_lane_for_each_zone_and_a_gap_for_each_wait(self):
        drawing = draw_timeline(report_of())
        assert [lane.label for lane in drawing.lanes] == ["use1-az4", "use1-az6", "use1-az2"]
        assert [len({bar.title.split(",")[0] for bar in lane.bars}) for lane in drawing.lanes] == [2, 2, 1]
        assert len(drawing.gaps) == 5
        assert {mark.kind for mark in drawing.lanes[0].marks} == {"commit", "notice", "interrupted"}
        assert all(drawing.left <= bar.x <= drawing.right for lane in drawing.lanes for bar in lane.bars)
        assert [line.kind for line in drawing.lines].count("paid") == 5

    def test_lost_steps_are_drawn_apart_from_those_that_were_kept(self):
        drawing = draw_loss(report_of())
        assert drawing is not None
        assert [curve.kind for curve in drawing.curves] == ["lost"] * 4 + ["kept"] * 5
        assert len(drawing.stops) == len(drawing.redone) == 4

    def test_losses_that_are_no_numbers_are_left_out(self):
        report = report_of(metrics=False)
        assert draw_loss(report) is None
        odd = [(1, T0, float("nan"), 1), (2, T0, None, 1), (3, T0, float("inf"), 1), (4, T0, 1.0, 1), (5, T0, 1.0, 1)]
        odd_report = make_report(report.job, report.ledger, spot_prices=LISTED, on_demand_prices=LISTED, metrics=odd)
        drawing = draw_loss(odd_report)
        assert drawing is not None
        assert "nan" not in render_html(odd_report).split("</style>")[1].replace("nance", "")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e9, 1e9)), max_size=400).map(sorted),
    st.integers(4, 60),
)
def test_thinning_keeps_the_ends_the_extremes_and_the_order(points, count):
    """Whatever the curve, no spike is lost and never more points than asked for are kept."""
    kept = thin(points, count)
    assert len(kept) <= max(count, 0)
    assert kept == sorted(kept, key=lambda point: point[0])
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert max(loss for _, loss in kept) == max(loss for _, loss in points)
        assert min(loss for _, loss in kept) == min(loss for _, loss in points)
    assert thin(points, count) == kept


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
def test_ticks_are_round_few_and_inside(low, span, count):
    ticks = nice_ticks(low, low + span, count)
    assert len(ticks) <= 2 * count + 2
    slip = span * 1e-6 + 4 * math.ulp(abs(low) + span)  # a narrow span far from zero is as fine as floats are
    assert all(low - slip <= tick <= low + span + slip for tick in ticks)


@settings(deadline=None)
@given(st.floats(1, 86400 * 900), st.integers(3, 12))
def test_time_ticks_are_few_and_inside(span_s, count):
    end = T0 + timedelta(seconds=span_s)
    ticks = time_ticks(T0, end, count)
    assert len(ticks) <= count + 1
    assert all(T0 <= moment <= end for moment, _ in ticks)


def test_every_category_has_a_colour_in_the_page():
    """A new category must be given one in light and in dark."""
    text = render_html(report_of())
    for category in Category:
        assert f".{category.value} {{ background:" in text
