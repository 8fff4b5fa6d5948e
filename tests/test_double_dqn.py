"""The Double DQN example: its update, and that it runs and resumes as an adaptation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import environment

import train_breakout
from examples import double_dqn
from examples.double_dqn import Config
from support.device import keras
from support.settings import read_config

SCRIPT = Path(double_dqn.__file__)


def linear_network(seed):
    """Four Q-values, linear in three numbers, so that a reference needs no tape."""
    initializer = keras.initializers.RandomNormal(seed=seed)
    layer = keras.layers.Dense(4, kernel_initializer=initializer, bias_initializer=initializer)
    return keras.Sequential([keras.Input((3,)), layer])


def transitions(count):
    rng = np.random.default_rng(0)
    return (
        10 * rng.normal(size=(count, 3)).astype(np.float32),
        rng.integers(4, size=count).astype(np.int32),
        rng.normal(size=count).astype(np.float32),
        10 * rng.normal(size=(count, 3)).astype(np.float32),
        (rng.random(count) < 0.25).astype(np.float32),
    )


def make_step(make_train_step, learning_rate, **settings):
    model, model_target = linear_network(1), linear_network(8)
    optimizer = keras.optimizers.SGD(learning_rate)
    optimizer.build(model.trainable_variables)
    config = Config(gamma=0.9, **settings)
    return make_train_step(model, model_target, optimizer, config), model, model_target


@pytest.mark.parametrize("huber_delta", [0.5, None])
@pytest.mark.parametrize("terminal_value", [-1.0, None])
def test_the_update_is_that_of_a_plain_reference(huber_delta, terminal_value):
    settings = {"huber_delta": huber_delta, "terminal_value": terminal_value}
    train_step, model, target = make_step(double_dqn.make_train_step, 0.1, **settings)
    states, actions, rewards, next_states, dones = batch = transitions(64)
    (kernel, bias), (target_kernel, target_bias) = model.get_weights(), target.get_weights()
    loss = float(train_step(*batch))

    rows = np.arange(64)
    best = np.argmax(next_states @ kernel + bias, axis=1)
    future = (next_states @ target_kernel + target_bias)[rows, best]
    terminal = rewards if terminal_value is None else terminal_value
    targets = np.where(dones == 1, terminal, rewards + 0.9 * future)
    errors = (states @ kernel + bias)[rows, actions] - targets
    if huber_delta is None:
        losses, slopes = errors**2, 2 * errors
    else:
        slopes = np.clip(errors, -0.5, 0.5)
        losses = np.where(abs(errors) < 0.5, errors**2 / 2, 0.5 * (abs(errors) - 0.25))
    slopes = slopes[:, None] * np.eye(4)[actions] / 64  # by Q-value
    assert loss == pytest.approx(losses.mean(), rel=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], kernel - 0.1 * states.T @ slopes, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[1], bias - 0.1 * slopes.sum(axis=0), atol=1e-6)
    np.testing.assert_array_equal(target.get_weights()[0], target_kernel)


def test_it_differs_from_dqn_where_the_networks_choose_different_actions():
    def losses(make_train_step, **settings):  # of each transition, the weights staying as they are
        train_step, *networks = make_step(make_train_step, 0.0, **settings)
        rows = [[column[i : i + 1] for column in batch] for i in range(64)]
        return np.array([float(train_step(*row)) for row in rows]), networks

    batch = transitions(64)
    double, (model, target) = losses(double_dqn.make_train_step)
    dqn, _ = losses(train_breakout.make_train_step)
    next_states, dones = batch[3:]
    choices = [np.argmax(network(next_states), axis=1) for network in (model, target)]
    disagree = (choices[0] != choices[1]) & (dones == 0)
    np.testing.assert_array_equal(double != dqn, disagree)
    assert disagree.sum() == 32  # and 21 where they agree, and 11 terminal
    np.testing.assert_array_equal(losses(double_dqn.make_train_step, double=False)[0], dqn)


@pytest.mark.slow
def test_a_run_stops_resumes_and_is_kept_apart_from_dqn(tmp_path, capsys):
    def flags(name, *more):
        settings = "--epsilon-random-frames 40 --epsilon-greedy-frames 100 --epsilon-min 0.5"
        sizes = "--max-memory-length 150 --batch-size 8 --update-target-network 60"
        return [*f"--run-dir {tmp_path / name} {settings} {sizes}".split(), *more]

    def weights(name):
        return keras.models.load_model(tmp_path / name / "model.keras").get_weights()

    command = [sys.executable, SCRIPT, *flags("stopped", "--max-frames", "100")]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    resumed = ["--run-dir", str(tmp_path / "stopped"), "--resume", "--max-frames", "200"]
    assert double_dqn.main(resumed) == 0
    assert double_dqn.main(flags("through", "--max-frames", "200")) == 0
    assert train_breakout.main(flags("dqn", "--max-frames", "200")) == 0
    assert all(map(np.array_equal, weights("stopped"), weights("through")))
    assert not all(map(np.array_equal, weights("dqn"), weights("through")))

    # The setting keeps them apart: in config.json, and where one would resume the other.
    assert read_config(tmp_path / "through")["settings"]["double"] is True
    capsys.readouterr()
    for main, name in ((train_breakout.main, "through"), (double_dqn.main, "dqn")):
        assert main(["--run-dir", str(tmp_path / name), "--resume"]) == 2
        error = capsys.readouterr().err
        assert "double" in error
        assert error.count("\n") == 1
