"""The learning curve: what is read of a run folder, what is drawn, and what is refused."""

import json
import sys

import pytest
from conftest import PROJECT, RESULTS, python

import plot_progress as pp

figure_module = pytest.importorskip("matplotlib.figure")

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
    content = {"format": 2, "settings": SETTINGS | settings, "sessions": []}
    (folder / "config.json").write_text(json.dumps(content))
    rows = [row(every * n, score) for n, score in enumerate(scores, 1)]
    (folder / "progress.csv").write_text("\n".join([HEADER, *rows, ""]) + text_after)
    return folder


def draw(*folders):
    """Returns the Figure of the runs in folders."""
    figure = figure_module.Figure(layout="constrained")
    pp.draw(pp.group_runs([pp.read_run(folder.name, folder) for folder in folders]), figure)
    figure.draw_without_rendering()
    return figure


def labels(figure):
    return [text.get_text().strip() for text in figure.legends[0].get_texts()][:-2]


def curve(figure, label, axes=0):
    """Returns the points of a solid curve of the main axes, or the only one of a small panel."""
    lines = figure.axes[axes].lines
    (line,) = [one for one in lines if one.get_label().strip() == label] if axes == 0 else lines
    return line.get_xydata().tolist()


def panels(figure):
    return {axes.get_title(): i for i, axes in enumerate(figure.axes) if i}


# --------------------------------------------------------------------------------------
# What is drawn


def test_a_run(tmp_path):
    figure = draw(make_run(tmp_path / "run", [1, 2, 4]))
    assert curve(figure, "run") == [[10, 1], [20, 2], [30, 4]]
    assert [10, 0.5] in figure.axes[0].lines[1].get_xydata().tolist()
    assert list(panels(figure)) == ["epsilon", "loss", "mean max q"]
    for name, value in {"epsilon": 0.9, "loss": 0.01, "mean max q": 0.2}.items():
        assert curve(figure, "", panels(figure)[name]) == [[10, value], [20, value], [30, value]]


def test_a_number_added_to_the_log_has_a_panel_wherever_it_stands(tmp_path):
    run = make_run(tmp_path / "run", [])
    added = [f"new_{n}" for n in range(4)]
    rows = [f"{7 + n},{row(100 * n, 1)},8,9,{n if n == 2 else ''}\n" for n in (1, 2)]
    header = f"{added[0]},{HEADER},{','.join(added[1:])}\n"
    (run / "progress.csv").write_text(header + "".join(rows))
    figure = draw(run)
    assert len(panels(figure)) == 7
    assert curve(figure, "", panels(figure)["new 0"]) == [[100, 8], [200, 9]]
    assert curve(figure, "", panels(figure)["new 3"]) == [[200, 2]]


def test_seeds_are_a_mean_and_a_band_as_far_as_all_have_come(tmp_path):
    a = make_run(tmp_path / "a", ["", 1, 6, 9], max_frames=5)
    b = make_run(tmp_path / "b", [1, 3, 2], seed=2, solved_reward=3)
    c = make_run(tmp_path / "c", [1, 1, 1, 1], gamma=0.9)
    figure = draw(a, c, b)
    mean = "gamma 0.99: mean of 2 seeds (band: min to max)"
    assert labels(figure) == [mean, "c"]
    assert curve(figure, mean) == [[20, 2], [30, 4]]
    # Bands for game score and running reward of the two seeds, and none for the one run.
    band, _ = figure.axes[0].collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices.tolist()}
    assert corners == {(20, 1), (20, 3), (30, 2), (30, 6)}
    assert [len(axes.collections) for axes in figure.axes[1:]] == [1, 1, 1]
    assert labels(draw(a, b)) == ["mean of 2 seeds (band: min to max)"]


def test_runs_that_have_no_mean_are_drawn_apart(tmp_path):
    """Two runs of one seed: the script was changed between them, as were maybe its log lines."""
    runs = [make_run(tmp_path / f"{name}{n}", [1], seed=n) for name in "ab" for n in (1, 2)]
    assert labels(draw(*runs)) == ["a1", "a2", "b1", "b2"]
    other = make_run(tmp_path / "other", [1], every=15_000, seed=3)
    assert labels(draw(runs[0], other)) == ["a1", "other"]


@pytest.mark.parametrize("scores", [[1.5], ["", 1.5], [0, 0], ["", 0], [0.01]])
def test_a_first_score_is_to_be_seen(scores, tmp_path):
    """Also one alone, one after an empty row, and one of 0, which has no logarithm."""
    figure = draw(make_run(tmp_path / "run", scores))
    (line,) = [one for one in figure.axes[0].lines if one.get_label() == " run"]
    ys = line.get_ydata()
    low, high = figure.axes[0].get_ylim()
    assert len(ys) > 1 or line.get_marker() == "."
    assert len(ys) == sum(score != "" for score in scores)
    assert all(low < y < high for y in ys)


def test_a_run_without_any_score_yet(tmp_path):
    assert curve(draw(make_run(tmp_path / "run", [""])), "run") == []


@pytest.mark.parametrize(
    ("every", "label", "x"),
    [(20, "frames", 20), (2_000, "frames (thousands)", 2), (5e5, "frames (millions)", 0.5)],
)
def test_the_unit_is_that_of_the_longest_run(every, label, x, tmp_path):
    figure = draw(make_run(tmp_path / "run", [1, 1], every=int(every)))
    assert {axes.get_xlabel() for axes in figure.axes} == {label}
    assert curve(figure, "run")[0][0] == x


@pytest.mark.parametrize(("best", "shown"), [(2, 1), (20, 2), (200, 3)])
def test_published_scores_do_not_squeeze_the_curve(best, shown, tmp_path):
    axes = draw(make_run(tmp_path / "run", [1, best])).axes[0]
    names = ["random 1.7", "human 31.8", "DQN 401.2"]
    assert [text.get_text() for text in axes.texts] == names[:shown]
    low, high = axes.get_ylim()
    assert low < best < high < 4 * best
    assert all(low < text.get_position()[1] < high for text in axes.texts)


def test_another_game_has_no_yardsticks_and_may_lose_points(tmp_path):
    axes = draw(make_run(tmp_path / "pong", [-21, -20.5], env_id="PongNoFrameskip-v4")).axes[0]
    assert not axes.texts
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < -21


def test_the_legend_covers_nothing_and_is_not_cut_off(tmp_path):
    """Eight long labels, and names that mean something to matplotlib."""
    runs = [
        make_run(
            tmp_path / f"_x$_y$^{n}{s}", [1, 2], seed=s, gamma=n, learning_rate=n, batch_size=n
        )
        for n in range(8)
        for s in (1, 2)
    ]
    odd = "\udce9" if sys.platform == "linux" else ""  # a byte that is not UTF-8
    figure = draw(*runs, make_run(tmp_path / f"_x$_y$^{odd}", [1, 2], gamma=9))
    box = figure.legends[0].get_window_extent()
    assert len(labels(figure)) == 9
    assert labels(figure)[-1] == r"_x\$_y\$^" + (odd and r"\udce9")
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert figure.bbox.contains(box.x0, box.y0)
    assert figure.bbox.contains(box.x1, box.y1)


# --------------------------------------------------------------------------------------
# The command line


@pytest.mark.slow
def test_it_plots_real_runs_without_tensorflow(tmp_path):
    code = (
        "import sys, plot_progress; status = plot_progress.main(sys.argv[1:]);"
        "print({'tensorflow', 'keras', 'ale_py'} & set(sys.modules)); sys.exit(status)"
    )
    words = [RESULTS / "keras-defaults-seed42", "--output", tmp_path / "curve"]
    run = python("-c", code, *words, cwd=PROJECT)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [f"The learning curve is in {tmp_path / 'curve'}.", "set()"]
    assert (tmp_path / "curve").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_row_that_is_being_written_is_passed_over(tmp_path, monkeypatch, capsys):
    last = row(30_000, 3.5)
    for cut in range(1, len(last) + 1):  # with all of it there, the line end is missing
        run = make_run(tmp_path / f"cut{cut}", [1.5, 2.5], text_after=last[:cut])
        assert list(pp.read_run("", run).progress["game_score"].values()) == [1.5, 2.5]
    monkeypatch.chdir(run)
    assert pp.main(["."]) == 0
    assert (run / "learning_curve.png").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("csv", "part"),
    [
        (f"{HEADER}\n", "no rows yet"),
        (b"\x89PNG\r\n\x1a\n\n", "decode"),
        ("frame_count,loss\n1,2\n", "first line lacks game_score, running_reward"),
        (f"{HEADER}\n{row(1, 1)}\n{row(2, 1)[:-4]}\n", "line 3 has 10 cells in place of 11"),
        (f"{HEADER}\n{row(1, 1)}\n\n{row(2, 1)}\n", "line 3 has 1 cells"),
        (f"{HEADER}\n{row(1, 1)}\n{row(2, 'x')}\n", "'x'"),
        (f"{HEADER}\n{row(1, chr(0) * 200_000)}\n", "could not convert"),
        (f"{HEADER}\n{row(2, 1)}\n{row(2, 1)}\n", "the frames do not rise"),
        (f"{HEADER}\n{row('', 1)}\n", "the frames do not rise"),
        (f"{HEADER}\n{row(-5, 1)}\n", "the frames do not rise"),
        (f"{HEADER}\n{row(2, '-inf')}\n", "not finite"),
        (f"{HEADER}\n{row(1, '1e300')}\n", "not finite"),
        (f"{HEADER}\n{row('9' * 400, 1)}\n", "not finite"),
    ],
)
def test_a_damaged_csv(csv, part, tmp_path, refused):
    run = make_run(tmp_path / "run", [1])
    (run / "progress.csv").write_bytes(csv if isinstance(csv, bytes) else csv.encode())
    sentence = refused(pp.main, run, "--output", tmp_path / "curve.png")
    assert "progress.csv" in sentence
    assert part in sentence
    assert not (tmp_path / "curve.png").exists()


def test_what_is_no_run(tmp_path, refused):
    assert "RUN" in refused(pp.main)
    assert "no config.json" in refused(pp.main, tmp_path / "none")
    assert "File name too long" in refused(pp.main, "x" * 300)
    run = make_run(tmp_path / "run", [1])
    (run / "progress.csv").unlink()
    assert "progress.csv cannot be drawn: it has no rows yet, wait for" in refused(pp.main, run)
    (run / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(pp.main, run)


def test_an_unwritable_output(tmp_path, refused):
    run = make_run(tmp_path / "run", [1])
    assert "No such file" in refused(pp.main, run, "--output", tmp_path / "no" / "curve.png")
    assert "directory" in refused(pp.main, run, "--output", tmp_path)
    assert "not supported" in refused(pp.main, run, "--output", tmp_path / "curve.xyz")


def test_a_run_given_twice(tmp_path, refused):
    run = make_run(tmp_path / "run", [1])
    assert "more than once" in refused(pp.main, run, run / ".." / "run")


def test_without_matplotlib_it_says_how_to_install_it(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install matplotlib" in refused(pp.main, make_run(tmp_path / "run", [1]))


def test_ctrl_c_is_no_traceback(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pp, "draw", interrupted)
    assert pp.main([str(make_run(tmp_path / "run", [1.0]))]) == 130
