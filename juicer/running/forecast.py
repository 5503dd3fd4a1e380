"""What DVC will do with a stage (leave it unchanged, restore it, run it), predicted from DVC's own index."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from juicer.stages import code

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage
    from dvc_data.hashfile.hash_info import HashInfo

Forecast = Literal["unchanged", "restored", "will run"]


class Forecaster:
    """Walks the stages in order and predicts what DVC will do with each, as far as that can be known in advance."""

    def __init__(self, repo: "Repo", force: bool) -> None:
        """Predict for the stages of `repo`, whose inputs get their future content: DVC must not run these objects.

        Args:
            force: forecast `will run` for every stage.
        """
        self.repo, self.force = repo, force
        self.changing: dict[str, Output | None] = {}
        """Outputs that will change: the output that will be restored, None if it is not known yet."""
        self.code: dict[str, HashInfo] = {}
        """The future lists of code, by their paths, if the stage that makes them is not up to date."""

    def of(self, stage: "Stage") -> Forecast:
        """What DVC will do with a stage; ask for the stages in the order in which it takes them."""
        outputs: dict[str, Output | None] = dict.fromkeys(out.fs_path for out in stage.outs)
        forecast: Forecast = "will run"
        as_locked = None if self.force or stage.always_changed else self._expect_inputs(stage)
        if as_locked and not any(out.status() for out in stage.outs):
            return "unchanged"
        if as_locked is not None and (restored := self._restored(stage, as_locked)):
            forecast, outputs = "restored", {out.fs_path: out for out in restored}
        if stage.addressing == code.STAGE and stage.outs:
            self.code = self._lists_of_code()
        else:
            self.changing |= outputs
        return forecast

    def _lists_of_code(self) -> "dict[str, HashInfo]":
        """What the stage `code` will make of the code as it is: an edit changes the stages that use it, not all."""
        from dvc_data.hashfile.hash_info import HashInfo

        root = Path(self.repo.root_dir)
        return {
            str(root / path): HashInfo("md5", hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())
            for path, text in code.Sources(root).lists().items()
        }

    def producer(self, dep: "Output") -> str | None:
        """The changing output that contains an input."""
        return next((path for path in self.changing if self.repo.fs.isin_or_eq(dep.fs_path, path)), None)

    def _expect_inputs(self, stage: "Stage") -> bool | None:
        """Set each input to its future content; returns whether all match dvc.lock, None if that is not known yet."""
        from dvc_data.hashfile.meta import Meta

        as_locked = not stage.changed_stage()
        for dep in stage.deps:
            path, known = self.producer(dep), self.code.get(dep.fs_path)
            made = self.changing[path] if path else None
            content = made.get_obj(filter_info=dep.fs_path) if made else None
            if content is None and known is None and (path or not dep.exists):
                return None
            expected = known or (content.hash_info if content else dep.get_hash())
            as_locked = as_locked and expected == dep.hash_info
            dep.hash_info = expected
            dep.meta = Meta()  # it holds the md5 of dvc.lock too, which DVC would use as the key of its run cache
        return as_locked

    def _restored(self, stage: "Stage", as_locked: bool) -> "list[Output] | None":
        """Outputs that DVC's cache has for these inputs, according to dvc.lock or the run cache."""
        from dvc.stage.cache import _get_cache_hash
        from dvc.stage.serialize import to_single_stage_lockfile

        cache, entry = self.repo.stage_cache, to_single_stage_lockfile(stage)
        if not (as_locked and all(out.hash_info for out in stage.outs)):
            key = _get_cache_hash(entry, key=True)
            runs = sorted(Path(cache._get_cache_dir(key)).glob("*"), key=lambda path: path.stat().st_mtime)
            entry = cache._load_cache(key, runs[-1].name) if runs else None
        if entry is None or not stage.outs:
            return None
        cached = cache._create_stage(entry, wdir=stage.wdir)
        return list(cached.outs) if cached.outs_cached() else None
