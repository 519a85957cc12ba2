"""Published checkpoints from the hub: its local cache first, its server only for what is not there.

Weights that lie whole in the cache are used without any request. Whatever goes wrong with the
client, the network or the disk of the cache is one `MissingWeights` with the way out.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedstore.backbones.specs import BackboneSpec
from embedstore.errors import MissingWeights
from embedstore.regular_files import read_regular

BY_HAND = "download them on a machine with a network and give the folder with --weights DIR"
MAIN = "main"
SECONDS = 10.0
"""Longest wait for the hub's first answer, which is asked for once."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_REF = 1 << 10  # bytes of a file that holds a commit
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def cached_folder(spec: BackboneSpec) -> Path | None:
    """Where the cache has the pinned commit, or the last known `main` where none is pinned.

    The folder may hold only a part of the files. None: the cache has nothing of that commit.
    """
    return last_main(spec) if spec.revision is None else _snapshot(spec, spec.revision)


def last_main(spec: BackboneSpec) -> Path | None:
    """Where the cache has the commit that was `main` when the hub was last asked for it."""
    try:
        said = read_regular(_repository(spec) / "refs" / MAIN, most=_MOST_REF)
        return _snapshot(spec, said.decode().strip())
    except (OSError, UnicodeDecodeError):
        return None


def forbidden_by_user() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids requests."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def not_cached(spec: BackboneSpec, why: str | None = None) -> MissingWeights:
    """The error of weights that are not in the cache, where the hub must not be asked.

    Parameters
    ----------
    why : what is wrong with the copy in the cache; None: there is none
    """
    return MissingWeights(
        f"The weights of {spec.name} ({spec.hub_id}) are not in the hub's cache "
        f"{str(_repository(spec).parent)!r}{f': {why}' if why else ''}, and asking the hub is "
        "forbidden (--offline or HF_HUB_OFFLINE).",
        f"Allow it once, or {BY_HAND}.",
    )


def download(spec: BackboneSpec) -> Path:
    """The folder of a published checkpoint, downloaded into the cache where it is not there.

    The first question goes out once and waits for `SECONDS`, so that a machine without a network
    is known as one at once; only files that are on their way are tried again.

    Raises
    ------
    MissingWeights
        The hub cannot be reached or refuses, or the cache cannot be written.
    """
    from huggingface_hub import HfApi, snapshot_download

    assert spec.hub_id is not None  # callers ask spec.needs_weights first
    try:
        found = HfApi().model_info(spec.hub_id, revision=spec.revision, timeout=SECONDS)
        names = [each.rfilename for each in found.siblings or ()]
        pickled = not any(name.endswith(".safetensors") for name in names)
        patterns = ["pytorch_model*.bin*"] if pickled else ["model*.safetensors*"]
        return Path(
            snapshot_download(
                spec.hub_id, revision=spec.revision, allow_patterns=["config.json", *patterns]
            )
        )
    # the client has five roots of errors of its own, beside those of its HTTP and Xet libraries,
    # which change their names between versions: all mean that the weights are not to be had
    except Exception as error:
        why, fix = _reason(error, spec)
        raise MissingWeights(
            f"The weights of {spec.name} ({spec.hub_id}) cannot be had from the hub: {why}.", fix
        ) from error


def _reason(error: Exception, spec: BackboneSpec) -> tuple[str, str]:
    """What went wrong in one line, and the way out."""
    from huggingface_hub import constants, errors

    whole = list(_chain(error))
    by_hand = f"{BY_HAND[0].upper()}{BY_HAND[1:]}."
    status = next((found for each in whole if (found := _status(each)) is not None), None)
    page = f"{constants.ENDPOINT}/{spec.hub_id}"
    if any(isinstance(each, errors.RevisionNotFoundError) for each in whole):
        return f"it has no commit {spec.revision or MAIN}", by_hand
    gated = any(isinstance(each, errors.GatedRepoError) for each in whole)
    if gated or status in (401, 403):
        return (
            "it asks for a login or an accepted licence",
            f"Accept the licence at {page} and run `hf auth login`, or {BY_HAND}.",
        )
    if status == 404:
        return f"{page} is not there, or is private", by_hand
    if status is not None:
        return f"it answers {status}", f"Try again later, or {BY_HAND}."
    for each in whole:
        if isinstance(each, OSError) and each.errno in _FULL | _FORBIDDEN and _is_local(each):
            full = "is full" if each.errno in _FULL else "cannot be written"
            return (
                f"its cache {str(constants.HF_HUB_CACHE)!r} {full} ({each.strerror})",
                "Make room, or set HF_HOME to a folder that you may write to.",
            )
    other = last_main(spec) if spec.revision is not None else None
    cached = f"say --offline to take commit {other.name} from the cache, " if other else ""
    return (
        _words(error),
        f"Check the network and {constants.ENDPOINT}, {cached}or {BY_HAND}.",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _is_local(error: OSError) -> bool:
    """Whether an error is of a file; those of connections are OSErrors too."""
    return not isinstance(error, ConnectionError | TimeoutError)


def _words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[0].rstrip(".") if lines else ""
    name = type(error).__name__
    return f"{name}: {words}" if words else name


def _snapshot(spec: BackboneSpec, commit: str) -> Path | None:
    folder = _repository(spec) / "snapshots" / commit
    return folder if _COMMIT.fullmatch(commit) and folder.is_dir() else None


def _repository(spec: BackboneSpec) -> Path:
    """Folder of one repository in the hub's cache."""
    from huggingface_hub import constants

    assert spec.hub_id is not None
    name = f"models--{spec.hub_id.replace('/', '--')}"
    cache: Any = constants.HF_HUB_CACHE
    return Path(os.path.expandvars(cache)).expanduser() / name
