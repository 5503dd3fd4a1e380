"""bench/gpu.py over parts that die, hang or run out of time: what was measured is kept, and the rest is still done."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from bench import gpu
from bench.gpu_parts import PARTS, Part
from bench.gpu_source import fingerprint
from bench.gpu_store import CUT, FAILED, MEASURED, Results

FAKE = """
import json, os, sys, time
events, skip = int(sys.argv[1]), json.loads(sys.argv[2])
def say(**event):
    os.write(events, (json.dumps(event) + "\\n").encode())
say(names=["good", "dying", "hanging", "last"])
for name in ("good", "dying", "hanging", "last"):
    if name in skip:
        continue
    say(start=name)
    if name == "dying":
        print("out of luck", flush=True)
        os._exit(9)
    if name == "hanging":
        time.sleep(60)
    say(done=name, values={"pid": os.getpid()}, seconds=0.1)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose parts are the program FAKE; no measurement may take longer than a second."""
    monkeypatch.setitem(PARTS, "irft", Part("fake", 1.0))

    def made(program: str = FAKE, minutes: float = 10) -> gpu.Run:
        class Fake(gpu.Run):
            def _command(self, part, events, skip):
                return [sys.executable, "-c", program, str(events), json.dumps(sorted(skip))]

        return Fake(tmp_path, None, tmp_path / "work", False, time.monotonic() + 60 * minutes)

    return made


@pytest.fixture
def keeper(tmp_path):
    results = Results("NVIDIA H100")
    return gpu.Keeper(results, tmp_path / "gpu.json", results.enter({"code": "one"}))


def runs(number: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def states(path: Path) -> dict[str, str]:
    return {each.name: each.state for each in Results.read(path / "gpu.json").measurements.values()}


def test_a_part_that_dies_or_hangs_is_started_again_for_what_is_left(run, keeper, tmp_path):
    assert run().part("irft", set(), keeper) == {"good", "dying", "hanging", "last"}
    assert states(tmp_path) == {"good": MEASURED, "dying": FAILED, "hanging": CUT, "last": MEASURED}
    found = Results.read(tmp_path / "gpu.json").measurements
    assert found[("irft", "dying")].error == "its process ended with exit code 9"
    assert found[("irft", "dying")].traceback.rstrip().endswith("out of luck")
    assert found[("irft", "good")].values != found[("irft", "last")].values  # another process


def test_what_is_known_is_not_measured_again(run, keeper, tmp_path):
    assert run().part("irft", {"good", "dying", "hanging"}, keeper) == {"last"}
    assert states(tmp_path) == {"last": MEASURED}


def test_nothing_of_a_process_that_was_cut_is_left(run, keeper, tmp_path):
    pids = tmp_path / "pids"
    child = f"import subprocess; open({str(pids)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
    program = FAKE.replace("time.sleep(60)", f"{child}; time.sleep(60)")
    run(program).part("irft", {"good", "dying", "last"}, keeper)
    patience = time.monotonic() + 10
    while runs(int(pids.read_text())) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not runs(int(pids.read_text()))


def test_a_part_that_does_not_start_is_a_result_and_its_last_line_the_reason(run, keeper, tmp_path):
    assert run("raise SystemExit('no module named pydantic')").part("irft", set(), keeper) == {"start"}
    found = Results.read(tmp_path / "gpu.json").measurements[("irft", "start")]
    assert found.state == FAILED
    assert found.error == "no module named pydantic (its process ended with exit code 1)"


def test_a_part_that_starts_after_all_no_longer_says_that_it_does_not(run, keeper, tmp_path):
    run("raise SystemExit('no')").part("irft", set(), keeper)
    run().part("irft", {"dying", "hanging"}, keeper)
    assert states(tmp_path) == {"good": MEASURED, "last": MEASURED}


def test_what_the_end_of_the_time_cuts_off_stays_to_be_measured(run, keeper, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "ENOUGH", 0.2)
    monkeypatch.setitem(PARTS, "irft", Part("fake", 60.0))
    begun = time.monotonic()
    assert run(minutes=1.5 / 60).part("irft", {"dying"}, keeper) == {"good"}
    assert time.monotonic() - begun < 20
    assert states(tmp_path) == {"good": MEASURED}


def test_a_measurement_that_raises_does_not_stop_the_others(run, keeper, tmp_path):
    program = FAKE.replace(
        'print("out of luck", flush=True)\n        os._exit(9)',
        'say(failed=name, error="E: no", traceback="T"); continue',
    )
    run(program).part("irft", {"hanging"}, keeper)
    assert states(tmp_path) == {"good": MEASURED, "dying": FAILED, "last": MEASURED}


def test_two_runs_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench/gpu.py", "--out", str(tmp_path)])
    with gpu.alone(tmp_path), pytest.raises(SystemExit, match="error: another run is measuring"):
        gpu.main()


@pytest.mark.parametrize(
    ("there", "carried", "expected"),
    [(None, "4.16.0", True), ("4.12.2", "4.16.0", True), ("4.16.0", "4.16.0", False), ("4.16", "4.9.1", False)],
)
def test_what_is_absent_or_older_comes_from_the_kit(there, carried, expected):
    assert gpu.older(there, carried) is expected


def test_a_wheel_that_cannot_be_installed_does_not_keep_the_others_out(tmp_path, monkeypatch, capsys):
    wheels = tmp_path / "kit/wheels"
    wheels.mkdir(parents=True)
    (wheels / "juicer_broken-1.0-py3-none-any.whl").write_bytes(b"PK")
    with zipfile.ZipFile(wheels / "juicer_good-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("juicer_good.py", "")
        wheel.writestr("juicer_good-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: juicer-good\nVersion: 1.0\n")
        wheel.writestr(
            "juicer_good-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("juicer_good-1.0.dist-info/RECORD", "")
    run = gpu.Run(tmp_path, tmp_path / "kit", tmp_path / "work", False, time.monotonic() + 100)
    run.work.mkdir()
    gpu.install(tmp_path / "kit", run)
    assert (run.site / "juicer_good.py").is_file()
    assert "juicer_broken-1.0-py3-none-any.whl cannot be installed" in capsys.readouterr().out


def test_without_a_gpu_it_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench/gpu.py", "--out", str(tmp_path / "out")])
    monkeypatch.setattr(gpu.Run, "environment", lambda self: {"card": None, "versions": {"torch": "2.11.0"}})
    with pytest.raises(SystemExit, match="error: PyTorch sees no NVIDIA GPU here; --tiny"):
        gpu.main()
    assert not (tmp_path / "out/gpu.json").exists()


def test_a_kit_without_wheels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench/gpu.py", "--out", str(tmp_path / "out"), "--kit", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no wheels: make gpu-kit"):
        gpu.main()


def test_results_of_another_card_are_not_added_to(tmp_path, monkeypatch):
    Results("NVIDIA A100").write(tmp_path / "gpu.json")
    monkeypatch.setattr(sys, "argv", ["bench/gpu.py", "--out", str(tmp_path)])
    monkeypatch.setattr(gpu.Run, "environment", lambda self: {"card": "NVIDIA H100", "versions": {"torch": "2.11.0"}})
    with pytest.raises(SystemExit, match="is of NVIDIA A100, this machine has NVIDIA H100"):
        gpu.main()


def test_the_code_is_named_by_git_or_by_the_kit_if_that_holds_the_same(tmp_path, monkeypatch):
    assert len(gpu.source(None)["commit"]) == 40
    monkeypatch.setattr(gpu, "ROOT", tmp_path / "copy")  # no repository, but inside of one
    (tmp_path / "copy").mkdir()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    same, other = ({"commit": "abc", "clean": True, "code": code} for code in (fingerprint(tmp_path / "copy"), "other"))
    (tmp_path / "source.json").write_text(json.dumps(same))
    assert gpu.source(tmp_path) == same
    (tmp_path / "source.json").write_text(json.dumps(other))
    assert gpu.source(tmp_path)["commit"] is None


def test_a_command_names_no_folder_of_the_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench/gpu.py", "--kit", "/home/somebody/kit", "--out", "out"])
    assert gpu.command() == "python bench/gpu.py --kit kit --out out"


def test_what_is_kept_names_files_without_the_folders_of_the_machine(keeper, tmp_path):
    told = (
        f'File "{gpu.ROOT}/bench/gpu.py", File "/opt/x/lib/python3.12/site-packages/torch/nn/a.py", see /tmp/x-1/b.log'
    )
    keeper("irft", "recipe", FAILED, 1.0, error=told, traceback=f"{told} of https://a.b/c/d")
    found = Results.read(tmp_path / "gpu.json").measurements[("irft", "recipe")]
    assert found.error == 'File "bench/gpu.py", File "torch/nn/a.py", see b.log'
    assert found.traceback == f"{found.error} of https://a.b/c/d"


@pytest.mark.parametrize("given", ["0", "-1", "0.1", "nan", "soon"])
def test_a_time_in_which_nothing_can_be_measured_is_refused(given, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench/gpu.py", "--minutes", given])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "--minutes" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_takes_its_processes_with_it(tmp_path, number):
    code = (
        "import sys, time; from bench import gpu; from pathlib import Path;"
        f"out = Path({str(tmp_path)!r});"
        "program = f\"import os, time; open({str(out / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)\";"
        "gpu.Run._command = lambda *_: [sys.executable, '-c', program];"
        "gpu.measure = lambda given: gpu.Run(out, None, out, False, time.monotonic() + 60).environment();"
        "sys.argv = ['bench/gpu.py', '--out', str(out)]; gpu.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=gpu.ROOT)
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(timeout=30)
    patience = time.monotonic() + 10
    while runs(int((tmp_path / "pid").read_text())) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not runs(int((tmp_path / "pid").read_text()))


def test_a_part_whose_starter_was_killed_ends_with_all_that_it_has_started(tmp_path):
    reading, writing = os.pipe()
    code = (
        "from bench.gpu_parts import __main__ as part; import subprocess, time; part._end_with_starter();"
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    part = subprocess.Popen(
        [sys.executable, "-c", code], cwd=gpu.ROOT, stdin=reading, stdout=subprocess.PIPE, start_new_session=True
    )
    os.close(reading)
    assert part.stdout is not None
    with part.stdout as output:
        started = int(output.readline())
    os.close(writing)  # as the end of the process that holds it does
    assert part.wait(timeout=30) == -signal.SIGKILL
    patience = time.monotonic() + 10
    while runs(started) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not runs(started)
