"""What DVC keeps of earlier runs: single files by their md5, from its cache or, if the cache lacks one, its remote."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from juicer.runtime.errors import InputError
from juicer.stages.hashes import md5_of

if TYPE_CHECKING:
    from dvc.repo import Repo


class Objects:
    """The files that the DVC project around the working directory keeps. DVC is opened at the first question."""

    def __init__(self) -> None:
        self._repo: Repo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._repo is not None:
            self._repo.close()

    def find(self, md5: str) -> Path | None:
        """The file of this md5, to be read only; None if neither the cache nor a remote has it.

        Raises:
            InputError: it is there, but its bytes are not those of its md5.
        """
        path = self._path(md5)
        if not path.is_file() and not self._pulled(md5):
            return None
        if md5_of(path) != md5:
            do = f"delete it, then: dvc fetch --all-commits, or run the stage again ({path})"
            raise InputError(f"the object {md5} of DVC's cache is damaged", do=do)
        return path

    @property
    def repo(self) -> "Repo":
        """The DVC project.

        Raises:
            InputError: there is none.
        """
        if self._repo is None:
            from dvc.exceptions import DvcException
            from dvc.repo import Repo

            try:
                self._repo = Repo()
            except DvcException as error:
                raise InputError(f"DVC has no project here: {error}", do="git clone a project of Juicer") from error
        return self._repo

    def _path(self, md5: str) -> Path:
        return Path(self.repo.cache.local_cache_dir) / "files/md5" / md5[:2] / md5[2:]

    def _pulled(self, md5: str) -> bool:
        """Whether a remote had it; without a remote, or one that cannot be reached, nothing is there to be had."""
        from dvc.exceptions import DvcException
        from dvc_data.hashfile.hash_info import HashInfo

        if not self.repo.config["remote"]:
            return False
        try:
            self.repo.cloud.pull([HashInfo("md5", md5)])
        except (DvcException, OSError):
            return False
        return self._path(md5).is_file()
