"""infinity's own command line with one inference thread: it has no setting for that, so sessions are made with one."""

from __future__ import annotations

from typing import Any

import onnxruntime


class OneThread(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session with one thread, whatever options it is given."""

    def __init__(self, path: Any, sess_options: Any = None, *more: Any, **others: Any) -> None:
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        super().__init__(path, options, *more, **others)


if __name__ == "__main__":
    onnxruntime.InferenceSession = OneThread
    from infinity_emb.cli import cli

    cli()
