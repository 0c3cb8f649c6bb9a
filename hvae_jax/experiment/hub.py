"""Packed folders on the Hugging Face Hub, read by addresses such as "hf://user/name". Needs the extra `hub`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hvae_jax.runtime.errors import first_line

PREFIX = "hf://"
_ADDRESS = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def address_of(run: str | os.PathLike[str]) -> str | None:
    """What stands behind "hf://", user/name or user/name@revision; None for what is no address on the hub.

    A `Path` has made "hf:/" of "hf://".
    """
    text = os.fspath(run).replace("\\", "/")
    return text.removeprefix("hf:").lstrip("/") if text == "hf:" or text.startswith("hf:/") else None


def fetch(address: str, files: Sequence[str]) -> Path:
    """The folder of a repository on the hub, in the hub's own cache on this machine; only the named files are fetched.

    Args:
      address: "user/name", or "user/name@revision" for a branch, tag or commit.
      files: names of the files.
    Raises ImportError without huggingface_hub, ValueError for what is no address, FileNotFoundError for a repository
    without these files or that is not there, OSError for a hub that cannot be reached.
    """
    repository, _, revision = address.partition("@")
    hub = _hub(f"{PREFIX}{address}")
    _check(repository)
    try:
        folder = Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=[*files], **_where()))
    except Exception as error:  # of its own kinds, of httpx and of the operating system
        gone = type(error).__name__ in ("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError")
        kind = FileNotFoundError if gone else OSError
        raise kind(f"{PREFIX}{address} cannot be fetched ({first_line(error)}).") from error
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{PREFIX}{address} has no {', '.join(missing)}, and so is no model that `hvae push` made."
        )
    return folder


def upload(folder: Path, repository: str, *, private: bool = False) -> str:
    """Uploads a folder to a repository on the hub, which is made if it is not there; returns its address.

    Raises ImportError without huggingface_hub, ValueError for what is no name of a repository, OSError for a hub that
    cannot be reached or refuses.
    """
    hub = _hub("`hvae push`")
    try:
        api = hub.HfApi(**_where())
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A model of hvae_jax")
    except Exception as error:
        raise OSError(f"{PREFIX}{repository} cannot be written ({first_line(error)}).") from error
    return f"{PREFIX}{repository}"


def check_repository(text: str) -> str:
    """The repository "user/name" that a user wrote, with or without "hf://". Raises ImportError as `upload` does.

    Raises ValueError for another form.
    """
    _hub("`hvae push`")
    repository = address_of(text) or text
    _check(repository)
    return repository


def _check(repository: str) -> None:
    if not _ADDRESS.fullmatch(repository):
        raise ValueError(f"{repository!r} is no repository of the hub: it has to be user/name, or {PREFIX}user/name.")


def _where() -> dict[str, Any]:
    """The hub to ask: HF_ENDPOINT, such as a mirror; read at every call, where the library reads it once."""
    endpoint = os.environ.get("HF_ENDPOINT")
    return {"endpoint": endpoint} if endpoint else {}


def _hub(what: str) -> Any:
    """The library. Raises ImportError with the command that installs it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f"{what} needs huggingface_hub: pip install 'huggingface_hub>=1.0'.") from error
    return huggingface_hub
