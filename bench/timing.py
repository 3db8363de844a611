"""Measuring two things in turn, so that what else the machine does falls on both."""
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


def seconds(work: Callable[[], object]) -> float:
    "How long one call takes."
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    "Seconds of each work, A B C A B C …; every second round runs backwards, so that none always follows the same one."
    times = {name: [] for name in works}
    for round_ in range(-warm_up, rounds):
        for name in list(works) if round_ % 2 == 0 else reversed(works):
            taken = seconds(works[name])
            if round_ >= 0:
                times[name].append(taken)
    return times


def median_ratio(times: dict[str, list[float]], numerator: str, denominator: str) -> float:
    "The median over rounds of one time over the other."
    return statistics.median(a / b for a, b in zip(times[numerator], times[denominator]))


def median_difference(times: dict[str, list[float]], more: str, less: str) -> float:
    "The median over rounds of one time minus the other, in seconds."
    return statistics.median(a - b for a, b in zip(times[more], times[less]))


@dataclass
class Result:
    "One row of the table: a figure, and what it should reach."
    what: str
    value: float | None
    unit: str
    target: str = ""           # in words, empty where there is none
    reached: bool | None = None
    details: dict = field(default_factory=dict)


def at_most(what: str, value: float, limit: float, unit: str, **details) -> Result:
    "A figure that should not be above a limit."
    return Result(what, value, unit, f"at most {limit:g}", value <= limit, details)


def at_least(what: str, value: float, limit: float, unit: str, **details) -> Result:
    "A figure that should not be below a limit."
    return Result(what, value, unit, f"at least {limit:g}", value >= limit, details)
