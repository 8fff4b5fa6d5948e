"""The CartPole example: that it learns, and that it is usable as it stands."""

import math
import re
import sys

import numpy as np
import pytest
from conftest import python

from examples import cartpole


def scores(line):
    """Returns mean, minimum and maximum of a line that the example prints."""
    return [float(n) for n in re.search(r"mean (\S+), min (\S+), max (\S+)$", line).groups()]


@pytest.mark.slow
def test_it_learns_to_balance_the_pole(tmp_path, monkeypatch, capsys):
    # The suite's proof of learning. Random play scores about 22.
    monkeypatch.chdir(tmp_path)
    assert cartpole.main(["--seed", "1", "--steps", "8000"]) == 0
    at_random, training, test, loaded = capsys.readouterr().out.splitlines()
    assert scores(at_random)[0] < 40
    assert training.startswith("training, to step 8000: ")
    assert scores(test)[0] >= 150
    assert scores(loaded) == scores(test)


@pytest.mark.slow
def test_it_runs_from_any_folder_and_writes_only_the_weights(tmp_path):
    run = python(cartpole.__file__, "--steps", 50, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.splitlines()) == 5  # with that about TensorFlow
    assert [path.name for path in tmp_path.iterdir()] == ["cartpole.weights.h5"]


@pytest.mark.slow
def test_rendering_shows_it_before_and_after(tmp_path, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.chdir(tmp_path)
    shown, play = [], cartpole.play

    def play_one(episodes, seed, policy, render=None):
        shown.append(render)
        return play(1, seed, policy, render)

    monkeypatch.setattr(cartpole, "play", play_one)
    assert cartpole.main(["--steps", "1", "--render", "human"]) == 0
    assert shown == ["human", None, None, "human"]


@pytest.mark.parametrize(
    "flags", ["--steps 0", "--steps many", "--seed -1", f"--seed {2**32}", "--render x", "--step 5"]
)
def test_bad_flags_get_one_sentence(flags, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    refused(cartpole.main, *flags.split())


def test_weights_that_cannot_be_written_are_noticed_before_training(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    cartpole.WEIGHTS.mkdir()
    assert "cannot be written" in refused(cartpole.main, "--steps", "50")


def test_a_window_needs_pygame(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(sys.modules, "pygame", None)  # as if it were not installed
    assert "pip install" in refused(cartpole.main, "--render", "human")


def test_boltzmann_policy_draws_by_q_value():
    def share_of_first(q_values, draws):
        q_values, rng = np.array(q_values, np.float32), np.random.default_rng(0)
        return np.mean([cartpole.boltzmann_action(q_values, rng) == 0 for _ in range(draws)])

    assert share_of_first([math.log(3), 0.0], 2000) == pytest.approx(0.75, abs=0.03)
    assert share_of_first([1e30, -1e30], 20) == 1  # no overflow
    assert 0 < share_of_first([1e30, 1e30], 20) < 1


@pytest.mark.slow
def test_target_network_follows_softly():
    model, target = cartpole.create_model(), cartpole.create_model()
    before = target.get_weights()
    states = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    zeros = np.zeros(32, np.float32)
    learn = cartpole.make_learn(model, target, cartpole.CONFIG)
    learn(states, zeros.astype(np.int32), zeros, states, zeros)
    for old, new, online in zip(before, target.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(new, 0.99 * old + 0.01 * online, atol=1e-7)


def test_a_fall_ends_the_return_and_the_time_limit_does_not(monkeypatch):
    stored = []

    class Replay(cartpole.ReplayBuffer):
        def add(self, *transition):
            stored.append(transition)

    monkeypatch.setattr(cartpole, "ReplayBuffer", Replay)
    # Upright for 200 steps: the push against the fall, which needs no learning.
    monkeypatch.setattr(cartpole, "make_q_values", lambda *_: lambda state: state)
    monkeypatch.setattr(cartpole, "boltzmann_action", lambda s, _: int(s[2] + s[3] / 2 > 0))
    config = cartpole.replace(cartpole.CONFIG, max_frames=200)
    cartpole.train(cartpole.create_model(), config, np.random.default_rng(0))
    assert not any(done for *_, done in stored)
    monkeypatch.setattr(cartpole, "boltzmann_action", lambda *_: 0)
    cartpole.train(cartpole.create_model(), config, np.random.default_rng(0))
    assert sum(done for *_, done in stored) > 10
