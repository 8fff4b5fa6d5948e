"""Random play of whole games: the emulator with our wrappers, or with Gymnasium's."""

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from benchmarks.pace import ENV_ID
from wrappers import make_atari, wrap_deepmind


def loop(pace, replay, ours):
    """`replay` is not used."""
    if ours:
        env = wrap_deepmind(make_atari(ENV_ID), episode_life=False, frame_stack=True)
    else:
        env = FrameStackObservation(AtariPreprocessing(gym.make(ENV_ID)), 4)
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    while True:
        observation, _, terminated, truncated, _ = env.step(int(rng.integers(4)))
        np.asarray(observation)  # Gymnasium's is an array already; ours joins its frames here
        if terminated or truncated:
            env.reset()
        pace.frame()
