"""The benchmarks, in small: that they run, and not how fast anything is."""

from benchmarks import durability, throughput


def test_the_loops_take_turns_and_end_without_an_error():
    workers = [
        throughput.Worker("trainer", throughput.trainer_worker, {}, 40, 8),
        throughput.Worker("textbook", throughput.textbook_worker, None, 40, 4),
        throughput.Worker("our wrappers", throughput.wrappers_worker, True, 20),
        throughput.Worker("Gymnasium's", throughput.wrappers_worker, False, 20),
    ]
    throughput.take_turns(workers, 2)  # SystemExit if one fails
    for worker in workers:
        assert len(worker.rounds) == 2
        median, low, high = worker.speed()
        assert 0 < low <= median <= high
        assert worker.memory() > 0
    assert {"environment", "update", "action", "sampling"} < set(workers[0].parts())


def test_the_bytes_of_a_transition():
    ours, textbook = throughput.bytes_a_transition(500)
    assert 84 * 84 < ours < 9_000  # one new frame
    assert 16 * 84 * 84 < textbook < 120_000  # a new stack of four float32 frames


def test_what_a_checkpoint_costs(capsys):
    durability.measure_checkpoint(length=60, added=40, rounds=1)
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == "replay of 60 transitions"
    assert rows[-1] == "reading it back"
