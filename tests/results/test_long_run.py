import numpy as np
import pytest
from scipy import signal

from batchcube.errors import InputError
from batchcube.results.long_run import batch_means, mser5, warmup_note
from batchcube.results.overload import STEADY, judge

RUNS = 1000


def ar1(run, count, phi):
    noise = np.random.default_rng([run, 31]).normal(size=count)
    noise[0] /= np.sqrt(1 - phi**2)
    return 5.0 + signal.lfilter([1.0], [1.0, -phi], noise)


def waits(run, count, load):
    """Return the waits of an M/M/1 queue with services of mean 1, begun in steady state (Lindley)."""
    rng = np.random.default_rng([run, 37])
    begun = rng.exponential(1 / (1 - load)) if rng.random() < load else 0.0
    steps = np.concatenate([[begun], rng.exponential(1.0, count - 1) - rng.exponential(1 / load, count - 1)])
    walk = np.cumsum(steps)
    return walk - np.minimum(np.minimum.accumulate(walk), 0.0)


def coverage(series, truth, **settings):
    held = []
    for run in range(RUNS):
        found = batch_means(series(run), **settings)
        held.append(found.low <= truth <= found.high)
    return np.mean(held)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_batch_means_hold_the_mean_of_a_correlated_series(phi):
    error = 4.5 * np.sqrt(0.95 * 0.05 / RUNS)
    found = coverage(lambda run: ar1(run, 10_000, phi), 5.0)
    assert 0.94 - error < found < 0.95 + error


def test_plain_intervals_of_a_correlated_series_do_not():
    assert coverage(lambda run: ar1(run, 1000, 0.9), 5.0, batches=100) < 0.85


@pytest.mark.parametrize(("load", "least"), [(0.5, 0.925), (0.8, 0.90)])
def test_batch_means_hold_the_mean_wait_of_a_queue(load, least):
    error = 4.5 * np.sqrt(0.95 * 0.05 / RUNS)
    found = coverage(lambda run: waits(run, 20_000, load), load / (1 - load))
    assert least - error < found < 0.95 + error


def test_what_does_not_fill_a_batch_is_left_out_at_the_beginning():
    values = np.concatenate([[1e9] * 7, np.arange(200.0)])
    found = batch_means(values)
    assert found.estimate == np.arange(200.0).mean()
    assert found.n == 20
    assert np.isnan(batch_means(np.arange(100.0)).low)


def test_mser_cuts_what_is_not_steady():
    rng = np.random.default_rng(1)
    steady = rng.normal(size=1000)
    assert mser5(steady) < 100
    assert mser5(np.concatenate([np.full(100, 20.0), steady])) in range(95, 140)
    assert mser5(np.full(30, 2.0)) == 0
    assert mser5([]) == 0
    # Against the definition, cut by cut.
    series = rng.normal(size=60) + 5 * np.exp(-np.arange(60) / 5)
    means = series.reshape(-1, 5).mean(axis=1)
    errors = [means[cut:].var() / len(means[cut:]) for cut in range(7)]
    assert mser5(series) == 5 * int(np.argmin(errors))


def with_queue(cube, series):
    """Return a cube whose queue goes like `series` at every point, with some noise, and whose arrivals do not end."""
    changed = cube.copy(deep=True)
    queue = cube["window_queue_length_mean"]
    noise = np.random.default_rng(5).normal(0.0, 0.05, queue.shape)
    changed["window_queue_length_mean"] = (queue.dims, np.abs(series + noise))
    return changed


def note_of(cube):
    return warmup_note(cube, judge(cube))


def test_the_windows_of_a_cube_suggest_a_warm_up(make_cube):
    cube = make_cube(windows=40)
    settling = with_queue(cube, 1.0 - np.exp(-np.arange(40) / 3.0))
    count = int((judge(settling) == STEADY).sum())
    assert 0 < count < 12  # overloaded points do not settle
    left_out = 1 - float((cube["measured"] / cube["requests"]).max())
    assert left_out < 0.1
    note = note_of(settling)
    assert note.startswith(
        f"the warm-up is shorter than the windows suggest (MSER-5) at {count} of 12 points: leave out"
    )
    assert 0.1 < float(note.removesuffix(")").rpartition("report.warmup_fraction = ")[2]) < 0.5
    assert note_of(with_queue(cube, 1.0)) == ""
    assert note_of(with_queue(cube, 1.0 - 0.8 * (np.arange(40) < left_out * 39))) == ""
    assert note_of(make_cube()) == ""  # ten windows say nothing
    assert note_of(cube.drop_vars("window_arrivals")) == ""


def test_mistakes_are_named():
    for call, message in (
        (lambda: batch_means([[1.0]]), "values: must be"),
        (lambda: batch_means([np.nan] * 20), "values: must be"),
        (lambda: batch_means([1.0, 2.0], batches=1), "batches = 1: must be >= 2"),
        (lambda: mser5([[1.0]]), "values: must be"),
    ):
        with pytest.raises(InputError, match=message):
            call()
