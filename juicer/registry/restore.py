"""Restore a registered version's weights, data and code, and verify each by its md5.

The code comes from the version's git commit; weights and data come from DVC's cache or remote, by the md5 in the
version's own dvc.lock, which is kept in MLflow. In the restored folder `dvc status` reports no changes.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from juicer.models.folder import BaseRecord, base_record
from juicer.recipe.graph import INPUTS
from juicer.recipe.origin import Origin
from juicer.registry.records import LOCK, ORIGIN, PARAMS
from juicer.registry.versions import Registry, Version
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml, replace_text, temporary_beside, value_at
from juicer.stages import code as listed
from juicer.stages.dvc_files import DvcLock
from juicer.stages.git import commit_of, git, root
from juicer.stages.hashes import md5_of

CODE_FOLDERS = ("juicer", "tasks", "irl")
"""Folders that hold the code of stages; irl/ was the library of versions that are older than the package juicer/."""


@dataclass(frozen=True)
class Restored:
    """What was restored."""

    folder: Path
    version: Version
    commit: str
    md5s: dict[str, str]
    """md5 of each restored output, compared with the version's dvc.lock."""
    code: int
    """Number of files and folders in git whose md5 is the one that the version was made with."""
    inputs: dict[str, str]
    """Inputs that were on one machine only and that DVC keeps (juicer/settings/keep.py), and the recipe: where they are
    in the folder."""
    outside: list[str]
    """Inputs that neither git nor DVC holds, because they are larger than what is kept."""

    base: str | None = None
    """The base model of the version's adapters, if it is one of these: without it the version cannot be loaded."""

    def __str__(self) -> str:
        lines = [f"{self.version.uri} ({self.version.tags.get('model')}) restored into {self.folder}"]
        lines += [f"  {md5}  {path}" for path, md5 in self.md5s.items()]
        lines += [f"  code: commit {self.commit[:12]}, {self.code} files or folders as when the version was made"]
        lines += [f"  {path} is in {place}" for path, place in self.inputs.items()]
        lines += [
            f"  in neither git nor DVC, and {'' if path == self.base else 'not '}needed to use the version: {path}"
            for path in self.outside
        ]
        return "\n".join(lines)


def restore(
    registry: Registry, version: Version, into: Path, *, commit: str | None = None, everything: bool = False
) -> Restored:
    """Restore a version into a new folder. If anything differs from the version, nothing is left there.

    Args:
        into: the folder to create; it must not exist, or be empty.
        commit: take the code from this commit rather than from the version's own.
        everything: all models and data that led to the version, rather than the version's own and the data.

    Raises:
        InputError: the commit, an object of DVC or an artifact is missing, or an md5 differs.
    """
    if into.exists() and any(into.iterdir() if into.is_dir() else [into]):
        raise InputError("the folder is not empty", where=str(into), do="name a new one: --into FOLDER")
    commit = _commit(version, commit)
    into.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(into) as temporary:
        git("clone", "--quiet", "--no-checkout", str(root()), str(temporary))
        git("checkout", "--quiet", "--detach", commit, cwd=temporary)
        for name in (LOCK, PARAMS):
            (temporary / name).write_text(registry.kept_text(version, name), encoding="utf-8")
        recipes = _put_back(temporary, registry, version)
        lock = DvcLock.read(temporary / LOCK)
        stages = lock.upstream(lock.producers[version.tags["dvc_path"]])
        outs = [out["path"] for stage in stages for out in lock.stages[stage].get("outs", [])]
        wanted = [out for out in outs if everything or out == version.tags["dvc_path"] or Path(out).parts[0] == "data"]
        _check_out(temporary, wanted)
        # Adapters are of no use without their base model.
        base = _base_of(temporary / version.tags["dvc_path"])
        if base is not None and base in outs and base not in wanted:
            _check_out(temporary, [base])
            wanted.append(base)
        md5s = {path: md5_of(temporary / path) for path in wanted}
        differ = [path for path, md5 in md5s.items() if md5 != lock.md5(path)]
        code, other_code, outside = _compare_code(temporary, lock, stages)
        differ += other_code + _other_params(temporary, lock, stages)
        inputs = _bring_back(temporary, lock, stages, outside)
        if differ:
            do = f"commit {commit[:12]} does not have them as they were; name the commit that does: --commit"
            raise InputError(f"these differ from the version: {', '.join(differ)}", where=version.uri, do=do)
        if into.exists():
            into.rmdir()
        temporary.replace(into)
    outside = [path for path in outside if path not in inputs]
    needed = base if base in outside else None
    return Restored(into, version, commit, md5s, code, {**inputs, **recipes}, outside, needed)


def weights_of(registry: Registry, version: Version, folder: Path) -> Path:
    """The version's weights as a folder: the project's own if it is unchanged, else a copy in `folder`.

    Adapters whose base model is not the project's own any more are merged into the one that the version was made with.

    Raises:
        InputError: the weights, or those of the base model, are in neither the project nor DVC's cache or remote.
    """
    found = _own_weights(version, folder)
    record = base_record(found)
    if record is None or _is_here(record):
        return found
    lock = DvcLock.of(registry.kept_text(version, LOCK), Path(LOCK))
    if (md5 := lock.md5(record.base)) is None:
        do = f"put it there again: {record.base}"
        raise InputError("the base model of the version's adapters is not in DVC", where=version.uri, do=do)
    from juicer.models.loading import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    base = _from_cache(record.base, md5, folder / "base")
    write_whole(found, folder / "merged", base=base)
    return folder / "merged"


def _is_here(record: BaseRecord) -> bool:
    """Whether the project has the base model of adapters, as it was."""
    from juicer.models.digest import unchanged_digest

    return Path(record.base, "config.json").is_file() and unchanged_digest(Path(record.base)) == record.digest


def _base_of(folder: Path) -> str | None:
    """The base model of a folder with adapters; None of any other output."""
    record = base_record(folder)
    return None if record is None else record.base


def _own_weights(version: Version, folder: Path) -> Path:
    here = Path(version.tags["dvc_path"])
    if here.is_dir() and md5_of(here) == version.tags["dvc_md5"]:
        return here
    found = _from_cache(str(here), version.tags["dvc_md5"], folder)
    if md5_of(found) != version.tags["dvc_md5"]:
        do = "delete the file from DVC's cache, then: dvc pull"
        raise InputError("the weights in DVC's cache do not have the version's md5", where=version.uri, do=do)
    return found


def _from_cache(path: str, md5: str, folder: Path) -> Path:
    """Check out what has this md5, from DVC's cache or remote, as `path` in a new DVC project in `folder`."""
    # DVC checks out what dvc.yaml and dvc.lock declare: a stage with this one output is enough.
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(root() / ".dvc/config", folder / ".dvc/config")
    out = {"path": path, "hash": "md5", "md5": md5}
    for name, content in (
        ("dvc.yaml", {"stages": {"only": {"cmd": "none", "outs": [path]}}}),
        (LOCK, {"schema": "2.0", "stages": {"only": {"cmd": "none", "outs": [out]}}}),
    ):
        with (folder / name).open("w", encoding="utf-8") as file:
            YAML().dump(content, file)
    _dvc("config", "core.no_scm", "true", cwd=folder)
    _check_out(folder, [path])
    return folder / path


def _put_back(folder: Path, registry: Registry, version: Version) -> dict[str, str]:
    """Put the recipe, and those that it extends, into a restored folder as they were. Returns the place of each.

    A version from before recipes were kept, or whose params.yaml was edited by hand, has none.
    """
    try:
        origin = Origin.parse(json.loads(registry.kept_text(version, ORIGIN)), ORIGIN)
    except (InputError, ValueError):
        return {}
    found: dict[str, str] = {}
    for path, text in origin.recipes.items():
        # Nothing but a recipe of the commit is replaced.
        parts = Path(path).parts
        own = parts[0] == "recipes" and ".." not in parts and Path(path).suffix == ".yaml"
        found[path] = path if own else f"{INPUTS}/recipes/{Path(path).name}"
        replace_text(folder / found[path], text)
    return found


def _bring_back(folder: Path, lock: DvcLock, stages: list[str], outside: list[str]) -> dict[str, str]:
    """Put inputs from outside into a restored folder, as far as DVC has them: at their path, or in inputs/.

    Returns:
        The place of each that was found, in the folder.
    """
    found: dict[str, str] = {}
    read = {dep["path"]: dep for stage in stages for dep in lock.stages[stage].get("deps", [])}
    for path in outside:
        md5, kept = str(read[path].get("md5")), Path(path)
        inside = not kept.is_absolute() and ".." not in kept.parts
        place = path if inside else f"{INPUTS}/{len(found)}-{kept.name}"
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            try:
                here = _from_cache("it", md5, Path(scratch) / "project")
            except InputError:
                continue
            if md5_of(here) == md5:
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                here.replace(folder / place)
                found[path] = place
    return found


def _commit(version: Version, commit: str | None) -> str:
    wanted = commit or version.tags.get("git_commit", "unknown")
    if wanted == "unknown":
        what = "the version was registered outside git, so its commit is unknown"
        raise InputError(what, where=version.uri, do="name the commit: --commit")
    found = commit_of(wanted)
    if found is None:
        raise InputError(f"this repository has no commit {wanted}", where=version.uri, do="git fetch --all")
    return found


def _check_out(folder: Path, paths: list[str]) -> None:
    """Check out outputs from this project's cache, or pull them from its remote if the cache lacks them."""
    local = root() / ".dvc/config.local"
    if local.is_file():
        shutil.copy(local, folder / ".dvc/config.local")
    cache = Path(_dvc("cache", "dir", cwd=root()).strip())
    _dvc("config", "--local", "cache.dir", str(cache.absolute()), cwd=folder)
    try:
        _dvc("checkout", "--quiet", *paths, cwd=folder)
    except InputError as missing:
        if not _dvc("remote", "list", cwd=folder).strip():
            do = "dvc push to a remote where it was made, then dvc remote add here"
            raise InputError(f"DVC's cache lacks {', '.join(paths)}, and there is no remote", do=do) from missing
        # DVC resolves a remote's relative path against the project's folder, which is a different one here.
        for line in _dvc("config", "--list", cwd=root()).splitlines():
            key, _, url = line.partition("=")
            if key.startswith("remote.") and key.endswith(".url") and Path(url).is_absolute():
                _dvc("config", "--local", key, url, cwd=folder)
        _dvc("pull", "--quiet", *paths, cwd=folder)


def _compare_code(folder: Path, lock: DvcLock, stages: list[str]) -> tuple[int, list[str], list[str]]:
    """Code as when the version was made, code that differs, and inputs that neither git nor DVC holds.

    Code is listed by module or by folder; a folder is compared without what .dvcignore of that commit lists. What the
    stage `code` listed is compared module by module, rather than all that the stage had looked at.
    """
    same, other, outside = set[str](), set[str](), set[str]()
    lists = listed.Sources(folder, remember=False).lists() if listed.STAGE in stages else {}
    for path, text in lists.items():
        replace_text(folder / path, text)
    for stage in stages:
        if stage == listed.STAGE:
            continue
        for dependency in lock.stages[stage].get("deps", []):
            place = Path(dependency["path"])
            if lists and listed.is_list(dependency["path"]):
                known, differ = _compare_list(folder, place, str(dependency.get("md5")))
                same |= known
                other |= differ
                continue
            if any(str(each) in lock.producers for each in (place, *place.parents)):
                continue
            if not _is_code(place) and (place.is_absolute() or not (folder / place).exists()):
                outside.add(str(place))
            elif (folder / place).exists() and md5_of(folder / place) == dependency.get("md5"):
                same.add(str(place))
            else:
                other.add(str(place))
    return len(same), sorted(other), sorted(outside)


def _compare_list(folder: Path, place: Path, md5: str) -> tuple[set[str], set[str]]:
    """Modules of a commit that are as a list of code had them, and those that are not.

    If the commit's own list is another one, the old list says which modules differ, if DVC still has it.

    Args:
        place: path of the list, which is there as it follows from the commit.
        md5: of the list when the version was made.
    """
    own = folder / place
    if own.is_file() and md5_of(own) == md5:
        return set(listed.read_list(own)), set()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            old = listed.read_list(_from_cache(str(place), md5, Path(scratch) / "project"))
        except InputError:
            return set(), {str(place)}
    differ = set(listed.changed(old, folder))
    return set(old) - differ, differ


def _is_code(dependency: Path) -> bool:
    """Whether a dependency is a module, or a folder of modules, and so belongs to the commit."""
    return dependency.suffix == ".py" or dependency.parts[0] in CODE_FOLDERS


def _other_params(folder: Path, lock: DvcLock, stages: list[str]) -> list[str]:
    params = read_yaml(folder / PARAMS)
    other = set()
    for stage in stages:
        for key, value in lock.stages[stage].get("params", {}).get(PARAMS, {}).items():
            if value_at(params, key, {}) != value:
                other.add(f"{PARAMS}: {key}")
    return sorted(other)


def _dvc(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or [""]
        raise InputError(lines[0], where=f"dvc {arguments[0]}")
    return done.stdout
