"""What the measured loops share: rounds at the word of throughput.py, and a full replay."""

import contextlib
import copy
import ctypes
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from wrappers import make_atari, wrap_deepmind

ENV_ID = "BreakoutNoFrameskip-v4"


class Pace:
    """Lets a loop run a round of frames, reports it, and waits for the word to go on.

    Args:
        pipe: connection to throughput.py. Its other end is closed to end the loop.
        frames: frames of a round.

    Attributes:
        loss: of the last update. On a GPU a round is over only when it can be read.
    """

    def __init__(self, pipe, frames):
        self.pipe, self.frames = pipe, frames
        self.count, self.loss, self.bytes = 0, None, None
        self.seconds, self.started = Counter(), time.perf_counter()

    def frame(self):
        """Counts a frame; the loop calls it once in each."""
        self.count += 1
        if self.count % self.frames:
            return
        if self.loss is not None:
            float(self.loss)
        seconds = time.perf_counter() - self.started
        self.pipe.send((seconds, self.seconds, resident_memory(), self.bytes))
        try:
            self.pipe.recv()
        except EOFError:
            sys.exit()
        self.seconds, self.started = Counter(), time.perf_counter()

    @contextlib.contextmanager
    def part(self, name):
        """Adds the time that is spent within to a part of the frame."""
        started = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - started

    @contextlib.contextmanager
    def filling(self, transitions):
        """Measures the bytes of a transition, while so many are added."""
        before = settled_memory()
        yield
        self.bytes = (settled_memory() - before) / transitions


def resident_memory():
    """Returns the bytes of memory that this process holds (its peak, where there is no /proc)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def settled_memory():
    """The same, after the memory that was freed has been given back, where glibc can."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return resident_memory()


def random_play(transitions):
    """Plays at random, as the trainer does: list of `(state, action, reward, next state, done)`."""
    env, rng = wrap_deepmind(make_atari(ENV_ID), frame_stack=True), np.random.default_rng(0)
    state, _ = env.reset(seed=1)
    played = []
    for _ in range(transitions):
        action = int(rng.integers(env.action_space.n))
        state_next, reward, terminated, truncated, _ = env.step(action)
        played.append((state, action, reward, state_next, terminated))
        state = env.reset()[0] if terminated or truncated else state_next
    env.close()
    return played


def fill(add, transitions, real_frames=20_000):
    """Calls `add` with so many transitions: random play, and then copies of it."""
    real = random_play(min(transitions, real_frames))
    for start in range(0, transitions, real_frames):
        block = real[: transitions - start]
        # With memory of their own, since a processor's caches would hold one copy only.
        for transition in copy.deepcopy(block) if start else block:
            add(*transition)
