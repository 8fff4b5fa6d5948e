"""The learning curve: what is read of a run folder, what is drawn, and what is refused."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import plot_progress as pp

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

ROOT = Path(pp.__file__).parent
HEADER = (
    "frame_count,episode_count,running_reward,game_count,game_score,epsilon,loss,mean_max_q,"
    "frames_per_second,seconds_left,wall_seconds"
)
SETTINGS = {"seed": 1, "gamma": 0.99, "max_frames": 0, "env_id": "BreakoutNoFrameskip-v4"}


def row(frame, score, reward=0.5):
    return f"{frame},9,{reward},3,{score},0.9,0.01,0.2,250.0,10,4.0"


def make_run(folder, scores, text_after="", every=10_000, **settings):
    """Writes a run folder as the trainer does; `scores` are game scores, "" for none yet."""
    folder.mkdir()
    content = {"format": 1, "settings": SETTINGS | settings, "sessions": []}
    (folder / "config.json").write_text(json.dumps(content))
    rows = [row(every * n, score) for n, score in enumerate(scores, 1)]
    (folder / "progress.csv").write_text("\n".join([HEADER, *rows, ""]) + text_after)
    return folder


def read_runs(*folders):
    return [(f.name, pp.read_settings(f), pp.read_progress(f)) for f in folders]


def drawn(*folders):
    groups = pp.group_runs(read_runs(*folders))
    return pp.draw(groups, pp.label_groups(groups), pyplot)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


# --------------------------------------------------------------------------------------
# Reading


def test_the_columns_are_read_by_name(tmp_path):
    progress = pp.read_progress(make_run(tmp_path / "run", ["", 1.5, 2.5]))
    assert progress["frame_count"] == [10_000, 20_000, 30_000]
    assert math.isnan(progress["game_score"][0])
    assert progress["game_score"][1:] == [1.5, 2.5]
    assert progress["running_reward"] == [0.5] * 3
    assert progress["epsilon"] == [0.9] * 3
    assert progress["loss"] == [0.01] * 3
    assert progress["mean_max_q"] == [0.2] * 3


def test_a_row_that_is_being_written_is_passed_over(tmp_path):
    last = row(30_000, 3.5)
    for cut in range(1, len(last) + 1):  # with all of it there, the line end is missing
        run = make_run(tmp_path / f"cut{cut}", [1.5, 2.5], text_after=last[:cut])
        assert pp.read_progress(run)["game_score"] == [1.5, 2.5]
    run = make_run(tmp_path / "whole", [1.5, 2.5], text_after=last + "\n")
    assert pp.read_progress(run)["game_score"] == [1.5, 2.5, 3.5]


def test_runs_are_gathered_whose_settings_differ_only_in_the_seed(tmp_path):
    a = make_run(tmp_path / "a", [1])
    b = make_run(tmp_path / "b", [1], seed=2, max_frames=9, checkpoint_minutes=1.0, render="human")
    c = make_run(tmp_path / "c", [1], seed=3, gamma=0.9)
    d = make_run(tmp_path / "d", [1], seed=4)
    groups = pp.group_runs(read_runs(a, c, b, d))
    assert [[name for name, _, _ in group] for group in groups] == [["a", "b", "d"], ["c"]]
    assert pp.label_groups(groups) == ["gamma 0.99: mean of 3 seeds (band: min to max)", "c"]
    assert pp.label_groups(groups[:1]) == ["mean of 3 seeds (band: min to max)"]


def test_runs_of_one_seed_are_not_two_seeds(tmp_path):
    """The script was changed between them: a mean would mix two algorithms."""
    runs = [make_run(tmp_path / f"{name}{n}", [1], seed=n) for name in "ab" for n in (1, 2)]
    groups = pp.group_runs(read_runs(*runs, make_run(tmp_path / "c", [1], gamma=0.9)))
    assert pp.label_groups(groups) == ["a1", "a2", "b1", "b2", "c"]
    assert [len(group) for group in groups] == [1] * 5


def test_the_mean_goes_as_far_as_all_runs_have_come(tmp_path):
    runs = read_runs(
        make_run(tmp_path / "a", ["", 1, 6, 9]), make_run(tmp_path / "b", [1, 3, 2], seed=2)
    )
    frames, mean, low, high = pp.mean_and_band(runs, "game_score")
    assert frames == [10_000, 20_000, 30_000]
    assert all(math.isnan(values[0]) for values in (mean, low, high))
    assert (mean[1:], low[1:], high[1:]) == ([2, 4], [1, 2], [3, 6])


# --------------------------------------------------------------------------------------
# Drawing


def test_what_is_drawn(tmp_path):
    a = make_run(tmp_path / "a", [1, 2, 4])
    b = make_run(tmp_path / "b", [3, 4, 8], seed=2)
    c = make_run(tmp_path / "c", [1, 1, 1, 2], gamma=0.9)
    figure = drawn(a, b, c)
    score, *small = figure.axes
    assert [axes.get_title() for axes in small] == ["mean max Q", "loss", "epsilon"]
    lines = {
        (line.get_linestyle(), line.get_color(), tuple(line.get_xdata()), tuple(line.get_ydata()))
        for line in score.lines
    }
    millions = (0.01, 0.02, 0.03)
    assert ("-", "C0", millions, (2, 3, 6)) in lines
    assert ("--", "C0", millions, (0.5,) * 3) in lines
    assert ("-", "C1", (*millions, 0.04), (1, 1, 1, 2)) in lines
    for value in (1.7, 31.8, 401.2):
        assert any(style == ":" and ys == (value, value) for style, _, _, ys in lines)
        low, high = score.get_ylim()
        assert low < value < high
    # A band for the two seeds, for game score and running reward, and none for one run.
    assert len(score.collections) == 2
    ys = score.collections[0].get_paths()[0].vertices[:, 1]
    assert {1, 2, 4, 3, 8} == set(ys)
    assert [len(axes.collections) for axes in small] == [1, 1, 1]


@pytest.mark.parametrize("runs", [1, 2, 8])
def test_the_legend_covers_nothing(runs, tmp_path):
    folders = [make_run(tmp_path / f"run{n}", [1, 2], gamma=n / 10) for n in range(runs)]
    figure = drawn(*folders)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == runs + 2
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert figure.bbox.contains(box.x0, box.y0)
    assert figure.bbox.contains(box.x1, box.y1)


def test_the_legend_has_room_for_long_labels(tmp_path):
    """Two experiments of two seeds each, which differ in many settings."""
    folders = [
        make_run(
            tmp_path / f"{n}{seed}",
            [1, 2],
            seed=seed,
            gamma=n,
            learning_rate=n * 0.00025,
            batch_size=n,
        )
        for n in (1, 2)
        for seed in (1, 2)
    ]
    figure = drawn(*folders)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.contains(box.x0, box.y0)
    assert figure.bbox.contains(box.x1, box.y1)


def test_names_that_mean_something_to_matplotlib(tmp_path, monkeypatch):
    figure = drawn(make_run(tmp_path / "_x$_y$^", [1, 2]))
    figure.canvas.draw()
    assert figure.legends[0].get_texts()[0].get_text() == r" _x\$_y\$^"
    monkeypatch.chdir(tmp_path / "_x$_y$^")
    assert pp.main(["."]) == 0


def test_a_score_of_zero_is_on_the_picture_too(tmp_path):
    score = drawn(make_run(tmp_path / "run", [0, 0])).axes[0]
    (line,) = (line for line in score.lines if line.get_label() == "run")
    low, high = score.get_ylim()
    assert all(low < y < high for y in line.get_ydata())


def test_another_game_has_no_yardsticks_and_may_lose_points(tmp_path):
    score = drawn(make_run(tmp_path / "pong", [-21, -20.5], env_id="PongNoFrameskip-v4")).axes[0]
    assert not score.texts
    assert score.get_yscale() == "linear"
    assert score.get_ylim()[0] < -21


def test_a_run_of_one_row_is_a_point(tmp_path):
    score = drawn(make_run(tmp_path / "run", [1.5])).axes[0]
    (line,) = (line for line in score.lines if line.get_label() == "run")
    assert line.get_marker() == "."


# --------------------------------------------------------------------------------------
# The command line


def size_of_png(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_it_plots_a_real_short_run_without_tensorflow(tmp_path):
    from train_breakout import Config, train

    train(
        Config(
            run_dir=str(tmp_path / "run"),
            max_frames=60,
            update_target_network=20,
            max_memory_length=100,
        )
    )
    frames = pp.read_progress(tmp_path / "run")["frame_count"]
    assert frames == [20, 40, 60]

    code = (
        "import sys, plot_progress; status = plot_progress.main(sys.argv[1:]);"
        "print({'tensorflow', 'keras', 'ale_py'} & set(sys.modules)); sys.exit(status)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        "The learning curve is in learning_curve.png.",
        "set()",
    ]
    width, height = size_of_png(tmp_path / "learning_curve.png")
    assert width > height > 500


def test_it_plots_a_run_that_is_still_going(tmp_path, capsys):
    run = make_run(tmp_path / "run", ["", 2], text_after=row(30_000, 3.5)[:17])
    assert pp.main([str(run), "--output", str(tmp_path / "curve.png")]) == 0
    size_of_png(tmp_path / "curve.png")
    out, err = capsys.readouterr()
    assert err == ""
    assert "curve.png" in out


def refusal(capsys, *words):
    """Runs the command line, which must refuse in a sentence, and returns that sentence."""
    try:
        status = pp.main([str(word) for word in words])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    out, err = capsys.readouterr()
    (sentence,) = err.splitlines()
    assert sentence.startswith("plot_progress.py: ")
    assert out == ""
    return sentence


@pytest.mark.parametrize(
    ("csv", "part"),
    [
        (b"", "is empty"),
        (HEADER.encode(), "is empty"),
        (HEADER.encode() + b"\n", "no rows yet"),
        (b"\x89PNG\r\n\x1a\n\n", "not a text file"),
        (b"frame_count,loss\n1,2\n", "lacks epsilon, game_score, mean_max_q"),
        (f"{HEADER}\n{row(1, 1)[:-5]}\n{row(2, 1)}\n".encode(), "damaged in line 2"),
        (f"{HEADER}\n{row(1, 1)}\n{row(2, 'x')}\n{row(3, 1)}\n".encode(), "damaged in line 3"),
        (f"{HEADER}\n{row(2, 1)}\n{row(2, 1)}\n".encode(), "line 3 (the frames do not rise)"),
        (f"{HEADER}\n{row(2, 'inf')}\n".encode(), "line 2 (a number is not finite)"),
        (f"{HEADER}\n{row(1, 1)}\n\n{row(2, 1)}\n".encode(), "damaged in line 3"),
        (f"{HEADER}\n{row(1, 1)}\n{chr(0) * 40}\n".encode(), "damaged in line 3"),
        (f'{HEADER}\n"{row(1, 1)}\n{row(2, 1)}\n'.encode(), "damaged in line 2"),
        (f"{HEADER}\n{row(1, 1)}\n{chr(0) * 200_000}\n".encode(), "damaged in line 3"),
        (f"{HEADER}\n{row(1, '1e300')}\n".encode(), "line 2 (a number is not finite)"),
        (f"{HEADER}\n{row('9' * 400, 1)}\n".encode(), "line 2 (there is no such frame)"),
        (f"{HEADER}\n{row(-5, 1)}\n".encode(), "line 2 (there is no such frame)"),
    ],
)
def test_a_damaged_csv_is_refused_in_a_sentence(csv, part, tmp_path, capsys):
    run = make_run(tmp_path / "run", [1])
    (run / "progress.csv").write_bytes(csv)
    sentence = refusal(capsys, run, "--output", tmp_path / "curve.png")
    assert "progress.csv" in sentence
    assert part in sentence
    assert not (tmp_path / "curve.png").exists()


def test_what_is_no_run_is_refused_in_a_sentence(tmp_path, capsys):
    assert "RUN" in refusal(capsys)
    assert "There is no run folder" in refusal(capsys, tmp_path / "none")
    assert "cannot be read (File name too long)" in refusal(capsys, "x" * 300)
    assert "no config.json" in refusal(capsys, tmp_path)
    run = make_run(tmp_path / "run", [1])
    (run / "progress.csv").unlink()
    assert "has no progress.csv" in refusal(capsys, run)
    for text in ("{", "[]", "{}", '{"settings": 1}', "[" * 100_000):
        (run / "config.json").write_text(text)
        assert "config.json cannot be read" in refusal(capsys, run)


def test_seeds_without_a_common_frame_are_refused(tmp_path, capsys):
    a = make_run(tmp_path / "a", [1], every=10_000)
    b = make_run(tmp_path / "b", [1], every=15_000, seed=2)
    assert "a, b have no frame in common" in refusal(capsys, a, b)


def test_an_unwritable_output_is_refused_in_a_sentence(tmp_path, capsys):
    run = make_run(tmp_path / "run", [1])
    assert "No such file" in refusal(capsys, run, "--output", tmp_path / "no" / "curve.png")
    assert "directory" in refusal(capsys, run, "--output", tmp_path)
    assert "cannot be written" in refusal(capsys, run, "--output", tmp_path / "curve.xyz")


def test_a_run_given_twice_is_no_second_seed(tmp_path, capsys):
    run = make_run(tmp_path / "run", [1])
    assert "more than once" in refusal(capsys, run, run)
    assert "more than once" in refusal(capsys, run, run / ".." / "run")


def test_without_matplotlib_it_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sentence = refusal(capsys, make_run(tmp_path / "run", [1]))
    assert "pip install matplotlib" in sentence


def test_ctrl_c_is_no_traceback(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pp, "draw", interrupted)
    run = make_run(tmp_path / "run", [1.0])
    assert pp.main([str(run), "--output", str(tmp_path / "curve.png")]) == 130
