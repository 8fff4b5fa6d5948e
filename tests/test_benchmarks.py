"""The benchmarks, in small: that they run, and not how fast anything is."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import checkpoints, throughput
from benchmarks.pace import fill
from wrappers import LazyFrames

pytestmark = pytest.mark.slow


def test_loops_take_turns_and_are_compared_with_the_first(tmp_path, capsys, monkeypatch):
    order, receive = [], throughput.Worker.receive
    monkeypatch.setattr(throughput.Worker, "receive", lambda w: order.append(w.name) or receive(w))
    file = tmp_path / "speed.json"
    loops = ["trainer", "textbook:40", "wrappers", "gymnasium"]
    small = ["--replay", "60", "--frames", "8", "--rounds", "2", "--json", str(file)]
    assert throughput.main(["--loops", *loops, *small]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())["loops"]
    assert [of["loop"] for of in found] == ["trainer", "textbook", "wrappers", "gymnasium"]
    assert order == [of["loop"] for of in found] * 3
    assert [of["replay"] for of in found] == [60, 40, 60, 60]
    for of in found:
        assert f"| {of['loop']} | {of['replay']} | {of['frames_per_second']:.1f} |" in printed
        assert 0 < of["lowest"] <= of["frames_per_second"] <= of["highest"]
        assert len(of["rounds"]) == 2
        assert of["ratio"] == pytest.approx(found[0]["frames_per_second"] / of["frames_per_second"])
        assert of["resident_bytes"] > 0
    parts = found[0]["parts"]
    assert set(parts) == {"emulator and wrappers", "sampling", "update", "the rest"}


@pytest.mark.parametrize(("name", "package"), [("cleanrl", "torch"), ("sb3", "stable_baselines3")])
def test_the_loops_in_pytorch_run_where_it_is_installed(name, package):
    if not find_spec(package):
        pytest.skip(f"{package} is not installed")
    (figures,) = throughput.measure([(name, 60)], frames=8, rounds=2)
    assert len(figures["rounds"]) == 2


def test_what_cannot_be_measured_is_refused_in_a_sentence(tmp_path, refused):
    assert "cannot be written" in refused(throughput.main, "--json", tmp_path / "no" / "speed.json")
    assert "tutorial is no loop" in refused(throughput.main, "--loops", "tutorial")
    assert "GB of memory" in refused(throughput.main, "--replay", "1000000000")
    assert "33 transitions or more" in refused(throughput.main, "--loops", "trainer:10")


def test_a_loop_that_fails_ends_the_benchmark(capfd):
    with pytest.raises(SystemExit, match="trainer ended early"):
        throughput.measure([("trainer", 1)], frames=8, rounds=1)  # smaller than a batch


def test_copies_that_fill_a_replay_share_frames_as_real_ones_do():
    transitions = []
    fill(lambda *transition: transitions.append(transition), 25, real_frames=10)
    assert len(transitions) == 25
    for first, copy in zip(transitions, transitions[10:], strict=False):
        assert isinstance(copy[0], LazyFrames)
        assert np.array_equal(copy[0], first[0])
        assert copy[0].frames[-1] is not first[0].frames[-1]
    assert transitions[11][0] is transitions[10][3]
    assert transitions[10][0].frames[1] is transitions[10][3].frames[0]


def test_what_a_checkpoint_costs(capsys):
    assert checkpoints.main(["--length", "10"]) == 2  # no more than a batch
    capsys.readouterr()
    assert checkpoints.main(["--length", "60", "--added", "40", "--rounds", "1"]) == 0
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows[0] == "replay of 60 transitions"
    assert rows[-1] == "reading the latest"
