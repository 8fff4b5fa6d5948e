"""The Double DQN example: its update, and that it runs and resumes as an adaptation."""

import numpy as np
import pytest
from conftest import python

import train_breakout
from examples import double_dqn
from examples.double_dqn import Config
from support.device import keras
from support.settings import read_config


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


@pytest.mark.parametrize(
    ("double", "huber_delta", "terminal_value"),
    [(True, 0.5, -1.0), (True, None, None), (False, 0.5, -1.0)],
)
def test_the_update_is_that_of_a_plain_reference(double, huber_delta, terminal_value):
    model, target = linear_network(1), linear_network(8)
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    config = Config(
        gamma=0.9, double=double, huber_delta=huber_delta, terminal_value=terminal_value
    )
    train_step = double_dqn.make_train_step(model, target, optimizer, config)
    states, actions, rewards, next_states, dones = batch = transitions(64)
    (kernel, bias), (target_kernel, target_bias) = model.get_weights(), target.get_weights()
    loss = float(train_step(*batch))

    rows = np.arange(64)
    chosen, worth = next_states @ kernel + bias, next_states @ target_kernel + target_bias
    best = np.argmax(chosen if double else worth, axis=1)
    future = worth[rows, best]
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


@pytest.mark.slow
def test_a_run_stops_resumes_and_is_kept_apart_from_dqn(tmp_path, refused):
    def flags(name, *more):
        settings = "--epsilon-random-frames 40 --epsilon-greedy-frames 100 --epsilon-min 0.5"
        sizes = "--max-memory-length 150 --batch-size 8 --update-target-network 60"
        return [*f"--run-dir {tmp_path / name} {settings} {sizes}".split(), *more]

    def weights(name):
        return keras.models.load_model(tmp_path / name / "model.keras").get_weights()

    words = flags("stopped", "--max-frames", "100")
    first, again = (python(double_dqn.__file__, *words, cwd=tmp_path) for _ in range(2))
    assert first.returncode == 0
    assert again.stderr.startswith("double_dqn.py: ")  # as the command to go on with is named
    resumed = ["--run-dir", str(tmp_path / "stopped"), "--resume", "--max-frames", "200"]
    assert double_dqn.main(resumed) == 0
    assert double_dqn.main(flags("through", "--max-frames", "200")) == 0
    assert train_breakout.main(flags("dqn", "--max-frames", "200")) == 0
    assert all(map(np.array_equal, weights("stopped"), weights("through")))
    assert not all(map(np.array_equal, weights("dqn"), weights("through")))

    # The setting keeps them apart: in config.json, and where one would resume the other.
    assert read_config(tmp_path / "through")["settings"]["double"] is True
    for main, name in ((train_breakout.main, "through"), (double_dqn.main, "dqn")):
        assert "double" in refused(main, "--run-dir", tmp_path / name, "--resume")
