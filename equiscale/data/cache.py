"""Files of results that are costly to make: named by a hash of their settings, written whole, read back checked."""

import hashlib
import json
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def cache_path(name: str, settings: Mapping, cache_dir: str | os.PathLike | None = None) -> Path:
    """`name-<hash of settings>` in `cache_dir`, by default the environment's EQUISCALE_CACHE or ~/.cache/equiscale."""
    folder = cache_dir or os.environ.get("EQUISCALE_CACHE") or Path.home() / ".cache" / "equiscale"
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return Path(folder).expanduser() / f"{name}-{key}"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping) -> None:
    """One npz, moved into place when it is whole, so that no reader meets half a file; `about` is kept as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict] | None:
    """What `write_arrays` stored, or None where there is no file or, named in a warning, a damaged one.

    Damage shows: zip keeps a checksum of each array.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        return arrays, json.loads(str(arrays.pop("about")))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        warnings.warn(f"{path} is damaged ({error}): making it again", stacklevel=3)
        return None


def random_seed(*parts) -> int:
    """A number from 1 to 2^31 - 2, all that RDKit's generator tells apart, by a hash of what it is for."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8]) % (2**31 - 2) + 1
