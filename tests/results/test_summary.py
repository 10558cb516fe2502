import io
import re

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from batchcube.results import labelled, overload
from batchcube.results.summary import (
    MAYBE_STEADY,
    NOT_STEADY,
    default_variables,
    print_summary,
    refusals,
    summary_table,
)


def printed(cube, width=100, **options):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_summary(cube, console, **options)
    return console.file.getvalue()


def test_table_is_tidy_and_agrees_with_the_intervals(example_cube):
    table = summary_table(example_cube, ["throughput_requests_per_s", "latency_quantile_s"])
    assert len(table) == 12 + 12 * 4
    row = table[
        (table["variable"] == "latency_quantile_s")
        & (table["bins"] == 4)
        & (table["arrival_rate_per_s"] == 8.0)
        & (table["quantile"] == 0.99)
    ].iloc[0]
    at = {"bins": 4, "arrival_rate_per_s": 8.0, "quantile": 0.99}
    expected = labelled.mean_interval(example_cube["latency_quantile_s"]).sel(at)
    assert row["mean"] == expected["mean"].item()
    assert row["ci_low"] == expected["low"].item()
    assert row["ci_high"] == expected["high"].item()
    assert row["n"] == 6
    assert row["units"] == "s"
    assert table[table["variable"] == "throughput_requests_per_s"]["quantile"].isna().all()


def test_overloaded_points_are_marked_where_it_matters(example_cube):
    table = summary_table(example_cube)
    over = table["arrival_rate_per_s"] == 24.0
    unclear = (table["arrival_rate_per_s"] == 12.0) & (table["bins"] < 4)
    assert (table[over]["queue"] == "overloaded").all()
    assert (table[unclear]["queue"] == "cannot tell").all()
    assert (table[~over & ~unclear]["queue"] == "steady").all()
    latency = table["variable"].isin(["latency_mean_s", "latency_quantile_s", "request_sla_violation_fraction"])
    assert (table[over & latency]["note"] == NOT_STEADY).all()
    assert (table[unclear & latency]["note"] == MAYBE_STEADY).all()
    assert (table[~((over | unclear) & latency)]["note"] == "").all()


def test_defaults_leave_out_what_the_cube_does_not_know(example_cube):
    names = default_variables(example_cube)
    assert "latency_mean_s" in names
    assert "token_sla_violation_fraction" not in names  # all NaN: no limit was set
    with pytest.raises(ValueError, match="latency_mean_s: the cube does not hold this variable"):
        summary_table(example_cube.drop_vars("latency_mean_s"), ["latency_mean_s"])
    with pytest.raises(ValueError, match="did you mean latency_mean_s"):
        summary_table(example_cube, ["latency_mean"])
    with pytest.raises(ValueError, match="variables: none chosen"):
        summary_table(example_cube[["batches"]].assign_attrs(example_cube.attrs))
    with pytest.raises(ValueError, match="cube does not hold this variable; did you mean latency_"):
        summary_table(example_cube.drop_vars("latency_mean_s"), ["latency_mean_s"])


def test_a_quantile_is_chosen_by_the_name_it_is_printed_with(example_cube):
    table = printed(example_cube)
    assert "[0.95]" in table
    for spelled in ("latency_quantile_s[0.95]", "latency_quantile_s [0.95]"):
        alone = printed(example_cube, variables=[spelled])
        assert "[0.95]" in alone
        assert "throughput" not in alone
        some = summary_table(example_cube, ["latency_quantile_s"])
        first = some[some["quantile"] == 0.95]["mean"].iloc[0]
        assert f"{first:.2f}"[:3] in alone
    with pytest.raises(ValueError, match=r"latency_quantile_s\[0.2\]: no such quantile; the cube has 0.5, 0.9, 0.95"):
        printed(example_cube, variables=["latency_quantile_s[0.2]"])
    with pytest.raises(ValueError, match=r"latency_mean_s\[0.5\]: no such variable; did you mean latency_mean_s"):
        printed(example_cube, variables=["latency_mean_s[0.5]"])


def continuous(cube):
    """A cube as continuous batching makes them, with what `show` prints of them."""
    like = cube["tbt_quantile_s"]
    made = cube.assign(
        steps=cube["requests"],
        preemptions=cube["requests"].copy(data=cube["requests"].values // 100),
        tpot_mean_s=cube["tbt_mean_s"],
        tbt_quantile_s=like.copy(data=like.values + np.arange(4.0)),
    )
    return made.drop_vars(["batches", "padding_waste"])


def test_of_continuous_batching_tokens_are_shown(example_cube):
    cube = continuous(example_cube)
    names = default_variables(cube)
    assert names[:6] == [
        "throughput_requests_per_s",
        "ttft_mean_s",
        "tpot_mean_s",
        "latency_mean_s",
        "throughput_tokens_per_s",
        "tbt_quantile_s",
    ]
    assert names[-1] == "preemptions"
    text = " ".join(printed(cube, width=400).split())
    assert text.count("tbt_quantile_") == 2
    assert all(shown in text for shown in ("s [0.5]", "s [0.99]", "preemptions"))
    assert "[0.9]" not in text
    assert len(summary_table(cube)["variable"].unique()) == len(names)


def test_of_a_search_the_capacity_is_shown(example_cube):
    cube = example_cube[["backlog_growth_fraction"]].assign(
        capacity_requests_per_s=example_cube["utilisation"], capacity_unbracketed=example_cube["requests"] * 0
    )
    assert default_variables(cube) == ["capacity_requests_per_s", "capacity_unbracketed"]


def test_a_cube_without_axes_is_one_row(make_cube):
    table = summary_table(make_cube(()), ["latency_mean_s"])
    assert len(table) == 1
    assert "1 point, 6 replications each" in printed(make_cube(()))
    assert "Z with none on cpu" in " ".join(printed(make_cube(()).assign_attrs(created_utc="today, 12:00Z")).split())


def test_where_overload_begins_is_said_by_group(example_cube):
    changed = example_cube.copy(deep=True)
    changed["theory_throughput_requests_per_s"].loc[{"bins": 1}] = 11.0
    changed["theory_throughput_requests_per_s"].loc[{"bins": 2}] = np.nan
    changed["backlog_growth_fraction"].loc[{"bins": 2, "arrival_rate_per_s": 24.0}] = 0.0
    text = printed(changed)
    assert "  steady up to 8, overloaded from 12 on: bins=1\n" in text
    assert "  steady up to 12, overloaded from 24 on: bins=4\n" in text
    assert "  steady up to 8, overloaded at none for certain: bins=2\n" in text


@pytest.mark.parametrize("width", [80, 120, 300])
def test_everything_is_printed_at_any_width(example_cube, width):
    text = printed(example_cube, width, all_rows=True)
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= width
    for name in ("latency_mean_s", "utilisation"):
        assert name in text
    mean = labelled.mean_interval(example_cube["latency_mean_s"])
    for low, high in zip(mean["low"].values.ravel(), mean["high"].values.ravel(), strict=True):
        assert f"{(low + high) / 2:.2f} \u00b1 {(high - low) / 2:.2f}" in text
    assert "are not shown" not in text
    assert "mean [interval]" in " ".join(text.split())  # and not taken for markup


def test_rows_left_out_are_counted_and_said(example_cube):
    text = printed(example_cube, 300, max_rows=5)
    assert "7 of 12 rows are not shown: --all shows them" in text
    assert "7 of 12" not in printed(example_cube, 300, max_rows=5, all_rows=True)


def test_of_one_replication_one_line_says_what_it_cannot_tell(make_cube):
    one = make_cube(replications=1, notes="\n".join([*overload.NOTES.values(), "another"]))
    one["theory_throughput_requests_per_s"][{"bins": 1}] = np.nan
    text = printed(one, 200)
    said = "\none replication: there is no interval; queues: 6 steady, 2 overloaded *, 4 cannot tell (*)\n"
    assert said in text
    assert re.search(r"24 +overloaded +\S+ +\S+ \*", text)
    assert re.search(r"12 +cannot tell ", text)
    # Neither beside every number nor in further lines.
    assert "(*)" not in text.replace(said, "")
    assert not any(part in text for part in ("\u00b1", MAYBE_STEADY, "queues by"))
    assert re.findall("note: .*", text) == ["note: another"]
    unclear = printed(one.drop_vars("theory_throughput_requests_per_s"), 200)
    assert (
        "\none replication: there is no interval, nor can it tell where queues grow: more replications may\n" in unclear
    )
    assert "cannot tell" not in unclear
    untold = printed(one.drop_vars("backlog_growth_fraction"), 200)
    assert "\none replication: there is no interval\n" in untold


def test_overload_notes_are_said(example_cube):
    text = printed(example_cube.assign_attrs(notes="one [odd] note\nanother"), 200)
    assert re.search(r"24 +overloaded ", text)
    assert re.search(r"12 +cannot tell ", text)
    assert "13.51 \u00b1 0.32 *" in text
    assert f"* {NOT_STEADY}: overloaded, it grows with the length of the run" in text
    assert f"(*) {MAYBE_STEADY}: these replications cannot tell whether the queue keeps growing" in text
    assert "note: one [odd] note\nnote: another\n" in text
    calm = printed(example_cube.sel(arrival_rate_per_s=[4.0]), 200)
    assert NOT_STEADY not in calm
    assert "  steady up to 4, the highest: all points\n" in calm


def test_intervals_of_drawn_coefficients_are_called_what_they_are(make_cube):
    text = printed(make_cube(coefficients_drawn=True), 300)
    assert "half of the 95 % prediction interval over 6 replications" in text
    assert "Student" not in text
    assert "half of the 95 % Student t interval over 6 replications" in printed(make_cube(), 300)


def test_only_replications_with_a_value_are_counted(make_cube):
    cube = make_cube().copy(deep=True)
    cube["latency_mean_s"][0, 0, :2] = np.nan
    assert "half of the 95 % Student t interval over 4 to 6 replications" in printed(cube, 300)
    assert "interval over 6 replications" in printed(cube, 300, variables=["throughput_requests_per_s"])


def test_chosen_variables_with_their_own_dimensions(example_cube):
    text = printed(example_cube, 200, variables=["bin_wait_mean_s", "requests"], max_rows=4)
    assert "44 of 48 rows are not shown" in text
    assert "8 of 12 rows are not shown" in text
    assert "400 \u00b1 0" in text
    assert "more variables" not in text


def test_axes_are_told_by_their_labels_and_one_line_tells_what_is_never_overloaded(example_cube):
    cube = example_cube.copy(deep=True)
    cube["bins"].attrs |= {"path": "policy.mode,policy.bins,policy.memory.rule", "units": "1"}
    cube["theory_throughput_requests_per_s"][{"bins": 0}] = 1.0
    text = printed(cube, width=400)
    assert f"  bins: {cube['bins'].values[0]}, " in text
    assert "policy.memory.rule" not in text
    assert text.count("steady up to") == 2


def test_many_who_are_turned_away_or_cut_short_are_warned_of():
    dims, requests = ("rate", "replication"), np.full((2, 3), 100)

    def warned(rejected, truncated, measured=100):
        counts = {"requests": requests, "rejected": rejected, "truncated": truncated}
        counts |= {"measured": measured, "missed": rejected}
        return refusals(xr.Dataset({name: (dims, np.broadcast_to(of, (2, 3))) for name, of in counts.items()}))

    assert warned(0, 0) == ""
    away, cut = warned([[30], [0]], 0, [[70], [100]]), warned(0, 50)
    assert away.startswith("up to 30 % of the requests are turned away at 1 of 2 points, too long for a replica: ")
    assert cut.startswith("up to 50 % of the requests have their answers cut by max_model_len: ")
    assert warned([[30], [0]], 50, [[70], [100]]) == f"{away}; {cut}"
    # After a warm-up of 90 requests, all of the others.
    assert warned(0, 10, 10).startswith("up to 100 % of the requests have their answers cut by max_model_len: ")
