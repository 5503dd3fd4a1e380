"""A model's folder on the Hugging Face hub, or on another server that HF_ENDPOINT names."""

import os
import re
from pathlib import Path

from juicer.runtime.errors import InputError

TOKEN = "HF_TOKEN"  # noqa: S105 -- the variable's name
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_repo(repo: str) -> None:
    """Raise InputError for what is no OWNER/NAME."""
    if not REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise InputError(f"{repo!r} is no name of a repository", where="--repo", do="write OWNER/NAME")


def token() -> str:
    """The token in the environment. A token that another program has stored is not taken.

    Raises:
        InputError: there is none.
    """
    found = os.environ.get(TOKEN, "").strip()
    if not found:
        do = f"make one with write access at the hub, then: export {TOKEN}=..."
        raise InputError(f"{TOKEN} is not set", do=do)
    return found


def endpoint() -> str:
    """The hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def upload(folder: Path, repo: str, *, public: bool) -> str:
    """Upload a folder in one commit, into a repository that is made if there is none; returns the commit's address.

    Args:
        repo: OWNER/NAME.
        public: whether a new repository is public. The visibility of one that exists is never changed.

    Raises:
        InputError: no token, or the hub refuses or cannot be reached, or the repository is public and `public` is not
            set. A commit is whole or not there.
    """
    secret = token()
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=endpoint(), token=secret)
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        if not public and not api.repo_info(repo).private:
            do = "upload it where everybody may read it: --public; or name another repository"
            raise InputError("the repository is public", where=repo, do=do)
        done = api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Export by Juicer")
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        said = (str(error.server_message or "") or str(error).splitlines()[0]).replace(secret, "***")
        do = f"check {TOKEN}: it needs write access to {repo}" if status in (401, 403, 404) else "try again later"
        raise InputError(f"the hub refuses: {said}", where=endpoint(), do=do) from error
    except ValueError as error:  # of the card's header
        raise InputError(
            str(error).replace("\n", " "), where=repo, do="correct README.md in the model's folder"
        ) from error
    except (httpx.HTTPError, ConnectionError) as error:
        do = "check the network and HF_ENDPOINT; nothing was committed"
        raise InputError(f"the hub cannot be reached: {error}", where=endpoint(), do=do) from error
    return str(done.commit_url)
