"""Label on a Ray cluster: its workers ask the teacher, and the driver keeps the store and the account of the run.

The driver is the process that runs the command. `engine` distributes the texts with Ray Data, `worker` asks the
teacher, `server` answers the workers' requests to the store and the account, and `mailbox` carries messages between
them. `engine` and `worker` need Ray.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # else a late call to Ray starts another cluster
