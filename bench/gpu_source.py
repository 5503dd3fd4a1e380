"""What a borrowed GPU machine is told of the code it runs, and the small model that it gets in pieces.

Only the standard library: bench/gpu.py needs this before anything is installed.
"""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

CODE = ("juicer/**/*.py", "tasks/**/*.py", "bench/**/*.py", "bench/*.json", "recipes/**/*")
BLOCK = 1 << 20


def fingerprint(root: Path) -> str:
    """SHA-256 of the code and the recipes under `root`: the same where no file has changed, moved, come or gone.

    There is no git on a borrowed machine, and what was carried there may hold changes that no commit has.
    """
    files = {path for pattern in CODE for path in root.glob(pattern) if path.is_file()}
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        content = path.read_bytes()
        # With the lengths, or text that moves from one file to the next would leave no trace.
        digest.update(f"{len(name)} {name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def source(root: Path) -> dict[str, str | bool | None]:
    """Which code this is: the sum of its files, and the commit where git knows one.

    Returns:
        code, commit, and clean: whether no file of the code differs from the commit. A copy without git has no commit,
        even if it lies in somebody else's repository.
    """

    def git(*command: str) -> str | None:
        try:
            done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return None if done.returncode else done.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return {"code": fingerprint(root), "commit": None, "clean": None}
    folders = sorted({pattern.partition("/")[0] for pattern in CODE if (root / pattern.partition("/")[0]).is_dir()})
    changed = git("status", "--porcelain", "--", *folders)
    return {"code": fingerprint(root), "commit": git("rev-parse", "HEAD"), "clean": changed == ""}


def split(file: Path, kit: Path, limit: int, licence: str) -> list[Path]:
    """Cut a file into pieces of at most `limit` bytes: kit/model-1/piece, kit/model-2/piece, each with model.json.

    Returns:
        The folders; each can travel on its own.
    """
    size = file.stat().st_size
    pieces = -(-size // limit)
    about = {"name": file.name, "sha256": _sum(file), "size": size, "pieces": pieces, "licence": licence}
    folders = [kit / f"model-{number}" for number in range(1, pieces + 1)]
    with file.open("rb") as whole:
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "piece").write_bytes(whole.read(-(-size // pieces)))
            (folder / "model.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return folders


def assemble(kit: Path, target: Path) -> Path | None:
    """Join the pieces of the model under kit/model-*/ in the folder `target`, under the model's own name.

    Returns:
        The file; None where a piece is missing.

    Raises:
        ValueError: the pieces are of different files, or the joined file is not what was cut.
    """
    folders = sorted(path.parent for path in kit.glob("model-*/model.json"))
    if not folders:
        return None
    about: dict[str, Any] = json.loads((folders[0] / "model.json").read_text(encoding="utf-8"))
    pieces = [kit / f"model-{number}" / "piece" for number in range(1, int(about["pieces"]) + 1)]
    if not all(piece.is_file() and (piece.parent / "model.json").is_file() for piece in pieces):
        return None
    for piece in pieces:
        if json.loads((piece.parent / "model.json").read_text(encoding="utf-8")) != about:
            raise ValueError(f"{piece.parent}: a piece of another file than {folders[0]} (collect the kit again)")
    path = target / Path(str(about["name"])).name
    if path.is_file() and _sum(path) == about["sha256"]:
        return path
    target.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    with unfinished.open("wb") as whole:
        for piece in pieces:
            whole.write(piece.read_bytes())
    found = _sum(unfinished)
    if found != about["sha256"]:
        unfinished.unlink()
        sums = f"their SHA-256 is {found[:12]}..., not {str(about['sha256'])[:12]}..."
        raise ValueError(f"{kit}: a piece of {path.name} is damaged: {sums} (collect the kit again)")
    return unfinished.rename(path)


def _sum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
