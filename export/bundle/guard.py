"""Turn panics of libraries written in Rust into errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def panics_are_errors() -> Iterator[None]:
    """Raise RuntimeError for a panic of a library written in Rust, such as tokenizers.

    pyo3 raises it as a `BaseException`, which would end the thread. Its message is left out: it may hold the text that
    was being read.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if not is_panic(error):
            raise
        raise RuntimeError("the library panicked") from None


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of a library written in Rust; its class cannot be imported."""
    return type(error).__name__ == "PanicException"
