"""What checkpoints cost, and whether memory stays flat.

    python benchmarks/durability.py checkpoint --length 100000
    python benchmarks/durability.py memory --frames 300000

`checkpoint` fills a replay, writes a first checkpoint, and then some more, each after as
many new transitions as a run adds between two. They go where temporary files go (TMPDIR).
`memory` trains with a small replay, and prints the resident memory at every 10 000 frames;
updates and greedy actions are rarer than in a real run (every 100th frame, epsilon 0.8), so
that it ends in minutes.
"""

import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_breakout
from support.console import ArgumentParser

# isort: split
import gymnasium as gym
import keras
import numpy as np

from benchmarks.pace import fill, resident_memory
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
    print(f"| share of 5 minutes | {median / 300:.2%} |")
    print(f"| on disk | {' and '.join(f'{size:.0f}' for size in sizes)} MB |")
    between = statistics.median(encoding or [0])
    print(f"| encoding every {SEGMENT} frames, in between | {between:.2f} s |")
    print(f"| reading the latest | {reading:.2f} s |")


def measure_memory(frames, length, every=10_000):
    output, rows = sys.stdout, []

    class Watched(gym.Wrapper):
        frame_count = 0

        def step(self, action):
            self.frame_count += 1
            if self.frame_count % every == 0:
                rows.append((self.frame_count, resident_memory() / 1e6))
                print("| {} | {:.1f} |".format(*rows[-1]), file=output, flush=True)
            return self.env.step(action)

    print("| frame | resident memory, MB |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        config = train_breakout.Config(
            max_frames=frames,
            max_memory_length=length,
            update_after_actions=100,
            epsilon_max=0.8,
            epsilon_min=0.8,
            epsilon_random_frames=5_000,
            run_dir=f"{folder}/run",
        )
        train_breakout.train(config, make_env=lambda c: Watched(train_breakout.make_env(c)))
    settled = [memory for frame, memory in rows if frame >= frames // 3]
    print(
        f"\nfrom frame {frames // 3} to {frames}: {min(settled):.1f} to {max(settled):.1f} MB, "
        f"last minus first {settled[-1] - settled[0]:+.1f} MB"
    )


def main(argv=None):
    parser = ArgumentParser(prog="durability.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    checkpoint = commands.add_parser("checkpoint", help="seconds and bytes of a checkpoint")
    checkpoint.add_argument("--length", type=int, default=100_000, help="transitions in the replay")
    checkpoint.add_argument("--added", type=int, default=70_000, help="frames between checkpoints")
    checkpoint.add_argument("--rounds", type=int, default=3)
    memory = commands.add_parser("memory", help="resident memory over a run")
    memory.add_argument("--frames", type=int, default=300_000)
    memory.add_argument("--length", type=int, default=5_000, help="transitions in the replay")
    args = parser.parse_args(argv)
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    if args.command == "checkpoint":
        measure_checkpoint(args.length, args.added, args.rounds)
    else:
        measure_memory(args.frames, args.length)
    return 0


if __name__ == "__main__":
    sys.exit(main())
