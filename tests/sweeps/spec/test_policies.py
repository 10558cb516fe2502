"""Policies from outside in a specification."""

import json
from typing import Annotated, NamedTuple

import pytest
from annotated_types import Gt, Le

from batchcube.engine.policies import Order, registry
from batchcube.engine.policies.sla import LATENCY
from batchcube.errors import InputError
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.spec.document import Sweep, json_schema
from helpers.outside import EXAMPLES, load
from helpers.specifications import BINS, DYNAMIC, laid

pytestmark = pytest.mark.usefixtures("outside_policies")
CONTROLLED = laid(DYNAMIC, {"policy.memory": None, "policy.sla": None})


def sweep_of(tables, settings):
    return Sweep.model_validate(laid(tables, settings))


def test_its_settings_reach_the_engine():
    settings = {
        "policy.controller": {"name": "aimd", "target_ms": 30, "signal": "latency"},
        "policy.bin_choice": {"name": "weighted_shortest", "weight": 0.5},
    }
    (plan,) = prepare(sweep_of(CONTROLLED, settings)).points
    control = plan.setup.control
    assert control.further == (30.0, 1.0, 0.5)
    assert type(control.further) is registry.registered()["aimd"].policy.settings
    assert (control.sla.enabled, control.sla.signal) == (False, LATENCY)
    assert plan.setup.policy.bin_choice == (0.5,)
    assert plan.setup.reads_predictions


class Limited(NamedTuple):
    share: Annotated[float, "a part of the bins", Gt(0.0), Le(1.0)] = 1


def test_limits_are_kept_and_a_default_gets_its_type():
    registry.register(Order("limited", Limited, lambda candidate, settings: settings.share * candidate.size))
    (plan,) = prepare(sweep_of(BINS, {"policy.service_order": "limited"})).points
    assert type(plan.setup.policy.service_order.share) is float
    with pytest.raises(InputError, match=r"policy\.service_order\.share = 2\.0: must be <= 1"):
        sweep_of(BINS, {"policy.service_order": {"name": "limited", "share": 2.0}})


def test_an_order_is_given_by_its_name_alone_or_with_its_settings():
    for given, weight in (("weighted_shortest", 1.0), ({"name": "weighted_shortest", "weight": 0.0}, 0.0)):
        (plan,) = prepare(sweep_of(BINS, {"policy.service_order": given})).points
        assert plan.setup.policy.service_order == (weight,)
        assert plan.setup.policy.ranked
    for given in ("shortest_first", {"name": "shortest_first"}):
        (point,) = sweep_of(BINS, {"policy.service_order": given}).grid.points
        assert point.policy.service_order == "shortest_first"


def test_an_axis_varies_a_setting():
    axes = {"step": {"path": "policy.controller.increase", "values": [1.0, 4.0]}}
    sweep = sweep_of(CONTROLLED, {"policy.controller": {"name": "aimd"}, "axes": axes})
    assert [point.policy.controller.increase for point in sweep.grid.points] == [1.0, 4.0]
    assert sweep.grid.axes[0].long_name == "requests more after a batch, or a step, in time"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"policy.controller": {"name": "amid"}},
            'policy.controller.name = "amid": must be "aimd" or "who_waits"',
        ),
        (
            {"policy.controller": {"name": "weighted_shortest"}},
            'name = "weighted_shortest": must be "aimd" or "who_waits"',
        ),
        ({"policy.controller": {"increase": 1.0}}, "policy.controller.name: is missing"),
        (
            {"policy.controller": {"name": "aimd", "increse": 1.0}},
            "policy.controller.increse: no such setting; did you mean increase or decrease?",
        ),
        (
            {"policy.controller": {"name": "aimd", "increase": "1"}},
            'policy.controller.increase = "1": must be a number',
        ),
        (
            {"policy.bin_choice": "longest"},
            'policy.bin_choice = "longest": must be "oldest_head" or "round_robin" or "longest_queue" or '
            '"weighted_shortest"',
        ),
        (
            {"policy.bin_choice": {"name": "round_robin", "weight": 1.0}},
            '"round_robin" has no settings',
        ),
        ({"policy.service_order": "weighted_shortest"}, "policy.service_order: mode multi_bin_dynamic would ignore it"),
    ],
)
def test_a_mistake_is_told_where_it_is(settings, message):
    with pytest.raises(InputError) as error:
        sweep_of(CONTROLLED, settings)
    assert message in str(error.value)


def test_without_any_policy_from_outside_the_message_says_so(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    with pytest.raises(InputError, match="no controller is registered; see docs/policies"):
        sweep_of(CONTROLLED, {"policy.controller": {"name": "aimd"}})


def test_the_schema_knows_the_settings_of_what_is_registered(monkeypatch):
    known = json.dumps(json_schema())
    assert "requests more after a batch, or a step, in time" in known
    monkeypatch.setattr(registry, "_registered", {})
    assert "requests more after a batch" not in json.dumps(json_schema())


def test_another_text_of_a_policy_is_another_input(tmp_path):
    settings = {"policy.controller": {"name": "aimd"}}
    before = prepare(sweep_of(CONTROLLED, settings)).input_sha256
    assert prepare(sweep_of(CONTROLLED, settings)).input_sha256 == before != ""
    text = (EXAMPLES / "aimd.py").read_text()
    for changed, same in (
        (text + "# what it does is the same\n", True),
        (text.replace("return State(view.smallest), view.smallest", "return State(view.largest), view.largest"), False),
    ):
        registry.register(load(tmp_path / "aimd.py", changed).AIMD)
        assert (prepare(sweep_of(CONTROLLED, settings)).input_sha256 == before) == same
