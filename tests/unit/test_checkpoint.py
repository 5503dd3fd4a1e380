"""Where a stage's state is kept: by the key of its inputs, whole or not at all, and only until the stage is done."""

import argparse
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from juicer.runtime.devices import Card
from juicer.runtime.errors import Cancelled
from juicer.runtime.processes import Processes
from juicer.stages.cancellation import Cancellation
from juicer.stages.checkpoint import (
    Checkpoint,
    checkpoints_of,
    continued,
    discard_checkpoints,
    kept,
    key_of,
    remove_checkpoints,
)
from tests.conftest import signals_restored


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUICER_CHECKPOINT_SECONDS", "0")
    return tmp_path


@pytest.fixture
def checkpoint(folder):
    return Checkpoint(checkpoints_of("sft", "key") / "work", Cancellation())


def writing(text):
    def write(folder):
        (folder / "part").mkdir()
        (folder / "part" / "state").write_text(text)

    return write


@pytest.fixture
def inputs(folder):
    """Arguments of a stage with an input folder, and the parameters that it read."""
    (folder / "data").mkdir()
    (folder / "data/train.jsonl").write_text("{}")
    return argparse.Namespace(data=Path("data"), out=Path("models/x"), round="r1", debug=False), {"seed": 0}


def test_the_key_is_the_same_for_the_same_inputs_wherever_the_output_goes(inputs):
    arguments, values = inputs
    key = key_of(arguments, values)
    arguments.out, arguments.debug = Path("models/y"), True
    assert key_of(arguments, dict(values)) == key


@pytest.mark.parametrize(
    "changed", ["parameter", "argument", "content of an input", "another file", "processes", "machines"]
)
def test_the_key_changes_with(inputs, monkeypatch, changed):
    arguments, values = inputs
    before = key_of(arguments, values)
    match changed:
        case "parameter":
            values["seed"] = 1
        case "argument":
            arguments.round = "r2"
        case "content of an input":
            Path("data/train.jsonl").write_text("[]")
        case "another file":
            Path("data/more.jsonl").write_text("{}")
        case "processes":
            monkeypatch.setenv("WORLD_SIZE", "2")
        case "machines":
            monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert key_of(arguments, values) != before


def test_the_key_changes_with_the_code(inputs, monkeypatch, tmp_path):
    arguments, values = inputs
    before = key_of(arguments, values)
    other = tmp_path / "checkpoint.py"
    other.write_text("changed = True\n")
    monkeypatch.setattr("juicer.stages.checkpoint.__file__", str(other))
    assert key_of(arguments, values) != before


def test_only_the_last_state_is_kept(checkpoint):
    assert checkpoint.latest() is None
    for text in ("first", "second"):
        checkpoint.save(writing(text))
    latest = checkpoint.latest()
    assert (latest / "part" / "state").read_text() == "second"
    assert list(latest.parent.iterdir()) == [latest]


@pytest.mark.parametrize("damage", ["changed", "missing", "unfinished", "overwritten"])
def test_a_state_that_is_not_whole_is_discarded_with_a_line(checkpoint, capsys, damage):
    checkpoint.save(writing("state"))
    latest = checkpoint.latest()
    capsys.readouterr()
    match damage:
        case "changed":
            (latest / "part" / "state").write_text("stale")
        case "missing":
            (latest / "part" / "state").unlink()
        case "unfinished":
            (latest / "complete.json").unlink()
        case "overwritten":
            (latest / "complete.json").write_text('"a string"')
    assert checkpoint.latest() is None
    assert capsys.readouterr().out == f"discarded a corrupt checkpoint: {latest}\n"
    assert not latest.exists()


def test_a_state_that_could_not_be_written_leaves_the_one_before(checkpoint):
    def fails(folder):
        (folder / "half").write_text("half")
        raise OSError("disk full")

    checkpoint.save(writing("before"))
    with pytest.raises(OSError):
        checkpoint.save(fails)
    assert (checkpoint.latest() / "part" / "state").read_text() == "before"


def test_states_of_other_inputs_are_discarded_with_a_line(checkpoint, capsys):
    checkpoint.save(writing("state"))
    discard_checkpoints("sft", "other")
    assert "of other parameters, inputs or code: .juicer/checkpoints/sft/key" in capsys.readouterr().out
    assert checkpoint.latest() is None


def test_what_a_run_left_that_was_killed_while_it_saved_is_cleared(checkpoint):
    checkpoint.save(writing("state"))
    half = checkpoint.latest().parent / ".2.tmp"
    half.mkdir()
    assert checkpoint.latest() is not None
    assert not half.exists()


def test_stray_files_are_removed(checkpoint):
    checkpoint.save(writing("state"))
    latest = checkpoint.latest()
    for stray in (latest.parent / ".DS_Store", latest.parent / "1 copy", latest.parents[1].with_name("stray")):
        stray.write_text("")
    assert checkpoint.latest() == latest
    assert list(latest.parent.iterdir()) == [latest]
    discard_checkpoints("sft", "key")
    assert [path.name for path in latest.parents[2].iterdir()] == ["key"]


def test_a_stage_that_is_done_keeps_no_state(checkpoint):
    checkpoint.save(writing("state"))
    assert "resumes" in kept("sft")
    remove_checkpoints("sft")
    assert kept("sft") == ""
    assert not Path(".juicer/checkpoints/sft").exists()


def test_nothing_is_due_before_the_interval_is_over_unless_the_run_is_to_end(folder, monkeypatch):
    monkeypatch.delenv("JUICER_CHECKPOINT_SECONDS")
    cancellation = Cancellation()
    checkpoint = Checkpoint(checkpoints_of("sft", "key") / "work", cancellation)
    assert not checkpoint.due()
    cancellation.requested = signal.SIGTERM
    assert checkpoint.due()
    with pytest.raises(Cancelled, match="SIGTERM"):
        checkpoint.save(writing("state"))
    assert checkpoint.latest() is not None


@dataclass(frozen=True)
class Member(Processes):
    """One of several processes that here are threads."""

    table: list = None
    barrier: threading.Barrier = None

    def gather(self, value):
        self.table[self.rank] = value
        self.barrier.wait(60)
        values = list(self.table)
        self.barrier.wait(60)
        return values


@pytest.fixture
def together(folder):
    """Does work in two processes: of one machine, or with a folder each; gives what both returned."""

    def run(work, machines=1):
        table, barrier = [None, None], threading.Barrier(2)

        def one(rank):
            local = 0 if machines == 2 else rank
            member = Member(rank, 2, local_rank=local, table=table, barrier=barrier)
            place = folder / str(rank if machines == 2 else 0)
            return work(Checkpoint(place, Cancellation(), member), rank)

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(one, range(2)))

    return run


def part_of(rank):
    return lambda folder: (folder / f"part-{rank}").write_text(str(rank))


def test_processes_of_one_machine_write_one_state(together, folder):
    together(lambda checkpoint, rank: checkpoint.save(part_of(rank)))
    latest, same = together(lambda checkpoint, rank: checkpoint.latest())
    assert latest == same
    assert sorted(path.name for path in latest.iterdir()) == ["complete.json", "part-0", "part-1"]


def test_processes_save_when_one_of_them_is_to_end_and_all_end(together, folder, monkeypatch):
    monkeypatch.setenv("JUICER_CHECKPOINT_SECONDS", "3600")

    def work(checkpoint, rank):
        assert not checkpoint.due()
        if rank == 1:
            checkpoint._cancellation.requested = signal.SIGTERM
        assert checkpoint.due()
        with pytest.raises(Cancelled, match="SIGTERM"):
            checkpoint.save(part_of(rank))
        return checkpoint.latest()

    assert all(together(work))


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_state_that_one_machine_has_lost_counts_on_none(together, folder, damaged):
    def two_states(checkpoint, rank):
        checkpoint.save(part_of(rank))
        before = checkpoint.latest()
        shutil.copytree(before, folder / f"before-{rank}")
        checkpoint.save(part_of(rank))
        # As if the machine had died before it forgot the state before.
        shutil.move(folder / f"before-{rank}", before)

    together(two_states, machines=2)
    (folder / str(damaged) / "00000002" / "complete.json").unlink()
    latest = together(lambda checkpoint, rank: checkpoint.latest(), machines=2)
    assert [path.relative_to(folder).as_posix() for path in latest] == ["0/00000001", "1/00000001"]
    assert not (folder / str(1 - damaged) / "00000002").exists()


@pytest.fixture
def cancellation(monkeypatch):
    """A cancellation that has this process's signals for the time of a test, without the end after LIMIT."""
    monkeypatch.setattr("juicer.stages.cancellation._end_later", lambda asked: None)
    made = Cancellation()
    made.install()
    return made


def test_a_stage_in_this_process_leaves_no_signals_to_the_next_test(monkeypatch):
    monkeypatch.setattr("juicer.stages.cancellation._end_later", lambda asked: None)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with signals_restored():
        left = Cancellation()
        left.install()
        assert signal.getsignal(signal.SIGTERM) == left._handle
    assert signal.set_wakeup_fd(-1) == -1  # of the pipe whose reader ends the process
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert left.requested is None


def test_a_request_ends_a_run_at_once_where_nothing_is_held(cancellation):
    with pytest.raises(Cancelled) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM


def test_a_request_waits_for_the_end_of_what_is_held(cancellation):
    done = []
    with pytest.raises(Cancelled), cancellation.held():
        signal.raise_signal(signal.SIGTERM)
        done.append("the block")
    assert done == ["the block"]


def test_what_fails_after_a_request_is_no_failure_of_its_own(cancellation):
    with pytest.raises(Cancelled), cancellation.held():
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("connection closed by peer")
    cancellation.requested = None
    with pytest.raises(RuntimeError), cancellation.held():
        raise RuntimeError("connection closed by peer")


def test_a_second_ctrl_c_waits_for_nothing(cancellation):
    done = []
    with pytest.raises(Cancelled), cancellation.held():
        signal.raise_signal(signal.SIGINT)
        done.append("first")
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]


A100, H100 = (Card(name, 80 * 2**30, "CUDA 13.0, cuDNN 91900") for name in ("A100", "H100"))


@pytest.mark.parametrize(
    ("made_on", "here", "deterministic", "said"),
    [
        ([], None, False, []),
        ([A100], A100, True, []),
        ([A100], A100, False, ["may differ from an uninterrupted run in its last digits: compute.deterministic is"]),
        ([A100, A100], H100, True, ["made on 2 x A100 with 80 GiB, CUDA 13.0, cuDNN 91900; on H100 with 80 GiB"]),
        ([A100], Card("A100", 80 * 2**30, "CUDA 12.6, cuDNN 91900"), True, ["CUDA 12.6, cuDNN 91900 the continuation"]),
        ([A100], None, False, ["on a CPU the continuation differs"]),
        ([], A100, True, ["was made on a CPU; on A100"]),
    ],
)
def test_a_continuation_that_may_be_another_says_so(made_on, here, deterministic, said):
    lines = continued(made_on, here, deterministic=deterministic)
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True))


def test_a_checkpoint_knows_the_card_that_it_was_made_on(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("juicer.stages.checkpoint.card_in_use", lambda: A100)
    checkpoint.save(writing("one"))
    again = Checkpoint(checkpoint._folder, Cancellation())
    assert (again.latest() / "part/state").read_text() == "one"
    assert "compute.deterministic is false" in capsys.readouterr().out
    monkeypatch.setattr("juicer.stages.checkpoint.card_in_use", lambda: H100)
    assert Checkpoint(checkpoint._folder, Cancellation()).latest() is not None
    assert "the checkpoint was made on A100 with 80 GiB" in capsys.readouterr().out


def test_a_checkpoint_of_a_cpu_holds_no_card_and_its_continuation_is_the_same(checkpoint, capsys):
    checkpoint.save(writing("one"))
    latest = Checkpoint(checkpoint._folder, Cancellation()).latest()
    assert not (latest / "cards.json").exists()
    assert capsys.readouterr().out == f"resuming from the checkpoint {latest}\n"
