"""checkov, a linter of manifests, finds nothing that has no reason beside it. `make checkov` installs and runs it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.kustomize import OVERLAYS, combinations, rendered

ROOT = Path(__file__).parents[2]
CHECKOV = shutil.which("checkov", path=ROOT / ".venv-checkov" / "bin") or shutil.which("checkov")

pytestmark = [
    pytest.mark.skipif(CHECKOV is None, reason="no checkov; `make checkov` installs it"),
    pytest.mark.timeout(900),  # it checks every combination
]


def test_nothing_fails_but_what_is_skipped_with_a_reason(tmp_path):
    for overlay in OVERLAYS:
        for combination in (each for each in combinations() if each[0] == overlay):
            documents = [found for found in rendered(*combination) if found["kind"] != "ConfigMap"]
            (tmp_path / f"{'-'.join(combination)}.yaml").write_text(yaml.safe_dump_all(documents))
    command = [CHECKOV, "--framework", "kubernetes", "--directory", tmp_path, "--output", "json", "--skip-download"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    assert report["summary"]["passed"] > 100
    assert [(each["check_id"], each["resource"]) for each in report["results"]["failed_checks"]] == []
    assert all(each["check_result"]["suppress_comment"] for each in report["results"]["skipped_checks"])
