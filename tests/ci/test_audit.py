"""`make audit` fails for what is found, and never takes silence for an answer."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / ".ci/audit.py"

FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}
CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
BAD = {"name": "httpx", "version": "1.0", "vulns": [FOUND]}
UNKNOWN = {"name": "click", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def audit(
    tmp_path: Path, *packages: dict, exceptions: str = "", output: str | None = None, warn: bool = False
) -> tuple[int, str]:
    """Run the script with a pip-audit that prints `packages`."""
    script = tmp_path / "audit.py"
    script.write_text(SCRIPT.read_text())
    (tmp_path / "audit_exceptions.txt").write_text(exceptions)
    printed = json.dumps({"dependencies": packages}) if output is None else output
    program = [sys.executable, "-c", f"print({printed!r})"]
    done = subprocess.run(
        [sys.executable, script, *(["--warn"] if warn else []), *program], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_packages_without_findings_pass(tmp_path):
    assert audit(tmp_path, CLEAN)[0] == 0


def test_what_is_found_fails_and_is_named(tmp_path):
    code, said = audit(tmp_path, CLEAN, BAD)
    assert code == 1
    assert "httpx 1.0: PYSEC-1 (fixed in 2.0): NOT EXCUSED" in said


def test_an_exception_excuses_by_id_or_alias_and_its_reason_is_printed(tmp_path):
    for name in ("PYSEC-1", "CVE-1"):
        code, said = audit(tmp_path, BAD, exceptions=f"# comment\n{name} only its server is affected\n")
        assert code == 0
        assert "only its server is affected" in said


def test_an_exception_without_a_reason_is_an_error(tmp_path):
    code, said = audit(tmp_path, BAD, exceptions="PYSEC-1\n")
    assert code == 1
    assert "has no reason" in said


def test_an_exception_that_excuses_nothing_is_an_error(tmp_path):
    code, said = audit(tmp_path, CLEAN, exceptions="PYSEC-1 reason\n")
    assert code == 1
    assert "remove it" in said


def test_packages_that_the_service_does_not_know_were_not_audited(tmp_path):
    code, said = audit(tmp_path, CLEAN, UNKNOWN)
    assert code == 3
    assert "not audited: 1 of 2 packages: click" in said


def test_a_finding_fails_though_others_were_not_audited(tmp_path):
    assert audit(tmp_path, BAD, UNKNOWN)[0] == 1


def test_no_result_is_no_pass(tmp_path):
    for output in ("", "{}", '{"dependencies": []}'):
        assert audit(tmp_path, output=output)[0] == 3


def test_with_warn_what_was_not_audited_is_said_and_passes_but_findings_do_not(tmp_path):
    code, said = audit(tmp_path, CLEAN, UNKNOWN, warn=True)
    assert (code, "warning: not all packages were audited" in said) == (0, True)
    assert audit(tmp_path, BAD, UNKNOWN, warn=True)[0] == 1
