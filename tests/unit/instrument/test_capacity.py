"""The search for the capacity, on queues whose capacity is known."""

import heapq

import numpy as np
import pytest

from servegauge.contract.capacity import HALVINGS, PRECISION, fewest_requests
from servegauge.contract.spec import Load
from servegauge.instrument.calibrate import LEAST_RATE, short_points
from servegauge.instrument.capacity import LEAST_PART, Bracket, first_rate, lower_bound, range_of, search


class Queue:
    """`slots` servers, first come first served: what a window of `requests` sees at a rate, after a ramp."""

    def __init__(self, slots: int, service: np.ndarray, gaps: np.ndarray, requests: int, most_s: float, share: float):
        self.slots, self.service, self.arrivals = slots, service, np.cumsum(gaps)
        self.requests, self.most_s, self.share = requests, most_s, share
        self.tried: list[float] = []

    def attains(self, rate: float) -> bool:
        self.tried.append(rate)
        free = [0.0] * self.slots
        took = np.empty(len(self.arrivals))
        for index, arrived in enumerate(self.arrivals / rate):
            begins = max(arrived, heapq.heappop(free))
            heapq.heappush(free, begins + self.service[index])
            took[index] = begins + self.service[index] - arrived
        met = int((took[-self.requests :] <= self.most_s).sum())
        return lower_bound(met, self.requests) >= self.share


@pytest.mark.parametrize(
    ("slots", "service_s", "slack_s", "requests"), [(1, 0.1, 0.1, 400), (8, 0.5, 0.3, 600), (64, 1, 0.2, 1000)]
)
@pytest.mark.parametrize("cell", ["a-r1", "a-r2", "b-r1"])
def test_a_server_with_known_slots(slots, service_s, slack_s, requests, cell):
    total = 2 * requests
    queue = Queue(slots, np.full(total, service_s), np.ones(total), requests, service_s + slack_s, 0.99)
    found = search(queue.attains, first_rate(1.0, cell), 1000)
    assert found.low_rps == pytest.approx(slots / service_s, rel=PRECISION)
    assert found.low_rps < found.high_rps <= found.low_rps * (1 + PRECISION)
    assert len(queue.tried) < 16


def test_a_queue_with_chance_in_it():
    """M/M/1, whose requests are longer than t with probability exp(-(service rate - rate) t)."""
    served_rps, most_s, share = 10.0, 2.0, 0.99
    truth = served_rps + np.log(1 - share) / most_s
    found = []
    for seed in range(12):
        rng, total = np.random.default_rng(seed), 12_000
        service, gaps = rng.exponential(1 / served_rps, total), rng.exponential(1, total)
        queue = Queue(1, service, gaps, 10_000, most_s, share)
        found.append(search(queue.attains, first_rate(4.0, f"r{seed}"), 1000).low_rps)
    assert np.mean(found) == pytest.approx(truth, rel=0.03)


def test_what_is_not_bracketed_has_one_end():
    tried = []
    assert search(lambda rate: tried.append(rate) or True, 1.0, 40.0) == Bracket(40.0, None)
    assert tried == [1, 2, 4, 8, 16, 32, 40]
    assert search(lambda rate: False, 1.0, 40.0) == Bracket(None, LEAST_PART)
    assert search(lambda rate: rate < 30, 100.0, 20.0) == Bracket(20.0, None)


@pytest.mark.parametrize(("first", "most"), [(1.0, 1000.0), (24.0, 30.0), (24.0, 24.0), (100.0, 12_800.0)])
def test_the_instrument_is_calibrated_over_the_range_of_a_search(first, most):
    points = short_points([(Load(rate_rps=rate), None) for rate in range_of(first, most)])
    rates = [point.rate_rps for point in points if point.rate_rps]
    for rate in np.geomspace(max(first, LEAST_RATE), most, 50):
        assert any(0.4 <= rate / one <= 2.5 for one in rates)


def test_a_bound_says_what_is_sure():
    assert lower_bound(0, 50) == 0
    assert lower_bound(299, 299) >= 0.99 > lower_bound(298, 298)
    assert fewest_requests(0.99) == 299
    met = np.random.default_rng(1).binomial(500, 0.98, 4000)
    assert 0.93 <= np.mean([lower_bound(int(one), 500) <= 0.98 for one in met]) <= 0.98


def test_what_the_grid_rounds_off_is_scatter_and_no_error_of_the_ratio():
    first = [first_rate(4.0, f"cell-{number}") for number in range(400)]
    step = 2 ** (1 / 2**HALVINGS)
    assert 4.0 <= min(first) < max(first) < 4.0 * step
    found = [search(lambda rate: rate <= 31.0, one, 1000).low_rps for one in first]
    assert 0.004 < np.std(np.log(found)) < 0.008
    assert np.mean(np.log(found)) == pytest.approx(np.log(31.0) - np.log(step) / 2, abs=0.001)
