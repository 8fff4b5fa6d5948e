"""The preprocessing: as a whole against raw screens, and each wrapper against a script."""

from functools import partial

import cv2
import gymnasium as gym
import numpy as np
import pytest
from conftest import ScriptedEnv, assert_uniform, number_of, numbered_frame, play
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import train_breakout
from support.state import can_be_saved
from wrappers import (
    EpisodicLifeEnv,
    FireResetEnv,
    LazyFrames,
    MaxAndSkipEnv,
    NoopResetEnv,
    ScaledFloatFrame,
    make_atari,
    wrap_deepmind,
)

BREAKOUT = "BreakoutNoFrameskip-v4"


def breakout(**flags):
    return wrap_deepmind(make_atari(BREAKOUT), **flags)


# --------------------------------------------------------------------------------------
# The whole stack, on the emulator


class NaivePreprocessing:
    """The contract's "Environment, in wrapper order", as one plain loop over raw screens."""

    def __init__(self, env_id):
        self.env = gym.make(env_id)
        assert self.env.observation_space.shape == (210, 160, 3)
        self.has_fire = self.env.unwrapped.get_action_meanings()[1] == "FIRE"
        self.over = True
        self.finished = []  # score and length of every game that is over

    def see(self, screen):
        grey = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        self.frame = cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA)

    def repeat(self, action):
        """Takes the action for four emulator frames; returns the sum of the rewards."""
        screens, total = [], 0
        for _ in range(4):
            screen, reward, self.over, truncated, info = self.env.step(action)
            assert not truncated
            screens.append(screen)
            total += reward
            if self.over:
                break
        self.life_lost = 0 < info["lives"] < self.lives
        self.lives = info["lives"]
        self.score += total
        self.length += 1
        if self.over:
            self.finished.append((self.score, self.length))
        self.see(np.max(screens[-2:], axis=0))
        return total

    def begin(self, seed=None):
        """Starts a game if the last one is over, and otherwise plays on by a no-op."""
        if not self.over:
            self.repeat(0)
        if self.over:
            screen, info = self.env.reset(seed=seed)
            for _ in range(self.env.unwrapped.np_random.integers(1, 31)):
                screen, _, over, _, info = self.env.step(0)
                assert not over
            self.see(screen)
            self.over, self.lives, self.score, self.length = False, info["lives"], 0, 0

    def reset(self, seed=None):
        self.begin(seed)
        for action in (1, 2) if self.has_fire else ():
            self.repeat(action)
            if self.over or self.life_lost:
                self.begin()
        self.stack = [self.frame] * 4
        return np.stack(self.stack, axis=-1)

    def step(self, action):
        reward = int(np.sign(self.repeat(action)))
        self.stack = [*self.stack[1:], self.frame]
        return np.stack(self.stack, axis=-1), reward, self.over or self.life_lost


@pytest.mark.parametrize(
    ("env_id", "steps", "games", "episodes"),
    [
        (BREAKOUT, 800, 3, range(15, 36)),
        # As in the published log of keras-io issue 89, 302, 292 and 290 in 10 000 frames: 147, give
        # or take three standard deviations. A life lasts 34 frames, with a spread of 24.
        pytest.param(BREAKOUT, 5000, 20, range(121, 174), marks=pytest.mark.slow),
        # Never shows a life.
        pytest.param("PongNoFrameskip-v4", 1200, 1, range(1, 3), marks=pytest.mark.slow),
        # Has no FIRE; at no lives it plays a little on.
        pytest.param("MsPacmanNoFrameskip-v4", 1500, 2, range(6, 20), marks=pytest.mark.slow),
    ],
)
def test_preprocessing_equals_a_naive_computation_from_raw_screens(env_id, steps, games, episodes):
    env, naive = wrap_deepmind(make_atari(env_id), frame_stack=True), NaivePreprocessing(env_id)
    rng = np.random.default_rng(0)
    finished, ends = [], 0

    def note_finished_game(info):
        if "episode" in info:
            finished.append((info["episode"]["r"], info["episode"]["l"]))
        assert finished == naive.finished

    state, info = env.reset(seed=7)
    np.testing.assert_array_equal(np.asarray(state), naive.reset(seed=7))
    note_finished_game(info)
    for number in range(1, steps + 1):
        action = int(rng.integers(env.action_space.n))
        state, reward, terminated, truncated, info = env.step(action)
        expected, expected_reward, ended = naive.step(action)
        known = 3 if naive.over else 4  # a game's last frame is unspecified
        np.testing.assert_array_equal(np.asarray(state)[..., :known], expected[..., :known])
        assert (reward, terminated, truncated) == (expected_reward, ended, False)
        note_finished_game(info)
        ends += ended
        if ended or number % 97 == 0:  # the latter as when an episode is cut off
            state, info = env.reset()
            np.testing.assert_array_equal(np.asarray(state), naive.reset())
            note_finished_game(info)
    assert len(finished) >= games
    assert ends in episodes


def test_an_observation_shares_its_frames_and_never_changes():
    env = breakout(frame_stack=True)
    states = [env.reset(seed=0)[0]]
    copies = [np.array(states[0])]
    for number in range(100):
        state, _, ended, _, _ = env.step(number % 4)
        assert all(a is b for a, b in zip(states[-1].frames[1:], state.frames[:-1], strict=True))
        assert all(state.frames[-1] is not frame for frame in state.frames[:-1])
        if ended:
            state, _ = env.reset()
            assert len({id(frame) for frame in state.frames}) == 1
        states.append(state)
        copies.append(np.array(state))
    for state, before in zip(states, copies, strict=True):
        np.testing.assert_array_equal(np.asarray(state), before)


def test_wrap_deepmind_without_episode_life_ends_with_the_game_only():
    script = [play(), play(), play(lives=4), play(lives=3), play(lives=0, terminated=True)]
    env = wrap_deepmind(ScriptedEnv(script, shape=(210, 160, 3)), episode_life=False)
    env.reset()  # FIRE and RIGHT take two steps
    assert [env.step(0)[2] for _ in range(3)] == [False, False, True]


def test_a_truncation_by_the_emulator_is_no_game_over_and_is_followed_by_a_real_reset():
    env = make_atari(BREAKOUT)
    env.unwrapped.ale.setInt("max_num_frames_per_episode", 203)
    env = wrap_deepmind(env, frame_stack=True)
    env.reset(seed=1)
    lives, ended = 5, None
    while not ended:
        _, _, terminated, truncated, info = env.step(1)
        assert terminated == (0 < info["lives"] < lives)
        lives, ended = info["lives"], truncated
        if terminated:
            env.reset()
    assert not terminated
    assert info["episode_frame_number"] == 203
    assert info["episode"]["l"] > 40
    state, info = env.reset()
    assert info["lives"] == 5
    assert info["episode_frame_number"] <= 30 + 8
    assert state.frames[0] is state.frames[3]


@pytest.mark.parametrize(
    ("env_id", "use"),
    [
        ("BrickoutNoFrameskp-v4", "BreakoutNoFrameskip-v4"),
        ("BreakoutNoFrameskip-v0", "BreakoutNoFrameskip-v4"),  # has sticky actions
        ("ALE/Breakout-v5", "BreakoutNoFrameskip-v4"),  # and this one repeats actions by itself
        ("ms_pacman", "MsPacmanNoFrameskip-v4"),
        ("CartPole-v1", ".+NoFrameskip-v4"),
        ("", ".+NoFrameskip-v4"),
    ],
)
def test_make_atari_refuses_any_other_id_by_one_sentence(env_id, use):
    with pytest.raises(ValueError, match=f"has the id '{env_id}': use an id such as {use}.$"):
        make_atari(env_id)


class Unstacked(gym.Wrapper):
    """Someone's own, which shows plain arrays."""

    def reset(self, **options):
        state, info = super().reset(**options)
        return np.asarray(state), info


@pytest.mark.filterwarnings("ignore:.*(different from the unwrapped|numpy array)")
@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_observations_are_as_declared(stack, scale):
    env = breakout(frame_stack=stack, scale=scale)
    check_env(env, skip_render_check=True)  # Gymnasium's
    declared = (84, 84, 4 if stack else 1), np.float32 if scale else np.uint8
    assert (env.observation_space.shape, env.observation_space.dtype) == declared
    assert can_be_saved(env, env.reset(seed=0)[0]) == (stack and not scale)
    seen_through = Unstacked(env)
    assert not can_be_saved(seen_through, seen_through.reset()[0])
    for state in (env.reset(seed=0)[0], env.step(2)[0]):
        state = np.asarray(state)
        assert (state.shape, state.dtype) == declared
        assert env.observation_space.contains(state)
        assert 0.5 < state.max() < 1 if scale else state.max() > 100


@pytest.mark.slow
@pytest.mark.parametrize("vector_env", [SyncVectorEnv, partial(AsyncVectorEnv, context="spawn")])
def test_a_vector_environment_plays_as_a_single_one(vector_env):
    # A lambda, so that the processes do not import this file.
    envs = vector_env([lambda: wrap_deepmind(make_atari(BREAKOUT), frame_stack=True)] * 2)
    single = breakout(frame_stack=True)
    together, alone = envs.reset(seed=[5, 6])[0], single.reset(seed=5)[0]
    for action in (2, 3, 0, 1) * 5:
        np.testing.assert_array_equal(together[0], alone)
        together, alone = envs.step([action] * 2)[0], single.step(action)[0]
    envs.close()


# --------------------------------------------------------------------------------------
# NoopResetEnv


def test_noop_reset_takes_1_to_30_noops_uniformly_from_the_environments_generator():
    def draw_noops(seed, resets):
        base = ScriptedEnv(shape=(2,))
        env = NoopResetEnv(base)
        numbers = []
        for number in range(resets):
            base.calls.clear()
            state, _ = env.reset(seed=seed if number == 0 else None)
            assert base.calls == ["reset"] + [0] * (len(base.calls) - 1)
            assert number_of(state) == (base.shown - 1) % 65536  # the last one shown
            numbers.append(len(base.calls) - 1)
        return numbers

    numbers = draw_noops(seed=0, resets=3000)
    assert_uniform(np.array(numbers) - 1, 30)
    assert draw_noops(seed=0, resets=20) == numbers[:20]
    assert draw_noops(seed=1, resets=20) != numbers[:20]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_noop_reset_starts_another_game_when_the_noops_end_one(end):
    base = ScriptedEnv([play(**{end: True})], [])
    state, _ = NoopResetEnv(base).reset(seed=0)
    assert base.running
    assert base.calls[:3] == ["reset", 0, "reset"]
    assert base.resets == 2
    assert number_of(state) == base.shown - 1


# --------------------------------------------------------------------------------------
# MaxAndSkipEnv


def test_max_and_skip_merges_the_last_two_screens_and_sums_the_rewards():
    rng = np.random.default_rng(0)
    screens = rng.integers(256, size=(20, 5, 4, 3), dtype=np.uint8)
    rewards = [3.0, -1.0, 0.5, 8.0] * 4
    base = ScriptedEnv(
        [play(reward=reward) for reward in rewards],
        shape=(5, 4, 3),
        draw=lambda number: screens[number],
    )
    env = MaxAndSkipEnv(base)
    state, _ = env.reset()
    np.testing.assert_array_equal(state, screens[0])
    for number in range(1, 4):
        state, reward, terminated, truncated, _ = env.step(number)
        last = number * 4  # screen 0 is the reset's
        np.testing.assert_array_equal(state, np.maximum(screens[last - 1], screens[last]))
        assert reward == sum(rewards[last - 4 : last])
        assert not terminated
        assert not truncated
        assert base.calls[-4:] == [number] * 4
    assert len(base.calls) == 1 + 3 * 4


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_max_and_skip_stops_where_the_game_ends(end, frames):
    script = [play(reward=1.0) for _ in range(frames - 1)] + [play(reward=1.0, **{end: True})]
    base = ScriptedEnv(script, draw=lambda number: numbered_frame(9 - number))
    env = MaxAndSkipEnv(base)
    env.reset()
    state, reward, terminated, truncated, _ = env.step(3)
    assert number_of(state) == 9 - frames  # the last screen alone
    assert base.calls == ["reset"] + [3] * frames
    assert reward == frames
    assert (terminated, truncated) == (end == "terminated", end == "truncated")


# --------------------------------------------------------------------------------------
# EpisodicLifeEnv


def test_no_lives_left_is_no_end_until_the_game_is_over():
    script = [play(lives=1), play(lives=0), play(), play(terminated=True)]
    base = ScriptedEnv(script, [])
    env = EpisodicLifeEnv(base)
    env.reset()
    assert [env.step(3)[2] for _ in range(4)] == [True, False, False, True]
    env.reset()
    assert base.calls[-1] == "reset"


def test_a_life_gained_is_no_end_and_can_be_lost_again():
    env = EpisodicLifeEnv(ScriptedEnv([play(lives=4), play(lives=5), play(), play(lives=4)]))
    env.reset()
    assert [env.step(3)[2] for _ in range(4)] == [True, False, False, True]


def test_a_life_lost_in_the_noop_of_a_reset_does_not_end_the_next_episode():
    env = EpisodicLifeEnv(ScriptedEnv([play(lives=5), play(lives=4)]))
    env.reset()
    env.step(3)
    env.reset()
    assert not env.step(3)[2]


@pytest.mark.parametrize("lives", [5, 4])
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_a_game_that_ends_in_the_noop_of_a_reset_is_reset_really(end, lives):
    base = ScriptedEnv([play(lives=4), play(**{end: True})], [play(lives=lives)])
    env = EpisodicLifeEnv(base)
    env.reset()
    assert env.step(3)[2]
    state, _ = env.reset()
    assert base.calls == ["reset", 3, 0, "reset"]
    assert number_of(state) == 3
    assert env.step(3)[2] == (lives < 5)  # five lives again, of which one may be lost
    env.reset()
    assert base.calls[-2:] == [3, 0]


# --------------------------------------------------------------------------------------
# FireResetEnv


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize(
    ("quiet", "calls"), [(0, ["reset", 1, "reset", 2]), (1, ["reset", 1, 2, "reset"])]
)
def test_fire_reset_resets_a_game_that_ends_inside(end, quiet, calls):
    base = ScriptedEnv([play()] * quiet + [play(**{end: True})], [])
    state, _ = FireResetEnv(base).reset(seed=5)
    assert base.calls == calls
    assert base.running
    assert base.seeds == [5, None]  # else the same game would begin again
    assert number_of(state) == 3


# --------------------------------------------------------------------------------------
# ScaledFloatFrame, ClipRewardEnv, LazyFrames


def every_byte():
    """All 256 pixel values as one frame, and the environment that shows it."""
    values = np.arange(256, dtype=np.uint8)
    frame = np.resize(values, (84, 84, 4))
    return frame, ScriptedEnv(draw=lambda number: frame)


def test_scaled_float_frame_divides_by_255():
    frame, base = every_byte()
    env = ScaledFloatFrame(base)
    np.testing.assert_array_equal(env.reset()[0], (frame / 255.0).astype(np.float32))


def test_the_networks_own_scaling_equals_scale_true_to_one_unit_in_the_last_place():
    frame, base = every_byte()
    wrapped = ScaledFloatFrame(base).reset()[0]
    scaling = train_breakout.create_q_model().layers[0]
    compiled = train_breakout.tf.function(scaling)
    for scale in (scaling, compiled):
        scaled = np.asarray(scale(frame[None]))[0]
        assert scaled.dtype == np.float32
        # Neighbouring positive floats are neighbouring integers, bit by bit.
        units = scaled.view(np.int32) - wrapped.view(np.int32)
        assert np.abs(units).max() <= 1


def test_rewards_are_clipped_to_their_sign_unless_told_not_to():
    rewards = [7.0, 0.25, 0.0, -0.5, -200.0]
    for clip, expected in ((True, [1, 1, 0, -1, -1]), (False, rewards)):
        script = [play(), play(), *(play(reward=reward) for reward in rewards)]  # FIRE, RIGHT
        env = wrap_deepmind(ScriptedEnv(script, shape=(210, 160, 3)), clip_rewards=clip)
        assert env.reset()[0].shape == (84, 84, 1)  # no stack but where it is asked for
        assert [env.step(0)[1] for _ in rewards] == expected


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [5]])
def test_lazy_frames_become_arrays_of_any_dtype_of_their_own(values):
    frames = [np.full((84, 84, 1), value, np.uint8) for value in values]
    state = LazyFrames(frames)
    array = np.asarray(state, np.float32)
    assert (array.dtype, array.shape) == (np.float32, (84, 84, len(values)))
    assert array[0, 0].tolist() == values
    np.asarray(state)[:] = 0  # a new array, so the frames keep their pixels
    assert [int(frame.max()) for frame in frames] == values


# --------------------------------------------------------------------------------------
# The score of a game, in info


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize("steps", [1, 2, 3], ids=["in the no-op", "in FIRE", "in RIGHT"])
def test_the_score_of_a_game_that_ends_inside_a_reset_is_in_the_info_of_the_reset(end, steps):
    first_life = [play(), play(), play(reward=5.0, lives=4)]
    inside = [play() for _ in range(steps - 1)] + [play(reward=2.0, **{end: True})]
    env = wrap_deepmind(ScriptedEnv([*first_life, *inside], [], shape=(210, 160, 3)))
    env.reset()
    assert env.step(3)[2]
    _, info = env.reset()
    assert (info["episode"]["r"], info["episode"]["l"]) == (7, 3 + steps)
    assert "episode" not in env.step(3)[4]
    assert "episode" not in env.reset()[1]
