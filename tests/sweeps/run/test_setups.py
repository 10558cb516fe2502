"""Settings on their way to the engine."""

from inspect import signature

import pytest

from batchcube.calibration.coefficients import LoggedServer
from batchcube.engine import make_policy, make_reporting
from batchcube.engine.continuous import make_fleet, make_replica
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import memory_bound
from batchcube.engine.policies.sla import sla_search
from batchcube.sweeps.spec.settings import (
    Estimates,
    MemorySettings,
    PolicySettings,
    ReplicaSettings,
    Report,
    Server,
    SlaSettings,
)

CAPACITY = {"capacity_tokens", "max_bytes", "model_bytes", "kv_bytes_per_token", "margin_fraction"}
COUNTED = {"warmup_fraction", "memory_capacity_tokens", "histograms", "ttft_sla_s", "tpot_sla_s"}
CUT = {"bins", "edges"}
CONTROLLED = {"smallest_batch", "largest_batch", "memory", "sla", "controller", "estimates"}


@pytest.mark.parametrize(
    ("settings", "makers", "otherwise"),
    [
        (ReplicaSettings, [make_replica], {"kv_capacity_tokens"}),
        (SlaSettings, [sla_search], set()),
        (Estimates, [smoothing], set()),
        (MemorySettings, [memory_bound], CAPACITY),
        (PolicySettings, [make_policy, make_fleet], CUT | CONTROLLED),
        (Report, [make_reporting], COUNTED),
    ],
)
def test_every_setting_reaches_the_engine_by_its_name_or_is_known_to_go_another_way(settings, makers, otherwise):
    taken = {name for maker in makers for name in signature(maker).parameters}
    assert set(settings.model_fields) - taken == otherwise - taken
    assert otherwise <= set(settings.model_fields)


@pytest.mark.parametrize(
    ("settings", "makers"),
    [
        (ReplicaSettings, [make_replica]),
        (LoggedServer, [make_replica]),
        (Server, [make_policy, make_fleet]),
        (SlaSettings, [sla_search]),
        (Estimates, [smoothing]),
        (MemorySettings, [memory_bound]),
        (PolicySettings, [make_policy, make_fleet]),
        (Report, [make_reporting]),
    ],
)
def test_what_is_left_out_is_the_same_in_settings_and_in_the_engine(settings, makers):
    compared = 0
    for name, argument in [pair for maker in makers for pair in signature(maker).parameters.items()]:
        field = settings.model_fields.get(name)
        if field is not None and field.default is not None and argument.default is not argument.empty:
            assert field.default == argument.default, name
            compared += 1
    assert compared
