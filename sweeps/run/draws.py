"""The random side of one replication: every array is drawn once and shared by all points that need it."""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import Bins, Trace, batches, continuous, make_trace, sort_into_bins
from batchcube.engine.continuous import Classes, Content, Requests, follow, make_classes, make_requests
from batchcube.engine.continuous.model import ANYBODY, NOBODY
from batchcube.engine.continuous.ticks import LATEST_ARRIVAL_S
from batchcube.engine.policies.bins import assign_bins
from batchcube.engine.ticks import LARGEST_REQUEST, TICKS_PER_S, from_seconds
from batchcube.errors import InputError
from batchcube.results.variables import CONTROLS

from ..seeds import stream
from ..spec.settings import REQUEST_LIMITS, draws_service
from ..workloads.arrivals import AtRate, Closed
from ..workloads.lengths import Lengths, Mixture
from ..workloads.predictors import Prediction
from ..workloads.resampling import resample
from ..workloads.sessions import BoolArray, think_s, with_history
from ..workloads.settings import FloatArray, IntArray
from ..workloads.traces import RecordedTrace
from .laws import drawn_law, drawn_service
from .preparing import PreparedPoint
from .samples import least_prompt

# Arrays of one replication that are kept for the next points; beyond it the oldest are drawn again when needed.
MOST_BYTES = 256_000_000


class Draws:
    """The arrays of one replication; threads that ask for the same one get the same one."""

    def __init__(self, seed: int, replication: int) -> None:
        self.seed, self.replication = seed, replication
        self._lock = Lock()
        self._made: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._bytes: dict[Hashable, int] = {}
        self._gaps: dict[int, float] = {}
        self._means: dict[int, tuple[float, float]] = {}
        """Of what was drawn, over the mean of its law, by its key: kept where the arrays are not."""

    def __reduce__(self) -> tuple[type["Draws"], tuple[int, int]]:
        """Another process draws the same arrays itself."""
        return Draws, (self.seed, self.replication)

    def job(self, prepared: PreparedPoint, evenly_at: float | None = None) -> batches.Job | continuous.Job:
        """Return a point's requests in this replication, with their bins; coming evenly at a rate, if one is given."""
        found: batches.Job | continuous.Job
        match prepared.setup:
            case batches.Setup() as setup:
                found = self._batch_job(prepared, setup)
            case continuous.Setup() as setup:
                found = self._step_job(prepared, setup)
        if evenly_at is None:
            return found
        even_s = np.arange(1.0, prepared.requests + 1.0) / evenly_at
        if isinstance(found, batches.Job):
            return found._replace(trace=found.trace._replace(arrival=from_seconds(even_s)))
        token = np.ones(prepared.requests, np.int64)
        return found._replace(requests=found.requests._replace(arrival=make_requests(even_s, token, token).arrival))

    def ratios(self, prepared: PreparedPoint) -> dict[str, float]:
        """Return, of a point whose job was made, the means of what was drawn over those of its laws; NaN of no law."""
        keys, nothing = prepared.keys, (math.nan, math.nan)
        gap, (prompt, output) = self._gaps.get(keys.unit_arrivals, math.nan), self._means.get(keys.lengths, nothing)
        return dict(zip(CONTROLS, (gap, prompt, output), strict=True))

    def _batch_job(self, prepared: PreparedPoint, setup: batches.Setup) -> batches.Job:
        keys = prepared.keys
        trace: Trace = self._once(keys.trace, lambda: self._trace(prepared))
        arrival = self._once(keys.arrivals, lambda: self._arrivals(prepared))
        bins: Bins = self._once(keys.bins, lambda: self._bins(prepared))
        trace = trace._replace(arrival=arrival)
        if setup.reads_predictions:
            trace = trace._replace(predicted=self._predicted(prepared, trace))
        if draws_service(prepared.point):
            # Every point draws from the same stream: settings that share coefficients share the draw.
            largest = setup.policy.batch_size
            made = self._once(
                keys.service, lambda: drawn_service(prepared.point, largest, self._stream("coefficients"))
            )
            setup = setup._replace(service=made)
        return batches.Job(trace, bins, setup)

    def _step_job(self, prepared: PreparedPoint, setup: continuous.Setup) -> continuous.Job:
        keys = prepared.keys
        requests: Requests = self._once(keys.trace, lambda: self._requests(prepared))
        arrival = self._once(keys.arrivals, lambda: self._step_arrivals(prepared))
        bin_of = self._once(keys.bins, lambda: self._bin_of(prepared))
        if draws_service(prepared.point):
            law = self._once(keys.service, lambda: drawn_law(prepared.point, self._stream("coefficients")))
            setup = setup._replace(replica=setup.replica._replace(law=law))
        if setup.reads_predictions:
            requests = requests._replace(predicted=self._prediction(prepared).predicted)
        requests, classes = requests._replace(arrival=arrival), prepared.point.workload.classes
        if prepared.recorded is not None and (priority := self._window(prepared).priority) is not None:
            requests = requests._replace(priority=priority)
        if classes is not None:
            requests = requests._replace(priority=np.array([one.priority for one in classes])[self._class_of(prepared)])
        if prepared.point.workload.waits:
            follows, delay = self._following(prepared)
            requests = requests._replace(follows=follows, delay=delay)
        return continuous.Job(requests, bin_of, setup, self._classes(prepared))

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            made = self._made.get(key)
            mine = made is None
            if made is None:
                made = self._made[key] = Future()
            else:
                self._made.move_to_end(key)
        if mine:
            try:
                value = make()
            except BaseException as error:
                made.set_exception(error)
                raise
            made.set_result(value)
            with self._lock:
                self._bytes[key] = _size(value)
                while sum(self._bytes.values()) > MOST_BYTES and len(self._bytes) > 1:
                    oldest = next(k for k in self._made if k in self._bytes)
                    del self._made[oldest], self._bytes[oldest]
        return made.result()

    def _stream(self, purpose: str) -> np.random.Generator:
        return stream(self.seed, self.replication, purpose)

    def _window(self, prepared: PreparedPoint) -> RecordedTrace:
        settings = prepared.point.workload.trace
        assert settings is not None
        assert prepared.recorded is not None
        recorded = prepared.recorded

        def cut() -> RecordedTrace:
            return resample(
                recorded,
                self._stream("window"),
                method=settings.resample,
                requests=prepared.requests,
                block_requests=settings.block_requests,
                replication=self.replication,
            )

        window: RecordedTrace = self._once(prepared.keys.unit_arrivals, cut)
        return window

    def _arrivals(self, prepared: PreparedPoint) -> NDArray[np.int64]:
        return from_seconds(self._arrival_s(prepared))

    def _step_arrivals(self, prepared: PreparedPoint) -> NDArray[np.int64]:
        """Return the arrivals in the ticks of continuous batching."""
        token, arrival_s = np.ones(prepared.requests, np.int64), self._arrival_s(prepared)
        if (last := float(arrival_s[-1])) > LATEST_ARRIVAL_S:
            raise InputError(
                f"take {last:.3g} s to come, and {LATEST_ARRIVAL_S:.3g} s can be simulated: take fewer, or a higher "
                "rate",
                path="workload.requests",
                value=str(prepared.requests),
            )
        return make_requests(arrival_s, token, token).arrival

    def _arrival_s(self, prepared: PreparedPoint) -> FloatArray:
        workload = prepared.point.workload
        if workload.trace is not None:
            return self._window(prepared).arrival_s / workload.trace.rate_scale
        process = workload.arrivals
        assert process is not None
        opens = self._openings(prepared)
        count = prepared.requests if opens is None else int(opens.sum())
        if isinstance(process, AtRate):

            def unit_arrivals() -> FloatArray:
                made = process.unit_arrivals(count, self._stream("arrivals"))
                if count > 1:
                    self._gaps[prepared.keys.unit_arrivals] = float(made[-1] - made[0]) / (count - 1)
                return made

            arrival = process.scale(self._once(prepared.keys.unit_arrivals, unit_arrivals))
        else:
            arrival = process.draw(count, self._stream("arrivals"))
        # A turn is not there before its session.
        return arrival if opens is None else arrival[np.cumsum(opens) - 1]

    def _openings(self, prepared: PreparedPoint) -> BoolArray | None:
        """Return which requests are first turns of sessions; None where there are none."""
        sessions = prepared.point.workload.sessions
        if sessions is None:
            return None
        opens: BoolArray = self._once(
            ("openings", sessions.turns, prepared.requests),
            lambda: sessions.openings(prepared.requests, self._stream("sessions")),
        )
        return opens

    def _following(self, prepared: PreparedPoint) -> tuple[IntArray, IntArray]:
        """Return whom every request follows, and after how many ticks."""
        workload, count = prepared.point.workload, prepared.requests
        arrivals, sessions = workload.arrivals, workload.sessions
        closed = arrivals if isinstance(arrivals, Closed) else None

        def make() -> tuple[IntArray, IntArray]:
            number = np.arange(count)
            opens = self._openings(prepared)
            whom, delay_s = np.full(count, NOBODY), np.zeros(count)
            if opens is None:
                opens = np.full(count, True)
            elif sessions is not None:
                whom = np.where(opens, NOBODY, number - 1)
                delay_s = np.where(
                    opens, 0.0, think_s(sessions.think_s, count, self._stream("turns"), "workload.sessions.think_s")
                )
            if closed is not None:
                senders = np.cumsum(opens)
                if senders[-1] < closed.users:
                    raise InputError(
                        f"must be <= {senders[-1]}, the sessions that {count} requests make: every user sends one",
                        path="workload.arrivals.users",
                        value=closed.users,
                    )
                later = opens & (senders > closed.users)
                whom = np.where(later, ANYBODY, whom)
                delay_s = np.where(
                    later, think_s(closed.think_s, count, self._stream("think"), "workload.arrivals.think_s"), delay_s
                )
            ones = np.ones(count, np.int64)
            made = follow(make_requests(np.zeros(count), ones, ones), whom, delay_s)
            return made.follows, made.delay

        found: tuple[IntArray, IntArray] = self._once(("following", closed, sessions, count), make)
        return found

    def _lengths(self, prepared: PreparedPoint) -> Lengths:
        """Return what the requests need, and what a real predictor said of them where the source has it."""
        if prepared.recorded is not None:
            window = self._window(prepared)
            return Lengths(window.prompt_tokens, window.output_tokens, None, window.predicted)
        workload, least = prepared.point.workload, least_prompt(prepared.point.policy)
        lengths = workload.drawn_lengths
        assert lengths is not None

        def draw() -> Lengths:
            rng = self._stream("lengths")
            if workload.classes is not None:
                assert isinstance(lengths, Mixture)
                drawn = lengths.draw_of(self._class_of(prepared), rng, least, workload.class_paths)
            else:
                drawn = lengths.draw(prepared.requests, rng, least)
            self._means[prepared.keys.lengths] = _over_means(drawn, lengths.means(least))
            opens = self._openings(prepared)
            return drawn if opens is None else with_history(drawn, opens)

        drawn: Lengths = self._once(prepared.keys.lengths, draw)
        return drawn

    def _class_of(self, prepared: PreparedPoint) -> IntArray:
        """Return the class of every request."""
        lengths = prepared.point.workload.drawn_lengths
        assert isinstance(lengths, Mixture)
        opens = self._openings(prepared)

        def draw() -> IntArray:
            senders = prepared.requests if opens is None else int(opens.sum())
            kinds = lengths.kinds(senders, self._stream("classes"))
            return kinds if opens is None else kinds[np.cumsum(opens) - 1]

        of: IntArray = self._once(("classes", prepared.keys.lengths), draw)
        return of

    def _classes(self, prepared: PreparedPoint) -> Classes | None:
        """Return the classes of the requests and what they are promised."""
        classes = prepared.point.workload.classes
        if classes is None:
            return None
        limits = {name: [getattr(one, name) for one in classes] for name in REQUEST_LIMITS}
        return make_classes(self._class_of(prepared), **limits)

    def _trace(self, prepared: PreparedPoint) -> Trace:
        """Return the requests with all arrivals at 0: rates differ in nothing else."""
        drawn = self._lengths(prepared)
        at_once = np.zeros(prepared.requests)
        if drawn.service_s is not None:
            return make_trace(at_once, service_s=drawn.service_s)
        return make_trace(
            at_once, output_tokens=drawn.output_tokens, prompt_tokens=drawn.prompt_tokens, length=prepared.length
        )

    def _requests(self, prepared: PreparedPoint) -> Requests:
        """Return the requests of continuous batching with all arrivals at 0."""
        drawn = self._lengths(prepared)
        assert drawn.prompt_tokens is not None
        assert drawn.output_tokens is not None
        content = None if prepared.recorded is None else self._window(prepared).content
        opens = self._openings(prepared)
        if opens is not None:
            # A session is one text that grows: a turn is its beginning, prompt and answer.
            number, tokens = np.arange(prepared.requests + 1), drawn.prompt_tokens + drawn.output_tokens
            content = Content(np.cumsum(opens) - 1, number, tokens, LARGEST_REQUEST)
        return make_requests(np.zeros(prepared.requests), drawn.prompt_tokens, drawn.output_tokens, content=content)

    def _prediction(self, prepared: PreparedPoint) -> Prediction:
        def predict() -> Prediction:
            drawn = self._lengths(prepared)
            true = drawn.service_s if drawn.service_s is not None else drawn.output_tokens
            assert true is not None
            predictor, rng = prepared.point.workload.predictor, self._stream("predictor")
            return predictor.predict(true.astype(np.float64), prepared.edges, rng, drawn.predicted)

        prediction: Prediction = self._once(prepared.keys.prediction, predict)
        return prediction

    def _predicted(self, prepared: PreparedPoint, trace: Trace) -> FloatArray:
        """Return predicted lengths in the trace's unit."""
        predicted = self._prediction(prepared).predicted
        if prepared.length == "seconds":
            return predicted * TICKS_PER_S
        return predicted + trace.prompt if prepared.length == "total" else predicted

    def _bins(self, prepared: PreparedPoint) -> Bins:
        return sort_into_bins(self._bin_of(prepared), len(prepared.edges) - 1)

    def _bin_of(self, prepared: PreparedPoint) -> NDArray[np.int32]:
        if len(prepared.edges) == 2:
            return np.zeros(prepared.requests, np.int32)
        prediction = self._prediction(prepared)
        of = assign_bins(prediction.predicted, prepared.edges) if prediction.bin is None else prediction.bin
        return np.ascontiguousarray(of, np.int32)


def _over_means(drawn: Lengths, means: tuple[float, float]) -> tuple[float, float]:
    """Return the mean prompt, and the mean output or time, over the means of their laws; NaN where there is none."""
    prompt, output = drawn.prompt_tokens, drawn.output_tokens if drawn.service_s is None else drawn.service_s
    prompts, outputs = (
        float(values.mean()) / mean if values is not None and mean > 0.0 else math.nan
        for values, mean in zip((prompt, output), means, strict=True)
    )
    return prompts, outputs


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(_size(part) for part in value) if isinstance(value, tuple) else 0
