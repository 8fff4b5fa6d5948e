"""The loop that tutorials show, written for comparison, with the trainer's settings.

It does per frame what `train_breakout.train` does, the way it is usually written: float32
stacks in five lists, indices from a range as long as the replay, `predict` for the targets,
an eager GradientTape update, and an eager model call for each action. TensorFlow is as it
comes, while the trainer chooses its kernels.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.pace import ENV_ID
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


def loop(pace, replay):
    np.random.seed(42)
    keras.utils.set_random_seed(42)
    env = wrap_deepmind(make_atari(ENV_ID), frame_stack=True, scale=True)
    num_actions = int(env.action_space.n)
    model = create_float_model(num_actions)
    model_target = create_float_model(num_actions)
    optimizer = keras.optimizers.Adam(learning_rate=0.00025, clipnorm=1.0)
    loss_function = keras.losses.Huber()
    histories = [[] for _ in range(5)]
    action_history, state_history, state_next_history, rewards_history, done_history = histories
    state = np.array(env.reset(seed=42)[0])

    def step(action):
        nonlocal state
        state_next, reward, done, truncated, _ = env.step(action)
        state_next = np.array(state_next)
        action_history.append(action)
        state_history.append(state)
        state_next_history.append(state_next)
        rewards_history.append(reward)
        done_history.append(done)
        state = np.array(env.reset()[0]) if done or truncated else state_next

    with pace.filling(replay):
        while len(rewards_history) < replay:
            step(np.random.choice(num_actions))
    frame_count = 0
    while True:
        frame_count += 1
        if np.random.rand(1)[0] < 0.1:
            action = np.random.choice(num_actions)
        else:
            state_tensor = tf.expand_dims(tf.convert_to_tensor(state), 0)
            action = tf.argmax(model(state_tensor, training=False)[0]).numpy()
        step(action)

        if frame_count % 4 == 0:
            indices = np.random.choice(range(len(done_history)), size=32)
            states = np.array([state_history[i] for i in indices])
            next_states = np.array([state_next_history[i] for i in indices])
            rewards = np.array([rewards_history[i] for i in indices], dtype=np.float32)
            actions = [int(action_history[i]) for i in indices]
            dones = tf.convert_to_tensor([float(done_history[i]) for i in indices])

            future = model_target.predict(next_states, verbose=0)
            targets = rewards + 0.99 * tf.reduce_max(future, axis=1)
            targets = targets * (1 - dones) - dones
            masks = tf.one_hot(actions, num_actions)
            with tf.GradientTape() as tape:
                q_values = tf.reduce_sum(model(states) * masks, axis=1)
                pace.loss = loss_function(targets, q_values)
            gradients = tape.gradient(pace.loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        if frame_count % 10_000 == 0:
            model_target.set_weights(model.get_weights())
        if len(rewards_history) > replay:
            for history in histories:
                del history[:1]
        pace.frame()
