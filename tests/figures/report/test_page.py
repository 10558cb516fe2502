"""Reports: of every kind of file, valid charts, nothing loaded from anywhere, and small."""

import base64
import gzip
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import altair as alt
import numpy as np
import pytest

from batchcube.errors import InputError
from batchcube.figures.report import answers
from batchcube.figures.report.grids import grid_of, point_of
from batchcube.figures.report.page import page, write_report
from batchcube.figures.report.sections import Subject, section_of
from batchcube.results.build import build_cube
from batchcube.results.precision import level, record
from batchcube.results.statistics import mean_interval
from batchcube.results.summary import interval
from helpers.cubes import AXES
from helpers.reports import ROWS, subjects

KINDS = subjects()


class Loads(HTMLParser):
    """Collects what a page would load, its scripts, and the text outside of them."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.scripts, self.words, self._in = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._in = tag if tag in ("script", "style") else self._in
        if tag == "script":
            self.scripts.append((dict(attrs), []))
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]

    def handle_endtag(self, tag):
        self._in = "" if tag == self._in else self._in

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1][1].append(data)
        elif not self._in:
            self.words.append(data)

    @property
    def data(self):
        packed = "".join(next(text for attrs, text in self.scripts if attrs.get("id") == "data"))
        return json.loads(gzip.decompress(base64.b64decode(packed)))

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_has_a_report(kind):
    found = Loads(page([Subject(KINDS[kind], "out/a file.nc")]))
    assert all(load.startswith(("#", "data:")) for load in found.loads)
    assert "The answer" in found.text
    assert "batchcube report 'out/a file.nc' -o report.html" in found.text
    assert "nan" not in json.dumps(found.data).lower()
    (section,) = found.data["sections"]
    assert section.get("grid") or section["plain"][0]["rows"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_chart_is_valid_by_the_schema_of_vega_lite(kind):
    for spec in Loads(page([Subject(KINDS[kind])], comparison=ROWS)).data["specs"].values():
        alt.LayerChart.validate(spec)
        assert spec["width"] == "container"
        assert spec["data"] == {"name": "rows"}


def test_a_report_is_half_a_megabyte_and_reads_on_a_phone(tmp_path):
    path = write_report([Subject(KINDS["sweep"], "a.nc")], tmp_path / "report.html")
    text = path.read_text()
    assert 400_000 < path.stat().st_size < 550_000
    many = write_report(
        [Subject(cube, f"{kind}.nc") for kind, cube in KINDS.items()], tmp_path / "a folder" / "many.html"
    )
    assert many.stat().st_size < 750_000
    assert '<meta name="viewport" content="width=device-width' in text
    assert "@media print" in text
    assert "default-src 'none'" in text
    # The libraries are strings of this page: whatever they could load, the policy above forbids.
    assert not re.search(r"<(script|link|img|iframe)[^>]*https?://", text)


def test_no_number_of_a_single_replication_is_embedded():
    cube = KINDS["sweep"]
    grid = Loads(page([Subject(cube)])).data["sections"][0]["grid"]
    assert {len(one["mean"]) for one in grid["quantities"]} == {3 * 4 * 2}
    latency = next(one for one in grid["quantities"] if one["key"] == "latency_mean_s")
    np.testing.assert_allclose(latency["mean"], cube["latency_mean_s"].mean("replication").values.ravel(), rtol=1e-5)


def test_a_large_cube_gives_up_quantities_and_not_points():
    cube = KINDS["sweep"]
    whole, small = (section_of(Subject(cube), share).data["grid"] for share in (1.0, 0.01))
    assert len(small["quantities"]) < len(whole["quantities"])
    assert len(small["quantities"][0]["mean"]) == 24
    assert [one["key"] for one in small["quantities"]] == [
        one["key"] for one in whole["quantities"][: len(small["quantities"])]
    ]


def test_what_somebody_wrote_into_a_cube_is_shown_and_not_run(tmp_path):
    evil = "<img src=https://evil.example/x onerror=alert(1)></script><script>alert(2)</script>"
    cube = KINDS["sweep"].assign_attrs(title=evil, notes=evil)
    cube["bins"].attrs["long_name"] = evil
    found = Loads(page([Subject(cube, evil)], title=evil))
    assert all(load.startswith(("#", "data:")) for load in found.loads)
    assert len(found.scripts) == 3
    assert evil in found.text


# Answers ------------------------------------------------------------------------------------------------------------


def said(kind):
    section = section_of(Subject(KINDS[kind]))
    return " ".join(text for one in section.answers for text in (one.text, *one.parts)), section


def test_a_sweep_says_what_is_steady_and_what_is_best():
    text, section = said("sweep")
    assert "24 points (3 of bins × 4 of arrival_rate_per_s × 2 of servers), 6 replications each" in text
    assert "steady" in text
    assert "goodput is largest at" in section.main
    assert "paired difference" in section.main


def test_one_replication_claims_no_interval():
    text, _ = said("one replication")
    assert "paired difference" not in text
    assert "±" not in text


def test_equal_points_are_no_winner_and_runner_up():
    cube = KINDS["labels"].copy(deep=True)
    cube["throughput_requests_per_s"].values[:] = 5.0
    cube["goodput_requests_per_s"] = cube["throughput_requests_per_s"]
    text = section_of(Subject(cube)).main
    assert "5.00000" not in text
    assert re.search(r"as at \d+ other points\.$|as at mode = [^;]*\.$", text)


def test_after_looks_differences_are_those_that_an_interval_tells():
    """At 95 % the two are apart; at the level of intervals that carry looks they are not."""
    cube = KINDS["labels"].isel(mode=[0, 1], arrival_rate_per_s=[0]).copy(deep=True)
    scatter = np.where(np.arange(6) % 2, 0.5, -0.5)
    narrow, wide = (float(mean_interval(scatter, confidence=at).high) for at in (0.95, level(8)))
    cube["goodput_requests_per_s"].values[0] = 5.0
    cube["goodput_requests_per_s"].values[1] = 5.0 - 0.5 * (narrow + wide) + scatter
    assert "apart from it for certain" in section_of(Subject(cube)).main
    record(cube, ["2%"], [8], "")
    found = interval(cube, "goodput_requests_per_s", difference_to={"mode": cube["mode"].values[1]}).squeeze()
    text = section_of(Subject(cube)).main
    assert "which cannot be told from it" in text
    assert f"[{float(found['low'].item()):+.3g}, {float(found['high'].item()):+.3g}]" in text


def test_labels_that_begin_alike_are_told_apart():
    folder = "/data/traces/azure/2024/AzureLLMInferenceTrace_"
    labels = [f"{folder}conv", f"{folder}code", "short"]
    cube = KINDS["labels"].isel(mode=[0, 1, 2]).assign_coords(mode=KINDS["labels"]["mode"][:3].copy(data=labels))
    grid = grid_of(cube)
    (axis,) = (axis for axis in grid.axes if axis["name"] == "mode")
    assert [label[-5:] for label in axis["labels"]] == ["_conv", "_code", "short"]
    assert max(map(len, axis["labels"])) <= 41
    assert [point_of(cube, {"mode": label}) for label in labels] == [k * grid.points // 3 for k in range(3)]


def test_a_search_says_its_capacities_and_what_they_are():
    text, section = said("capacity")
    assert "tbt_mean_s ≤ 0.05 and latency_quantile_s[0.99] ≤ 60 and the backlog grows by at most 2 %" in text
    assert section.main.startswith("Capacity is largest at")
    assert section.kind == "capacities"
    nowhere, section = said("capacity of one point")
    assert section.main == "No replication has a capacity within the rates that were tried."
    assert "Still above." in nowhere


def test_a_validation_says_how_far_off_and_whether_that_is_explained():
    text, section = said("validation")
    assert section.warnings == ["too hot"]
    assert "20 requests judged: all but the first 20." in text
    assert "is off by +10.0 % (90 % interval -5.0 % to +20.0 %: what is not known of the law may explain it)." in text
    assert "time per output token" not in text


def test_a_calibration_says_how_far_its_law_is_off():
    text, _ = said("calibration")
    assert text == "6 cells of decode steps: the fitted law is off by 4.1 % (root mean square), by +10 % at worst."


def test_a_measurement_leaves_out_what_was_refused():
    text, section = said("measurement")
    assert "4 cells, 3 repetitions each; 1 not measured, or not whole." in text
    rows = section.data["plain"][0]["rows"]
    # Three cells, of each a prefill and a decode.
    assert len(rows) == 6
    assert all(row[5] < row[4] < row[6] for row in rows)


def test_a_plan_gives_its_own_answer_and_points_at_its_best(monkeypatch):
    parts = [("", "two replicas"), ("limits", "ttft holds"), ("", "tpot holds"), ("best", "bins = 2")]
    monkeypatch.setattr(answers, "as_parts", lambda plan: parts)
    plan = {"best": {"at": {"bins": 2, "arrival_rate_per_s": 12.0}}, "commands": {"vllm": "vllm serve it"}}
    section = section_of(Subject(KINDS["sweep"].assign_attrs(plan=json.dumps(plan)), "plan.nc"))
    assert [(one.text, one.parts) for one in section.answers] == [
        ("two replicas", ()),
        ("Limits: ttft holds", ("tpot holds",)),
        ("Best: bins = 2", ()),
    ]
    assert section.main == "two replicas"
    assert section.kind == "plan"
    assert ("serves so (vllm)", "vllm serve it") in section.commands
    assert not any("rerun" in command for _, command in section.commands)
    assert section.data["grid"]["best"] == 1 * 8 + 2 * 2


# Comparisons --------------------------------------------------------------------------------------------------------


def test_a_comparison_counts_its_verdicts_and_tells_why():
    found = Loads(page([], comparison=ROWS, answer=[("Figure 4", ["It is not reproduced."])]))
    for part in (
        "4 rows: 1 yes, 1 no, 1 cannot tell, 1 no verdict.",
        "It is not reproduced.",
        "batchcube reproduce dynamic",
    ):
        assert part in found.text
    row = json.dumps(found.data["experiments"][0]["groups"][0]["rows"])
    for part in (
        "differs: simulated 49.07 [48.77, 49.37] against paper 45.1; the rule: within 5 % of it",
        "Poisson arrivals",
        "fig4-dynamic-6.4",
        "batchcube show sweep.nc",
    ):
        assert part in row
    # Nothing is divided by a claim of 0, and no ratio is drawn of what nobody claims.
    assert [row[1] for row in found.data["comparison"]["rows"]] == ["fig4-dynamic-6.4", "fig4-static"]


def test_of_many_rows_those_that_differ_are_shown_at_once():
    differing, agreeing = ROWS[0], [replace(ROWS[1], row=f"r{k}") for k in range(40)]
    (experiment,) = Loads(page([], comparison=[*agreeing, differing])).data["experiments"]
    assert [(one["verdict"], one["open"], len(one["rows"])) for one in experiment["groups"]] == [
        ("no", True, 1),
        ("yes", False, 40),
    ]


def test_what_is_said_of_several_experiments_is_said_once():
    answer = [("A", ["It holds.", "Both rest on this."]), ("B", ["It fails.", "Both rest on this."])]
    text = Loads(page([], comparison=ROWS, answer=answer)).text
    assert text.count("Both rest on this.") == 1
    assert "It fails." in text


# Frontiers ----------------------------------------------------------------------------------------------------------


def test_points_of_one_rate_are_surely_possibly_or_not_on_the_frontier(make_frontier):
    cube = make_frontier({"a": (10.0, 1.0), "b": (8.0, 2.0), "c": (12.0, 3.0), "d": (10.0, 1.0)}, noisy="d")
    section = section_of(Subject(cube))
    (frontier,) = section.data["grid"]["frontiers"]
    assert frontier["of"] == ["throughput_requests_per_s", "latency_mean_s"]
    # The second rate is twice the first: no point of it beats one of the first.
    assert frontier["states"] == ["possibly", "possibly", "not", "not", "surely", "surely", "possibly", "possibly"]
    said = section.answers[-1]
    assert (
        "where no other point of its arrival rate is better in one and as good in the other: 2 surely, 4" in said.text
    )
    assert said.parts == ("mode = c, arrival_rate_per_s = 4", "mode = c, arrival_rate_per_s = 8")


def test_an_overloaded_point_is_on_no_frontier():
    grid = section_of(Subject(KINDS["labels"])).data["grid"]
    over = np.array(grid["queue"]) == "overloaded"
    assert over.any()
    for frontier in grid["frontiers"]:
        np.testing.assert_array_equal(np.array(frontier["states"]) == "overloaded", over)


@pytest.fixture
def make_frontier():
    """Return a function that makes a cube of modes at two rates, from throughput and latency of each."""

    def make(modes, noisy=""):
        rng = np.random.default_rng(1)
        shape = (len(modes), 2, 6)
        scale = np.array([1.0, 2.0])[None, :, None]
        noise = np.array([1.0 if mode == noisy else 1e-9 for mode in modes])[:, None, None] * rng.normal(size=shape)
        work, time = (np.array([pair[k] for pair in modes.values()])[:, None, None] for k in (0, 1))
        arrays = {"throughput_requests_per_s": work * scale + noise, "latency_mean_s": time + 0.01 * np.abs(noise)}
        axes = [AXES["mode"]._replace(values=tuple(modes)), AXES["rate"]._replace(values=(4.0, 8.0))]
        attrs = {"title": "t", "specification": "{}"}
        return build_cube(axes, arrays, replications=6, attrs=attrs)

    return make


def test_several_files_have_a_line_each_at_the_top():
    found = Loads(page([Subject(KINDS["sweep"], f"{k}.nc") for k in range(5)]))
    for k in range(5):
        assert f"[{k}]" in found.text
        assert f"#s{k}" in found.loads


# Mistakes -----------------------------------------------------------------------------------------------------------


def test_a_report_on_nothing_or_to_nowhere_is_refused(tmp_path):
    subject = [Subject(KINDS["sweep"])]
    for given, output, why in (
        ([], "a.html", "is given nothing to report on"),
        (subject, "a.pdf", "must end in .html"),
    ):
        with pytest.raises(InputError, match=why):
            write_report(given, tmp_path / output)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_shows_first_how_much_of_its_limits_is_used_up():
    cube = KINDS["sweep"]
    shown = grid_of(cube.assign(plan_largest_ratio=cube["latency_mean_s"] / 100.0)).quantities
    assert [quantity.key for quantity in shown][:2] == ["plan_largest_ratio", grid_of(cube).quantities[0].key]
