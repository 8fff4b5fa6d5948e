"""The command line, as a user runs it: on the real emulator, in processes of its own."""

import dataclasses
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import environment

import train_breakout  # before Keras, whose backend it sets
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


def flags(settings):
    return [
        part
        for name, value in settings.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def start(arguments, folder, stdout, **variables):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        env=environment() | variables,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_to_a_file(name, folder, settings):
    """Runs the trainer with its output in a file, as `python train_breakout.py > file` does."""
    path = folder / f"{name}.out"
    with open(path, "w") as file:
        process = start(flags(settings | {"run_dir": name}), folder, file)
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
    process = start(flags(settings | {"run_dir": name}), folder, subprocess.PIPE)
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
            "other seed": pool.submit(
                run_to_a_file, "third", folder, SMALL | {"seed": 6, "max_frames": 500}
            ),
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
    for name in ("first", "same seed", "other seed", "pong"):
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
    assert "play_breakout.py" in opening  # how to watch it
    assert len(opening.splitlines()) <= 8
    assert len(log.splitlines()) == 4 + 1  # the log lines, and where the model is
    assert str(Path("first") / "model.keras") in log.splitlines()[-1]


@pytest.mark.slow
def test_the_saved_model_loads_without_custom_objects(runs):
    model = keras.models.load_model(runs["first"].folder / "model.keras")
    assert (model.input_shape, model.output_shape) == ((None, 84, 84, 4), (None, 4))
    assert model.inputs[0].dtype == "uint8"
    assert model.count_params() == 1_686_180


@pytest.mark.slow
def test_the_same_seed_gives_the_same_log_and_the_same_weights_bit_for_bit(runs):
    first, second = runs["first"], runs["same seed"]
    for mine, its in zip(load_weights(first), load_weights(second), strict=True):
        assert mine.tobytes() == its.tobytes()
    without_times = [
        [re.sub(r", \d+ frames/s.*", "", line) for line in run.log] for run in (first, second)
    ]
    assert without_times[0] == without_times[1]
    assert len(without_times[0]) == 4


@pytest.mark.slow
def test_another_seed_gives_another_log_and_other_weights(runs):
    first, third = runs["first"], runs["other seed"]
    for mine, its in zip(first.log[:1], third.log, strict=True):
        assert LINE.fullmatch(mine)["loss"] != LINE.fullmatch(its)["loss"]
    snapshots = [run.folder / "snapshots" / "000000000.keras" for run in (first, third)]
    mine, its = (keras.models.load_model(snapshot).get_weights()[0] for snapshot in snapshots)
    assert mine.tobytes() != its.tobytes()


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
@pytest.mark.parametrize("seconds", [0.3, 1, 2])
def test_ctrl_c_while_it_starts_is_quiet(seconds, tmp_path):
    process = start([], tmp_path, subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")
    assert output in ("", STARTING)


# --------------------------------------------------------------------------------------
# Bad flags

# "{tmp}" is a fresh folder with an empty folder `new` to run in, a file `file`, and a
# run in `used`.
BAD_FLAGS = {
    "negative": "--gamma -0.5",
    "out of range": "--epsilon-min 1.5",
    "not finite": "--learning-rate nan",
    "zero": "--update-after-actions 0",
    "fraction for a whole number": "--max-frames 10.5",
    "word for a number": "--learning-rate fast",
    "none where a number is needed": "--gamma none",
    "no value": "--seed",
    "unknown flag": "--learning-rat 0.1",
    "abbreviation": "--learning 0.1",
    "abbreviation of resume": "--res",
    "stray word": "fast",
    "capacity not above the batch": "--max-memory-length 32",
    "epsilons crossed": "--epsilon-max 0.05",
    "too large for the memory": "--max-memory-length 999999999999",
    "misspelt game": "--env-id BreakoutNoFrameskp-v4",
    "no Atari game": "--env-id CartPole-v1",
    "frameskip game": "--env-id ALE/Breakout-v5",
    "unknown game": "--env-id BrickoutNoFrameskip-v4",
    "unknown version": "--env-id BreakoutNoFrameskip-v1",
    "unknown module": "--env-id arcade:BreakoutNoFrameskip-v4",
    "malformed game": "--env-id NoFrameskip!",
    "run folder is a file": "--run-dir {tmp}/file",
    "run folder in a file": "--run-dir {tmp}/file/run",
    "run folder in use": "--run-dir {tmp}/used",
    "nothing to resume": "--resume --run-dir {tmp}/new",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "log.txt").write_text("running reward: ...\n")
    return tmp_path


def assert_one_sentence(output, errors, status):
    assert (status, output) == (2, "")
    assert re.fullmatch(r"train_breakout\.py: .+\n", errors), errors


@pytest.mark.parametrize("arguments", BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bad_flags_give_one_sentence_and_status_2(arguments, folder, monkeypatch, capfd):
    # In this process, since a start takes seconds; the test below has processes of its own.
    monkeypatch.chdir(folder / "new")
    try:
        status = train_breakout.main(arguments.format(tmp=folder).split())
    except SystemExit as end:
        status = end.code
    captured = capfd.readouterr()
    assert_one_sentence(captured.out, captured.err, status)
    assert (folder / "used" / "log.txt").read_text() == "running reward: ...\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unknown flag", "out of range", "unknown game"])
def test_bad_flags_give_one_sentence_and_status_2_in_a_process_of_their_own(kind, folder):
    process = start(BAD_FLAGS[kind].split(), folder / "new", subprocess.PIPE)
    output, errors = process.communicate()
    assert output.startswith(STARTING)
    assert_one_sentence(output.removeprefix(STARTING), errors, process.returncode)


def test_a_sentence_about_a_value_names_the_flag_or_field(capsys):
    assert train_breakout.main(["--batch-size", "-3"]) == 2
    assert re.search(r"batch.size.*-3", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        train_breakout.main(["--batch-size", "few"])
    assert re.search(r"batch.size.*few", capsys.readouterr().err)


def test_a_refused_start_leaves_no_run_behind(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    for run_dir in ([], ["--run-dir", "new"]):
        assert train_breakout.main(["--env-id", "BrickoutNoFrameskip-v4", *run_dir]) == 2
    # Else the corrected command would be told that the folder already holds a run.
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())
    assert not (folder / "new").exists() or not list((folder / "new").iterdir())


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


def test_every_flag_sets_its_field(monkeypatch):
    seen = []
    monkeypatch.setattr(
        train_breakout,
        "train",
        lambda config, resume: seen.append((config, resume)) or SimpleNamespace(exit_status=0),
    )
    settings = {
        **{"seed": 7, "gamma": 0.5, "epsilon_max": 0.9, "epsilon_min": 0.2},
        **{"epsilon_random_frames": 3, "epsilon_greedy_frames": 5, "batch_size": 16},
        **{"max_steps_per_episode": 77, "max_memory_length": 900, "update_after_actions": 2},
        **{"update_target_network": 11, "learning_rate": 0.01, "clipnorm": 3.0},
        **{"huber_delta": None, "terminal_value": None, "solved_reward": 9.0, "max_frames": 12},
        **{"env_id": "PongNoFrameskip-v4", "run_dir": "here", "checkpoint_minutes": 2.0},
        **{"log_every": 500},
    }
    assert train_breakout.main([*flags(settings), "--jit-compile"]) == 0
    assert seen == [(Config(**settings, jit_compile=True), False)]
    assert set(settings) | {"jit_compile"} == {field.name for field in dataclasses.fields(Config)}
    assert train_breakout.main([]) == 0
    assert seen[1] == (Config(), False)
