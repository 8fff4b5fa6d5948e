"""The loop that tutorials show, written for comparison, with the trainer's settings.

It does per frame what `train_breakout.train` does, the way it is usually written: float32
stacks in five lists, indices from a range as long as the replay, `predict` for the targets,
an eager GradientTape update, and an eager model call for each action.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from wrappers import make_atari, wrap_deepmind


def create_float_model(num_actions):
    """Builds the same network for float32 states `(batch, 84, 84, 4)` in [0, 1]."""
    return keras.Sequential(
        [
            keras.Input((84, 84, 4)),
            layers.Conv2D(32, 8, strides=4, activation="relu"),
            layers.Conv2D(64, 4, strides=2, activation="relu"),
            layers.Conv2D(64, 3, strides=1, activation="relu"),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dense(num_actions),
        ]
    )


class TextbookLoop:
    """The loop, to be advanced by a number of frames.

    Args:
        config: the trainer's Config.
        capacity: transitions in the replay, which is filled by random play at once.
    """

    def __init__(self, config, capacity):
        self.config, self.capacity = config, capacity
        np.random.seed(config.seed)
        keras.utils.set_random_seed(config.seed)
        self.env = wrap_deepmind(make_atari(config.env_id), frame_stack=True, scale=True)
        self.num_actions = int(self.env.action_space.n)
        self.model = create_float_model(self.num_actions)
        self.model_target = create_float_model(self.num_actions)
        self.optimizer = keras.optimizers.Adam(config.learning_rate, clipnorm=config.clipnorm)
        self.loss_function = keras.losses.Huber()
        self.actions, self.states, self.next_states = [], [], []
        self.rewards, self.dones = [], []
        self.frame_count = 0
        state, _ = self.env.reset(seed=config.seed)
        self.state = np.array(state)
        while len(self.states) < capacity:
            self.remember(np.random.choice(self.num_actions))

    def remember(self, action):
        """Takes an action and stores the transition."""
        state_next, reward, done, truncated, _ = self.env.step(action)
        state_next = np.array(state_next)
        self.actions.append(action)
        self.states.append(self.state)
        self.next_states.append(state_next)
        self.rewards.append(reward)
        self.dones.append(done)
        self.state = state_next
        if done or truncated:
            state, _ = self.env.reset()
            self.state = np.array(state)

    def run(self, frames, epsilon):
        """Trains for a number of frames at a fixed exploration rate."""
        for _ in range(frames):
            self.frame_count += 1
            if epsilon > np.random.rand(1)[0]:
                action = np.random.choice(self.num_actions)
            else:
                state = tf.expand_dims(tf.convert_to_tensor(self.state), 0)
                action = tf.argmax(self.model(state, training=False)[0]).numpy()
            self.remember(action)
            if self.frame_count % self.config.update_after_actions == 0:
                self.update()
            if len(self.rewards) > self.capacity:
                del self.rewards[:1]
                del self.states[:1]
                del self.next_states[:1]
                del self.actions[:1]
                del self.dones[:1]

    def update(self):
        indices = np.random.choice(range(len(self.dones)), size=self.config.batch_size)
        states = np.array([self.states[i] for i in indices])
        next_states = np.array([self.next_states[i] for i in indices])
        rewards = np.array([self.rewards[i] for i in indices], dtype=np.float32)
        actions = [int(self.actions[i]) for i in indices]
        dones = tf.convert_to_tensor([float(self.dones[i]) for i in indices])

        future = self.model_target.predict(next_states, verbose=0)
        targets = rewards + self.config.gamma * tf.reduce_max(future, axis=1)
        targets = targets * (1 - dones) - dones
        masks = tf.one_hot(actions, self.num_actions)
        with tf.GradientTape() as tape:
            q_values = tf.reduce_sum(self.model(states) * masks, axis=1)
            loss = self.loss_function(targets, q_values)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
