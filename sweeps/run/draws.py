"""The random side of one replication: every array is drawn once and shared by all points that need it."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import Bins, Trace, batches, continuous, make_trace, sort_into_bins
from batchcube.engine.continuous import Classes, Content, Requests, follow, make_classes, make_requests
from batchcube.engine.continuous.model import ANYBODY, LARGEST_REQUEST, NOBODY
from batchcube.engine.policies.bins import assign_bins
from batchcube.engine.ticks import TICKS_PER_S, from_seconds
from batchcube.errors import InputError

from ..seeds import stream
from ..spec.settings import REQUEST_LIMITS, draws_service
from ..workloads.arrivals import AtRate, Closed
from ..workloads.lengths import Lengths, Mixture
from ..workloads.predictors import Prediction
from ..workloads.sessions import BoolArray, think_s, with_history
from ..workloads.settings import FloatArray, IntArray
from ..workloads.traces import RecordedTrace, resample
from .laws import drawn_law, drawn_service
from .plan import PointPlan
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

    def __reduce__(self) -> tuple[type["Draws"], tuple[int, int]]:
        """Another process draws the same arrays itself."""
        return Draws, (self.seed, self.replication)

    def job(self, plan: PointPlan, evenly_at: float | None = None) -> batches.Job | continuous.Job:
        """Return a point's requests in this replication, with their bins; coming evenly at a rate, if one is given."""
        found: batches.Job | continuous.Job
        match plan.setup:
            case batches.Setup() as setup:
                found = self._batch_job(plan, setup)
            case continuous.Setup() as setup:
                found = self._step_job(plan, setup)
        if evenly_at is None:
            return found
        even_s = np.arange(1.0, plan.requests + 1.0) / evenly_at
        if isinstance(found, batches.Job):
            return found._replace(trace=found.trace._replace(arrival=from_seconds(even_s)))
        token = np.ones(plan.requests, np.int64)
        return found._replace(requests=found.requests._replace(arrival=make_requests(even_s, token, token).arrival))

    def _batch_job(self, plan: PointPlan, setup: batches.Setup) -> batches.Job:
        keys = plan.keys
        trace: Trace = self._once(keys.trace, lambda: self._trace(plan))
        arrival = self._once(keys.arrivals, lambda: self._arrivals(plan))
        bins: Bins = self._once(keys.bins, lambda: self._bins(plan))
        trace = trace._replace(arrival=arrival)
        if setup.reads_predictions:
            trace = trace._replace(predicted=self._predicted(plan, trace))
        if draws_service(plan.point):
            # Every point draws from the same stream: settings that share coefficients share the draw.
            largest = setup.policy.batch_size
            made = self._once(keys.service, lambda: drawn_service(plan.point, largest, self._stream("coefficients")))
            setup = setup._replace(service=made)
        return batches.Job(trace, bins, setup)

    def _step_job(self, plan: PointPlan, setup: continuous.Setup) -> continuous.Job:
        keys = plan.keys
        requests: Requests = self._once(keys.trace, lambda: self._requests(plan))
        arrival = self._once(keys.arrivals, lambda: self._step_arrivals(plan))
        bin_of = self._once(keys.bins, lambda: self._bin_of(plan))
        if draws_service(plan.point):
            law = self._once(keys.service, lambda: drawn_law(plan.point, self._stream("coefficients")))
            setup = setup._replace(replica=setup.replica._replace(law=law))
        if setup.reads_predictions:
            requests = requests._replace(predicted=self._prediction(plan).predicted)
        requests, classes = requests._replace(arrival=arrival), plan.point.workload.classes
        if plan.recorded is not None and (priority := self._window(plan).priority) is not None:
            requests = requests._replace(priority=priority)
        if classes is not None:
            requests = requests._replace(priority=np.array([one.priority for one in classes])[self._class_of(plan)])
        if plan.point.workload.waits:
            follows, delay = self._following(plan)
            requests = requests._replace(follows=follows, delay=delay)
        return continuous.Job(requests, bin_of, setup, self._classes(plan))

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

    def _window(self, plan: PointPlan) -> RecordedTrace:
        settings = plan.point.workload.trace
        assert settings is not None
        assert plan.recorded is not None
        recorded = plan.recorded

        def cut() -> RecordedTrace:
            return resample(
                recorded,
                self._stream("window"),
                method=settings.resample,
                requests=plan.requests,
                block_requests=settings.block_requests,
                replication=self.replication,
            )

        window: RecordedTrace = self._once(plan.keys.unit_arrivals, cut)
        return window

    def _arrivals(self, plan: PointPlan) -> NDArray[np.int64]:
        return from_seconds(self._arrival_s(plan))

    def _step_arrivals(self, plan: PointPlan) -> NDArray[np.int64]:
        """Return the arrivals in the ticks of continuous batching."""
        token = np.ones(plan.requests, np.int64)
        return make_requests(self._arrival_s(plan), token, token).arrival

    def _arrival_s(self, plan: PointPlan) -> FloatArray:
        workload = plan.point.workload
        if workload.trace is not None:
            return self._window(plan).arrival_s / workload.trace.rate_scale
        process = workload.arrivals
        assert process is not None
        opens = self._openings(plan)
        count = plan.requests if opens is None else int(opens.sum())
        if isinstance(process, AtRate):
            unit = self._once(plan.keys.unit_arrivals, lambda: process.unit_arrivals(count, self._stream("arrivals")))
            arrival = process.scale(unit)
        else:
            arrival = process.draw(count, self._stream("arrivals"))
        # A turn is not there before its session.
        return arrival if opens is None else arrival[np.cumsum(opens) - 1]

    def _openings(self, plan: PointPlan) -> BoolArray | None:
        """Return which requests are first turns of sessions; None where there are none."""
        sessions = plan.point.workload.sessions
        if sessions is None:
            return None
        opens: BoolArray = self._once(
            ("openings", sessions.turns, plan.requests),
            lambda: sessions.openings(plan.requests, self._stream("sessions")),
        )
        return opens

    def _following(self, plan: PointPlan) -> tuple[IntArray, IntArray]:
        """Return whom every request follows, and after how many ticks."""
        arrivals, sessions, count = plan.point.workload.arrivals, plan.point.workload.sessions, plan.requests
        closed = arrivals if isinstance(arrivals, Closed) else None

        def make() -> tuple[IntArray, IntArray]:
            number = np.arange(count)
            opens = self._openings(plan)
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

    def _lengths(self, plan: PointPlan) -> Lengths:
        """Return what the requests need, and what a real predictor said of them where the source has it."""
        if plan.recorded is not None:
            window = self._window(plan)
            return Lengths(window.prompt_tokens, window.output_tokens, None, window.predicted)
        workload, least = plan.point.workload, least_prompt(plan.point.policy)
        lengths = workload.drawn_lengths
        assert lengths is not None

        def draw() -> Lengths:
            rng = self._stream("lengths")
            if workload.classes is not None:
                assert isinstance(lengths, Mixture)
                drawn = lengths.draw_of(self._class_of(plan), rng, least, workload.class_paths)
            else:
                drawn = lengths.draw(plan.requests, rng, least)
            opens = self._openings(plan)
            return drawn if opens is None else with_history(drawn, opens)

        drawn: Lengths = self._once(plan.keys.lengths, draw)
        return drawn

    def _class_of(self, plan: PointPlan) -> IntArray:
        """Return the class of every request."""
        lengths = plan.point.workload.drawn_lengths
        assert isinstance(lengths, Mixture)
        opens = self._openings(plan)

        def draw() -> IntArray:
            senders = plan.requests if opens is None else int(opens.sum())
            kinds = lengths.kinds(senders, self._stream("classes"))
            return kinds if opens is None else kinds[np.cumsum(opens) - 1]

        of: IntArray = self._once(("classes", plan.keys.lengths), draw)
        return of

    def _classes(self, plan: PointPlan) -> Classes | None:
        """Return the classes of the requests and what they are promised."""
        classes = plan.point.workload.classes
        if classes is None:
            return None
        limits = {name: [getattr(one, name) for one in classes] for name in REQUEST_LIMITS}
        return make_classes(self._class_of(plan), **limits)

    def _trace(self, plan: PointPlan) -> Trace:
        """Return the requests with all arrivals at 0: rates differ in nothing else."""
        drawn = self._lengths(plan)
        at_once = np.zeros(plan.requests)
        if drawn.service_s is not None:
            return make_trace(at_once, service_s=drawn.service_s)
        return make_trace(
            at_once, output_tokens=drawn.output_tokens, prompt_tokens=drawn.prompt_tokens, length=plan.length
        )

    def _requests(self, plan: PointPlan) -> Requests:
        """Return the requests of continuous batching with all arrivals at 0."""
        drawn = self._lengths(plan)
        assert drawn.prompt_tokens is not None
        assert drawn.output_tokens is not None
        content = None if plan.recorded is None else self._window(plan).content
        opens = self._openings(plan)
        if opens is not None:
            # A session is one text that grows: a turn is its beginning, prompt and answer.
            number, tokens = np.arange(plan.requests + 1), drawn.prompt_tokens + drawn.output_tokens
            content = Content(np.cumsum(opens) - 1, number, tokens, LARGEST_REQUEST)
        return make_requests(np.zeros(plan.requests), drawn.prompt_tokens, drawn.output_tokens, content=content)

    def _prediction(self, plan: PointPlan) -> Prediction:
        def predict() -> Prediction:
            drawn = self._lengths(plan)
            true = drawn.service_s if drawn.service_s is not None else drawn.output_tokens
            assert true is not None
            edges = plan.edges if len(plan.edges) > 2 else None
            predictor = plan.point.workload.predictor
            return predictor.predict(true.astype(np.float64), edges, self._stream("predictor"), drawn.predicted)

        prediction: Prediction = self._once(plan.keys.prediction, predict)
        return prediction

    def _predicted(self, plan: PointPlan, trace: Trace) -> FloatArray:
        """Return predicted lengths in the trace's unit."""
        predicted = self._prediction(plan).predicted
        if plan.length == "seconds":
            return predicted * TICKS_PER_S
        return predicted + trace.prompt if plan.length == "total" else predicted

    def _bins(self, plan: PointPlan) -> Bins:
        return sort_into_bins(self._bin_of(plan), len(plan.edges) - 1)

    def _bin_of(self, plan: PointPlan) -> NDArray[np.int32]:
        if len(plan.edges) == 2:
            return np.zeros(plan.requests, np.int32)
        prediction = self._prediction(plan)
        of = assign_bins(prediction.predicted, plan.edges) if prediction.bin is None else prediction.bin
        return np.ascontiguousarray(of, np.int32)


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(_size(part) for part in value) if isinstance(value, tuple) else 0
