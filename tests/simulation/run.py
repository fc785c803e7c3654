"""Runs any number of seeds on all cores: python -m tests.simulation.run 10000, or tools/simulate.

A worker takes every n-th seed and writes a line for each one that fails, and for each stretch that is done.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.simulation import state_world, topics_world

KINDS: Final[Mapping[str, Callable[[int], object]]] = {
    "topics": topics_world.simulate,
    "state": state_world.simulate,
}
_STRETCH: Final = 50
_SEED_LIMIT_S: Final = 120  # one that takes longer goes round in circles


def kind_of(seed: int) -> str:
    """What a seed is about when nobody says."""
    return "state" if random.Random(f"kind {seed}").random() < 0.2 else "topics"


def run_seed(seed: int, kind: str = "") -> object:
    """The world as it ended. Raises what went wrong, with the plan as a note."""
    return KINDS[kind or kind_of(seed)](seed)


def _out_of_time(*_: Any) -> None:
    raise TimeoutError(f"not done after {_SEED_LIMIT_S} s")


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _work(seeds: range, kind: str) -> int:
    """In a worker. Rubbish is collected between seeds, when little of it is left to look at."""
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, _out_of_time)
    gc.collect()
    gc.freeze()
    gc.disable()
    failed = 0
    for number, seed in enumerate(seeds, 1):
        signal.alarm(_SEED_LIMIT_S)
        try:
            run_seed(seed, kind)
        except Exception as error:
            failed += 1
            what = _innermost(error)
            notes = "; ".join(getattr(error, "__notes__", ()))
            print(f"failed {seed} {type(what).__name__}: {what} ({notes})".replace("\n", " "), flush=True)
        finally:
            signal.alarm(0)
        if number % _STRETCH == 0:
            gc.collect()
            print(f"done {_STRETCH}", flush=True)
    print(f"done {len(seeds) % _STRETCH}", flush=True)
    return failed


def run_seeds(first: int, count: int, kind: str, workers: int, tell: Callable[[str], None]) -> list[str]:
    """The lines of those that failed."""
    command = [sys.executable, "-m", "tests.simulation.run", "--worker", str(workers), "--kind", kind]
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [*command, "--from", str(first + number), str(count - number)], stdout=subprocess.PIPE, text=True
        )
        for number in range(min(workers, count))
    ]
    failures: list[str] = []
    done = 0
    told = began
    try:
        for line in _lines(processes):
            word, _, rest = line.partition(" ")
            if word == "done":
                done += int(rest)
            else:
                failures.append(rest)
                tell(f"FAILED seed {rest}")
            if time.monotonic() - told > 10:
                told = time.monotonic()
                tell(f"{done} of {count} seeds in {told - began:.0f} s, {len(failures)} failed")
    finally:
        for process in processes:
            process.kill()
            with process:  # waits for it and closes its pipe
                pass
    tell(f"{done} of {count} seeds in {time.monotonic() - began:.0f} s, {len(failures)} failed")
    if done != count:
        failures.append(f"{count - done} seeds were not run: a worker has ended")
    return failures


def _lines(processes: list[subprocess.Popen[str]]) -> Any:
    """What the workers say, as it comes."""
    import selectors

    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if line:
                    yield line.strip()
                else:
                    selector.unregister(key.fileobj)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/simulate", description="Runs seeds of the simulator on all cores.")
    parser.add_argument("seeds", nargs="?", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="N", help="the first one (0)")
    parser.add_argument("--seed", type=int, metavar="N", help="run this one here, and show how it fails")
    parser.add_argument("--kind", choices=("", *KINDS), default="", help="what about; without it each seed says")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (one a core)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        return min(_work(range(given.first, given.first + given.seeds, given.worker), given.kind), 1)
    if given.seed is not None:
        return _run_here(given.seed, given.kind)
    failures = run_seeds(given.first, given.seeds, given.kind, given.workers, lambda text: print(text, flush=True))
    for line in failures:
        kind = f" --kind {given.kind}" if given.kind else ""
        print(f"rerun: tools/simulate --seed {line.partition(' ')[0]}{kind}")
    return min(len(failures), 1)


def _run_here(seed: int, kind: str) -> int:
    try:
        run_seed(seed, kind)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"seed {seed} ({kind or kind_of(seed)}) holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
