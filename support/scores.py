"""Published scores, to compare with."""

# Whole games of Breakout, unclipped (Mnih et al. 2015, Extended Data Table 2).
BREAKOUT = {"random": 1.7, "human": 31.8, "DQN": 401.2}


def published_scores(env_id):
    """Returns the published mean scores of a game, by player: a dict, empty if we have none."""
    return BREAKOUT if str(env_id).split("/")[-1].startswith("Breakout") else {}
