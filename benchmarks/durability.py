"""What checkpoints cost, and whether memory stays flat.

    python benchmarks/durability.py checkpoint --length 100000
    python benchmarks/durability.py memory --frames 300000

`checkpoint` fills a replay, writes a first checkpoint, and then some more, each after as
many new transitions as a run adds between two. `memory` trains with a small replay, and
prints the resident memory at every 10 000 frames; updates and greedy actions are rarer than
in a real run (every 100th frame, epsilon 0.8), so that it ends in minutes.
"""

import argparse
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_breakout
from benchmarks.throughput import fill, machine, resident_memory
from support.checkpoint import Learner, read_checkpoint, write_checkpoint


def folder_size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def new_learner(capacity):
    config = train_breakout.Config()
    env = train_breakout.make_env(config)
    model, target = train_breakout.create_q_model(), train_breakout.create_q_model()
    optimizer = train_breakout.keras.optimizers.Adam(config.learning_rate)
    optimizer.build(model.trainable_variables)
    rng = train_breakout.np.random.default_rng(0)
    replay = train_breakout.ReplayBuffer(capacity)
    progress = train_breakout.Progress()
    progress.state, _ = env.reset(seed=1)
    return Learner(env, model, target, optimizer, replay, rng, progress)


def play(learner, frames):
    env, progress = learner.env, learner.progress
    for _ in range(frames):
        action = int(learner.rng.integers(env.action_space.n))
        state_next, reward, terminated, truncated, _ = env.step(action)
        learner.replay.add(progress.state, action, reward, state_next, terminated)
        progress.state = env.reset()[0] if terminated or truncated else state_next
        progress.frame_count += 1


def measure_checkpoint(length, added, rounds):
    learner = new_learner(length)
    fill(learner.replay, train_breakout.Config(), length)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        play(learner, 1)
        started = time.perf_counter()
        write_checkpoint(folder, learner, {})
        first = time.perf_counter() - started
        later = []
        for _ in range(rounds):
            play(learner, added)
            started = time.perf_counter()
            write_checkpoint(folder, learner, {})
            later.append(time.perf_counter() - started)
        # Traced, since the resident memory hides what is taken from memory freed before.
        play(learner, added)
        tracemalloc.start()
        write_checkpoint(folder, learner, {})
        extra = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        sizes = [folder_size(path) for path in sorted(folder.iterdir())]
        del learner  # one replay in memory is enough
        restored = new_learner(length)
        started = time.perf_counter()
        read_checkpoint(folder, restored)
        reading = time.perf_counter() - started
    median = statistics.median(later)
    print(f"| replay of {length} transitions | |\n| --- | --- |")
    print(f"| first checkpoint | {first:.2f} s |")
    print(
        f"| a later one, after {added} frames | {median:.2f} s "
        f"({min(later):.2f} to {max(later):.2f}) |"
    )
    print(f"| share of 5 minutes | {median / 300:.2%} |")
    print(f"| size of one on disk | {sizes[-1] / 1e6:.0f} MB |")
    print(f"| all that are kept | {sum(sizes) / 1e6:.0f} MB |")
    print(f"| extra memory at its peak | {extra / 1e6:.0f} MB |")
    print(f"| reading it back | {reading:.2f} s |")


def measure_memory(frames, length):
    class WatchedRun(train_breakout.Run):
        def log(self, *args):
            super().log(*args)
            frame_count = self.learner.progress.frame_count
            rows.append((frame_count, resident_memory()))
            print(f"| {frame_count} | {resident_memory() / 1e6:.1f} |", flush=True)

    rows = []
    train_breakout.Run = WatchedRun
    train_breakout.say = lambda *args, **kwargs: None
    sys.modules["checkpoint"].say = lambda *args, **kwargs: None
    print("| frame | resident memory, MB |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        config = train_breakout.Config(
            max_frames=frames,
            max_memory_length=length,
            update_after_actions=100,
            epsilon_random_frames=5_000,
            epsilon_greedy_frames=20_000,
            epsilon_min=0.8,
            run_dir=str(Path(folder) / "run"),
        )
        train_breakout.train(config)
    settled = [memory for frame, memory in rows if frame >= frames // 3]
    print(
        f"\nfrom frame {frames // 3} to {frames}: {min(settled) / 1e6:.1f} to "
        f"{max(settled) / 1e6:.1f} MB, last minus first {(settled[-1] - settled[0]) / 1e6:+.1f} MB"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("checkpoint", help="time, size and memory of a checkpoint")
    one.add_argument("--length", type=int, default=100_000, help="transitions in the replay")
    one.add_argument("--added", type=int, default=40_000, help="frames between checkpoints")
    one.add_argument("--rounds", type=int, default=3)
    two = commands.add_parser("memory", help="resident memory over a run")
    two.add_argument("--frames", type=int, default=300_000)
    two.add_argument("--length", type=int, default=5_000, help="transitions in the replay")
    args = parser.parse_args(argv)
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    if args.command == "checkpoint":
        measure_checkpoint(args.length, args.added, args.rounds)
    else:
        measure_memory(args.frames, args.length)
    return 0


if __name__ == "__main__":
    sys.exit(main())
