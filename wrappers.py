"""The Atari preprocessing of DQN (Mnih et al. 2015, Methods, "Preprocessing").

The wrappers do what those of the same names did in OpenAI Baselines, whose stack the
tutorial used, on Gymnasium's API. An *episode* is one life; a *game* is all its lives.

    env = wrap_deepmind(make_atari("BreakoutNoFrameskip-v4"), frame_stack=True)
"""

import difflib

import ale_py
import cv2
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from support.console import UsageError

gym.register_envs(ale_py)
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner

FRAME_SIZE = 84


class LazyFrames:
    """Consecutive frames, held by reference and joined only when `np.asarray` asks for it.

    An observation and its successor have all frames but one in common, so a replay
    buffer that keeps these objects stores every frame once instead of eight times.
    `frames` is a tuple of arrays `(height, width, channels)`, oldest first, which must not
    be written to. They are joined along the last axis.
    """

    __slots__ = ("frames",)

    def __init__(self, frames):
        self.frames = tuple(frames)

    def __array__(self, dtype=None, copy=None):
        # np.concatenate(self.frames, axis=-1), in a quarter of the time; reshape is for one frame.
        height, width, _ = self.frames[0].shape
        return np.asarray(cv2.merge(self.frames).reshape(height, width, -1), dtype=dtype)

    def __eq__(self, other):  # for Gymnasium's checker too
        return np.array_equal(self, other) if isinstance(other, LazyFrames) else NotImplemented


class RecordedWrapper(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Records its arguments: Gymnasium's checker wants to make the stack again from its spec."""

    def __init__(self, env, **arguments):
        gym.utils.RecordConstructorArgs.__init__(self, **arguments)
        super().__init__(env)


class NoopResetEnv(RecordedWrapper):
    """Starts every game with 1 to `noop_max` no-ops, drawn uniformly, so that games differ."""

    def __init__(self, env, noop_max=30):
        super().__init__(env, noop_max=noop_max)
        self.noop_max = noop_max

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.unwrapped.np_random.integers(1, self.noop_max + 1)):
            observation, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        return observation, info


class MaxAndSkipEnv(RecordedWrapper):
    """Repeats every action `skip` times, sums the rewards, and merges the last two screens.

    The pixel-wise maximum of two screens shows the objects that the Atari draws on
    every other frame only. When the game ends or is truncated inside a repeat, the
    repeat stops there and its last screen alone is observed. An emulator that reports its
    RAM, as in `make_atari`, is asked for its RGB screen, uint8 `(height, 160, 3)`, only
    on the frames that count.
    """

    def __init__(self, env, skip=4):
        super().__init__(env, skip=skip)
        self.skip = skip
        self._ale = None
        if getattr(self.unwrapped, "_obs_type", None) == "ram":
            self._ale = self.unwrapped.ale
            self.observation_space = Box(0, 255, (*self._ale.getScreenDims(), 3), np.uint8)

    def _screen(self, observation):
        return observation if self._ale is None else self._ale.getScreenRGB()

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        return self._screen(observation), info

    def step(self, action):
        total_reward, screens = 0.0, []
        for frame in range(self.skip):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total_reward += reward
            if terminated or truncated:
                screens = [self._screen(observation)]
                break
            if frame >= self.skip - 2:
                screens.append(self._screen(observation))
        return np.maximum(screens[0], screens[-1]), total_reward, terminated, truncated, info


class EpisodicLifeEnv(RecordedWrapper):
    """Makes every life an episode, so that an agent learns sooner to avoid losing one.

    `reset` starts a new game after a game over or a truncation, or when it is given a seed,
    and otherwise plays on by one no-op step.
    """

    def __init__(self, env):
        super().__init__(env)
        self.lives = 0
        self.game_ended = True

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.game_ended = terminated or truncated
        lives = self.unwrapped.ale.lives()
        # Not at zero: some games report no lives for a few frames before the game over.
        terminated = terminated or 0 < lives < self.lives
        self.lives = lives
        return observation, reward, terminated, truncated, info

    def reset(self, *, seed=None, options=None):
        if self.game_ended or seed is not None:
            observation, info = self.env.reset(seed=seed, options=options)
        else:
            observation, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                observation, reset_info = self.env.reset(options=options)
                info = info | reset_info  # keeps the score of the game that ended
        self.game_ended = False
        self.lives = self.unwrapped.ale.lives()
        return observation, info


class FireResetEnv(RecordedWrapper):
    """Presses FIRE (action 1) and action 2 (RIGHT on Breakout) at a reset, to serve the ball.

    Not the paper's: there the agent has to serve.
    """

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        for action in (1, 2):
            observation, _, terminated, truncated, step_info = self.env.step(action)
            info = info | step_info  # keeps the score of a game that ended before
            if terminated or truncated:
                observation, reset_info = self.env.reset(options=options)
                info = info | reset_info
        return observation, info


class WarpFrame(RecordedWrapper, gym.ObservationWrapper):
    """Turns an RGB screen into a grey frame of 84x84: uint8 `(84, 84, 1)`."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = Box(0, 255, (FRAME_SIZE, FRAME_SIZE, 1), np.uint8)

    def observation(self, observation):
        grey = cv2.cvtColor(observation, cv2.COLOR_RGB2GRAY)
        frame = np.empty((FRAME_SIZE, FRAME_SIZE, 1), np.uint8)  # new, since the replay keeps it
        cv2.resize(grey, (FRAME_SIZE, FRAME_SIZE), dst=frame, interpolation=cv2.INTER_AREA)
        return frame


class ScaledFloatFrame(RecordedWrapper, gym.ObservationWrapper):
    """Scales pixels to float32 in [0, 1], at four times the memory (the trainer does without)."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = Box(0, 1, env.observation_space.shape, np.float32)

    def observation(self, observation):
        return observation.astype(np.float32) / np.float32(255)


class ClipRewardEnv(RecordedWrapper, gym.RewardWrapper):
    """Clips every reward to its sign, so that one learning rate suits all games."""

    def reward(self, reward):
        return float(np.sign(reward))


class FrameStack(RecordedWrapper):
    """Observes the last `k` frames as `LazyFrames`, oldest first; a reset repeats its frame."""

    def __init__(self, env, k):
        super().__init__(env, k=k)
        self.k = k
        space = env.observation_space
        shape = (*space.shape[:-1], space.shape[-1] * k)
        self.observation_space = Box(space.low.min(), space.high.max(), shape, space.dtype)

    def reset(self, *, seed=None, options=None):
        frame, info = self.env.reset(seed=seed, options=options)
        self.frames = LazyFrames([frame] * self.k)
        return self.frames, info

    def step(self, action):
        frame, reward, terminated, truncated, info = self.env.step(action)
        self.frames = LazyFrames((*self.frames.frames[1:], frame))
        return self.frames, reward, terminated, truncated, info


def make_atari(env_id, render_mode=None):
    """Makes an Atari game with random no-ops at its start and every action repeated four times.

    Args:
        env_id: a `...NoFrameskip-v4` id: one emulator frame a step, no sticky actions.
        render_mode: None, "human" for a window, or "rgb_array".

    Returns:
        An environment with unclipped rewards, whose observations are uint8 `(height, 160, 3)`,
        210 high on most games.

    Raises:
        UsageError: `env_id` is no such id of an installed game.
    """
    ids = [known for known in gym.registry if known.endswith("NoFrameskip-v4")]
    if env_id not in ids:
        nearest = difflib.get_close_matches(env_id, ids, n=1, cutoff=0)[0]
        raise UsageError(
            f"No Atari game without frame skip and sticky actions has the id {env_id!r}: "
            f"use an id such as {nearest}."
        )
    # "ram" is the cheapest: screens come from MaxAndSkipEnv, which fetches only those it shows.
    env = gym.make(env_id, obs_type="ram", render_mode=render_mode, disable_env_checker=True)
    return MaxAndSkipEnv(NoopResetEnv(env, noop_max=30), skip=4)


def wrap_deepmind(env, episode_life=True, clip_rewards=True, frame_stack=False, scale=False):
    """Adds the rest of DQN's preprocessing to the environment of `make_atari`.

    Args:
        env: an Atari environment whose observations are RGB screens.
        episode_life: end an episode with every lost life.
        clip_rewards: clip rewards to -1, 0 or 1.
        frame_stack: observe the last four frames, shared between observations.
        scale: scale pixels to float32 in [0, 1].

    Returns:
        An environment whose observations are `LazyFrames` of `(84, 84, 4)` with
        `frame_stack`, else arrays `(84, 84, 1)`: uint8, or float32 with `scale`.
        When a game (not a life) ends, also inside a reset, `info["episode"]` holds its
        unclipped score `"r"` and its length `"l"` in steps of `env`.
    """
    env = gym.wrappers.RecordEpisodeStatistics(env)
    if episode_life:
        env = EpisodicLifeEnv(env)
    if "FIRE" in env.unwrapped.get_action_meanings():
        env = FireResetEnv(env)
    env = WarpFrame(env)
    if scale:
        env = ScaledFloatFrame(env)
    if clip_rewards:
        env = ClipRewardEnv(env)
    if frame_stack:
        env = FrameStack(env, 4)
    return env


def finished_games(env):
    """Returns how many whole games have ended, and the mean score of the last 100, or None.

    Gymnasium's RecordEpisodeStatistics counts them, below the wrapper that makes a life an
    episode. So what it calls an episode is a game here, and its rewards are not clipped.
    """
    scores = env.get_wrapper_attr("return_queue")
    return env.get_wrapper_attr("episode_count"), float(np.mean(scores)) if scores else None
