"""The share of a run's time that goes neither into the network nor into the operator.

Run with `pytest tests/benchmarks/test_loop_share.py -o addopts="" --benchmark-only -s`. Processor
time of one thread, so that other programs of the machine do not count; one sample, by ten levels of
the default of a card of each field that needs no file. Of a population all runs, to the end.
"""

import time
from collections import Counter
from dataclasses import replace
from functools import wraps

import pytest
import torch

from lmaps_science import load_problem, sample
from lmaps_science.operators import LinearOperator, Operator, SVDOperator
from lmaps_science.priors import Denoiser

CARDS = ["black_hole/simulated", "mri/simulated", "scattering/linear_360", "scattering/full_wave"]
AIM, LEVELS = 0.05, 10
METHODS = {
    Denoiser: ("__call__", "pullback"),
    Operator: ("__call__", "vjp", "pullback"),
    LinearOperator: ("adjoint", "normal"),
    SVDOperator: ("Vt", "V", "Ut", "U"),
}


class Clock:
    """Processor time inside of wrapped methods; what one calls belongs to the outermost."""

    def __init__(self):
        self.spent, self.inside = Counter(), False

    def timed(self, what, method):
        @wraps(method)
        def wrapped(*args, **kwargs):
            if self.inside:
                return method(*args, **kwargs)
            self.inside, started = True, time.thread_time()
            try:
                found = method(*args, **kwargs)
            finally:
                self.inside = False
                self.spent[what] += time.thread_time() - started
            if isinstance(found, tuple) and callable(found[-1]):  # the way back of a pullback
                return (*found[:-1], self.timed(what, found[-1]))
            return found

        return wrapped


def with_levels(solver, levels):
    """So many levels, and how many runs: of a population all, whose choice needs more levels."""
    runs = getattr(solver, "particles", 1)
    return replace(getattr(solver, "solver", solver), levels=levels), runs


@pytest.mark.parametrize("card", CARDS)
def test_share_of_time_beyond_network_and_operator(benchmark, card, monkeypatch):
    problem = load_problem(card)
    first, _ = with_levels(problem.solver, 1)
    solver, runs = with_levels(problem.solver, LEVELS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sample(problem, first, runs, progress=False)  # what is slow once
    clock = Clock()
    for cls, names in METHODS.items():
        what = "network" if cls is Denoiser else "operator"
        for name in names:
            monkeypatch.setattr(cls, name, clock.timed(what, getattr(cls, name)))
    started = time.thread_time()
    try:
        benchmark.pedantic(sample, (problem, solver, runs), {"progress": False}, rounds=1)
    finally:
        torch.set_num_threads(threads)
    total = time.thread_time() - started
    shares = {what: clock.spent[what] / total for what in ("network", "operator")}
    beyond = 1 - sum(shares.values())
    benchmark.extra_info |= {"beyond": beyond, **shares}
    told = ", ".join(f"{what} {share:.1%}" for what, share in shares.items())
    print(f"\n{card}: {total:.1f} s; {told}, beyond {beyond:.1%} (aim {AIM:.0%})")
    assert 0 < beyond < 1
    assert min(shares.values()) > 0
