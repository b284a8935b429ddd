"""A teacher asked by the workers of a Ray cluster, with the store and the account of one run.

The driver, which is the command, holds the file: `desk` serves what workers ask of it, `post` carries that through
Ray, `worker` asks the teacher, and `engine` has Ray Data hand the texts out. The last two need Ray.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # else Ray, asked for anything too late, starts another cluster
