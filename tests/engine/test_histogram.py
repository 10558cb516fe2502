import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.compiling.jit import jit
from batchcube.engine.histogram import BUCKETS, RELATIVE_ERROR, bucket_edges, bucket_middles, bucket_of
from batchcube.engine.ticks import LATEST

EDGES, MIDDLES = bucket_edges(), bucket_middles()
ticks = st.floats(1.0, float(LATEST))


@given(ticks)
def test_a_value_is_within_the_stated_error_of_its_buckets_middle(value):
    assert RELATIVE_ERROR <= 0.01
    assert abs(MIDDLES[bucket_of(value)] - value) <= RELATIVE_ERROR * value


@given(ticks)
def test_a_value_lies_between_the_edges_of_its_bucket(value):
    bucket = bucket_of(value)
    assert 1 <= bucket < BUCKETS
    assert EDGES[bucket] <= value < EDGES[bucket + 1]


@given(ticks, ticks)
def test_buckets_rise_with_the_value(a, b):
    low, high = sorted((a, b))
    assert bucket_of(low) <= bucket_of(high)


def test_every_edge_opens_its_own_bucket():
    assert len(EDGES) == BUCKETS + 1
    assert (np.diff(EDGES[1:]) > 0).all()
    for bucket in range(1, BUCKETS):
        assert bucket_of(float(EDGES[bucket])) == bucket
        assert bucket_of(float(np.nextafter(EDGES[bucket + 1], 0))) == bucket


def test_zero_and_less_than_a_tick_share_the_first_bucket():
    assert [bucket_of(x) for x in (0.0, 1e-300, 0.5, np.nextafter(1.0, 0))] == [0, 0, 0, 0]
    assert bucket_of(1.0) == 1
    assert MIDDLES[0] == EDGES[0] == 0.0


@jit
def fill(values, out):
    for i in range(len(values)):
        out[i] = bucket_of(values[i])


def test_compiled_code_finds_the_same_buckets():
    rng = np.random.default_rng(3)
    for values in (2.0 ** rng.uniform(-3, 52, 5000), rng.integers(0, 2**52, 5000)):
        out = np.empty(len(values), np.int64)
        fill(values, out)
        assert out.tolist() == [bucket_of(x) for x in values.tolist()]
