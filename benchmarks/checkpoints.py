"""What checkpoints cost.

    python benchmarks/checkpoints.py --length 100000

It fills a replay, writes a first checkpoint, and then some more, each after `--added`
new transitions. They go where temporary files go (TMPDIR).
"""

import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_breakout
from support.console import ArgumentParser, bounded, exit_status

# isort: split
import keras
import numpy as np

from benchmarks.pace import fill
from benchmarks.throughput import machine
from support.checkpoint import SEGMENT, Checkpoints


def new_checkpoints(folder, config):
    env, optimizer = train_breakout.make_env(config), keras.optimizers.Adam()
    model, model_target = train_breakout.create_q_model(), train_breakout.create_q_model()
    optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model_target.variables, *optimizer.variables]
    replay = train_breakout.ReplayBuffer(config.max_memory_length)
    env.reset(seed=1)
    rng = np.random.default_rng(1)
    return Checkpoints(folder, dataclasses.asdict(config), env, variables, replay, rng)


def seconds_of(work, *args):
    started = time.perf_counter()
    work(*args)
    return time.perf_counter() - started


def measure_checkpoint(length, added, rounds):
    config = train_breakout.Config(max_memory_length=length)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = new_checkpoints(Path(folder), config)
        encoding = []

        def add(*transition):
            checkpoints.replay.add(*transition)
            if checkpoints.replay.added % SEGMENT == 0:  # as a run does
                encoding.append(seconds_of(checkpoints.encode_replay))

        fill(add, length)
        first, later = seconds_of(checkpoints.save, {}, {}), []
        for _ in range(rounds):
            fill(add, added)
            later.append(seconds_of(checkpoints.save, {}, {}))
        sizes = [file.stat().st_size / 1e6 for file in Path(folder).iterdir()]
        checkpoints = None  # one replay in memory is enough
        reading = seconds_of(new_checkpoints(Path(folder), config).load)
    median = statistics.median(later)
    print(f"| replay of {length} transitions | |\n| --- | --- |")
    print(f"| the first, of a full replay | {first:.2f} s |")
    spread = f"{min(later):.2f} to {max(later):.2f}"
    print(f"| a later one, after {added} frames | {median:.2f} s ({spread}) |")
    print(f"| on disk | {' and '.join(f'{size:.0f}' for size in sizes)} MB |")
    between = statistics.median(encoding or [0])
    print(f"| encoding every {SEGMENT} frames, in between | {between:.2f} s |")
    print(f"| reading the latest | {reading:.2f} s |")


def main(argv=None):
    parser = ArgumentParser(prog="checkpoints.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--length", type=int, default=100_000, help="transitions in the replay")
    add("--added", type=bounded(int, 1), default=70_000, help="frames between checkpoints")
    add("--rounds", type=bounded(int, 1), default=3)
    args = parser.parse_args(argv)
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    return exit_status(parser.prog, measure_checkpoint, args.length, args.added, args.rounds)


if __name__ == "__main__":
    sys.exit(main())
