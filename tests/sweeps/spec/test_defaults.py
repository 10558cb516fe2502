"""Defaults: all of them are recorded, stating one changes nothing, and a sweep made with others is made again."""

from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from batchcube.errors import InputError
from batchcube.sweeps import presets
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.defaults import differences, in_force, with_defaults
from batchcube.sweeps.spec.document import Sweep, remade
from batchcube.sweeps.spec.messages import known_paths
from batchcube.sweeps.spec.settings import SECTIONS, Estimates, PolicySettings
from helpers.specifications import BINS, DYNAMIC, SECONDS, STEPS, TOKENS, laid

AXES = {
    "mode": {
        "points": {
            "plain": {"policy.mode": "fifo_greedy", "policy.batch_size": 4},
            "memory": {
                "policy.mode": "dynamic_only",
                "policy.largest_batch": 8,
                "policy.memory.capacity_tokens": 4000.0,
            },
        }
    }
}
MIXED = laid(TOKENS, {"policy": {}, "axes": AXES})


def test_every_setting_is_stated_or_recorded() -> None:
    sweep = Sweep.model_validate(STEPS)
    found = sweep.defaults()
    assert found["server.replica.token_budget"] == 2048
    assert found["policy.edges.sample_size"] == 100_000
    assert found["policy.memory"] is None
    assert found["workload.predictor.kind"] == "oracle"
    assert found["workload.lengths.prompt.unit"] == "tokens"
    (point,) = sweep.grid.points
    for section in SECTIONS:
        for path in _leaves(getattr(point, section).model_dump(), section):
            stated = _stated(STEPS, path)
            # The default predictor is a part with a setting of its own.
            assert (path in found) != stated, path


def _leaves(tree: Any, path: str) -> list[str]:
    if isinstance(tree, dict):
        return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{path}.{name}")]
    return [path]


def _stated(tables: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(tables, dict) or name not in tables:
            return False
        tables = tables[name]
    return True


def test_requests_default_to_a_number_when_drawn_and_to_the_file_when_recorded(tmp_path: Path) -> None:
    drawn = laid(TOKENS, {})
    del drawn["workload"]["requests"]
    assert Sweep.model_validate(drawn).defaults()["workload.requests"] == 10_000
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    recorded = {**drawn, "workload": {"trace": {"path": str(tmp_path / "trace.csv")}}}
    sweep = Sweep.model_validate(recorded)
    assert sweep.defaults()["workload.requests"] is None
    assert sweep.grid.points[0].workload.requests is None


def test_a_path_has_one_default_whatever_the_kind_of_its_table() -> None:
    # Otherwise a default would have to be recorded with the kind.
    for section, model in SECTIONS.items():
        seen: dict[str, Any] = {}
        for path, holder, name in known_paths(model):
            default = holder.model_fields[name].default
            if default is not PydanticUndefined and holder.model_fields[name].default_factory is None:
                assert seen.setdefault(path, default) == default, f"{section}.{path}"


def test_points_record_what_they_leave_out_each() -> None:
    found = Sweep.model_validate(MIXED).defaults()
    assert found["policy.memory"] is None
    assert found["policy.memory.overflow_probability"] == 0.05


@pytest.mark.parametrize("name", presets.names())
def test_stating_all_defaults_of_a_section_without_rules_is_the_same_experiment(name: str) -> None:
    sweep = Sweep.from_toml(name, ["replications=3"])
    stated = {
        path: value for path, value in sweep.defaults().items() if path.startswith("report.") and value is not None
    }
    assert stated or "report.windows" not in sweep.defaults()
    again = Sweep.from_toml(name, {"replications": 3, **stated})
    assert again.identity() == sweep.identity()
    assert again.grid == sweep.grid


@pytest.mark.parametrize(
    ("tables", "stated"),
    [
        (BINS, {"policy.tail": "flush", "policy.edges.kind": "equal_mass", "server.servers": 1}),
        (DYNAMIC, {"policy.sla.alpha": 16, "policy.memory.overflow_probability": 0.05}),
        (STEPS, {"server.replica.token_budget": 2048, "workload.predictor.kind": "oracle"}),
        (TOKENS, {"workload.lengths.value": 100, "title": "sweep", "server.service.a0_s": None}),
        (MIXED, {"axes.mode.points.memory": {**AXES["mode"]["points"]["memory"], "policy.memory.rule": "exact"}}),
    ],
)
def test_a_stated_default_is_the_same_experiment(tables: Any, stated: dict[str, Any]) -> None:
    assert Sweep.model_validate(laid(tables, stated)).identity() == Sweep.model_validate(tables).identity()


@pytest.mark.parametrize("change", [{"policy.bins": 3}, {"server.servers": 2}, {"seed": 2}, {"title": "other"}])
def test_another_value_is_another_experiment(change: dict[str, Any]) -> None:
    assert Sweep.model_validate(laid(BINS, change)).identity() != Sweep.model_validate(BINS).identity()


def test_a_cube_is_extended_by_a_file_that_states_what_it_left_out(tmp_path: Path) -> None:
    few = laid(BINS, {"replications": 2})
    many = laid(few, {"replications": 3, "policy.tail": "flush", "report.windows": 50})
    first = run_sweep(Sweep.model_validate(few), tmp_path / "cube.nc", backend="reference")
    longer = run_sweep(Sweep.model_validate(many), tmp_path / "cube.nc", backend="reference")
    assert longer.sizes["replication"] == 3
    assert longer.isel(replication=slice(2)).equals(first)
    with pytest.raises(InputError, match=r"holds another sweep \(policy differs\)"):
        run_sweep(Sweep.model_validate(laid(many, {"policy.tail": "drop"})), tmp_path / "cube.nc", backend="reference")


# Other versions -----------------------------------------------------------------------------------------------------


def test_a_sweep_is_made_again_with_the_defaults_it_was_made_with() -> None:
    recorded = {**Sweep.model_validate(SECONDS).defaults(), "report.windows": 7, "policy.edges.sample_size": 500}
    sweep, said = remade(SECONDS, recorded, "cube.nc")
    assert sweep.grid.points[0].report.windows == 7
    assert sweep.grid.points[0].policy.edges.sample_size == 500
    assert said == (
        "defaults taken from the cube: policy.edges.sample_size = 500 (100000 in this one), "
        "report.windows = 7 (50 in this one)"
    )
    assert sweep.defaults() == recorded
    assert sweep.document == Sweep.model_validate(SECONDS).document


def test_a_default_is_put_back_only_where_a_point_leaves_the_setting_out() -> None:
    recorded = {**Sweep.model_validate(MIXED).defaults(), "policy.memory.overflow_probability": 0.2}
    stated = laid(MIXED, {"axes.mode.points.stated": {**AXES["mode"]["points"]["memory"]}})
    stated["axes"]["mode"]["points"]["stated"]["policy.memory.overflow_probability"] = 0.1
    sweep, _ = remade(stated, recorded, "cube.nc")
    found = [point.policy.memory and point.policy.memory.overflow_probability for point in sweep.grid.points]
    assert found == [None, 0.2, 0.1]


def test_a_default_that_is_put_back_is_not_taken_for_stated() -> None:
    # Stated, it would be refused: the mode ignores it.
    recorded = {**Sweep.model_validate(TOKENS).defaults(), "policy.tail": "drop"}
    (point,) = remade(TOKENS, recorded, "cube.nc")[0].grid.points
    assert point.policy.tail == "drop"
    assert "tail" not in point.policy.model_fields_set


def test_what_versions_do_not_share_is_said() -> None:
    recorded = Sweep.model_validate(TOKENS).defaults()
    del recorded["report.windows"]
    _, said = remade(TOKENS, {**recorded, "policy.old": 3}, "cube.nc")
    assert said == (
        "settings that this version does not have: policy.old = 3; "
        "settings that only this version has: report.windows = 50"
    )
    assert remade(TOKENS, {**recorded, "report.windows": 50}, "cube.nc")[1] == ""
    assert remade(TOKENS, {}, "cube.nc")[1].startswith("does not say with which defaults")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("report.windows", 0),
        ("report.windows", "7"),
        ("report.horizon_s", float("inf")),
        ("policy.tail", "keep"),
        ("policy.memory", {"rule": "other"}),
        ("workload.predictor.kind", "column"),
    ],
)
def test_a_default_that_cannot_be_taken_is_refused(path: str, value: object) -> None:
    recorded = {**Sweep.model_validate(TOKENS).defaults(), path: value}
    with pytest.raises(InputError, match=rf"cube.nc: default {path} = .*: this version cannot take it: "):
        remade(TOKENS, recorded, "cube.nc")


def test_parts_keep_what_was_stated() -> None:
    policy = PolicySettings.model_validate({"mode": "dynamic_only", "largest_batch": 4, "estimates": {"kind": "ema"}})
    made = with_defaults("policy", policy, {"policy.estimates.weight": 0.5, "policy.estimates.kind": "window"})
    assert isinstance(made, PolicySettings)
    assert made.estimates == Estimates(kind="ema", weight=0.5)
    assert made.model_fields_set == policy.model_fields_set
    assert made.estimates.model_fields_set == {"kind"}
    assert in_force([{"policy": made}])["policy.estimates.weight"] == 0.5


def test_no_difference_says_nothing() -> None:
    assert differences({"a.b": 1}, {"a.b": 1}) == ""
    assert differences({}, {}) == ""
