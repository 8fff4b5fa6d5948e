"""The command line, as a user runs it: on the real emulator, in processes of its own."""

import dataclasses
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import flags, other_value, start, without_times

import plot_progress
import train_breakout  # before Keras, whose backend it sets
from support.console import UsageError
from train_breakout import Config, epsilon_at, keras

SCRIPT = Path(train_breakout.__file__).resolve()
STARTING = "Starting TensorFlow ...\n"
SMALL = {
    "max_frames": 2000,
    "update_target_network": 500,
    "log_every": 500,
    "epsilon_random_frames": 300,
    "epsilon_greedy_frames": 2000,
    "max_memory_length": 1000,
}


def run_to_a_file(name, folder, settings):
    """Runs the trainer with its output in a file, as `python train_breakout.py > file` does."""
    path = folder / f"{name}.out"
    with open(path, "w") as file:
        process = start(SCRIPT, *flags(**settings, run_dir=name), cwd=folder, output=file)
        errors = process.communicate()[1]
    output = path.read_text()
    return SimpleNamespace(
        status=process.returncode,
        errors=errors,
        output=output,
        log=[line for line in output.splitlines() if line.startswith("running reward")],
        folder=folder / name,
    )


def run_with_closed_pipe(name, folder, settings):
    """Runs the trainer as `python train_breakout.py | head -0` does."""
    process = start(SCRIPT, *flags(**settings, run_dir=name), cwd=folder)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    return SimpleNamespace(status=process.wait(), errors=errors, folder=folder / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All the runs that the tests below look at, two at a time."""
    folder = tmp_path_factory.mktemp("runs")
    short = SMALL | {"max_frames": 400, "log_every": 200}
    pong = short | {"env_id": "PongNoFrameskip-v4"}
    with ThreadPoolExecutor(2) as pool:
        jobs = {
            "first": pool.submit(run_to_a_file, "first", folder, SMALL | {"seed": 5}),
            "same seed": pool.submit(run_to_a_file, "second", folder, SMALL | {"seed": 5}),
            "pong": pool.submit(run_to_a_file, "pong", folder, pong),
            "closed pipe": pool.submit(run_with_closed_pipe, "pipe", folder, short),
        }
        return {name: job.result() for name, job in jobs.items()}


def load_weights(run):
    return keras.models.load_model(run.folder / "model.keras").get_weights()


# --------------------------------------------------------------------------------------
# Runs

NUMBER = r"-?\d+\.\d"
LINE = re.compile(
    rf"running reward: (?P<reward>{NUMBER}\d) at episode (?P<episode>\d+), "
    r"frame count (?P<frame>\d+)"  # the contract's; what follows is ours
    rf" \| game score (?P<score>{NUMBER}+|-), epsilon (?P<epsilon>{NUMBER}+), "
    rf"loss (?P<loss>{NUMBER}+), mean max Q (?P<q>{NUMBER}+), "
    r"\d+ frames/s, (?P<left>\d+:\d\d:\d\d) left"
)


@pytest.mark.slow
def test_a_run_ends_well_and_says_nothing_on_stderr(runs):
    for name in ("first", "same seed", "pong"):
        assert (runs[name].status, runs[name].errors) == (0, "")


@pytest.mark.slow
def test_the_log_line_has_the_exact_form(runs):
    matches = [LINE.fullmatch(line) for line in runs["first"].log]
    assert all(matches), runs["first"].log
    assert [int(match["frame"]) for match in matches] == [500, 1000, 1500, 2000]
    assert matches[-1]["left"] == "0:00:00"
    config = Config(**SMALL)
    for match in matches:
        assert match["epsilon"] == f"{epsilon_at(int(match['frame']), config):.3f}"
        assert 0 <= float(match["reward"]) < 10
        assert float(match["loss"]) >= 0
    episodes = [int(match["episode"]) for match in matches]
    # About 30 lives in 1000 frames of random play, and five of them a game.
    assert 8 < episodes[0] < episodes[1] < episodes[2] < episodes[3] < 100
    assert float(matches[-1]["score"]) >= float(matches[-1]["reward"])


@pytest.mark.slow
def test_log_txt_holds_the_lines_that_were_printed(runs):
    for name in ("first", "pong"):
        assert (runs[name].folder / "log.txt").read_text().splitlines() == runs[name].log


@pytest.mark.slow
def test_the_output_in_a_file_is_plain_lines(runs):
    output = runs["first"].output
    assert not re.search(r"[^\n\x20-\x7e]", output)  # no carriage return, escape, backspace
    opening, log = output.split("running reward", 1)
    for shown in ("CPU", "TensorFlow", "Keras", "seed 5", "1000 transitions", "first"):
        assert shown in opening
    assert opening.startswith(STARTING)
    assert "the next log line comes at frame 500" in opening.splitlines()[-1]
    player = re.search(r"to watch it, .*: python (\S+) first --model latest", opening)[1]
    assert (runs["first"].folder.parent / player).resolve() == SCRIPT.parent / "play_breakout.py"
    assert len(opening.splitlines()) <= 8
    assert len(log.splitlines()) == 4 + 1  # the log lines, and where the model is
    assert str(Path("first") / "model.keras") in log.splitlines()[-1]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_log_and_the_same_weights_bit_for_bit(runs):
    first, second = runs["first"], runs["same seed"]
    for mine, its in zip(load_weights(first), load_weights(second), strict=True):
        assert mine.tobytes() == its.tobytes()
    logs = [without_times(run.folder / "log.txt") for run in (first, second)]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4


@pytest.mark.slow
def test_another_game_needs_one_flag(runs):
    model = keras.models.load_model(runs["pong"].folder / "model.keras")
    assert model.output_shape == (None, 6)
    assert [int(LINE.fullmatch(line)["frame"]) for line in runs["pong"].log] == [200, 400]


@pytest.mark.slow
def test_a_closed_pipe_does_not_end_a_run(runs):
    run = runs["closed pipe"]
    assert (run.status, run.errors) == (0, "")
    lines = (run.folder / "log.txt").read_text().splitlines()
    assert [int(LINE.fullmatch(line)["frame"]) for line in lines] == [200, 400]
    assert (run.folder / "model.keras").exists()


@pytest.mark.slow
def test_the_run_can_be_drawn(runs, tmp_path):
    assert plot_progress.main([str(runs["first"].folder), "--output", str(tmp_path / "x.png")]) == 0


@pytest.mark.slow
def test_ctrl_c_while_it_starts_is_quiet(tmp_path):
    process = start(SCRIPT, cwd=tmp_path)
    assert process.stdout.readline() == STARTING
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == 130


# --------------------------------------------------------------------------------------
# Bad flags

# To a part of the sentence. "{tmp}" is a fresh folder with an empty folder `new` to run in and a
# file `file`. What a value or a folder must be is tested where it is decided.
BAD_FLAGS = {
    "--epsilon-min 1.5": "epsilon_min is 1.5, but must be at most",
    "--max-frames 10.5": "--max-frames: invalid int value: '10.5'",
    "--gamma none": "--gamma: invalid float value: 'none'",
    "--seed": "--seed: expected one argument",
    "--res": "unrecognized arguments",
    "--env-id BrickoutNoFrameskip-v4 --run-dir {tmp}/new/run": "such as BreakoutNoFrameskip-v4",
    "--run-dir {tmp}/file": "cannot be used (Not a directory): give another one with --run-dir",
    "--run-dir {tmp}/file/run": "cannot be used",
    "--run-dir " + "x" * 300: "give another one with --run-dir",
    "--max-memory-length 999999999999": "takes 7600000.0 GB, and this machine has",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize("words", BAD_FLAGS)
def test_bad_flags_give_one_sentence_and_leave_no_run_behind(words, folder, monkeypatch, refused):
    # In this process, since a start takes seconds. tests/test_run.py has one of its own.
    monkeypatch.chdir(folder / "new")
    sentence = refused(train_breakout.main, *words.format(tmp=folder).split())
    assert sentence.startswith("train_breakout.py: ")
    assert BAD_FLAGS[words] in sentence
    # Else the corrected command would be told that the folder already holds a run.
    assert not list((folder / "new").rglob("*"))


# --------------------------------------------------------------------------------------
# Flags and fields


def test_help_lists_every_field_with_its_sentence_and_default(capsys):
    with pytest.raises(SystemExit) as end:
        train_breakout.main(["--help"])
    assert end.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for field in dataclasses.fields(Config):
        flag, sentence = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        if field.default not in ("", False):
            sentence += f" (default: {field.default})"
        assert re.search(rf"{flag}(, --no-\S+)?( [A-Z]+)? {re.escape(sentence)}", text), flag


def test_every_flag_sets_its_field():
    seen = []

    def make_env(config):
        seen.append(config)
        raise UsageError("that is enough")

    settings = {field.name: other_value(field) for field in dataclasses.fields(Config)}
    settings |= {"huber_delta": None, "jit_compile": True}
    words = flags(**{name: value for name, value in settings.items() if value is not True})
    for given in ([*words, "--jit-compile"], []):
        assert train_breakout.main(given, make_env=make_env) == 2
    assert seen == [Config(**settings), Config()]
