"""The preprocessing: as a whole against raw screens, and each wrapper against a script."""

import pickle
import re
from copy import deepcopy
from functools import partial

import cv2
import gymnasium as gym
import numpy as np
import pytest
from conftest import ScriptedEnv, assert_uniform, number_of, play
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import train_breakout
from wrappers import (
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    FrameStack,
    LazyFrames,
    MaxAndSkipEnv,
    NoopResetEnv,
    ScaledFloatFrame,
    WarpFrame,
    make_atari,
    wrap_deepmind,
)

BREAKOUT = "BreakoutNoFrameskip-v4"


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
    ("env_id", "steps", "games", "lives"),
    [
        (BREAKOUT, 800, 3, 12),
        pytest.param(BREAKOUT, 5000, 20, 80, marks=pytest.mark.slow),
        # Never shows a life.
        pytest.param("PongNoFrameskip-v4", 1200, 1, 0, marks=pytest.mark.slow),
        # Has no FIRE; at no lives it plays a little on.
        pytest.param("MsPacmanNoFrameskip-v4", 1500, 2, 4, marks=pytest.mark.slow),
    ],
)
def test_preprocessing_equals_a_naive_computation_from_raw_screens(env_id, steps, games, lives):
    env, naive = wrap_deepmind(make_atari(env_id), frame_stack=True), NaivePreprocessing(env_id)
    rng = np.random.default_rng(0)
    finished, lives_lost = [], 0

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
        lives_lost += naive.life_lost
        if ended or number % 97 == 0:  # the latter as when an episode is cut off
            state, info = env.reset()
            np.testing.assert_array_equal(np.asarray(state), naive.reset())
            note_finished_game(info)
    assert len(finished) >= games
    assert lives_lost >= lives


@pytest.mark.slow
def test_random_play_ends_as_many_lives_as_in_the_published_log():
    """keras-io issue 89: 302, 292 and 290 episodes in the first three times 10 000 frames."""
    env = breakout(frame_stack=True)
    rng = np.random.default_rng(0)
    env.reset(seed=42)
    episodes = 0
    for _ in range(5_000):
        if env.step(int(rng.integers(4)))[2]:
            episodes += 1
            env.reset()
    # 147, give or take three standard deviations: a life lasts 34 frames, with a spread of 24.
    assert 121 <= episodes <= 173


@pytest.mark.slow
def test_the_same_seed_plays_alike_and_another_one_does_not():
    def observations(seed):
        env = breakout(frame_stack=True)
        states = [env.reset(seed=seed)[0]]
        for number in range(120):
            state, _, ended, _, _ = env.step(number % 4)
            states.append(env.reset()[0] if ended else state)
        return np.stack([np.asarray(state) for state in states])

    first = observations(1)
    np.testing.assert_array_equal(first, observations(1))
    assert not np.array_equal(first, observations(2))


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


def test_wrap_deepmind_clips_rewards_unless_told_not_to():
    for clip_rewards, expected in ((True, 1), (False, 7)):
        env = ScriptedEnv([play(), play(), play(reward=7.0)], shape=(210, 160, 3))
        env = wrap_deepmind(env, clip_rewards=clip_rewards)
        env.reset()
        assert env.step(0)[1] == expected


@pytest.mark.parametrize("limit_by", ["gym.make", "the emulator"])
def test_a_truncation_by_the_emulator_is_no_game_over_and_is_followed_by_a_real_reset(limit_by):
    if limit_by == "gym.make":
        env = gym.make(BREAKOUT, obs_type="ram", max_num_frames_per_episode=203)
        env = MaxAndSkipEnv(NoopResetEnv(env))
    else:
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


REFUSALS = {
    "BreakoutNoFrameskp-v4": "no game 'BreakoutNoFrameskp-v4': use BreakoutNoFrameskip-v4.",
    "BrickoutNoFrameskip-v4": "no game 'BrickoutNoFrameskip-v4': use BreakoutNoFrameskip-v4.",
    "BreakoutNoFrameskip-v9": "no game 'BreakoutNoFrameskip-v9': use BreakoutNoFrameskip-v4.",
    "BreakoutNoFrameskip-v1": "no game 'BreakoutNoFrameskip-v1': use BreakoutNoFrameskip-v4.",
    "ms_pacman": "no game 'ms_pacman': use MsPacmanNoFrameskip-v4.",
    "arcade/PongNoFrameskip-v4": "no game 'arcade/PongNoFrameskip-v4': use PongNoFrameskip-v4.",
    "arcade:PongNoFrameskip-v4": "no game 'arcade:PongNoFrameskip-v4': use PongNoFrameskip-v4.",
    "NoFrameskip!": "no game 'NoFrameskip!': use an id such as BreakoutNoFrameskip-v4.",
    "": "no game '': use an id such as BreakoutNoFrameskip-v4.",
    "CartPole-v1": "is not an Atari game: use an id such as BreakoutNoFrameskip-v4.",
    "BreakoutNoFrameskip-v0": "has sticky actions: use BreakoutNoFrameskip-v4.",
    "Breakout-v4": "repeats actions by itself: use BreakoutNoFrameskip-v4.",
    "ALE/Breakout-v5": "repeats actions by itself: use BreakoutNoFrameskip-v4.",
    "ALE/Tetris-v5": "repeats actions by itself: use an id such as BreakoutNoFrameskip-v4.",
}


@pytest.mark.parametrize("env_id", REFUSALS)
def test_make_atari_refuses_any_other_id_by_one_sentence(env_id):
    with pytest.raises(ValueError, match=re.escape(REFUSALS[env_id]) + "$") as refusal:
        make_atari(env_id)
    assert repr(env_id) in str(refusal.value)


@pytest.mark.filterwarnings("ignore:.*render_mode='banana'")
def test_make_atari_refuses_an_unknown_render_mode():
    with pytest.raises(ValueError, match="banana"):
        make_atari(BREAKOUT, render_mode="banana")


# --------------------------------------------------------------------------------------
# Gymnasium's conventions


def breakout(**flags):
    return wrap_deepmind(make_atari(BREAKOUT), **flags)


ACTIONS = [2] * 40 + [3] * 60  # RIGHT meets the ball a few times, LEFT does not


def played(env, seed):
    """What ACTIONS give, as in a vector environment: the step that follows an end resets."""
    yield env.reset(seed=seed)[0], 0.0, False, False
    ended = False
    for action in ACTIONS:
        now = (env.reset()[0], 0.0, False, False) if ended else env.step(action)[:4]
        ended = now[2] or now[3]
        yield now


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "shape", "dtype"),
    [
        (partial(make_atari, BREAKOUT), (210, 160, 3), np.uint8),
        (breakout, (84, 84, 1), np.uint8),
        (partial(breakout, episode_life=False), (84, 84, 1), np.uint8),
        (partial(breakout, clip_rewards=False), (84, 84, 1), np.uint8),
        (partial(breakout, scale=True), (84, 84, 1), np.float32),
        (partial(breakout, frame_stack=True), (84, 84, 4), np.uint8),
        (partial(breakout, frame_stack=True, scale=True), (84, 84, 4), np.float32),
    ],
)
def test_gymnasiums_checker_accepts_it_and_observations_are_as_declared(
    make, shape, dtype, monkeypatch, recwarn
):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # for its window
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    env = make()
    check_env(env, skip_render_check=shape[-1] != 4)  # they render alike, and in real time
    # It would rather see a bare environment, and arrays: LazyFrames are none, to be shared.
    known = "different from the unwrapped" + ("|numpy array" if shape[-1] == 4 else "")
    assert [str(w.message) for w in recwarn if not re.search(known, str(w.message))] == []

    assert (env.observation_space.shape, env.observation_space.dtype) == (shape, dtype)
    for state in (env.reset(seed=0)[0], env.step(2)[0]):
        state = np.asarray(state)
        assert (state.shape, state.dtype) == (shape, dtype)
        assert env.observation_space.contains(state)
        assert 0.5 < state.max() < 1 if dtype == np.float32 else state.max() > 100


def test_an_environment_made_again_from_its_spec_plays_alike():
    env = breakout(frame_stack=True, clip_rewards=False)
    again = env.spec.make()
    assert str(again) == str(env)
    assert list(played(again, 1)) == list(played(env, 1))
    spec = MaxAndSkipEnv(NoopResetEnv(gym.make(BREAKOUT), noop_max=7), skip=2).spec
    assert [wrapper.kwargs for wrapper in spec.additional_wrappers[-2:]] == [
        {"noop_max": 7},
        {"skip": 2},
    ]


@pytest.mark.parametrize(
    "vector_env",
    [
        SyncVectorEnv,
        # Not forked: OpenCV and TensorFlow have threads by now.
        pytest.param(partial(AsyncVectorEnv, context="spawn"), marks=pytest.mark.slow),
        pytest.param(
            partial(AsyncVectorEnv, context="spawn", shared_memory=False), marks=pytest.mark.slow
        ),
    ],
    ids=["sync", "async", "async, by pipe"],
)
@pytest.mark.parametrize("scale", [False, True])
def test_a_vector_environment_plays_as_single_ones_of_the_same_seeds(vector_env, scale):
    # A lambda, so that the processes do not import this file.
    envs = vector_env([lambda: wrap_deepmind(make_atari(BREAKOUT), True, True, True, scale)] * 2)
    together = [(envs.reset(seed=5)[0], [0.0] * 2, [False] * 2, [False] * 2)]
    together += [envs.step([action] * 2)[:4] for action in ACTIONS]
    assert together[-1][0] in envs.observation_space
    envs.close()
    for i in range(2):
        for now, alone in zip(
            together, played(breakout(frame_stack=True, scale=scale), 5 + i), strict=True
        ):
            np.testing.assert_array_equal(now[0][i], np.asarray(alone[0]))
            assert [values[i] for values in now[1:]] == list(alone[1:])
        assert sum(now[1][i] for now in together) > 0
        assert sum(now[2][i] for now in together) > 1


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


@pytest.mark.parametrize("skip", [2, 3, 4])
def test_max_and_skip_merges_the_last_two_screens_and_sums_the_rewards(skip):
    rng = np.random.default_rng(0)
    screens = rng.integers(256, size=(20, 5, 4, 3), dtype=np.uint8)
    rewards = [3.0, -1.0, 0.5, 8.0] * 4
    base = ScriptedEnv(
        [play(reward=reward) for reward in rewards],
        shape=(5, 4, 3),
        draw=lambda number: screens[number],
    )
    env = MaxAndSkipEnv(base, skip=skip)
    state, _ = env.reset()
    np.testing.assert_array_equal(state, screens[0])
    for number in range(1, 4):
        state, reward, terminated, truncated, _ = env.step(number)
        last = number * skip  # screen 0 is the reset's
        np.testing.assert_array_equal(state, np.maximum(screens[last - 1], screens[last]))
        assert reward == sum(rewards[last - skip : last])
        assert not terminated
        assert not truncated
        assert base.calls[-skip:] == [number] * skip
    assert len(base.calls) == 1 + 3 * skip


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_max_and_skip_stops_where_the_game_ends(end, frames):
    script = [play(reward=1.0) for _ in range(frames - 1)] + [play(reward=1.0, **{end: True})]
    base = ScriptedEnv(script)
    env = MaxAndSkipEnv(base)
    env.reset()
    _, reward, terminated, truncated, _ = env.step(3)
    assert base.calls == ["reset"] + [3] * frames
    assert reward == frames
    assert (terminated, truncated) == (end == "terminated", end == "truncated")


@pytest.mark.parametrize("skip", [1, 0, -4])
def test_max_and_skip_refuses_fewer_than_two_frames(skip):
    with pytest.raises(ValueError, match="skip"):
        MaxAndSkipEnv(ScriptedEnv(), skip=skip)


# --------------------------------------------------------------------------------------
# EpisodicLifeEnv


def test_a_lost_life_ends_the_episode_and_the_next_reset_plays_on_by_one_noop():
    base = ScriptedEnv([play(), play(lives=4), play(), play(), play(lives=3)])
    env = EpisodicLifeEnv(base)
    env.reset()
    assert [env.step(3)[2] for _ in range(2)] == [False, True]
    state, _ = env.reset()
    assert base.calls == ["reset", 3, 3, 0]
    assert number_of(state) == 3
    assert [env.step(3)[2] for _ in range(2)] == [False, True]


def test_a_reset_in_the_middle_of_a_life_takes_one_noop_too():
    base = ScriptedEnv()
    env = EpisodicLifeEnv(base)
    env.reset()
    env.step(2)
    env.reset()
    assert base.calls == ["reset", 2, 0]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_a_game_over_or_a_truncation_is_followed_by_a_real_reset(end):
    base = ScriptedEnv([play(**{end: True})], [])
    env = EpisodicLifeEnv(base)
    env.reset()
    _, _, terminated, truncated, _ = env.step(2)
    assert (terminated, truncated) == (end == "terminated", end == "truncated")
    env.reset()
    assert base.calls == ["reset", 2, "reset"]
    assert [env.step(2)[2:4] for _ in range(2)] == [(False, False)] * 2


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


@pytest.mark.parametrize("lives", [4, 6])
def test_lives_that_change_in_the_noop_of_a_reset_do_not_end_the_next_episode(lives):
    env = EpisodicLifeEnv(ScriptedEnv([play(lives=5), play(lives=lives)]))
    env.reset()
    env.step(3)
    env.reset()
    assert not env.step(3)[2]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_a_game_that_ends_in_the_noop_of_a_reset_is_reset_really(end):
    base = ScriptedEnv([play(lives=4), play(**{end: True})], [])
    env = EpisodicLifeEnv(base)
    env.reset()
    assert env.step(3)[2]
    state, _ = env.reset()
    assert base.calls == ["reset", 3, 0, "reset"]
    assert number_of(state) == 3
    assert not env.step(3)[2]  # five lives again
    env.reset()
    assert base.calls[-2:] == [3, 0]


# --------------------------------------------------------------------------------------
# FireResetEnv


def test_fire_reset_presses_fire_and_then_2_once_each():
    base = ScriptedEnv()
    state, _ = FireResetEnv(base).reset(seed=5)
    assert base.calls == ["reset", 1, 2]
    assert number_of(state) == 2
    assert base.seeds == [5]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize(
    ("script", "calls"),
    [
        ([{}], ["reset", 1, "reset", 2]),  # FIRE ends the game
        ([None, {}], ["reset", 1, 2, "reset"]),  # 2 does
    ],
)
def test_fire_reset_resets_a_game_that_ends_inside(end, script, calls):
    game = [play() if step is None else play(**{end: True}) for step in script]
    base = ScriptedEnv(game, [])
    state, _ = FireResetEnv(base).reset(seed=5)
    assert base.calls == calls
    assert base.running
    assert base.seeds == [5, None]  # else the same game would begin again
    assert number_of(state) == 3


@pytest.mark.parametrize("meanings", [["NOOP", "UP", "RIGHT"], ["NOOP", "FIRE"], ["NOOP"]])
def test_fire_reset_refuses_a_game_without_fire_and_action_2(meanings):
    with pytest.raises(ValueError, match="FIRE"):
        FireResetEnv(ScriptedEnv(meanings=meanings))


def test_wrap_deepmind_presses_nothing_in_a_game_without_fire():
    base = ScriptedEnv(shape=(210, 160, 3), meanings=["NOOP", "UP", "RIGHT"])
    wrap_deepmind(base).reset()
    assert base.calls == ["reset"]


# --------------------------------------------------------------------------------------
# WarpFrame, ScaledFloatFrame, ClipRewardEnv, FrameStack


def test_warp_frame_is_opencvs_grey_then_its_area_resize():
    rng = np.random.default_rng(0)
    screens = rng.integers(256, size=(3, 210, 160, 3), dtype=np.uint8)
    base = ScriptedEnv(shape=(210, 160, 3), draw=lambda number: screens[number])
    env = WarpFrame(base)
    assert (env.observation_space.shape, env.observation_space.dtype) == ((84, 84, 1), np.uint8)
    frames = [env.reset()[0], env.step(0)[0], env.step(0)[0]]  # all kept: none is overwritten
    for frame, screen in zip(frames, screens, strict=True):
        grey = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        expected = cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA)[:, :, None]
        np.testing.assert_array_equal(frame, expected)
        assert (frame.shape, frame.dtype) == ((84, 84, 1), np.uint8)


@pytest.mark.parametrize(("colour", "grey"), [((255, 0, 0), 76), ((0, 255, 0), 150)])
def test_warp_frame_weighs_the_colours_as_red_green_blue(colour, grey):
    screen = np.full((210, 160, 3), colour, np.uint8)
    env = WarpFrame(ScriptedEnv(shape=(210, 160, 3), draw=lambda number: screen))
    assert np.unique(env.reset()[0]) == [grey]


def every_byte():
    """All 256 pixel values as one frame, and the environment that shows it."""
    values = np.arange(256, dtype=np.uint8)
    frame = np.resize(values, (84, 84, 4))
    return frame, ScriptedEnv(draw=lambda number: frame)


def test_scaled_float_frame_divides_by_255():
    frame, base = every_byte()
    env = ScaledFloatFrame(base)
    assert env.observation_space == gym.spaces.Box(0, 1, (84, 84, 4), np.float32)
    scaled = env.reset()[0]
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, (frame / 255.0).astype(np.float32))
    assert (scaled.min(), scaled.max()) == (0, 1)


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


@pytest.mark.parametrize(
    ("reward", "clipped"), [(7.0, 1), (0.25, 1), (1, 1), (0.0, 0), (-0.5, -1), (-200.0, -1)]
)
def test_clip_reward_keeps_the_sign_only(reward, clipped):
    env = ClipRewardEnv(ScriptedEnv([play(reward=reward)]))
    env.reset()
    assert env.step(0)[1] == clipped


def test_frame_stack_is_filled_at_a_reset_and_then_holds_the_oldest_first():
    env = FrameStack(ScriptedEnv([play() for _ in range(6)], shape=(84, 84, 1)), 4)
    assert (env.observation_space.shape, env.observation_space.dtype) == ((84, 84, 4), np.uint8)
    states = [env.reset()[0]] + [env.step(0)[0] for _ in range(6)]
    numbers = [[number_of(frame) for frame in state.frames] for state in states]
    assert numbers[:5] == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4]]
    assert np.asarray(states[4]).shape == (84, 84, 4)
    assert np.asarray(states[4])[0, 1].tolist() == [1, 2, 3, 4]
    state, _ = env.reset()
    assert [number_of(frame) for frame in state.frames] == [7] * 4


def test_lazy_frames_become_arrays_of_any_dtype_of_their_own():
    frames = [np.full((84, 84, 1), value, np.uint8) for value in (1, 2, 3, 4)]
    state = LazyFrames(frames)
    array = np.asarray(state, np.float32)
    assert (array.dtype, array[0, 0].tolist()) == (np.float32, [1, 2, 3, 4])
    np.asarray(state)[:] = 0  # a new array, so the frames keep their pixels
    assert [int(frame.max()) for frame in frames] == [1, 2, 3, 4]


def test_lazy_frames_are_equal_if_their_pixels_are_also_when_copied_and_pickled():
    frames = [np.full((84, 84, 1), value, np.uint8) for value in (1, 2, 3, 4)]
    state = LazyFrames(frames)
    for twin in (deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert twin.frames[0] is not frames[0]
        assert (twin == state) is True
        assert (twin != state) is False
        twin.frames[3][5, 6] = 9
        assert twin != state
    assert state not in (None, LazyFrames(frames[:3]), LazyFrames([*frames[1:], frames[0]]))


# --------------------------------------------------------------------------------------
# The score of a game, in info


def test_the_unclipped_score_and_the_length_of_a_game_are_in_the_info_of_its_last_step():
    script = [play(), play(), play(reward=7.0), play(reward=4.0, lives=4)]
    script += [play(), play(reward=-2.0), play(), play(reward=1.0, terminated=True)]
    env = wrap_deepmind(ScriptedEnv(script, shape=(210, 160, 3)))
    env.reset()
    steps = [env.step(3) for _ in range(2)]
    env.reset()
    steps.append(env.step(3))
    assert [step[1] for step in steps] == [1, 1, 1]
    assert [step[2] for step in steps] == [False, True, True]
    assert ["episode" in step[4] for step in steps] == [False, False, True]
    # FIRE, RIGHT and no-op belong to the game, with their rewards.
    assert (steps[2][4]["episode"]["r"], steps[2][4]["episode"]["l"]) == (10, 8)


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
