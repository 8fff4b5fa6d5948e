"""What the tests share: an environment that plays a script, and statistics with numpy alone."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

# What is promised bit for bit is promised of the CPU. Set before TensorFlow is imported.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

# First, since it chooses the kernels: all tests compute with the same.
import train_breakout

# isort: split
import gymnasium as gym
import numpy as np
import pytest

from support.settings import field_type, flag

# Under nohup it would be ignored, by what is tested as well.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

PROJECT = Path(train_breakout.__file__).parent
RESULTS = PROJECT / "results"
SHIPPED = RESULTS / "lasting-seed1" / "snapshots" / "003200000.keras"

# 99.9 % points of the chi-square distribution by degrees of freedom (NIST/SEMATECH
# e-Handbook of Statistical Methods, table 1.3.6.7.4).
CHI_SQUARE_999 = {3: 16.266, 29: 58.301, 99: 148.230}


def assert_uniform(draws, values):
    """Checks by a chi-square test that whole numbers are uniform over `range(values)`."""
    counts = np.bincount(draws, minlength=values)
    assert len(counts) == values, f"drawn outside of range({values})"
    expected = len(draws) / values
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_999[values - 1]


def environment():
    """The environment of a user's shell, without what importing the trainer here has set."""
    unset = "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "TF_FORCE_GPU_ALLOW_GROWTH"
    unset += "KERAS_BACKEND", "DISPLAY", "WAYLAND_DISPLAY"
    unset += "SDL_VIDEODRIVER", "SDL_RENDER_DRIVER", "SDL_FRAMEBUFFER_ACCELERATION"
    return {name: value for name, value in os.environ.items() if name not in unset}


def start(*words, cwd=None, output=subprocess.PIPE, errors=subprocess.PIPE, **variables):
    """Starts Python in a process of its own, as from a user's shell."""
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment() | variables,
        stdout=output,
        stderr=errors,
        text=True,
    )


def python(*words, output=subprocess.PIPE, **options):
    """Runs Python so, to its end."""
    process = start(*words, output=output, errors=output, **options)
    out, errors = process.communicate()
    return SimpleNamespace(returncode=process.returncode, stdout=out, stderr=errors)


def flags(**settings):
    """The words of a command line that set these settings."""
    return [word for name, value in settings.items() for word in (flag(name), str(value))]


def other_value(field):
    """A value of a setting that is not its default."""
    kind, _ = field_type(field)
    if kind is bool:
        return not field.default
    if kind is str:
        return "PongNoFrameskip-v4"
    return field.default + 1 if kind is int else field.default * 0.9


def without_times(path):
    """The lines of a log.txt, but for speed and time left."""
    return [re.sub(r", \d+ frames/s.*", "", line) for line in path.read_text().splitlines()]


@pytest.fixture
def disk():
    """A disk that can be filled: no file can be longer than 256 bytes then."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    return SimpleNamespace(fill=lambda *_: limit(256), free=lambda *_: limit(limits[0]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Frees the disk before pytest reports on the test: what it prints may go to a file."""
    try:
        return (yield)
    finally:
        if "disk" in item.funcargs:
            item.funcargs["disk"].free()


@pytest.fixture
def refused(capsys):
    """Runs a script with bad input, which it must refuse in a sentence before it does anything.

    `refused(main, *words)` returns that sentence.
    """

    def refused(main, *words):
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        assert (status, printed.out, printed.err.count("\n")) == (2, "", 1), printed
        assert re.match(r"\w+\.py: .{,1000}\n", printed.err)
        return printed.err

    return refused


def play(reward=0.0, lives=None, terminated=False, truncated=False):
    """One step of a script; `lives` is what the game shows from then on."""
    return SimpleNamespace(reward=reward, lives=lives, terminated=terminated, truncated=truncated)


def numbered_frame(number, shape=(84, 84, 4)):
    """A frame that shows its number (below 65 536), to be read by `number_of`."""
    frame = np.zeros(shape, np.uint8)
    frame.flat[:2] = divmod(number, 256)
    return frame


def number_of(frame):
    high, low = np.asarray(frame).flat[:2]
    return 256 * int(high) + int(low)


class ScriptedEnv(gym.Env):
    """Plays scripted games one after the other, with lives like an Atari's.

    A game is a list of `play(...)` steps, and quiet steps without end after them; the
    last game is played again and again. Frames are numbered from 0 in the order in
    which they are shown. `calls` lists what was done: "reset" or the action.
    """

    def __init__(self, *games, shape=(84, 84, 4), draw=None):
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gym.spaces.Discrete(4)
        self.ale = SimpleNamespace(lives=lambda: self.lives)
        self.games = games or ([],)
        self.draw = draw or (lambda number: numbered_frame(number, shape))
        self.lives = 0
        self.running = False
        self.calls, self.seeds = [], []
        self.shown = 0

    @property
    def resets(self):
        return self.calls.count("reset")

    def get_action_meanings(self):
        return ["NOOP", "FIRE", "RIGHT", "LEFT"]

    def _show(self):
        self.shown += 1
        return self.draw(self.shown - 1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        game = self.games[min(self.resets, len(self.games) - 1)]
        self.calls.append("reset")
        self.script = iter(game)
        self.lives, self.running = 5, True
        return self._show(), {}

    def step(self, action):
        assert self.running, "stepped without a reset after the end of a game"
        self.calls.append(action)
        now = next(self.script, None) or play()
        if now.lives is not None:
            self.lives = now.lives
        self.running = not (now.terminated or now.truncated)
        return self._show(), now.reward, now.terminated, now.truncated, {}
