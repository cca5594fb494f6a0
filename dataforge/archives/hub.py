"""Data sets of the Hugging Face Hub, by `huggingface_hub` (extra `hub`), which downloads them to its cache."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from dataforge.errors import ConfigError, FormatError

ADDRESS = "hf://owner/name, hf://owner/name@revision or hf://owner/name/folder"


def is_address(path: Path) -> bool:
    """Return True for `hf://...`, whose two slashes a `Path` makes one."""
    return path.as_posix().startswith("hf:/")


@functools.lru_cache(8)  # detection and reading ask for the same one
def snapshot(path: Path) -> Path:
    """Return the local folder of `hf://owner/name[@revision][/folder]`, downloaded or from the cache.

    Only the folder is downloaded, if one is given. `HF_HUB_OFFLINE=1` takes what is in the cache.

    Raises:
        ConfigError: the address is malformed, or `huggingface_hub` is not installed. FormatError: it cannot be had.
    """
    match = re.fullmatch(r"hf:/+(?:datasets/)?([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", path.as_posix())
    if not match:
        raise ConfigError(f"{path}: expected {ADDRESS}")
    name, revision, folder = match.groups()
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError:
        raise ConfigError(f"hf://{name}: needs huggingface_hub: pip install 'dataforge-detection[hub]'") from None
    patterns = [folder, f"{folder}/**"] if folder else None
    try:
        root = Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except (EntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise FormatError(f"hf://{name}: cannot be fetched: {str(error).strip().splitlines()[0]}") from None
    return root / folder if folder else root
