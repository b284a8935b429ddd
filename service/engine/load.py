"""Loading a bundle so that it can be trusted: hashes, warm-up, and the golden self-test on this very CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.bundle import Bundle, BundleError
from export.reference import Reference
from export.runtime import Classifier, InferenceError
from export.verify import check_golden
from service.errors import StartupError


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle with its classifier, warm and tested."""

    bundle: Bundle
    reference: Reference
    classifier: Classifier


def load(path: Path, *, threads: int = 1) -> Loaded:
    """Open a bundle, check it, warm it up and test it. Blocks for as long as that takes.

    Raises StartupError when the bundle was changed, cannot be loaded, or does not give its golden answers here.
    """
    try:
        bundle = Bundle.open(path)
        loaded = Loaded(bundle, Reference.open(bundle), Classifier.load(bundle, threads=threads))
        _warm_up(loaded.classifier, bundle.manifest.max_tokens)
        check_golden(bundle, loaded.classifier)
    except BundleError as error:
        raise StartupError(str(error)) from error
    except InferenceError as error:
        raise StartupError(f"{path}: {error}; export the bundle again") from error
    return loaded


def _warm_up(classifier: Classifier, max_tokens: int) -> None:
    """Run the longest text once, so that no client waits for memory to be allocated."""
    classifier.classify("a " * max_tokens)
