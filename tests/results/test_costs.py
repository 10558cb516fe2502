"""Costs that nobody measured: flagged, told in the first line, and never shown as a number that rests on them."""

import io

import numpy as np
import pytest
from rich.console import Console

from batchcube.results import costs
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.joining import extend_cube
from batchcube.results.summary import UNMEASURED, print_summary, summary_table
from batchcube.results.variables import COSTS, REGISTRY

PREFILL = ("c3_s_per_prefill_token", "c4_s_per_prefill_attention")


def printed(cube, **options):
    console = Console(width=400, file=io.StringIO(), force_terminal=False)
    print_summary(cube, console, **options)
    return console.file.getvalue().splitlines()


def test_flags_say_which_costs_are_not_known_and_where(make_cube, tmp_path):
    cube = read_cube(write_cube(make_cube(unmeasured=PREFILL), tmp_path / "cube.nc"))
    flags = cube["unmeasured_costs"]
    assert flags.dims == ("bins", "arrival_rate_per_s")
    meanings = dict(zip(flags.attrs["flag_meanings"].split(), flags.attrs["flag_masks"].tolist(), strict=True))
    assert list(meanings) == list(COSTS)
    assert flags.values[0, 0] == sum(meanings[name] for name in PREFILL)
    assert costs.unmeasured(cube) == list(PREFILL)
    assert costs.unmeasured(cube.isel(bins=[1, 2])) == []
    assert "at 1 of 12 points" in costs.warning(cube)
    assert "at" not in costs.warning(cube.isel(bins=[0], arrival_rate_per_s=[0])).split(":")[0].split()


def test_a_cost_that_is_known_to_be_0_is_no_unknown_one(make_cube):
    assert costs.warning(make_cube()) == ""
    assert costs.warning(make_cube().drop_vars("unmeasured_costs")) == ""
    assert not printed(make_cube())[0].startswith("warning")


@pytest.mark.parametrize(
    ("name", "rests"),
    [
        ("ttft_mean_s", ("c3_s_per_prefill_token", "a0_s")),
        ("ttft_quantile_s", ("c3_s_per_prefill_token", "a0_s")),
        ("tbt_mean_s", ("c0_s", "c1_s_per_request")),
        ("tpot_max_s", ("c0_s", "c1_s_per_request")),
        ("token_sla_violation_fraction", ("c0_s", "c1_s_per_request")),
        ("tbt_histogram", ("c0_s", "c1_s_per_request")),
        ("latency_mean_s", ()),
    ],
)
def test_what_a_variable_rests_on(name, rests):
    assert REGISTRY[name].rests_on == rests
    assert set(rests) <= set(COSTS)


def test_the_first_line_warns_and_no_number_is_shown_that_rests_on_it(make_cube):
    cube = make_cube(unmeasured=PREFILL)
    lines = printed(cube, variables=["ttft_mean_s", "latency_mean_s"])
    assert lines[0] == (
        "warning: neither measured nor given, counted as 0 at 1 of 12 points: c3_s_per_prefill_token (prefilled "
        "tokens), c4_s_per_prefill_attention (attention of the prefill); times are too short by it, rates that a limit "
        "allows too high; no time to first token can be told"
    )
    shown = [line.split() for line in lines if line.split()[:1] and line.split()[0] in ("1", "2", "4")]
    assert [row[-1] == "?" or "?" in row for row in shown] == [True] + [False] * 11
    table = summary_table(cube, ["ttft_mean_s", "ttft_quantile_s", "latency_mean_s"])
    marked = table[table["note"].str.contains(UNMEASURED)]
    assert set(marked["variable"]) == {"ttft_mean_s", "ttft_quantile_s"}
    assert len(marked) == 1 + 4
    assert set(zip(marked["bins"], marked["arrival_rate_per_s"], strict=True)) == {(1, 4.0)}


def test_the_note_that_warns_is_printed_once(make_cube):
    cube = make_cube(unmeasured=PREFILL)
    cube = cube.assign_attrs(notes=f"{costs.warning(cube)}\nanother")
    assert sum(costs.warning(cube) in line for line in printed(cube)) == 1
    assert "note: another" in printed(cube)


def test_flags_stay_when_a_cube_is_extended(make_cube):
    parts = [make_cube(replications=2, unmeasured=("a0_s",)), make_cube(replications=2, first_replication=2)]
    with pytest.raises(ValueError, match="unmeasured_costs: differs"):
        extend_cube(*parts)
    again = make_cube(replications=2, first_replication=2, unmeasured=("a0_s",))
    assert costs.unmeasured(extend_cube(parts[0], again)) == ["a0_s"]


def test_flags_of_points():
    assert costs.flags_of([(), ("c0_s",), ("c1_s_per_request", "a0_s")]).tolist() == [0, 1, 34]
    assert costs.warning_of(np.zeros(3, np.int64)) == ""
    assert "no time to first token and no time between tokens can be told" in costs.warning_of(
        costs.flags_of([("a0_s", "c1_s_per_request")])
    )
