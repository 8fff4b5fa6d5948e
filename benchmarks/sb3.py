"""Stable-Baselines3's own DQN on its own Atari environment, with the sizes of its zoo."""

import ale_py
import gymnasium as gym
import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecFrameStack

from benchmarks.pace import ENV_ID, fill

gym.register_envs(ale_py)


def loop(pace, replay):
    class Pacing(BaseCallback):
        def _on_step(self):
            pace.frame()
            return True

    model = DQN(
        "CnnPolicy",
        VecFrameStack(make_atari_env(ENV_ID, seed=1), 4),
        learning_rate=1e-4,
        buffer_size=replay,
        learning_starts=0,
        batch_size=32,
        train_freq=4,
        target_update_interval=1_000,
        exploration_initial_eps=0.1,
        exploration_final_eps=0.1,
        # States once, not twice: half of the memory.
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        seed=1,
    )

    def add(state, action, reward, state_next, done):
        state, state_next = (np.moveaxis(np.asarray(x), -1, 0)[None] for x in (state, state_next))
        model.replay_buffer.add(state, state_next, np.array([action]), reward, done, [{}])

    with pace.filling(replay):
        fill(add, replay)
    model.set_logger(Logger(folder=None, output_formats=[]))  # or it leaves a folder in /tmp
    model.learn(10**12, callback=Pacing(), reset_num_timesteps=False)  # or it warns
