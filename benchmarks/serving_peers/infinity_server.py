"""infinity's command line with one inference thread: it has no setting for it, so its sessions are replaced."""

from __future__ import annotations

from typing import Any

import onnxruntime


class OneThread(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session that always has one thread."""

    def __init__(self, path: Any, sess_options: Any = None, *more: Any, **others: Any) -> None:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        super().__init__(path, options, *more, **others)


if __name__ == "__main__":
    onnxruntime.InferenceSession = OneThread
    from infinity_emb.cli import cli

    cli()
