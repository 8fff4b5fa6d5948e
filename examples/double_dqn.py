"""Double DQN: the trainer with another target. A pattern for adaptations.

    python examples/double_dqn.py --run-dir runs/double             # all flags of the trainer
    python examples/double_dqn.py --run-dir runs/double --resume

In DQN's target the largest Q-value of the next state stands for its worth. The largest of
several uncertain values is more often one that errs upwards, so targets tend to be too high
(examples/overestimation.py measures the excess, whatever its cause). Van Hasselt, Guez
and Silver (Deep Reinforcement Learning with Double Q-learning, AAAI 2016) share the decision
between two networks, whose errors differ: the online network chooses the action, the target
network says what it is worth.

    DQN:         reward + gamma * max over a' of Q_target(next state, a')
    Double DQN:  reward + gamma * Q_target(next state, argmax over a' of Q(next state, a'))

An adaptation takes three steps:

1. Write the piece that changes: here `make_train_step`, else `make_env`, `create_q_model`,
   `make_replay` or `make_q_values`. Below, only `future` is not the trainer's.
2. Give it a setting of its own. It becomes a flag and is kept in config.json. So the plot does
   not take these runs for DQN's, and neither script resumes a run of the other.
3. Hand both to the trainer's `main`. Checkpoints, log and models are the same from then on.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train_breakout
from support.device import keras, require_dtype, tf
from support.settings import setting


@dataclass(frozen=True)
class Config(train_breakout.Config):
    """The trainer's settings, and one more."""

    double: bool = setting(True, "the online network chooses the target's action; --no-double: DQN")


def make_train_step(model, model_target, optimizer, config):
    """Returns the compiled update of the online network, as the trainer's function does."""
    if not config.double:
        return train_breakout.make_train_step(model, model_target, optimizer, config)
    if config.huber_delta is None:
        loss_function = keras.losses.MeanSquaredError()
    else:
        loss_function = keras.losses.Huber(delta=config.huber_delta)

    @tf.function(jit_compile=config.jit_compile, autograph=False)
    def train_step(states, actions, rewards, next_states, dones):
        require_dtype(states, model)
        require_dtype(next_states, model_target)
        # What changes: DQN has tf.reduce_max(model_target(next_states), axis=1) here.
        best = tf.argmax(model(next_states), axis=1)
        future = tf.gather(model_target(next_states), best, axis=1, batch_dims=1)
        terminal = rewards if config.terminal_value is None else config.terminal_value
        targets = tf.where(dones > 0, terminal, rewards + config.gamma * future)

        with tf.GradientTape() as tape:
            q_taken = tf.gather(model(states), actions, axis=1, batch_dims=1)
            loss = loss_function(targets, q_taken)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    return train_step


def main(argv=None):
    """Runs the trainer's command line with these pieces. Returns the exit status."""
    return train_breakout.main(argv, Config, make_train_step=make_train_step)


if __name__ == "__main__":
    sys.exit(main())
