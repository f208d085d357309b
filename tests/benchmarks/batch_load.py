"""Load test of `lmaps batch`: many small observations, two workers that are killed at random.

    python tests/benchmarks/batch_load.py --out FOLDER [--observations 500] [--kills 20]

First, in one process and without kills, what the engine costs beside a bare loop over
`load_problem` and `sample`, in CPU time. Then two processes, one for each half of the observations
(`--shard`), are ended by SIGKILL and SIGTERM at random and started again until all is done. Told
are throughput, what was computed twice, whether every observation has a whole result, and the
memory of the workers over time. Nothing is drawn: a figure takes a second or two of its own.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

CARD = "black_hole/simulated"
OVERRIDES = {"solver.levels": 20, "solver.local.iterations": 10}  # timed beside the bare loop
SHORT = {"solver.levels": 4, "solver.local.iterations": 5}  # of which many are run
SAMPLES = 2


def options(count, overrides):
    return {
        "each": f"phantom:0-{count - 1}",
        "overrides": overrides,
        "n_samples": SAMPLES,
        "figures": False,
        "progress": False,
        "device": "cpu",
    }


def overhead(out, count):
    """CPU seconds of the engine, and of a bare loop, for `count` observations; and its parts."""
    from lmaps_science import load_problem, reconstruct_many, sample

    def observation(k, prior=None):
        own = {"observation.image": f"phantom:{k}", "observation.seed": k}
        return load_problem(CARD, prior=prior, overrides={**OVERRIDES, **own})

    prior = observation(0).prior  # and everything is imported
    sample(observation(0, prior), observation(0, prior).solver, SAMPLES, progress=False)
    started, sampled, analysed = time.process_time(), 0.0, 0.0
    for k in range(count):
        problem = observation(k, prior)
        before = time.process_time()
        result = sample(problem, problem.solver, SAMPLES, progress=False)
        after = time.process_time()
        sampled, bare = sampled + after - before, time.process_time() - started
        problem.analyse(result)
        analysed += time.process_time() - after
    bare -= analysed - (time.process_time() - after)
    started = time.process_time()
    reconstruct_many(CARD, out=out, **options(count, OVERRIDES))
    engine = time.process_time() - started
    return {"sample": sampled, "bare loop": bare, "analysis": analysed, "engine": engine}


def work(out, shard, count):
    """One worker; every batch that it has computed, and its memory, go to a log."""
    from lmaps_science import reconstruct_many
    from lmaps_science.runner import batch

    original = batch._write
    log = Path(out).with_suffix(".log")

    def write(work, observation, *rest):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        line = {"name": observation.name, "worker": shard, "mb": pages * 4096 / 1e6}
        with open(log, "a") as file:
            file.write(json.dumps(line) + "\n")
        original(work, observation, *rest)

    batch._write = write
    reconstruct_many(CARD, out=out, shard=shard, **options(count, SHORT))


def supervise(out, count, kills):
    """Start both workers, end one of them now and then, start it again."""
    rng, done = random.Random(0), 0
    command = [sys.executable, __file__, "--out", str(out), "--observations", str(count)]
    workers = dict.fromkeys(("1/2", "2/2"))
    finished = set()
    started = next_kill = time.monotonic()
    codes = Counter()
    while len(finished) < 2:
        for shard, process in workers.items():
            if shard in finished:
                continue
            if process is None:
                workers[shard] = subprocess.Popen([*command, "--shard", shard])
            elif process.poll() is not None:
                codes[process.returncode] += 1
                if process.returncode == 0:
                    finished.add(shard)
                workers[shard] = None
        results = sum(1 for _ in Path(out).glob("*/summary.json"))
        due = results >= (done + 1) * count / (kills + 1) and time.monotonic() > next_kill
        running = [p for p in workers.values() if p is not None and p.poll() is None]
        if done < kills and due and running:
            rng.choice(running).send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
            done, next_kill = done + 1, time.monotonic() + rng.uniform(0, 5)
        time.sleep(0.1)
    return time.monotonic() - started, done, codes


def whole(out, count):
    """How many observations have a result whose checksum is right."""
    from lmaps_science.io import read_netcdf, sha256

    good = 0
    for summary in Path(out).glob("*/summary.json"):
        file = summary.with_name("result.nc")
        right = json.loads(summary.read_text())["sha256"] == sha256(file)
        good += right and read_netcdf(file)["image"].notnull().all().item()
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--observations", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--compare", type=int, default=20, help="observations to time the engine on"
    )
    parser.add_argument("--shard")
    chosen = parser.parse_args()
    if chosen.shard:
        return work(chosen.out, chosen.shard, chosen.observations)
    os.environ["OMP_NUM_THREADS"] = "1"
    parts = overhead(chosen.out.with_name(chosen.out.name + "-alone"), chosen.compare)
    for name, seconds in parts.items():
        print(f"{name}: {seconds / chosen.compare:.3f} CPU s an observation")
    beside = parts["bare loop"] + parts["analysis"]
    print(f"engine over bare loop: {parts['engine'] / parts['bare loop']:.3f}")
    print(f"engine over bare loop with analysis: {parts['engine'] / beside:.3f}", flush=True)
    seconds, kills, codes = supervise(chosen.out, chosen.observations, chosen.kills)
    lines = [json.loads(x) for x in chosen.out.with_suffix(".log").read_text().splitlines()]
    times = Counter(line["name"] for line in lines)
    print(
        f"{chosen.observations} observations in {seconds:.0f} s, {kills} kills, ends {dict(codes)}"
    )
    print(f"{3600 * chosen.observations / seconds:.0f} observations an hour with two workers")
    print(f"whole results: {whole(chosen.out, chosen.observations)} of {chosen.observations}")
    print(f"written more than once: {sum(n > 1 for n in times.values())}")
    memory = [line["mb"] for line in lines]
    fifth = len(memory) // 5
    shares = [sum(memory[k * fifth : (k + 1) * fifth]) / fifth for k in range(5)]
    print("resident memory, mean of each fifth of the run, MB:", *(f"{mb:.0f}" for mb in shares))


if __name__ == "__main__":
    main()
