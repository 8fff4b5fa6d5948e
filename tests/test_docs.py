"""The README and docs/: every command and link names what is there."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from train_breakout import Config, create_q_model, keras

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("[!.]*/README.md"))]
PAGES += sorted(ROOT.glob("results/*/README.md"))


def commands():
    """Returns the python commands of all pages: a dict of script to the flags given to it."""
    found = {}
    for page in PAGES:
        text = re.sub(r"\\\n", " ", page.read_text())
        for script, words in re.findall(r"python (\S+\.py)([^\n`#|&>)]*)", text):
            found.setdefault(script, set()).update(re.findall(r"--[\w-]+", words))
    return found


def test_there_are_commands_to_check():
    assert {"train_breakout.py", "play_breakout.py", "plot_progress.py"} < set(commands())
    assert "--resume" in commands()["train_breakout.py"]


@pytest.mark.parametrize("script", sorted(commands()))
def test_a_command_names_a_script_and_flags_that_exist(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(ROOT / script, run_name="__main__")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in commands()[script]:
        assert re.search(rf"{flag}(?![\w-])", text), flag


def test_the_papers_optimizer_can_be_pasted():
    (code,) = re.findall(r"`(keras\.optimizers\..+?\))`", PAGES[0].read_text())
    optimizer = eval(code, {"keras": keras, "config": Config()})
    optimizer.build(create_q_model().trainable_variables)
    assert optimizer.centered


def test_nothing_in_support_uses_the_scripts():
    scripts = "train_breakout|play_breakout|plot_progress|examples|benchmarks"
    for path in ROOT.glob("support/*.py"):
        assert not re.search(rf"^\s*(import|from) ({scripts})\b", path.read_text(), re.M), path


def test_git_ignores_what_the_commands_write():
    written = {"learning_curve.png", "cartpole.weights.h5", "runs/any/log.txt", "game.gif"}
    for page in PAGES[:1] + [page for page in PAGES if page.parent.name == "docs"]:
        written.update(re.findall(r"--(?:video|output) ([\w.]+)", page.read_text()))
    assert "game.mp4" in written
    for path in written:
        git = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT)
        assert git.returncode == 0, path


def test_opencv_needs_no_window_system():
    """Else its import ends in a traceback on a bare machine, without libGL and libX11."""
    assert re.search(r"GUI: +NONE", cv2.getBuildInformation())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target.split("#")[0]).exists(), target
    for path in re.findall(
        r"`((?:support|examples|benchmarks|tests|docs|results)/[\w./-]*)`", text
    ):
        assert (ROOT / path).exists(), path
    folders = ("", "support/", "examples/", "benchmarks/")
    scripts = "".join(path.read_text() for name in folders for path in ROOT.glob(f"{name}*.py"))
    for flag in set(re.findall(r"`(--[a-z-]+)", text)) - {"--help"}:  # in prose
        setting = flag.removeprefix("--").replace("-", "_")
        assert re.search(rf'"{flag}"|^    {setting}: .*setting\(', scripts, re.M), flag
