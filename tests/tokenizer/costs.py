"""Costs of a call, measured so that a busy machine does not matter, and whether they grow linearly."""

import sys
import time

MAX_ROUNDS = 20
DOUBLINGS = 4
MAX_RATIO = 2.5
"""Allowed growth for each doubling of a text, on average: a single one may cross the size of a cache. n log n
gives 2.1, a quadratic method 4."""


def seconds(function, argument):
    """CPU time of this process: what others do meanwhile does not count."""
    start = time.process_time()
    function(argument)
    return time.process_time() - start


def lines(function, argument):
    """Number of executed lines of Python: the same on every machine."""
    number = 0

    def trace(frame, event, _):
        nonlocal number
        number += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(argument)
    finally:
        sys.settrace(before)
    return number


def is_linear(cost, function, short, long, max_ratio=MAX_RATIO**DOUBLINGS):
    """Whether cost(long) / cost(short), the least costs of several rounds, comes down to what is allowed.

    A disturbance makes a time longer and never shorter: rounds are added until the least times are right.
    With a quadratic method they never are.
    """
    short_costs, long_costs = [], []
    for _ in range(MAX_ROUNDS if cost is seconds else 1):
        short_costs += [cost(function, short) for _ in range(3)]
        long_costs.append(cost(function, long))
        if min(long_costs) <= max_ratio * min(short_costs):
            return True
    return False
