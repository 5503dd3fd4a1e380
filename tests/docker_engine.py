"""A Docker engine for tests: one of their own, on a machine that has none running and no registry to pull from."""

import ast
import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from tests.conftest import ROOT

# The engine's own client; one of another version may stand before it on the PATH.
DOCKER = "/usr/bin/docker"
SECONDS_TO_START = 60
DISK = 32 * 2**30
"""Bytes that an engine may take at most; it takes a fifth."""
CERTIFICATES = "usr/local/share/ca-certificates"
INDEXES, PLACES = {"index-url", "extra-index-url"}, {"index-url", "extra-index-url", "find-links"}
PACKAGE_SOURCES = PLACES | {"cert", "trusted-host", "proxy", "timeout", "default-timeout"}
"""pip's settings that say where packages come from."""


class NoEngine(Exception):
    """No Docker engine can be had here, and why."""


class Engine:
    """A Docker engine.

    Args:
        host: what DOCKER_HOST says to reach it.
        base: the image that others can be built on; None for those that a registry has.
    """

    def __init__(self, host: str, base: str | None = None) -> None:
        self.host, self.base = host, base

    def __call__(self, *command: str, **more: Any) -> str:
        """What a docker command prints; AssertionError with its last lines if it fails."""
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}
        done = subprocess.run([DOCKER, *command], env=environment, capture_output=True, text=True, check=False, **more)
        assert done.returncode == 0, f"docker {command[0]}: " + (done.stdout + done.stderr)[-3000:]
        return done.stdout.strip()

    def build(self, file: Path, tag: str, folder: Path) -> str:
        """Build an image as docs/docker.md says, with packages from where this machine has them; returns its id."""
        with packages_on_loopback(folder) as settings:
            secret = f"id=pip,src={settings}"
            base = ["--build-arg", f"BASE_IMAGE={self.base}"] if self.base else []
            options = ["--network", "host", "--secret", secret, "--file", str(file), "--tag", tag, *base]
            self("build", "--progress", "plain", *options, str(ROOT))
        return self("image", "inspect", "--format", "{{.Id}}", tag)


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """The engine that answers on this machine, or else one that lives in `folder` as long as the block.

    Raises:
        NoEngine: neither is to be had.
    """
    if not Path(DOCKER).is_file():
        raise NoEngine(f"{DOCKER} is missing (apt-get install docker.io iptables debootstrap)")
    there = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if subprocess.run([DOCKER, "--host", there, "info"], capture_output=True, check=False).returncode == 0:
        yield Engine(there)
        return
    if os.geteuid() != 0:
        raise NoEngine("none answers, and only root can start one")
    missing = [name for name in ("dockerd", "debootstrap") if shutil.which(name) is None]
    if missing:
        raise NoEngine(f"none answers, and {' and '.join(missing)} to start one is missing")
    with disk(folder) as own_disk, started(own_disk) as host:
        own = Engine(host, base="juicer-base:bookworm")
        make_base(own_disk / "base", own)
        yield own


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A file system in a file: to delete an engine's 200,000 files one by one can take longer than to write them."""
    file, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with file.open("wb") as opened:
        opened.truncate(DISK)
    try:
        for command in (["mkfs.ext4", "-q", str(file)], ["mount", "-o", "loop", str(file), str(place)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise NoEngine(f"no disk for one: {' '.join(done.stderr.split())}")
        try:
            yield place
        finally:
            # Recursive: dockerd leaves the mount of its network's name behind.
            subprocess.run(["umount", "--recursive", str(place)], check=True)
    finally:
        file.unlink()


@contextlib.contextmanager
def started(folder: Path) -> Iterator[str]:
    """dockerd with all that it keeps in `folder`, without a network of its own; its address."""
    log, host = folder / "dockerd.log", f"unix://{folder}/docker.sock"
    places = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", f"--host={host}"]
    network = ["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
    with log.open("w") as output:
        process = subprocess.Popen(["dockerd", *places, *network], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while subprocess.run([DOCKER, "--host", host, "info"], capture_output=True, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoEngine(f"dockerd does not start: {' '.join(log.read_text().split()[-60:])}")
            time.sleep(0.2)
        yield host
    finally:
        process.terminate()
        process.wait(timeout=SECONDS_TO_START)


def make_base(folder: Path, docker: Engine) -> None:
    """A Debian without a registry; what this machine trusts beside the usual certificates is trusted there, too."""
    command = ["debootstrap", "--variant=minbase", "bookworm", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if Path("/", CERTIFICATES).is_dir():
        shutil.copytree(Path("/", CERTIFICATES), folder / CERTIFICATES, dirs_exist_ok=True)
    assert docker.base is not None
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as tar:
        docker("import", "-", docker.base, stdin=tar.stdout)


@contextlib.contextmanager
def packages_on_loopback(folder: Path) -> Iterator[Path]:
    """A pip.conf with this machine's sources of packages; folders among them are served on loopback meanwhile."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found: dict[str, str] = {}
    folders: list[Path] = []
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Folders, folders)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def reachable(key: str, source: str) -> str:
            if urlparse(source).scheme in ("http", "https"):
                return source
            path = Path(urlparse(source).path)
            folders.append(path.parent if key in INDEXES else path)  # an index points to files beside it
            return f"http://127.0.0.1:{server.server_port}{path}/"

        for key in PLACES & found.keys():
            found[key] = " ".join(reachable(key, source) for source in found[key].split())
        settings = folder / "pip.conf"
        lines = [f"{key} = {value}\n" for key, value in found.items() if key in PACKAGE_SOURCES]
        settings.write_text("[global]\n" + "".join(lines))
        try:
            yield settings
        finally:
            server.shutdown()


class Folders(SimpleHTTPRequestHandler):
    """Serves some folders of this machine under their own names, and nothing else."""

    def __init__(self, folders: list[Path], *arguments: Any) -> None:
        self.folders = folders
        super().__init__(*arguments, directory="/")

    def send_head(self) -> Any:
        if not any(Path(self.translate_path(self.path)).is_relative_to(folder) for folder in self.folders):
            self.send_error(404)
            return None
        return super().send_head()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""
