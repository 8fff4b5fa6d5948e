"""Speed and memory of the trainer, against the textbook loop, in one run on one machine.

    python benchmarks/throughput.py                # about half an hour on two cores
    python benchmarks/throughput.py --quick        # a few minutes, smaller replays
    python benchmarks/throughput.py --json speed.json

Loops that are compared run in processes of their own, each with its replay filled with
real frames, and take turns: a round of one, a round of the other, and so on. The tables
show the median over the rounds and, as the spread, the lowest and the highest.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import tracemalloc
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

USER_ONEDNN = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
TEXTBOOK_BYTES = 113_000  # a transition of float32 stacks
SHARED_BYTES = 7_600
REAL_FRAMES = 20_000  # beyond these a replay is filled with copies of real transitions


# --------------------------------------------------------------------------------------
# Workers: each owns one loop and runs a round when told to


class Stopwatch:
    """Adds up the seconds spent in functions."""

    def __init__(self):
        self.seconds = {}

    def around(self, name, function):
        self.seconds[name] = 0.0

        def timed(*args, **kwargs):
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - started
            return result

        return timed


def resident_memory():
    """Returns the bytes of memory that this process holds (its peak, where there is no /proc)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def fill(replay, config, capacity):
    """Fills a replay with random play; after REAL_FRAMES, with copies in memory of their own."""
    import numpy as np

    from train_breakout import make_env
    from wrappers import LazyFrames

    env, rng = make_env(config), np.random.default_rng(0)
    state, _ = env.reset(seed=1)
    transitions = []
    while len(transitions) < min(capacity, REAL_FRAMES):
        action = int(rng.integers(env.action_space.n))
        state_next, reward, terminated, truncated, _ = env.step(action)
        transitions.append((state, action, reward, state_next, terminated))
        state = env.reset()[0] if terminated or truncated else state_next
    env.close()
    while len(replay) < capacity:
        frames, stacks = {}, {}

        def copy(stack, frames=frames, stacks=stacks):
            if id(stack) not in stacks:
                for frame in stack.frames:
                    if id(frame) not in frames:
                        frames[id(frame)] = frame.copy()
                stacks[id(stack)] = LazyFrames(frames[id(f)] for f in stack.frames)
            return stacks[id(stack)]

        for state, action, reward, state_next, done in transitions[: capacity - len(replay)]:
            replay.add(copy(state), action, reward, copy(state_next), done)


def trainer_worker(pipe, settings, capacity, frames_a_round):
    """Runs `train` itself, with its replay filled and epsilon at 0.1, a round at a time."""
    import train_breakout

    watch = Stopwatch()

    class FullReplay(train_breakout.ReplayBuffer):
        def __init__(self, capacity):
            super().__init__(capacity)
            fill(self, config, capacity)
            self.sample = watch.around("sampling", self.sample)

    class PacedRun(train_breakout.Run):
        def end_frame(self):
            super().end_frame()
            if self.learner.progress.frame_count % frames_a_round:
                return
            if self.learner.progress.loss is not None:
                float(self.learner.progress.loss)  # wait for a GPU to be done
            seconds = time.perf_counter() - self.round_started
            pipe.send((seconds, dict(watch.seconds), resident_memory()))
            if not pipe.recv():
                self.stop_signal = 0
            watch.seconds = dict.fromkeys(watch.seconds, 0.0)
            self.round_started = time.perf_counter()

        def finish(self, complete):
            pass  # nothing of this run is worth saving

        def start(self, learner):
            super().start(learner)
            # The loop's own calls, not those that a reset makes inside the wrappers.
            learner.env.step = watch.around("environment", learner.env.step)
            learner.env.reset = watch.around("environment (reset)", learner.env.reset)
            self.round_started = time.perf_counter()

    def timed(name, make):
        return lambda *args: watch.around(name, make(*args))

    train_breakout.ReplayBuffer = FullReplay
    train_breakout.Run = PacedRun
    train_breakout.make_train_step = timed("update", train_breakout.make_train_step)
    train_breakout.make_greedy_action = timed("action", train_breakout.make_greedy_action)
    train_breakout.say = lambda *args, **kwargs: None
    with tempfile.TemporaryDirectory() as folder:
        config = train_breakout.Config(
            **settings,
            epsilon_random_frames=0,
            epsilon_greedy_frames=1,
            max_memory_length=capacity,
            max_frames=0,
            checkpoint_minutes=1e6,  # their cost is measured by durability.py
            run_dir=str(Path(folder) / "run"),
        )
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        train_breakout.train(config)


def textbook_worker(pipe, onednn, capacity, frames_a_round):
    """Runs the textbook loop with its replay filled and epsilon at 0.1, a round at a time."""
    # With TensorFlow as it comes: the trainer's choice of kernels came with the environment.
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    if onednn is not None:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = onednn
    from benchmarks.textbook import TextbookLoop  # isort: skip
    import train_breakout  # isort: skip

    train_breakout.use_memory_as_needed()
    loop = TextbookLoop(train_breakout.Config(), capacity)
    while True:
        started = time.perf_counter()
        loop.run(frames_a_round, epsilon=0.1)
        pipe.send((time.perf_counter() - started, {}, resident_memory()))
        if not pipe.recv():
            return


def wrappers_worker(pipe, ours, frames_a_round):
    """Steps one of the two preprocessing stacks with random actions, a round at a time."""
    import gymnasium as gym
    import numpy as np
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    from wrappers import make_atari, wrap_deepmind

    env_id = "BreakoutNoFrameskip-v4"
    if ours:
        env = wrap_deepmind(make_atari(env_id), frame_stack=True)
    else:
        env = AtariPreprocessing(gym.make(env_id), terminal_on_life_loss=True)
        env = FrameStackObservation(env, 4)
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    while True:
        started = time.perf_counter()
        for _ in range(frames_a_round):
            _, _, terminated, truncated, _ = env.step(int(rng.integers(4)))
            if terminated or truncated:
                env.reset()
        pipe.send((time.perf_counter() - started, {}, resident_memory()))
        if not pipe.recv():
            return


class Worker:
    """A worker process, and the rounds that it has reported."""

    def __init__(self, name, target, *args):
        context = multiprocessing.get_context("spawn")
        self.name, self.frames = name, args[-1]
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=target, args=(end, *args))
        self.process.start()
        end.close()
        self.rounds = []
        self.receive()  # the round in which everything is compiled does not count
        self.rounds.clear()

    def receive(self):
        try:
            self.rounds.append(self.pipe.recv())
        except EOFError:
            sys.exit(f"throughput.py: the process of {self.name} ended early.")

    def run_round(self):
        self.pipe.send(True)
        self.receive()

    def stop(self):
        self.pipe.send(False)
        self.process.join()
        if self.process.exitcode:
            sys.exit(f"throughput.py: the process of {self.name} ended with an error.")

    def speed(self):
        """Returns frames per second: median, lowest, highest."""
        speeds = [self.frames / seconds for seconds, _, _ in self.rounds]
        return statistics.median(speeds), min(speeds), max(speeds)

    def parts(self):
        """Returns the milliseconds a frame of each part: medians over the rounds."""
        names = self.rounds[0][1]
        return {
            name: statistics.median(parts[name] for _, parts, _ in self.rounds) / self.frames * 1e3
            for name in names
        }

    def memory(self):
        return self.rounds[-1][2]


def take_turns(workers, rounds):
    for _ in range(rounds):
        for worker in workers:
            worker.run_round()
    for worker in workers:
        worker.stop()


# --------------------------------------------------------------------------------------
# Measurements


def bytes_a_transition(transitions=3_000):
    """Returns the traced memory of a transition of random play: ours, the textbook's."""
    import train_breakout
    from benchmarks.textbook import TextbookLoop

    train_breakout.use_memory_as_needed()
    config = train_breakout.Config()
    env = train_breakout.make_env(config)
    rng = train_breakout.np.random.default_rng(0)
    state, _ = env.reset(seed=1)
    tracemalloc.start()
    replay = train_breakout.ReplayBuffer(transitions)
    play = TextbookLoop(config, 10)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(transitions):
        action = int(rng.integers(env.action_space.n))
        state_next, reward, terminated, truncated, _ = env.step(action)
        replay.add(state, action, reward, state_next, terminated)
        state = env.reset()[0] if terminated or truncated else state_next
    ours = (tracemalloc.get_traced_memory()[0] - before) / transitions
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(transitions // 10):
        play.remember(0)
    textbook = (tracemalloc.get_traced_memory()[0] - before) / (transitions // 10)
    tracemalloc.stop()
    return ours, textbook


def free_memory():
    """Returns the bytes of memory that new processes may take, or None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def machine():
    import train_breakout

    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(x.split(": ")[1] for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "device": train_breakout.device_name(),
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": train_breakout.tf.__version__,
        "keras": train_breakout.keras.__version__,
        "date": date.today().isoformat(),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each loop")
    parser.add_argument("--quick", action="store_true", help="replays of 10 000, 3 rounds")
    parser.add_argument(
        "--textbook-replay", type=int, metavar="N", help="transitions in the textbook's replay"
    )
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="*",
        metavar="N",
        default=None,
        help="replay lengths to compare (default: 1000 10000 100000 1000000)",
    )
    parser.add_argument("--jit-compile", action="store_true", help="measure with XLA")
    args = parser.parse_args(argv)
    rounds = 3 if args.quick else args.rounds
    capacity = 10_000 if args.quick else 100_000
    textbook_capacity = args.textbook_replay or capacity
    lengths = args.lengths
    if lengths is None:
        lengths = [1_000, 10_000] if args.quick else [1_000, 10_000, 100_000, 1_000_000]
    settings = {"jit_compile": args.jit_compile}

    for what, needed, hint in (
        (
            "the two loops",
            textbook_capacity * TEXTBOOK_BYTES + capacity * SHARED_BYTES + 3e9,
            "--textbook-replay 10000",
        ),
        (
            "the replay lengths",
            sum(lengths) * SHARED_BYTES + 1e9 * len(lengths),
            "--lengths 1000 10000",
        ),
    ):
        free = free_memory()
        if free is not None and needed > free:
            parser.error(
                f"{what} need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: "
                f"use {hint} or --quick."
            )

    report = {"machine": machine()}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()), flush=True)

    trainer = Worker("the trainer", trainer_worker, settings, capacity, 400)
    textbook = Worker("the textbook loop", textbook_worker, USER_ONEDNN, textbook_capacity, 100)
    take_turns([trainer, textbook], rounds)
    ratio = trainer.speed()[0] / textbook.speed()[0]
    ours, theirs = bytes_a_transition()
    parts = trainer.parts()
    parts["the rest"] = 1e3 / trainer.speed()[0] - sum(parts.values())
    for key, worker, size, length in (
        ("trainer", trainer, ours, capacity),
        ("textbook", textbook, theirs, textbook_capacity),
    ):
        median, low, high = worker.speed()
        report[key] = {
            "frames_per_second": median,
            "lowest": low,
            "highest": high,
            "replay": length,
            "bytes_a_transition": size,
            "resident_bytes": worker.memory(),
        }
    report["trainer"]["milliseconds_a_frame"] = parts
    report["ratio"] = ratio

    print("\n| loop | frames/s | spread | replay | bytes a transition | resident memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for key in ("trainer", "textbook"):
        r = report[key]
        print(
            f"| {key} | {r['frames_per_second']:.1f} | {r['lowest']:.1f} to {r['highest']:.1f} | "
            f"{r['replay']} | {r['bytes_a_transition']:.0f} | {r['resident_bytes'] / 1e9:.2f} GB |"
        )
    print(f"\nratio: {ratio:.2f}")
    print("\n| part of a frame | ms |\n| --- | --- |")
    for name, milliseconds in parts.items():
        print(f"| {name} | {milliseconds:.3f} |")

    stacks = [
        Worker("our wrappers", wrappers_worker, True, 1000),
        Worker("Gymnasium's wrappers", wrappers_worker, False, 1000),
    ]
    take_turns(stacks, 3 * rounds)
    report["wrappers"] = {
        "ours_steps_per_second": stacks[0].speed()[0],
        "gymnasium_steps_per_second": stacks[1].speed()[0],
        "ratio": stacks[0].speed()[0] / stacks[1].speed()[0],
    }
    print("\n| wrappers | steps/s | spread |\n| --- | --- | --- |")
    for worker in stacks:
        median, low, high = worker.speed()
        print(f"| {worker.name} | {median:.0f} | {low:.0f} to {high:.0f} |")
    print(f"\nratio: {report['wrappers']['ratio']:.2f}", flush=True)

    workers = [
        Worker(f"replay {length}", trainer_worker, settings, length, 400) for length in lengths
    ]
    take_turns(workers, rounds)
    report["replay_lengths"] = {}
    print("\n| replay | ms a frame | spread | resident memory |\n| --- | --- | --- | --- |")
    for length, worker in zip(lengths, workers, strict=True):
        median, low, high = (1e3 / speed for speed in worker.speed())
        report["replay_lengths"][length] = {
            "milliseconds_a_frame": median,
            "resident_bytes": worker.memory(),
        }
        memory = worker.memory() / 1e9
        print(f"| {length} | {median:.2f} | {high:.2f} to {low:.2f} | {memory:.2f} GB |")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
