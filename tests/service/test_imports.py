"""What importing the service loads, and what it must not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import reflux_client

ROOT = Path(__file__).parents[2]


def loaded(module, before="pass", *, modules=False):
    """Return the top-level packages, or all `modules`, that a new process has loaded after importing a module."""
    names = "sorted(sys.modules)" if modules else "sorted({name.split('.')[0] for name in sys.modules})"
    code = f"import sys, json\n{before}\nimport {module}\nprint(json.dumps({names}))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REFLUX_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_the_service_loads_no_training_library():
    heavy = {"torch", "transformers", "optimum", "accelerate", "onnx", "scipy", "pyarrow", "matplotlib", "datasketch"}
    assert loaded("service.serve") & heavy == set()


def test_a_service_that_does_not_shadow_loads_no_store_and_no_redaction():
    unused = {"service.shadow.active", "service.shadow.redaction.redact", "service.shadow.shared.outbox", "sqlite3"}
    assert unused <= loaded("service.shadow.active", modules=True)
    assert loaded("service.app", modules=True) & unused == set()


def test_the_former_place_of_the_client_still_works_and_says_where_it_is_now():
    with pytest.warns(DeprecationWarning, match="import reflux_client instead"):
        import service.client as former
    assert former.Client is reflux_client.Client


def test_a_start_reads_none_of_our_source():
    ours = f"any(name.startswith('{ROOT}/service/') for name in linecache.cache)"
    read = f"import linecache, sys\nif {ours}: sys.modules['read'] = None"
    assert "read" not in loaded("sys", before=f"import service.app, service.server.lifecycle\n{read}")
    assert "read" in loaded(
        "sys", before=f"import inspect, service.server.upgrades\ninspect.getsource(service.server.upgrades)\n{read}"
    )
