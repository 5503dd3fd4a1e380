"""What does the flow `align` cost beside `dvc repro`? A chain of cheap stages, and as many stages that talk at once.

    python bench/align.py [--stages 20]

Starts a Prefect server of its own on loopback. Prints a table for docs/performance.md: seconds and processor seconds of
`dvc repro` and of `align` (the server's not counted), of an `align` with nothing to do, and how old the lines of stages
that run at the same time are when Prefect's API has them. Other work on the cores stretches seconds a lot.

No stage of these loads a model. One that does asks the server for the limit on GPUs as well, where the machine has any;
that is not measured here.
"""

import argparse
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
TALK = "import time\nfor step in range(10):\n    print(f'said at {time.time():.3f}', flush=True)\n    time.sleep(1)\n"


def chain(stages: int) -> str:
    """A dvc.yaml in which each stage copies what the one before made."""
    lines = ["stages:"]
    for number in range(stages):
        before, after = f"file{number}", f"file{number + 1}"
        lines += [f"  stage{number}:", f"    cmd: cp {before} {after}", f"    deps: [{before}]", f"    outs: [{after}]"]
    return "\n".join(lines) + "\n"


def choir(stages: int) -> str:
    """A dvc.yaml with stages that run at the same time and print once a second."""
    lines = ["stages:"]
    for number in range(stages):
        lines += [f"  talk{number}:", f"    cmd: python talk.py && cp file0 talk{number}", "    deps: [talk.py]"]
        lines += [f"    outs: [talk{number}]"]
    return "\n".join(lines) + "\n"


def make(folder: Path, graph: str) -> Path:
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(ROOT / "juicer", folder / "juicer", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "file0").write_text("content")
    (folder / "talk.py").write_text(TALK)
    (folder / "dvc.yaml").write_text(graph)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return folder


def measured(folder: Path, environment: dict[str, str], *command: str) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu_seconds": cpu}


def ages(api: str, stop: threading.Event, found: dict[str, float]) -> None:
    """How old each line is when the API first has it, by polling."""
    last = False
    while not last:
        last = stop.wait(0.5)
        body: dict[str, Any] = {"limit": 200, "sort": "TIMESTAMP_DESC"}
        for log in httpx.post(f"{api}/logs/filter", json=body, timeout=30).json():
            said = re.search(r"said at ([\d.]+)", log["message"])
            if said:
                found.setdefault(log["id"], time.time() - float(said[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=20)
    given = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while True:
                try:
                    httpx.get(f"{api}/health", timeout=5).raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            plain = measured(make(folder / "plain", chain(given.stages)), environment, "dvc", "repro")
            project = make(folder / "flow", chain(given.stages))
            flow = measured(project, environment, "flows.align", "--at-a-time", "1")
            nothing = measured(project, environment, "flows.align")
            stop, found = threading.Event(), dict[str, float]()
            listener = threading.Thread(target=ages, args=(api, stop, found))
            listener.start()
            talking = make(folder / "choir", choir(given.stages))
            measured(talking, environment, "flows.align", "--at-a-time", str(given.stages))
            stop.set()
            listener.join()
        finally:
            server.terminate()
            server.wait()
    lines = sorted(found.values())
    more = {key: (flow[key] - plain[key]) / given.stages for key in flow}
    rows = [
        (f"`dvc repro` of {given.stages} stages that copy a file", told(plain)),
        ("`align` of the same", told(flow)),
        ("what a stage costs more in `align`", told(more)),
        ("`align` with nothing to do", told(nothing)),
        (
            f"a line of {given.stages} stages that print at the same time, until Prefect has it",
            f"median {lines[len(lines) // 2]:.1f} s, longest {lines[-1]:.1f} s, of {len(lines)} lines",
        ),
    ]
    print(f"Load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end.\n\n| what | figure |\n|---|---|")
    print("\n".join(f"| {what} | {figure} |" for what, figure in rows))


def told(cost: dict[str, float]) -> str:
    return f"{cost['seconds']:.2f} s, of which {cost['cpu_seconds']:.2f} s of processor time"


if __name__ == "__main__":
    main()
