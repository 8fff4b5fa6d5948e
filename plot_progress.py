"""Draws the learning curve of one run or several, finished or still going.

    python plot_progress.py runs/my-run
    python plot_progress.py runs/seed1 runs/seed2 runs/seed3 --output seeds.png

Runs whose settings differ in nothing but the seed are drawn as one line, their mean, in a
band from the lowest of them to the highest, as far as all of them have come. Every other
run is a line of its own.

It reads `config.json` and `progress.csv` of each run folder and needs matplotlib. It does
not load TensorFlow, so it starts at once and leaves a run beside it alone.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

# Settings in which two runs may differ and still be one experiment.
NOT_THE_EXPERIMENT = {
    "seed",
    "max_frames",
    "checkpoint_minutes",
    "render",
    "solved_reward",
    "run_dir",
    "video_every",
}
COLUMNS = ("game_score", "running_reward", "mean_max_q", "loss", "epsilon")

LARGEST = 1e30  # of any number; what is larger is damage, and cannot be drawn
LOWEST = 0.1  # point of a logarithmic axis; scores below it, 0 above all, are drawn there

# Scores of whole games in Breakout (Mnih et al. 2015, Extended Data Table 2).
YARDSTICKS = {"random": 1.7, "human": 31.8, "DQN": 401.2}


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says, in a sentence, what can."""


# --------------------------------------------------------------------------------------
# Reading


def read_settings(folder):
    """Returns the settings of a run folder: a dict. Raises UsageError."""
    path = folder / "config.json"
    try:
        if not folder.is_dir():
            raise UsageError(f"There is no run folder {folder}.")
        settings = json.loads(path.read_text())["settings"]
        if not isinstance(settings, dict):
            raise TypeError("no settings in it")
    except FileNotFoundError:
        raise UsageError(f"{folder} is no run folder: there is no config.json.") from None
    except UsageError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({why}).") from None
    return settings


def read_progress(folder):
    """Reads the progress of a run.

    A last line without its line end is still being written, and is passed over.

    Args:
        folder: pathlib.Path of the run folder.

    Returns:
        dict with `frame_count` (list of int, rising) and, by each name of COLUMNS, a list
        of float of the same length, NaN where there is no value yet.

    Raises:
        UsageError: progress.csv is missing, empty or damaged.
    """
    path = folder / "progress.csv"
    try:
        text = path.read_bytes().decode("ascii")
    except FileNotFoundError:
        raise UsageError(f"{folder} has no progress.csv.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is damaged: it is not a text file.") from None
    whole_lines = text[: text.rfind("\n") + 1].splitlines()
    if not whole_lines:
        raise UsageError(f"{path} is empty.")
    header, *rows = (line.split(",") for line in whole_lines)
    if missing := {"frame_count", *COLUMNS} - set(header):
        raise UsageError(f"{path} is damaged: its first line lacks {', '.join(sorted(missing))}.")
    progress = {name: [] for name in ("frame_count", *COLUMNS)}
    for number, row in enumerate(rows, 2):
        try:
            cells = dict(zip(header, row, strict=True))
            frame_count = int(cells["frame_count"])
            values = [float(cells[name] or "nan") for name in COLUMNS]
            if any(cells[name] and not abs(float(cells[name])) <= LARGEST for name in COLUMNS):
                raise ValueError("a number is not finite")
            if not 0 <= frame_count <= LARGEST:
                raise ValueError("there is no such frame")
            if progress["frame_count"] and frame_count <= progress["frame_count"][-1]:
                raise ValueError("the frames do not rise")
        except ValueError as error:
            raise UsageError(f"{path} is damaged in line {number} ({error}).") from None
        progress["frame_count"].append(frame_count)
        for name, value in zip(COLUMNS, values, strict=True):
            progress[name].append(value)
    if not rows:
        raise UsageError(f"{path} has no rows yet: wait for the run's first log line.")
    return progress


def group_runs(runs):
    """Gathers the runs of one experiment, which differ in the seed alone.

    Two runs of one seed and the same settings would be the same run. So where there are such,
    the script itself was changed between them, and each run stays alone.

    Args:
        runs: list of `(name, settings, progress)`.

    Returns:
        list of lists of them, in the order of their first runs.
    """
    experiments = {}
    for run in runs:
        experiment = {k: v for k, v in run[1].items() if k not in NOT_THE_EXPERIMENT}
        experiments.setdefault(json.dumps(experiment, sort_keys=True), []).append(run)
    groups = []
    for group in experiments.values():
        seeds = {settings.get("seed") for _, settings, _ in group}
        groups.extend([group] if len(seeds) == len(group) else [[run] for run in group])
    return groups


def label_groups(groups):
    """Returns a label for each group: a run's name, or what sets several seeds apart."""
    settings = [group[0][1] for group in groups]
    names = sorted({name for s in settings for name in s} - NOT_THE_EXPERIMENT)
    varied = [n for n in names if any(s.get(n) != settings[0].get(n) for s in settings)]
    labels = []
    for group in groups:
        name, own, _ = group[0]
        if len(group) > 1:
            name = ", ".join(f"{n} {own.get(n)}" for n in varied)
            name = f"{name + ': ' if name else ''}mean of {len(group)} seeds (band: min to max)"
        labels.append(name)
    return labels


def mean_and_band(group, column):
    """Averages a column over the runs of a group, as far as all of them have come.

    Returns:
        `(frames, mean, low, high)`, lists of one length; NaN where a run has no value.
    """
    series = [dict(zip(p["frame_count"], p[column], strict=True)) for _, _, p in group]
    frames = sorted(set(series[0]).intersection(*series[1:]))
    values = [[one[frame] for one in series] for frame in frames]

    def over_runs(function):
        return [math.nan if any(map(math.isnan, v)) else function(v) for v in values]

    return frames, over_runs(lambda v: sum(v) / len(v)), over_runs(min), over_runs(max)


# --------------------------------------------------------------------------------------
# Drawing


def draw(groups, labels, pyplot):
    """Draws the learning curve. Returns the matplotlib Figure."""
    # Two columns in the legend, if the labels are short enough; its rows push nothing together.
    columns = 2 if max(map(len, labels)) <= 45 else 1
    height = 6.3 + 0.22 * math.ceil((len(labels) + 2) / columns)
    figure = pyplot.figure(figsize=(9, height), layout="constrained")
    score, *small = figure.subplot_mosaic(
        [["score"] * 3, ["mean_max_q", "loss", "epsilon"]], height_ratios=(2.4, 1)
    ).values()
    score.set_ylabel("points")
    score.grid(alpha=0.25)
    if all(is_breakout(run[1]) for group in groups for run in group):
        # From a random agent's game to DQN's is a factor of 200.
        score.set_yscale("log")
        score.set_ylabel("points (log scale)")
        ticks = (LOWEST, 0.3, 1, 3, 10, 30, 100, 300)
        score.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        score.minorticks_off()
        for name, value in YARDSTICKS.items():
            score.axhline(value, color="0.4", linestyle=":", linewidth=1.2)
            score.annotate(
                f"{name} {value}",
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color="0.3",
            )
    floor = LOWEST if score.get_yscale() == "log" else -math.inf
    for i, (group, label) in enumerate(zip(groups, labels, strict=True)):
        colour = f"C{i % 10}"
        label = label.replace("$", r"\$")  # no formula
        label = f" {label}" if label.startswith("_") else label  # which would hide it
        draw_column(score, group, "game_score", colour, floor, label=label)
        draw_column(score, group, "running_reward", colour, floor, linestyle="--", linewidth=1)
        for axes, column in zip(small, COLUMNS[2:], strict=True):
            draw_column(axes, group, column, colour, linewidth=1, alpha=0.8)

    for axes, title in zip(small, ("mean max Q", "loss", "epsilon"), strict=True):
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.25)
    if score.get_yscale() == "log":
        score.set_ylim(bottom=LOWEST * 0.95)
    small[-1].set_ylim(0, 1.05)
    for axes in (score, *small):
        axes.set_xlabel("frames (millions)")
        axes.set_xlim(left=0)
    # What the two styles of line mean, whatever their colour.
    score.plot([], [], color="0.3", label="game score (whole games, last 100)")
    score.plot([], [], color="0.3", ls="--", lw=1, label="running reward (a life, clipped)")
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize="medium")
    return figure


def draw_column(axes, group, column, colour, floor=-math.inf, **style):
    frames, *curves = mean_and_band(group, column)
    mean, low, high = ([max(value, floor) for value in curve] for curve in curves)
    millions = [frame / 1e6 for frame in frames]
    # A run of one row is a point, which a line would not show.
    axes.plot(millions, mean, color=colour, marker="." if len(frames) == 1 else None, **style)
    if len(group) > 1:
        axes.fill_between(millions, low, high, color=colour, alpha=0.2, linewidth=0)


def is_breakout(settings):
    return str(settings.get("env_id")).split("/")[-1].startswith("Breakout")


# --------------------------------------------------------------------------------------
# The command line


class ArgumentParser(argparse.ArgumentParser):
    # The trainer's does the same, but importing it would start TensorFlow.
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def plot(folders, output):
    """Draws the runs in `folders` into the file `output`. Raises UsageError."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "plot_progress.py needs matplotlib: install it with `pip install matplotlib`."
        ) from None
    matplotlib.use("Agg")  # no screen is needed
    from matplotlib import pyplot

    runs, paths = [], [Path(os.path.realpath(folder)) for folder in folders]
    names = [path.name for path in paths]
    for folder, path in zip(folders, paths, strict=True):
        if paths.count(path) > 1:
            raise UsageError(f"{folder} is given more than once: give each run once.")
        name = path.name if names.count(path.name) == 1 else str(folder)
        runs.append((name, read_settings(folder), read_progress(folder)))
    groups = group_runs(runs)
    for group in groups:
        if not mean_and_band(group, "game_score")[0]:
            raise UsageError(
                f"The runs {', '.join(name for name, _, _ in group)} have no frame in common "
                "yet: wait for their next log line."
            )
    figure = draw(groups, label_groups(groups), pyplot)
    try:
        # With its format, or matplotlib would add one to a name without.
        figure.savefig(output, format=output.suffix[1:] or "png", dpi=120)
    except (OSError, ValueError, RuntimeError) as error:  # the last one from a missing LaTeX
        why = getattr(error, "strerror", None) or str(error).split(" (")[0].splitlines()[0]
        raise UsageError(f"{output} cannot be written ({why}): give another --output.") from None
    finally:
        pyplot.close(figure)


def main(argv=None):
    """Runs the command line. Returns the exit status."""
    parser = ArgumentParser(
        prog="plot_progress.py", description="Draws the learning curve of runs.", allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("learning_curve.png"),
        metavar="FILE",
        help="the picture (default: learning_curve.png)",
    )
    args = parser.parse_args(argv)
    try:
        plot(args.runs, args.output)
    except UsageError as error:
        print(f"plot_progress.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"The learning curve is in {args.output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
