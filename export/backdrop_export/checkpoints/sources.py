"""Where checkpoints come from: folders, files, and repositories on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from backdrop_export.weight_files import SUFFIXES
from backdrop_server.errors import SetupError

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+?))?(:(?P<inside>[^:]+))?")
_TIMEOUT = 10.0
"""Seconds to wait for the hub's answer."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of one source with their sizes in bytes, before any is read.

    ``files`` are by path below the source's folder; a source that is one file is its folder and
    that file. ``root`` is the folder on this machine, None when it must be downloaded.
    """

    key: str
    """The recipe's key that names the source."""
    text: str
    """The source as the recipe writes it."""
    files: dict[str, int]
    file: str | None = None
    """Set when the source is one file."""
    root: Path | None = None
    repo: str = ""
    inside: str = ""
    revision: str = ""
    """The commit that was listed."""
    asked: str | None = None
    """The branch, tag or commit that the recipe asks for."""

    def below(self, folder: str) -> list[str]:
        """Names of the files right in ``folder``."""
        paths = (PurePosixPath(name) for name in self.files)
        parent = PurePosixPath(folder)
        return sorted(path.name for path in paths if path.parent == parent)

    def identity(self, names: Iterable[str]) -> list[Any]:
        """What changes when one of the files does: the hub's revision, or sizes and times."""
        if self.repo or self.root is None:
            return [self.repo, self.revision, self.inside, *names]
        stats = {str(self.root / name): (self.root / name).stat() for name in names}
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]

    def to_download(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are neither here nor in the hub's cache."""
        if self.root is not None:
            return []
        from huggingface_hub import try_to_load_from_cache

        return [
            name
            for name in names
            if not isinstance(
                try_to_load_from_cache(self.repo, _join(self.inside, name), revision=self.revision),
                str,
            )
        ]

    def fetch(self, names: Iterable[str]) -> Path:
        """The folder with ``names`` in it, downloaded with progress where they are not here."""
        if self.root is not None:
            return self.root
        from huggingface_hub import snapshot_download

        wanted = [_join(self.inside, name) for name in names]
        try:
            # By the name that was asked for, which the cache then knows without the hub too.
            root = snapshot_download(self.repo, revision=self.asked, allow_patterns=wanted)
        except Exception as error:  # the hub's client raises its transport's errors too
            raise _unreachable(self.key, self.repo, error) from error
        return Path(root) / self.inside


def list_source(key: str, text: str, beside: Path) -> Listing:
    """The files of the source ``text``, relative to the folder ``beside`` or on the hub.

    Raises SetupError naming the recipe's ``key`` when there is no such folder, file or hub id, or
    the hub cannot be reached and its cache does not have it.
    """
    local = (beside / Path(text).expanduser()).resolve()
    if local.is_file():
        return Listing(key, text, {local.name: local.stat().st_size}, local.name, local.parent)
    if local.is_dir():
        return Listing(key, text, _files(local), root=local)
    match = _HUB.fullmatch(text)
    local_only = text.startswith((".", "/", "~")) or (
        ":" not in text and local.suffix in (*SUFFIXES, ".ckpt")
    )
    if match is None or local_only:
        raise SetupError(f"{key} = {text!r}: there is no folder or file at {local}")
    return _list_hub(key, text, match["repo"], match["revision"], match["inside"] or "")


def _files(folder: Path) -> dict[str, int]:
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for pattern in ("*", "*/*")
        for file in sorted(folder.glob(pattern))
        if file.is_file()
    }


def _list_hub(key: str, text: str, repo: str, revision: str | None, inside: str) -> Listing:
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
    except Exception as error:  # the hub's client raises its transport's errors too
        cached = _cached(key, text, repo, revision, inside)
        if cached is None:
            raise _unreachable(key, repo, error) from error
        return cached
    sizes = {entry.rfilename: int(entry.size or 0) for entry in info.siblings or ()}
    if inside in sizes:
        folder, name = str(PurePosixPath(inside).parent), PurePosixPath(inside).name
        folder = "" if folder == "." else folder
        files = {name: sizes[inside]}
        return Listing(key, text, files, name, None, repo, folder, str(info.sha), revision)
    prefix = f"{inside.rstrip('/')}/" if inside else ""
    files = {n.removeprefix(prefix): size for n, size in sizes.items() if n.startswith(prefix)}
    if not files:
        raise SetupError(f"{key} = {text!r}: {repo} has no file or folder {inside}")
    inside = prefix.rstrip("/")
    return Listing(key, text, files, None, None, repo, inside, str(info.sha), revision)


_LANDMARKS = ("model_index.json", "config.json")


def _cached(key: str, text: str, repo: str, revision: str | None, inside: str) -> Listing | None:
    """The source as an earlier download left it in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    is_file = PurePosixPath(inside).suffix in SUFFIXES
    for landmark in (inside,) if is_file else (_join(inside, name) for name in _LANDMARKS):
        found = try_to_load_from_cache(repo, landmark, revision=revision)
        if isinstance(found, str):
            path, depth = Path(found), len(PurePosixPath(landmark).parts)
            commit, folder = path.parents[depth - 1].name, path.parent
            below = "/".join(PurePosixPath(landmark).parts[:-1])
            files = {path.name: path.stat().st_size} if is_file else _files(folder)
            file = path.name if is_file else None
            return Listing(key, text, files, file, folder, repo, below, commit)
    return None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _unreachable(key: str, repo: str, error: Exception) -> SetupError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return SetupError(
        f"cannot download {repo} from the Hugging Face hub ({type(error).__name__}: {reason}); "
        f"get its files in another way and write their local folder as `{key}` in the recipe"
    )
