"""A loop in PyTorch with the settings that CleanRL publishes for DQN on Atari.

Written from these settings, not from its code: Adam 0.0001, squared error, batches of 32, an
update every 4 steps, target copies every 1 000, the same network, and a replay that is one
uint8 array of stacked frames. Epsilon is 0.1, as in the other loops. It has less to
do than CleanRL: one environment in place of a vector of one, and our wrappers.
"""

import itertools

import numpy as np
import torch
from gymnasium.wrappers import FrameStackObservation
from torch import nn

from benchmarks.pace import ENV_ID, fill
from wrappers import make_atari, wrap_deepmind


class ArrayReplay:
    """Transitions in arrays. A state's next one is in the slot after it, so it is kept once.

    `sample` takes it to be full, as it is here from the start.
    """

    def __init__(self, capacity):
        self.capacity, self.slot = capacity, 0
        self.states = np.zeros((capacity, 4, 84, 84), np.uint8)
        self.actions = np.zeros(capacity, np.int64)
        self.rewards, self.dones = np.zeros((2, capacity), np.float32)

    def add(self, state, action, reward, state_next, done):
        following = (self.slot + 1) % self.capacity
        self.states[self.slot], self.states[following] = state, state_next
        self.actions[self.slot] = action
        self.rewards[self.slot], self.dones[self.slot] = reward, done
        self.slot = following

    def sample(self, batch_size, rng, device):
        # Not the oldest: where it was, there is the next state of the newest.
        slots = (self.slot + rng.integers(1, self.capacity, size=batch_size)) % self.capacity
        batch = (
            *(self.states[slots], self.states[(slots + 1) % self.capacity]),
            *(self.actions[slots], self.rewards[slots], self.dones[slots]),
        )
        return [torch.tensor(column, device=device) for column in batch]


def create_network(num_actions):
    return nn.Sequential(
        *(nn.Conv2d(4, 32, 8, stride=4), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, stride=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU()),
        nn.Linear(512, num_actions),
    )


def loop(pace, replay):
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    env = FrameStackObservation(wrap_deepmind(make_atari(ENV_ID)), 4)
    num_actions = int(env.action_space.n)
    network = create_network(num_actions).to(device)
    target = create_network(num_actions).to(device)
    target.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    buffer = ArrayReplay(replay)

    def add(state, action, reward, state_next, done):
        state, state_next = (np.moveaxis(np.asarray(x), -1, 0) for x in (state, state_next))
        buffer.add(state, action, reward, state_next, done)

    with pace.filling(replay):
        fill(add, replay)
    state = env.reset(seed=1)[0][..., 0]
    for step in itertools.count(1):
        if rng.random() < 0.1:
            action = int(rng.integers(num_actions))
        else:
            with torch.no_grad():
                pixels = torch.tensor(state[None], dtype=torch.float32, device=device)
                action = int(network(pixels / 255).argmax())
        state_next, reward, terminated, truncated, _ = env.step(action)
        state_next = state_next[..., 0]
        buffer.add(state, action, reward, state_next, terminated)
        state = env.reset()[0][..., 0] if terminated or truncated else state_next

        if step % 4 == 0:
            states, next_states, actions, rewards, dones = buffer.sample(32, rng, device)
            with torch.no_grad():
                future = target(next_states / 255).max(dim=1).values
                targets = rewards + 0.99 * future * (1 - dones)
            q_values = network(states / 255).gather(1, actions[:, None])[:, 0]
            loss = nn.functional.mse_loss(q_values, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pace.loss = loss.detach()
        if step % 1_000 == 0:
            target.load_state_dict(network.state_dict())
        pace.frame()
