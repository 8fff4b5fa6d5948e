"""The learner: settings, network, replay, schedule, update and loop, against the contract."""

import csv
import dataclasses
import json
import re
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from conftest import (
    PROJECT,
    RESULTS,
    ScriptedEnv,
    assert_uniform,
    number_of,
    numbered_frame,
    play,
    python,
)
from gymnasium.wrappers import RecordEpisodeStatistics

import train_breakout  # before Keras, whose backend it sets
from support import device
from support.console import UsageError
from support.settings import setting
from train_breakout import Config, ReplayBuffer, create_q_model, epsilon_at, keras, tf, train
from wrappers import EpisodicLifeEnv, finished_games, wrap_deepmind

# --------------------------------------------------------------------------------------
# Settings


def test_the_defaults_are_those_of_the_contract():
    contract = {
        "seed": 42,
        "gamma": 0.99,
        "epsilon_max": 1.0,
        "epsilon_min": 0.1,
        "epsilon_random_frames": 50_000,
        "epsilon_greedy_frames": 1_000_000,
        "batch_size": 32,
        "max_steps_per_episode": 10_000,
        "max_memory_length": 100_000,
        "update_after_actions": 4,
        "update_target_network": 10_000,
        "log_every": 10_000,
        "learning_rate": 0.00025,
        "clipnorm": 1.0,
        "huber_delta": 1.0,
        "terminal_value": -1.0,
        "solved_reward": 40,
        "max_frames": 10_000_000,
        "env_id": "BreakoutNoFrameskip-v4",
    }
    config = dataclasses.asdict(Config())
    assert {name: config[name] for name in contract} == contract
    assert config["checkpoint_minutes"] == 5.0  # what a power cut may cost: README


NATURAL = (
    "epsilon_greedy_frames",
    "batch_size",
    "max_steps_per_episode",
    "max_memory_length",
    "update_after_actions",
    "update_target_network",
    "log_every",
)
POSITIVE = ("learning_rate", "clipnorm", "huber_delta")
NUMBERS = (*POSITIVE, "gamma", "epsilon_max", "epsilon_min", "terminal_value", "solved_reward")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in NATURAL for value in (-1, 0, 2.5)],
        *[(name, value) for name in POSITIVE for value in (-0.5, 0.0)],
        *[(name, value) for name in NUMBERS for value in (float("nan"), float("inf"), "1", True)],
        *[(name, -1) for name in ("seed", "epsilon_random_frames", "max_frames")],
        *[(name, v) for name in ("gamma", "epsilon_max", "epsilon_min") for v in (-0.1, 1.1)],
        *[(name, None) for name in ("seed", "gamma", "learning_rate", "max_frames", "env_id")],
        ("seed", 2**32),
        ("seed", 1.0),
        ("seed", True),
        ("max_steps_per_episode", 1),
        ("checkpoint_minutes", 0),
        ("env_id", 5),
        ("run_dir", Path("runs")),
        ("jit_compile", 1),
        ("max_memory_length", 32),
        ("batch_size", 100_000),
        ("epsilon_max", 0.05),
    ],
)
def test_config_refuses_a_value_without_sense_and_names_the_field(name, value):
    with pytest.raises(UsageError, match=rf"\b{name}\b"):
        Config(**{name: value})


def test_config_takes_the_numbers_of_numpy_as_its_own():
    config = Config(seed=np.int64(3), learning_rate=np.float64(0.5), gamma=np.int32(1))
    assert config == Config(seed=3, learning_rate=0.5, gamma=1.0)
    values = config.seed, config.learning_rate, config.gamma
    assert [*map(type, values)] == [int, float, float]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_memory_length": 33},
        {"epsilon_min": 0.3, "epsilon_max": 0.3},
        {"gamma": 0, "epsilon_min": 0, "epsilon_max": 1, "terminal_value": 0},
        {"max_frames": 0, "epsilon_random_frames": 0, "seed": 0},
        {"seed": 2**32 - 1},
        {"clipnorm": None, "huber_delta": None, "terminal_value": None},
    ],
)
def test_config_accepts_the_ends_of_the_ranges(settings):
    config = Config(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_a_setting_of_ones_own_is_a_flag(capsys):
    @dataclasses.dataclass(frozen=True)
    class Mine(Config):
        double: "bool" = False  # as `from __future__ import annotations` has it; without a sentence
        share: float = setting(0.1, "10 % of it", gt=0)

    with pytest.raises(SystemExit):
        train_breakout.main(["--help"], Mine)
    assert re.search(r"--share FLOAT +10 % of it \(default: 0.1\)", capsys.readouterr().out)
    with pytest.raises(UsageError, match=r"^share is 0.0, but must be above 0\."):
        Mine(double=True, share=0)


# --------------------------------------------------------------------------------------
# The network


def test_the_network_has_the_size_and_the_initialisers_of_the_contract():
    model = create_q_model()
    assert (model.inputs[0].dtype, model.outputs[0].dtype) == ("uint8", "float32")
    assert model.count_params() == 1_686_180
    assert [weight.shape for weight in model.trainable_variables] == [
        *[(8, 8, 4, 32), (32,), (4, 4, 32, 64), (64,), (3, 3, 64, 64), (64,)],
        *[(7 * 7 * 64, 512), (512,), (512, 4), (4,)],
    ]
    trained = [layer for layer in model.layers if layer.trainable_variables]
    assert len(trained) == 5
    for layer in trained:  # Keras's defaults
        assert isinstance(layer.kernel_initializer, keras.initializers.GlorotUniform)
        assert isinstance(layer.bias_initializer, keras.initializers.Zeros)


def test_float_frames_are_refused_instead_of_truncated():
    model, target, config = create_q_model(), create_q_model(), Config()
    optimizer = keras.optimizers.Adam()
    train_step = train_breakout.make_train_step(model, target, optimizer, config)
    batch = random_batch(np.random.default_rng(0), 3)
    for column in (0, 3):  # states, next states
        floats = [np.float32(part) / 255 if i == column else part for i, part in enumerate(batch)]
        with pytest.raises(TypeError, match="uint8"):
            train_step(*floats)
    with pytest.raises(TypeError, match="uint8"):
        train_breakout.make_q_values(model, config)(floats[3][0])


def test_q_values_are_those_of_the_network_as_it_is_now():
    model = create_q_model(num_actions=4)
    q_values = train_breakout.make_q_values(model, Config())
    states = random_states(np.random.default_rng(0), 3)
    for bias in (np.zeros(4), np.arange(4.0)):
        model.layers[-1].bias.assign(bias)
        for state, expected in zip(states, model(states).numpy(), strict=True):
            found = q_values(state)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------------------
# The replay buffer


def transition(number, shape=(2,)):
    """Transition `number`: from state `number` to the one after it."""
    states = [numbered_frame(n, shape) for n in (number, number + 1)]
    return states[0], number % 4, float(number), states[1], number % 3 == 0


def test_the_replay_drops_the_oldest_first_and_keeps_transitions_together():
    replay, rng = ReplayBuffer(5), np.random.default_rng(0)
    for number in range(13):
        replay.add(*transition(number))
        assert len(replay) == min(number + 1, 5)
        states, actions, rewards, next_states, dones = batch = replay.sample(200, rng)
        assert set(rewards) == set(range(max(0, number - 4), number + 1))
        for row, drawn in enumerate(rewards.astype(int)):
            assert number_of(states[row]) == drawn
            assert actions[row] == drawn % 4
            assert number_of(next_states[row]) == drawn + 1
            assert dones[row] == (drawn % 3 == 0)
    assert [(column.shape, column.dtype) for column in batch] == [
        ((200, 2), np.uint8),
        ((200,), np.int32),
        ((200,), np.float32),
        ((200, 2), np.uint8),
        ((200,), np.float32),
    ]


def test_sampling_is_uniform_and_with_replacement():
    replay, rng = ReplayBuffer(10), np.random.default_rng(0)
    for number in range(25):
        replay.add(*transition(number))
    pairs = np.array([replay.sample(2, rng)[2] for _ in range(10_000)], int) - 15
    # Every pair of ten is as likely as any other, those of a transition with itself too.
    assert_uniform(pairs[:, 0] * 10 + pairs[:, 1], 100)


@pytest.mark.parametrize("state", [np.float32([0.5, 4]), [0.5, 4.0], (0.5, 4.0)])
def test_the_replay_stores_any_array_like_state(state):
    replay = ReplayBuffer(3)
    replay.add(state, 1, 1.0, state, False)
    states, _, _, next_states, _ = replay.sample(2, np.random.default_rng(0))
    assert states.tolist() == next_states.tolist() == [[0.5, 4.0]] * 2


@pytest.mark.slow
def test_a_transition_of_random_play_takes_at_most_7700_bytes():
    env = train_breakout.make_env(Config())
    rng = np.random.default_rng(0)
    replay = ReplayBuffer(1000)
    state, _ = env.reset(seed=0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(2000):  # it is full by then, and does not grow
            action = int(rng.integers(4))
            state_next, reward, terminated, _, _ = env.step(action)
            replay.add(state, action, reward, state_next, terminated)
            state = env.reset()[0] if terminated else state_next
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 84 * 84 < used / 1000 <= 7700  # the former, since a step brings one new frame


# --------------------------------------------------------------------------------------
# The schedule


def test_epsilon_falls_on_a_line_from_frame_1_and_stays_at_its_least():
    config = Config(epsilon_max=0.8, epsilon_min=0.2, epsilon_greedy_frames=7)
    epsilons = [epsilon_at(frame, config) for frame in range(1, 11)]
    assert epsilons == pytest.approx([*np.linspace(0.8, 0.2, 8), 0.2, 0.2], rel=1e-12)


# --------------------------------------------------------------------------------------
# The update


class Reference:
    """The contract's step 5 without the project's code: eager, in float32, Adam by hand."""

    def __init__(self, model, config=None):
        self.config = config or Config()
        self.first_weights, self.weights = model.get_weights(), model.get_weights()
        self.m = [np.zeros_like(weight) for weight in self.weights]
        self.v = [np.zeros_like(weight) for weight in self.weights]
        self.steps = 0
        self.norms = []  # of the last step's gradients, before clipping

    @staticmethod
    def q_values(weights, states):
        x = tf.constant(states.astype(np.float32) / np.float32(255))
        for i, stride in enumerate((4, 2, 1)):
            x = tf.nn.conv2d(x, weights[2 * i], stride, "VALID") + weights[2 * i + 1]
            x = tf.maximum(x, 0.0)
        x = tf.reshape(x, (len(states), -1))
        x = tf.maximum(x @ weights[6] + weights[7], 0.0)
        return x @ weights[8] + weights[9]

    def step(self, target_weights, states, actions, rewards, next_states, dones):
        """Makes one update and returns the loss."""
        config = self.config
        best = self.q_values(target_weights, next_states).numpy().max(axis=1)
        y = rewards + np.float32(config.gamma) * best
        for row in np.flatnonzero(dones):
            terminal = config.terminal_value
            y[row] = rewards[row] if terminal is None else terminal

        weights = [tf.Variable(weight) for weight in self.weights]
        with tf.GradientTape() as tape:
            q_values = self.q_values(weights, states)
            taken = tf.reduce_sum(q_values * np.eye(q_values.shape[1], dtype="f")[actions], axis=1)
            error = tf.abs(y - taken)
            if config.huber_delta is None:
                losses = error**2
            else:
                delta = config.huber_delta
                losses = tf.where(error <= delta, error**2 / 2, delta * (error - delta / 2))
            loss = tf.reduce_sum(losses) / len(states)
        gradients = [gradient.numpy() for gradient in tape.gradient(loss, weights)]

        self.norms = [float(np.sqrt((gradient**2).sum())) for gradient in gradients]
        if config.clipnorm is not None:
            gradients = [
                gradient * np.float32(min(1, config.clipnorm / max(norm, 1e-30)))
                for gradient, norm in zip(gradients, self.norms, strict=True)
            ]
        self.steps += 1
        rate = config.learning_rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for i, gradient in enumerate(gradients):
            self.m[i] = np.float32(0.9) * self.m[i] + np.float32(0.1) * gradient
            self.v[i] = np.float32(0.999) * self.v[i] + np.float32(0.001) * gradient**2
            self.weights[i] -= (
                np.float32(rate) * self.m[i] / (np.sqrt(self.v[i]) + np.float32(1e-7))
            )
        return float(loss)


def random_states(rng, number):
    return rng.integers(256, size=(number, 84, 84, 4), dtype=np.uint8)


def random_batch(rng, number, num_actions=4):
    """A batch as `ReplayBuffer.sample` returns it, with a few terminals."""
    return (
        random_states(rng, number),
        rng.integers(num_actions, size=number).astype(np.int32),
        rng.integers(-1, 2, size=number).astype(np.float32),
        random_states(rng, number),
        (rng.random(number) < 0.3).astype(np.float32),
    )


def randomise_biases(model):
    """Gives biases and Q-values a size at which an error in them shows."""
    rng = np.random.default_rng(5)
    for weight in model.trainable_variables:
        if weight.ndim == 1:
            weight.assign(rng.normal(0, 0.1, weight.shape))
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 3)


def assert_same_change(weights, reference):
    """Checks that every variable has changed as the reference's did, but for rounding.

    By norms, and less strictly after the first step: where a ReLU is about to switch,
    rounding decides about single elements. And XLA rounds otherwise.
    """
    tolerance = 0.001 if reference.steps == 1 else 0.02
    tolerance = 0.05 if reference.config.jit_compile else tolerance
    before, expected = reference.first_weights, reference.weights
    for weight, other, first in zip(weights, expected, before, strict=True):
        change = np.linalg.norm(other - first)
        assert change > 0
        assert np.linalg.norm(weight - other) < tolerance * change


@pytest.mark.parametrize(
    ("num_actions", "settings"),
    [
        (4, {}),
        *(
            pytest.param(number, settings, marks=pytest.mark.slow)
            for number, settings in (
                (6, {}),
                (4, {"terminal_value": 0.5, "gamma": 0.5, "huber_delta": 0.2}),
                (4, {"terminal_value": None, "huber_delta": None}),
                (4, {"clipnorm": None, "learning_rate": 0.0001}),
                (4, {"jit_compile": True}),
            )
        ),
    ],
)
def test_the_update_equals_an_eager_reference(num_actions, settings):
    config = Config(**settings)
    keras.utils.set_random_seed(0)
    model, model_target = create_q_model(num_actions), create_q_model(num_actions)
    randomise_biases(model)
    randomise_biases(model_target)
    optimizer = keras.optimizers.Adam(config.learning_rate, clipnorm=config.clipnorm)
    optimizer.build(model.trainable_variables)
    train_step = train_breakout.make_train_step(model, model_target, optimizer, config)
    reference, target_weights = Reference(model, config), model_target.get_weights()
    rng = np.random.default_rng(1)
    for _ in range(3):
        batch = random_batch(rng, 16, num_actions)
        loss = train_step(*batch)
        assert loss.shape == ()
        expected = reference.step(target_weights, *batch)
        assert float(loss) == pytest.approx(expected, rel=1e-3 if config.jit_compile else 1e-4)
        assert_same_change(model.get_weights(), reference)
    if config.jit_compile:
        train_step.experimental_get_compiler_ir(*batch)  # ValueError: not compiled with XLA
    if not settings:  # a variable is clipped beside one that is not
        assert min(reference.norms) < 0.5 < 2 < max(reference.norms)
    for weight, before in zip(model_target.get_weights(), target_weights, strict=True):
        np.testing.assert_array_equal(weight, before)


# --------------------------------------------------------------------------------------
# The loop, with a scripted game and counted calls


class Counted(gym.Wrapper):
    """Counts the agent's steps: the frames of the contract."""

    frames = 0
    before_step = staticmethod(lambda frame: None)

    def step(self, action):
        self.frames += 1
        self.before_step(self.frames)
        return self.env.step(action)


@pytest.fixture
def loop(tmp_path, capsys):
    """Runs `train` on a scripted environment with its parts replaced by counters.

    Returns a record of what was called: `updates` and `greedy` hold frame numbers,
    `stored` transitions, `batches` what was sampled, `lines` what was printed.
    """

    def run(env, before_step=None, real_update=False, pieces=None, **settings):
        if not env.has_wrapper_attr("return_queue"):
            env = RecordEpisodeStatistics(env)
        env, pieces = Counted(env), pieces or {}
        record = SimpleNamespace(updates=[], greedy=[], greedy_states=[], stored=[], batches=[])

        class RecordingReplay(ReplayBuffer):
            def add(self, *transition):
                record.stored.append(transition)
                super().add(*transition)

            def sample(self, batch_size, rng):
                record.batches.append(super().sample(batch_size, rng))
                return record.batches[-1]

        def make_train_step(model, model_target, optimizer, config):
            record.model, record.model_target = model, model_target

            def train_step(*batch):
                assert all(a is b for a, b in zip(batch, record.batches[-1], strict=True))
                record.updates.append(env.frames)
                # A mark that the copies carry to the target network.
                model.layers[-1].bias.assign_add(tf.ones(env.action_space.n))
                return tf.constant(float(len(record.updates)))

            return train_step

        def make_q_values(model, config):
            def q_values(state):
                record.greedy.append(env.frames + 1)  # the one about to be stepped
                record.greedy_states.append(number_of(state))
                return np.array([0, 1, 2, 3])

            return q_values

        if before_step:
            env.before_step = lambda frame: before_step(frame, record)
        if not real_update:
            pieces = {"make_train_step": make_train_step, "make_q_values": make_q_values} | pieces
        settings = {"max_frames": 100, "run_dir": str(tmp_path / "run"), **settings}
        pieces |= {
            "make_env": lambda config: env,
            "make_replay": lambda config: RecordingReplay(config.max_memory_length),
        }
        record.run = train(Config(**settings), **pieces)
        record.running_reward = np.mean(record.run.values["episode_rewards"] or [0.0])
        record.lines = capsys.readouterr().out.splitlines()
        record.log = [line for line in record.lines if line.startswith("running reward")]
        record.frames = env.frames
        return record

    return run


def endless():
    """A game without end that always shows the same frame, for long runs."""
    frame = numbered_frame(0)
    return ScriptedEnv(draw=lambda number: frame)


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, 36),
        ({"batch_size": 8, "update_after_actions": 1}, 9),
        ({"batch_size": 8, "update_after_actions": 5}, 10),
    ],
)
def test_the_first_update_needs_more_transitions_than_a_batch(loop, settings, first):
    record = loop(ScriptedEnv(), max_frames=50, **settings)
    assert record.updates == list(range(first, 51, settings.get("update_after_actions", 4)))
    assert {len(batch[1]) for batch in record.batches} == {settings.get("batch_size", 32)}


def test_every_step_is_stored_as_it_happened_and_the_newest_is_drawn_too(loop):
    rewards = [float(number % 3 - 1) for number in range(100)]
    env = ScriptedEnv([play(reward=reward) for reward in rewards])
    record = loop(env, max_memory_length=40, batch_size=39, update_after_actions=1)
    actions = env.calls[1:]
    for number, (state, action, reward, state_next, done) in enumerate(record.stored):
        assert (number_of(state), number_of(state_next)) == (number, number + 1)
        assert (action, reward, done) == (actions[number], rewards[number], False)
    drawn = [{number_of(state) for state in batch[0]} for batch in record.batches]
    for frame, numbers in zip(record.updates, drawn, strict=True):
        assert max(0, frame - 40) <= min(numbers)
        assert max(numbers) <= frame - 1
    assert any(frame - 1 in numbers for frame, numbers in zip(record.updates, drawn, strict=True))
    assert any(frame - 40 in numbers for frame, numbers in zip(record.updates, drawn, strict=True))


def test_the_target_is_random_until_the_first_copy_and_is_copied_at_multiples_only(loop):
    marks, networks_differ = [], []

    def look(frame, record):
        marks.append(float(record.model_target.layers[-1].bias.numpy()[0]))
        kernels = (
            network.layers[1].kernel.numpy() for network in (record.model, record.model_target)
        )
        networks_differ.append(not np.array_equal(*kernels))

    record = loop(ScriptedEnv(), look, update_target_network=40, log_every=60, max_frames=130)
    assert networks_differ == [True] * 40 + [False] * 90
    # The updates up to and with the frame of the copy: 36 and 40; to 80; to 120.
    assert marks == [0] * 40 + [2] * 40 + [12] * 40 + [22] * 10
    assert [line.split(" | ")[0].split()[-1] for line in record.log] == ["60", "120"]
    assert [re.search(r"loss (\S+),", line)[1] for line in record.log] == [
        "7.00000",  # the frame's own update comes before its log line
        "22.00000",
    ]


def test_the_log_line_has_the_mean_of_the_last_100_episodes_before_the_frames_own_end(loop):
    games = [[play(reward=float(number), terminated=True)] for number in range(1, 161)]
    record = loop(ScriptedEnv(*games), log_every=1, max_frames=160, solved_reward=1e9)
    means = [0.0, *(np.mean(range(max(1, frame - 100), frame)) for frame in range(2, 161))]
    assert [line.split(" | ")[0] for line in record.log] == [
        f"running reward: {mean:.2f} at episode {frame - 1}, frame count {frame}"
        for frame, mean in enumerate(means, 1)
    ]
    assert record.running_reward == np.mean(range(61, 161))


@pytest.mark.parametrize("limit", [40.0, -9.0])  # below 0 not before an episode has ended
def test_a_run_is_solved_when_the_running_reward_exceeds_a_limit(limit, loop):
    games = [[play(reward=limit + more), play(terminated=True)] for more in (0, 0, 1, 50)]
    record = loop(ScriptedEnv(*games), max_frames=0, solved_reward=limit)
    assert record.frames == record.run.values["frame_count"] == 6
    assert record.run.values["episode_count"] == 3
    assert [line for line in record.lines if line.startswith("Solved")] == ["Solved at episode 3!"]


def test_a_run_that_is_not_solved_ends_at_max_frames_without_the_unfinished_episode(loop):
    games = [[play(reward=3.0), play(terminated=True)], [play(reward=50.0)] * 50]
    record = loop(ScriptedEnv(*games), max_frames=11)
    assert record.frames == record.run.values["frame_count"] == len(record.stored) == 11
    assert (record.run.values["episode_count"], record.running_reward) == (1, 3.0)
    assert not any(line.startswith("Solved") for line in record.lines)


def test_a_cut_off_counts_but_is_no_terminal_and_does_not_restart_the_game(loop):
    env = ScriptedEnv([play(reward=1.0)] * 100)
    record = loop(EpisodicLifeEnv(env), max_steps_per_episode=10, max_frames=30)
    assert env.resets == 1
    noops = [1 + 9, 2 + 18, 3 + 27]  # calls[0] is the reset
    assert [env.calls[place] for place in noops] == [0, 0, 0]
    assert len(env.calls) == 1 + 30 + len(noops)
    assert [done for *_, done in record.stored] == [False] * 30
    assert (record.run.values["episode_count"], record.running_reward) == (3, 9.0)
    # The transition ends where it was cut; the next begins with what the no-op showed.
    assert number_of(record.stored[8][3]) == 9
    assert number_of(record.stored[9][0]) == 10


def test_steps_of_an_episode_are_counted_anew_after_it_ends(loop):
    env = ScriptedEnv([play()] * 5 + [play(lives=4)])
    record = loop(EpisodicLifeEnv(env), max_steps_per_episode=10, max_frames=16)
    assert [done for *_, done in record.stored] == [False] * 5 + [True] + [False] * 10
    assert record.run.values["episode_count"] == 2  # frames 6 and 15, not 9


def test_a_truncation_ends_the_episode_as_no_terminal_and_restarts_the_game(loop):
    env = ScriptedEnv([play(reward=1.0)] * 9 + [play(reward=1.0, truncated=True)])
    record = loop(EpisodicLifeEnv(env), max_frames=25)
    assert [place for place, call in enumerate(env.calls) if call == "reset"] == [0, 11, 22]
    assert not any(done for *_, done in record.stored)
    assert (record.run.values["episode_count"], record.running_reward) == (2, 10.0)


def test_a_game_that_ends_inside_a_reset_is_counted_and_played_no_further(loop):
    games = [[play(reward=5.0), play(lives=4), play(reward=2.0, terminated=True)], [play()] * 100]
    base = ScriptedEnv(*games)
    env = EpisodicLifeEnv(RecordEpisodeStatistics(base))
    record = loop(env, max_frames=10, log_every=4)
    assert base.calls[3:5] == [0, "reset"]
    assert base.resets == 2
    assert [number_of(state) for state, *_ in record.stored[:4]] == [0, 1, 4, 5]
    assert "game score 7.00" in record.log[0]
    assert (record.run.values["episode_count"], record.running_reward) == (1, 5.0)


def test_the_score_of_games_is_unclipped_and_the_mean_of_the_last_100(loop):
    quiet = play(), play()  # FIRE and RIGHT serve
    games = [[*quiet, play(reward=float(number), terminated=True)] for number in range(1, 151)]
    env = wrap_deepmind(ScriptedEnv(*games, shape=(210, 160, 3)), frame_stack=True)

    def make_model(num_actions, config):
        assert config.max_frames == 150  # every piece is given the settings
        model = create_q_model(num_actions)
        model.layers[-1].bias.assign(range(num_actions))
        return model

    record = loop(env, pieces={"create_q_model": make_model}, max_frames=150, log_every=150)
    assert finished_games(env) == (150, np.mean(range(51, 151)))
    assert record.running_reward == 1.0
    assert f"game score {np.mean(range(50, 150)):.2f}" in record.log[0]
    max_q = record.model(record.batches[-1][0]).numpy().max(axis=1)
    assert f"mean max Q {max_q.mean():.3f}" in record.log[0]


def test_actions_are_random_and_uniform_below_epsilon_random_frames(loop):
    settings = {"epsilon_max": 0.0, "epsilon_min": 0.0, "update_after_actions": 10_000}
    env = endless()
    record = loop(env, epsilon_random_frames=4000, max_frames=4100, **settings)
    assert record.greedy == list(range(4000, 4101))
    assert env.calls[4000:] == [3] * 101
    assert_uniform(env.calls[1:4000], 4)


def test_epsilon_is_the_share_of_random_actions_thereafter(loop):
    settings = {"epsilon_max": 0.5, "epsilon_min": 0.5, "update_after_actions": 10_000}
    env = endless()
    record = loop(env, epsilon_random_frames=0, max_frames=4000, **settings)
    assert 1800 < len(record.greedy) < 2200  # six standard deviations
    chance = [
        call for frame, call in enumerate(env.calls) if frame and frame not in set(record.greedy)
    ]
    assert_uniform(chance, 4)


def test_epsilon_of_a_frame_is_that_of_the_schedule_and_actions_go_by_the_current_state(loop):
    settings = {"epsilon_max": 1.0, "epsilon_min": 0.0, "epsilon_greedy_frames": 1}
    env = ScriptedEnv([play()] * 5 + [play(terminated=True)])
    record = loop(env, epsilon_random_frames=0, max_frames=15, **settings)
    assert record.greedy == list(range(2, 16))  # epsilon is 1 at frame 1 and 0 from frame 2
    # Frames 6 and 12 end a game: their last screens, 6 and 13, are acted upon by nobody.
    assert record.greedy_states == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14, 15, 16]


def test_the_seed_decides_the_network_the_actions_and_the_first_game(loop, tmp_path):
    envs, kernels = [ScriptedEnv([play(terminated=True)]) for _ in range(2)], []
    for env, seed in zip(envs, (11, 12), strict=True):
        run = loop(env, seed=seed, max_frames=30, run_dir=str(tmp_path / str(seed))).run
        kernels.append(run.model.layers[1].kernel.numpy())
        assert env.seeds == [seed, *[None] * 30]  # to the first reset only
    assert envs[0].calls != envs[1].calls
    assert not np.array_equal(*kernels)


@pytest.mark.slow
def test_training_makes_the_references_updates_with_the_networks_as_they_are(loop):
    """The whole of `train`, with its own optimizer, over batches of its own and a copy."""
    references, errors = [], []
    config = {"learning_rate": 0.0005, "clipnorm": 0.02, "gamma": 0.9, "huber_delta": 0.5}
    settings = {**config, "batch_size": 8, "update_target_network": 24, "max_frames": 40}

    def make_train_step(model, model_target, optimizer, config):
        compiled = train_breakout.make_train_step(model, model_target, optimizer, config)
        references.append(Reference(model, config))

        def train_step(*batch):
            loss = compiled(*batch)
            expected = references[0].step(model_target.get_weights(), *batch)
            errors.append(abs(float(loss) - expected) / expected)
            assert max(references[0].norms) > config.clipnorm
            return loss

        return train_step

    rng = np.random.default_rng(0)
    lives = [play(reward=float(number % 4 == 1), terminated=number % 7 == 6) for number in range(7)]
    env = ScriptedEnv(lives, draw=lambda number: random_states(rng, 1)[0])
    pieces = {"make_train_step": make_train_step}
    record = loop(
        env, real_update=True, pieces=pieces, epsilon_random_frames=0, epsilon_min=0.5, **settings
    )
    assert len(errors) == len(range(12, 41, 4))
    assert max(errors) < 1e-3
    assert_same_change(record.run.model.get_weights(), references[0])


@pytest.mark.slow
def test_a_run_logs_what_it_always_logged(tmp_path):
    """In its first 10 000 frames, where all play is random and no update has a say."""
    folders, lines = (RESULTS / "defaults-seed1", tmp_path / "run"), []
    config = Config(seed=1, max_frames=10_000, run_dir=str(folders[1]))
    train(config, make_train_step=lambda *_: lambda *batch: tf.constant(0.0))
    for folder in folders:
        with open(folder / "progress.csv") as file:
            lines.append(next(csv.DictReader(file)))
    for column in ("frame_count", "episode_count", "running_reward", "game_count", "game_score"):
        assert lines[0][column] == lines[1][column]


def test_the_result_and_the_run_folder_hold_the_trained_model(loop, tmp_path):
    record = loop(ScriptedEnv(), max_frames=40)
    assert record.run.folder == tmp_path / "run"
    assert any(str(tmp_path / "run" / "model.keras") in line for line in record.lines)
    saved = keras.models.load_model(tmp_path / "run" / "model.keras")
    for mine, its in zip(record.run.model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert saved.layers[-1].bias.numpy().tolist() == [2.0] * 4  # the two updates' marks


# --------------------------------------------------------------------------------------
# The import


@pytest.mark.slow
@pytest.mark.parametrize("onednn", [{}, {"TF_ENABLE_ONEDNN_OPTS": "0"}])
def test_the_import_chooses_tensorflow_whatever_the_user_has_set_and_is_quiet(onednn, tmp_path):
    settings = {"backend": "torch", "floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = """
import os, signal, sys
before = signal.getsignal(signal.SIGINT)
import train_breakout, keras
assert signal.getsignal(signal.SIGINT) is before
print(keras.backend.backend(), *map(os.environ.get, sys.argv[1:]))
model = train_breakout.create_q_model()
assert (model.output_shape, model.dtype_policy.name) == ((None, 4), "float32")
"""
    names = "TF_ENABLE_ONEDNN_OPTS", "TF_FORCE_GPU_ALLOW_GROWTH"
    user = {"KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    done = python("-c", code, *names, cwd=tmp_path, **user, **onednn)
    chosen = onednn.get("TF_ENABLE_ONEDNN_OPTS", "1")
    assert (done.stdout, done.stderr, done.returncode) == (f"tensorflow {chosen} true\n", "", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["keras.json"]


def test_the_import_refuses_a_keras_that_is_loaded_with_another_backend(tmp_path):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "keras.py").write_text(
        "import types\nbackend = types.SimpleNamespace(backend=lambda: 'jax')\n"
    )
    code = "import sys\nsys.path.insert(0, 'fake')\nimport keras\nimport train_breakout"
    done = python("-c", code, cwd=tmp_path, PYTHONPATH=str(PROJECT))
    assert done.returncode == 1
    assert re.match(
        "ImportError: .*backend.*KERAS_BACKEND=tensorflow", done.stderr.splitlines()[-1]
    )


@pytest.mark.parametrize(
    ("found", "visible", "warned"),
    [(True, None, True), (True, "0", True), (True, "-1", False), (False, None, False)],
)
def test_an_nvidia_gpu_that_tensorflow_cannot_use_is_a_warning(
    found, visible, warned, monkeypatch, capsys
):
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/usr/bin/{name}" if found else None)
    monkeypatch.setattr(device.os.path, "exists", lambda path: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # -1: whoever hides the GPU knows what they do
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device.describe_device().startswith("device: CPU\n")
    assert ("pip install -r requirements.txt" in capsys.readouterr().err) == warned
