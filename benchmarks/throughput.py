"""Speed and memory of the trainer, against other loops, side by side on one machine.

    python benchmarks/throughput.py --json speed.json

Each loop runs in a process of its own, with its replay filled, and they take turns: a round
of one, a round of the other, and so on. A first round of each, in which things are compiled,
does not count. benchmarks/README.md says what the loops are.
"""

import importlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pace import Pace
from support.console import ArgumentParser, bounded, exit_status
from support.files import require_writable, writing

SHORTEST = 33  # transitions in a replay: more than a batch

# Name: module, bytes a transition, further arguments of its `loop`.
LOOPS = {
    "trainer": ("trainer", 7_600, {}),
    "textbook": ("textbook", 113_000, {}),
    "cleanrl": ("cleanrl_like", 28_300, {}),
    "sb3": ("sb3", 28_300, {}),
    "wrappers": ("emulation", 0, {"ours": True}),
    "gymnasium": ("emulation", 0, {"ours": False}),
}
PROCESS_BYTES = 1e9  # of a process without its replay


def work(pipe, frames, module, arguments):
    """What a process does: runs the loop of a module, which it alone imports."""
    sys.stdout = None
    # What the trainer sets for itself, the other loops need too.
    os.environ.update(KERAS_BACKEND="tensorflow", TF_FORCE_GPU_ALLOW_GROWTH="true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    importlib.import_module(f"benchmarks.{module}").loop(Pace(pipe, frames), **arguments)


class Worker:
    """A process with a loop, and what it reported of its rounds."""

    def __init__(self, name, replay, frames, options):
        module, _, arguments = LOOPS[name]
        self.name, self.replay, self.frames, self.rounds = name, replay, frames, []
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        arguments = {"replay": replay, **arguments, **options}
        self.process = context.Process(target=work, args=(end, frames, module, arguments))
        self.process.start()
        end.close()

    def receive(self):
        try:
            self.rounds.append(self.pipe.recv())
        except EOFError:
            sys.exit(f"throughput.py: the process of {self.name} ended early.")

    def figures(self):
        """Returns what was measured after the first round: a dict for JSON."""
        seconds, parts, resident, size = zip(*self.rounds[1:], strict=True)
        speeds = [self.frames / s for s in seconds]
        return {
            "loop": self.name,
            "replay": self.replay,
            "bytes_a_transition": size[-1],
            "frames_per_second": statistics.median(speeds),
            "lowest": min(speeds),
            "highest": max(speeds),
            "rounds": speeds,
            "milliseconds_a_frame": 1e3 / statistics.median(speeds),
            "parts": {
                part: 1e3 / self.frames * statistics.median(p[part] for p in parts)
                for part in parts[0]
            },
            "resident_bytes": resident[-1],
        }


def measure(loops, frames, rounds, jit_compile=False):
    """Lets loops, a list of `(name, replay)`, take turns. Returns their figures."""
    workers = []
    try:
        for name, replay in loops:
            options = {"jit_compile": jit_compile} if name == "trainer" else {}
            workers.append(Worker(name, replay, frames, options))
            workers[-1].receive()
        for _ in range(rounds):
            for worker in workers:
                worker.pipe.send(None)
                worker.receive()
    finally:
        for worker in workers:
            worker.pipe.close()  # which ends its loop
            worker.process.join()
    return [worker.figures() for worker in workers]


def look_up(path, pattern):
    """Returns what a pattern finds in one of Linux's own files, or None."""
    found = Path(path).exists() and re.search(pattern, Path(path).read_text())
    return found[1] if found else None


def free_memory():
    kilobytes = look_up("/proc/meminfo", r"MemAvailable: *(\d+)")
    return int(kilobytes) * 1024 if kilobytes else float("inf")  # where unknown


def machine():
    """Returns on what and with what is measured: a dict for JSON."""
    gpu = ""
    if shutil.which("nvidia-smi"):
        gpu = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    packages = ("tensorflow", "keras", "gymnasium", "ale_py", "torch", "stable_baselines3")
    return {
        "processor": look_up("/proc/cpuinfo", "model name.*: (.*)") or platform.machine(),
        "cores": os.cpu_count(),
        "GPU": gpu.partition(" (UUID")[0] or None,
        "Python": platform.python_version(),
        **{package: version(package) for package in packages if find_spec(package)},
        "date": date.today().isoformat(),
    }


def compare(loops, args):
    """Measures the loops, prints the tables, and writes the figures where `--json` says."""
    if args.json is not None:
        require_writable(args.json)  # now rather than after all the rounds
    report = {"machine": machine()}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()), flush=True)
    report["loops"] = measure(loops, args.frames, args.rounds, args.jit_compile)
    first = report["loops"][0]
    print(
        f"\n| loop | replay | frames/s, median | lowest to highest | ms a frame | {first['loop']} "
        f"is faster | bytes a transition | resident memory |\n|{' --- |' * 8}"
    )
    for of in report["loops"]:
        of["ratio"] = first["frames_per_second"] / of["frames_per_second"]
        size = round(of["bytes_a_transition"]) if of["bytes_a_transition"] else "-"
        print(
            f"| {of['loop']} | {of['replay']} | {of['frames_per_second']:.1f} | "
            f"{of['lowest']:.1f} to {of['highest']:.1f} | {of['milliseconds_a_frame']:.2f} | "
            f"{of['ratio']:.2f} times | {size} | {of['resident_bytes'] / 1e9:.2f} GB |"
        )
    if first["parts"]:
        rest = first["milliseconds_a_frame"] - sum(first["parts"].values())
        first["parts"]["the rest"] = rest
        print("\n| part of a frame | ms |\n| --- | --- |")
        print("\n".join(f"| {part} | {ms:.3f} |" for part, ms in first["parts"].items()))
    if args.json is not None:
        with writing(args.json):
            args.json.write_text(json.dumps(report, indent=2) + "\n")


def main(argv=None):
    optional = {"cleanrl": "torch", "sb3": "stable_baselines3"}
    default = ["trainer", "textbook", *(name for name in optional if find_spec(optional[name]))]
    parser = ArgumentParser(prog="throughput.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--loops", nargs="+", default=default, metavar="NAME[:LENGTH]")
    add("--replay", type=bounded(int, SHORTEST), default=100_000, help="transitions in each replay")
    add("--rounds", type=bounded(int, 1), default=9, help="rounds of each loop")
    add("--frames", type=bounded(int, 1), default=400, help="frames of a round")
    add("--jit-compile", action="store_true", help="the trainer with XLA")
    add("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    args = parser.parse_args(argv)
    for loop in args.loops:
        if not re.fullmatch(rf"({'|'.join(LOOPS)})(:\d+)?", loop):
            parser.error(f"{loop} is no loop: use {', '.join(LOOPS)}, or NAME:LENGTH.")
    pairs = [loop.partition(":") for loop in args.loops]
    loops = [(name, int(length or args.replay)) for name, _, length in pairs]
    if any(LOOPS[name][1] and replay < SHORTEST for name, replay in loops):
        parser.error(f"A replay needs more than a batch: give {SHORTEST} transitions or more.")
    free = free_memory()
    needed = sum(PROCESS_BYTES + LOOPS[name][1] * replay for name, replay in loops)
    if needed > free:
        parser.error(
            f"the loops need {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: "
            "use fewer --loops or a smaller --replay."
        )

    return exit_status(parser.prog, compare, loops, args)


if __name__ == "__main__":
    sys.exit(main())
