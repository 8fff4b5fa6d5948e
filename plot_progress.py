"""Draws the learning curve of one run or several, finished or still going.

    python plot_progress.py runs/my-run
    python plot_progress.py runs/seed1 runs/seed2 runs/seed3 --output seeds.png

Runs of one experiment with different seeds are drawn as one line, their mean, in a band from
the lowest of them to the highest, as far as all of them have come. Every other run is a line
of its own. One more number handed to `run.log` gets a panel of its own.

It reads `config.json` and `progress.csv` of each run folder and needs matplotlib. It does
not load TensorFlow, so it starts at once and leaves a run beside it alone.
"""

import json
import os
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np

from support.console import ArgumentParser, UsageError, exit_status, say
from support.scores import published_scores
from support.settings import experiment, read_config

NOT_DRAWN = {"episode_count", "game_count", "frames_per_second", "seconds_left", "wall_seconds"}
SCORES = {"game_score": {}, "running_reward": {"ls": "--", "lw": 1}}  # with their lines
LARGEST = 1e30  # of any number; what is larger is damage, and cannot be drawn
LOWEST = 0.1  # point of a logarithmic axis; scores below it, such as 0, are drawn there
NEAR = 3  # a published score is drawn if it is within this factor of the curves

# What is read of a folder. Its `settings` make the experiment, without the seed.
Run = namedtuple("Run", "name seed settings progress")


def read_run(name, folder):
    """Returns the Run in a folder. Raises UsageError."""
    settings = read_config(folder)["settings"]
    own = {k: v for k, v in experiment(settings).items() if k != "seed"}
    return Run(name, str(settings.get("seed")), own, read_progress(folder / "progress.csv"))


def read_progress(path):
    """Returns the columns of a progress.csv, each a dict by frame. Raises UsageError."""
    try:
        text = path.read_text("utf-8") if path.exists() else ""
        lines = text.split("\n")[:-1]  # without one that is being written
        if len(lines) < 2:
            raise ValueError("it has no rows yet, wait for the run's first log line")
        header, *rows = [line.split(",") for line in lines]
        if missing := {"frame_count", *SCORES} - set(header):
            raise ValueError(f"its first line lacks {', '.join(sorted(missing))}")
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise ValueError(f"line {number} has {len(row)} cells in place of {len(header)}")
        table = np.array([[float(cell or "nan") for cell in row] for row in rows])
        columns = {n: c for n, c in zip(header, table.T, strict=True) if n not in NOT_DRAWN}
        frames = columns["frame_count"]
        if (np.abs([*columns.values()]) > LARGEST).any():
            raise ValueError("a number is not finite")
        if not (np.diff(frames, prepend=-1) > 0).all():
            raise ValueError("the frames do not rise")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be drawn: {error!s:.200}.") from None
    known = {name: ~np.isnan(column) for name, column in columns.items()}
    return {n: dict(zip(frames[k], columns[n][k], strict=True)) for n, k in known.items()}


def group_runs(runs):
    """Gathers the runs of each experiment, whose seeds differ: a list of lists.

    Where a seed occurs twice, the runs of an experiment stay alone: the script may have been
    changed between them. So do runs that have no frame in common.
    """
    experiments, groups = {}, []
    for run in runs:
        experiments.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    for group in experiments.values():
        distinct = len({run.seed for run in group}) == len(group)
        one = distinct and len(mean_and_band(group, "frame_count")[0])
        groups += [group] if one else [[run] for run in group]
    return groups


def label(group, groups):
    """Returns a run's name, or what sets several seeds apart from the other groups."""
    if len(group) == 1:
        return group[0].name
    own, every = group[0].settings, [other[0].settings for other in groups]
    varied = [name for name in own if any(own[name] != s.get(name) for s in every)]
    what = ", ".join(f"{name} {own[name]}" for name in varied)
    return f"{what}{': ' if what else ''}mean of {len(group)} seeds (band: min to max)"


def mean_and_band(group, column):
    """Returns frames, mean, lowest and highest of a column, where every run has a value."""
    series = [run.progress.get(column, {}) for run in group]
    frames = sorted(set(series[0]).intersection(*series[1:]))
    values = np.array([[one[frame] for frame in frames] for one in series])
    return np.array(frames), values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def draw(groups, figure):
    """Draws the learning curves of groups of runs on a matplotlib Figure."""
    runs = [run for group in groups for run in group]
    columns = dict.fromkeys(name for run in runs for name in run.progress)
    small = [name for name in columns if name not in ("frame_count", *SCORES)]
    rows = [[*small[i : i + 3], ".", "."][:3] for i in range(0, len(small), 3)]
    figure.set_size_inches(9, 4.8 + 1.9 * len(rows) + 0.22 * len(groups))
    panels = figure.subplot_mosaic([["game_score"] * 3] * 2 + rows)
    scores = panels["game_score"]
    published = [published_scores(run.settings.get("env_id")) for run in runs]
    yardsticks = published[0] if all(one == published[0] for one in published) else {}
    last = max(max(run.progress["frame_count"]) for run in runs)
    unit = 1e6 if last >= 1e6 else 1e3 if last >= 1e3 else 1
    for i, group in enumerate(groups):
        # As it is, matplotlib would hide what begins with _ and make a formula of $.
        text = " " + label(group, groups).replace("$", r"\$")
        text = text.encode(errors="backslashreplace").decode()  # a name that is not UTF-8
        for column in (*SCORES, *small):
            frames, *curves = mean_and_band(group, column)
            floor = LOWEST if yardsticks and column in SCORES else -LARGEST
            mean, low, high = np.maximum(curves, floor)
            style = SCORES.get(column, {"lw": 1, "alpha": 0.8}) | {"color": f"C{i}"}
            style |= {"label": text} if column == "game_score" else {}
            axes = panels.get(column, scores)
            # A single value is a point, which a line would not show.
            axes.plot(frames / unit, mean, marker="." if len(frames) == 1 else None, **style)
            if len(group) > 1:
                axes.fill_between(frames / unit, low, high, color=f"C{i}", alpha=0.2, lw=0)
    word = {1: "frames", 1e3: "frames (thousands)", 1e6: "frames (millions)"}[unit]
    for name, axes in panels.items():
        axes.set(title=name.replace("_", " "), xlabel=word, xlim=(0, None))
        axes.grid(alpha=0.25)
    scores.set(title="", ylabel="points (log scale)" if yardsticks else "points")
    if yardsticks:
        draw_yardsticks(scores, yardsticks)
    # What the two styles of line mean, whatever their colour.
    scores.plot([], [], color="0.3", label=" game score (whole games, last 100)")
    scores.plot([], [], color="0.3", ls="--", lw=1, label=" running reward (a life, clipped)")
    figure.legend(loc="outside upper center", frameon=False)


def draw_yardsticks(axes, yardsticks):
    """Makes the axis logarithmic, and draws the published scores that are near the curves."""
    low, high = axes.dataLim.intervaly
    for name, score in yardsticks.items():
        if low / NEAR <= score <= high * NEAR:
            axes.axhline(score, color="0.4", ls=":", lw=1.2)
            where = axes.get_yaxis_transform()
            axes.text(1.005, score, f"{name} {score}", transform=where, va="center", color="0.3")
    axes.set_yscale("log")
    axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def plot(folders, output):
    """Draws the runs in `folders` into the file `output`. Raises UsageError."""
    try:
        from matplotlib.figure import Figure  # without pyplot no screen is needed
    except ImportError:
        raise UsageError("matplotlib is missing: `pip install matplotlib` installs it.") from None
    paths = [Path(os.path.realpath(folder)) for folder in folders]
    if len(set(paths)) < len(paths):
        raise UsageError("A run is given more than once: give each run once.")
    distinct = len({path.name for path in paths}) == len(paths)
    names = [path.name for path in paths] if distinct else map(str, folders)
    runs = [read_run(name, folder) for name, folder in zip(names, folders, strict=True)]
    figure = Figure(layout="constrained")
    draw(group_runs(runs), figure)
    try:
        # With its format, or matplotlib would add one to a name without.
        figure.savefig(output, format=output.suffix[1:] or "png", dpi=120)
    except (OSError, ValueError, RuntimeError) as error:  # the last one from a missing LaTeX
        raise UsageError(f"{output} cannot be written: {str(error).splitlines()[0]}") from None
    say(f"The learning curve is in {output}.")


def main(argv=None):
    """Runs the command line. Returns the exit status."""
    text = "Draws the learning curves of runs into learning_curve.png, or --output."
    parser = ArgumentParser(prog="plot_progress.py", description=text)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--output", type=Path, default="learning_curve.png", help="the picture")
    args = parser.parse_args(argv)
    return exit_status(parser.prog, plot, args.runs, args.output)


if __name__ == "__main__":
    sys.exit(main())
