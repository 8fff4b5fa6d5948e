"""What a long run needs, and no reader of DQN has to open. It imports nothing of the scripts."""
