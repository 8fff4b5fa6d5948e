"""`train_breakout.train` itself, with a full replay and epsilon at 0.1 from the start."""

import tempfile

import gymnasium as gym

import train_breakout
from benchmarks.pace import fill


def loop(pace, replay, jit_compile=False):
    class PacedEnv(gym.Wrapper):
        def step(self, action):
            pace.frame()
            with pace.part("emulator and wrappers"):
                return self.env.step(action)

        def reset(self, **options):
            with pace.part("emulator and wrappers"):
                return self.env.reset(**options)

    class FullReplay(train_breakout.ReplayBuffer):
        def __init__(self, capacity):
            super().__init__(capacity)
            with pace.filling(capacity):
                fill(self.add, capacity)

        def sample(self, batch_size, rng):
            with pace.part("sampling"):
                return super().sample(batch_size, rng)

    def make_train_step(*pieces):
        train_step = train_breakout.make_train_step(*pieces)

        def timed(*batch):
            with pace.part("update"):
                pace.loss = train_step(*batch)
            return pace.loss

        return timed

    with tempfile.TemporaryDirectory() as folder:
        config = train_breakout.Config(
            epsilon_max=0.1,
            epsilon_random_frames=0,
            max_memory_length=replay,
            max_frames=0,
            checkpoint_minutes=1e6,  # but for the first; their cost is checkpoints.py's
            jit_compile=jit_compile,
            run_dir=f"{folder}/run",
        )
        train_breakout.train(
            config,
            make_env=lambda config: PacedEnv(train_breakout.make_env(config)),
            make_replay=lambda config: FullReplay(config.max_memory_length),
            make_train_step=make_train_step,
        )
