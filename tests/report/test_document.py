"""The template of pages and its parts: escaping, colors, charts."""

import json
import re

import html_page
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xkd_jax.report.charts import Curve, line_chart, nice_ticks, scatter
from xkd_jax.report.document import STYLE, Section, document
from xkd_jax.report.elements import Html, element, joined, player, table

NASTY = '<script>alert("1")</script>&\u202e\x00\ud800'


def test_texts_and_attributes_are_escaped():
    text = element("p", NASTY, [element("b", "x"), None, "&"], title=NASTY)
    (p,) = html_page.parse(text).all("p")
    shown = '<script>alert("1")</script>&\\u202e\\x00\\ud800'
    assert p.text == f"{shown}x&"
    assert p.attributes == {"title": shown}
    assert text.encode()  # has no lone surrogate


def test_attributes_are_written_as_html_has_them():
    found = element("input", class_="a", aria_label="b", hidden=True, id=None, disabled=False)
    assert found == '<input class="a" aria-label="b" hidden>'
    assert joined("a<", Html("<br>"), ["b"]) == "a&lt;<br>b"


def test_tables_and_players_can_be_used_by_keyboard():
    root = html_page.parse(table(("a", "b"), [("1", "2")], "Caption"))
    (box,) = [e for e in root.everything() if e.attributes.get("role") == "region"]
    assert box.attributes["tabindex"] == "0"
    assert box.attributes["aria-label"] == root.first("caption").text == "Caption"
    assert [e.attributes["scope"] for e in root.all("th")] == ["col", "col", "row"]
    (video,) = html_page.parse(player("video", "data:,", "clip 1")).all("video")
    assert {"controls", "preload"} <= video.attributes.keys()


def test_document_has_a_link_to_each_section():
    root = html_page.parse(document(NASTY, "lead", [Section("a-b", "A & B", element("p", "x"))]))
    links = [link.attributes["href"] for link in root.all("nav a")]
    assert links == ["#a-b"]
    (section,) = root.all("section")
    assert section.attributes["aria-labelledby"] == section.first("h2").attributes["id"]
    assert root.first("main").attributes["id"] == "content"


def colors():
    found = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\);", STYLE.read_text())
    return {name: dict(zip(("light", "dark"), both, strict=True)) for name, *both in found}


def luminance(color):
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "raised"])
def test_contrast_is_sufficient(scheme, ground):
    """WCAG 2.2, level AA: 4.5 for text, 3 for graphics."""
    palette = colors()
    assert len(palette) == 18
    below = luminance(palette[ground][scheme])
    for name, both in palette.items():
        low, high = sorted((luminance(both[scheme]), below))
        contrast = (high + 0.05) / (low + 0.05)
        if name.startswith("series"):
            assert contrast >= 3, name
        elif name not in ("paper", "raised", "line"):
            assert contrast >= 4.5, name


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_few_and_span_the_values(least, span):
    ticks = np.array(nice_ticks(least, least + span))
    assert 2 <= len(ticks) <= 8
    margin = 1e-5 * max(1.0, *abs(ticks))
    assert ticks[0] <= least + margin
    assert ticks[-1] >= least + span - margin
    if len(ticks) > 2:
        np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], atol=margin)


def test_curve_runs_from_corner_to_corner():
    chart = line_chart("Loss", [Curve("a", [0, 10], [0.0, 1.0], 0)], {"half": 0.5})
    root = html_page.parse(chart)
    start, end = (
        tuple(map(float, point.split(",")))
        for point in root.first("polyline").attributes["points"].split()
    )
    top, bottom = (
        min(ys := [float(e.attributes["y1"]) for e in root.all("line") if "x1" in e.attributes]),
        max(ys),
    )
    assert start[1] == bottom
    assert end[1] == top
    (reference,) = [e for e in root.all("line") if e.attributes["class"] == "reference"]
    assert float(reference.attributes["y1"]) == pytest.approx((top + bottom) / 2, abs=0.1)
    assert root.first("title").text == "Loss. a: 0 at step 0; 1 at step 10.".replace("; 1", ", 1")


def test_long_curves_are_means_of_bins_and_bad_values_are_left_out():
    values = np.arange(10000.0)
    values[17] = np.nan
    chart = line_chart("x", [Curve("a", range(10000), values, 0)])
    (shown,) = json.loads(html_page.parse(chart).first("figure").attributes["data-curves"])
    assert len(shown["x"]) == len(shown["y"]) <= 300
    assert shown["x"][-1] == 9999
    np.testing.assert_allclose(np.diff(shown["y"])[1:], 10000 / len(shown["y"]), rtol=0.05)
    assert all(np.isfinite(shown["y"]))


def test_single_value_is_a_point():
    root = html_page.parse(line_chart("x", [Curve("a", [3], [2.0], 0)]))
    assert len(root.all("circle")) == 1
    assert root.all("polyline") == []


def test_points_of_a_class_share_a_color_and_its_name():
    points = np.array([[0, 0], [1, 1], [4, 0], [9, 9]], float)
    figure = html_page.parse(scatter("t", points, np.array([0, 0, 1, -1]), ["a", "<b>"], "c"))
    circles = figure.all("circle")
    assert [c.first("title").text for c in circles] == ["a", "a", "<b>", "no class"]
    styles = [c.attributes["style"] for c in circles]
    assert styles[0] == styles[1]
    assert len(set(styles)) == 3
    positions = [float(c.attributes["cx"]) for c in circles]
    assert np.argsort(positions).tolist() == [0, 1, 2, 3]
    assert [e.text for e in figure.all("li")] == ["a", "<b>"]


def test_small_numbers_of_an_axis_are_short():
    root = html_page.parse(line_chart("x", [Curve("a", [0, 9], [0.0, 0.001], 0)]))
    texts = [text.text for text in root.all("text")]
    assert texts[:5] == ["0", "2.5e-4", "5e-4", "7.5e-4", "1e-3"]


def test_name_of_a_class_lies_in_its_densest_part():
    rng = np.random.default_rng(0)
    parts = [rng.normal(center, 0.1, (number, 2)) for center, number in ((0, 20), (10, 8))]
    points = np.concatenate([*parts, [[5, 5]]])
    figure = html_page.parse(scatter("t", points, np.zeros(29, int), ["a"], "c"))
    (name,) = [t for t in figure.all("text") if t.attributes["class"] == "name"]
    near = [float(c.attributes["cx"]) for c in figure.all("circle")[:20]]
    assert min(near) <= float(name.attributes["x"]) <= max(near)
