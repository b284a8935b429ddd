"""Look up known vulnerabilities of the packages in `constraints.txt`, with pip-audit: `make audit`.

`python .ci/audit.py [--warn] COMMAND...` runs COMMAND, a pip-audit that prints JSON, and reads what it found. It ends
with 0 if all packages were audited and nothing was found but what `.ci/audit_exceptions.txt` excuses, 1 if something
was, and 3 if packages could not be audited; with `--warn` that is 0, too. pip-audit itself ends with 0 when the service
knows none of the packages.

A line of the exceptions is `ID REASON`; one without a reason is an error, and so is one that excuses nothing any more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXCEPTIONS = Path(__file__).with_name("audit_exceptions.txt")
FOUND, NOT_AUDITED = 1, 3
PATIENCE = 180.0
"""Seconds for the whole look-up."""


def read_exceptions(text: str) -> dict[str, str]:
    """Return the reason of each excused vulnerability.

    Raises:
        SystemExit: an exception has no reason.
    """
    excused: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.strip().partition(" ")
            if not reason.strip():
                raise SystemExit(f"{EXCEPTIONS.name}: {name} has no reason; write it after the ID")
            excused[name] = reason.strip()
    return excused


def main(command: list[str], excused: dict[str, str]) -> int:
    """Run `command`, print what it found, and return the exit code."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        print(f"not audited: pip-audit was not done after {PATIENCE:.0f} seconds")
        return NOT_AUDITED
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"not audited: pip-audit gave no result (exit code {done.returncode}): {done.stderr.strip()[-500:]}")
        return NOT_AUDITED
    found = [(package, one) for package in packages for one in package.get("vulns", [])]
    known = {name for _, one in found for name in (one["id"], *one.get("aliases", []))}
    bad = False
    for package, one in found:
        reason = next((excused[name] for name in (one["id"], *one.get("aliases", [])) if name in excused), None)
        bad |= reason is None
        fixed = ", ".join(one.get("fix_versions", [])) or "no version"
        print(f"{package['name']} {package['version']}: {one['id']} (fixed in {fixed}): {reason or 'NOT EXCUSED'}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped or not packages:
        print(f"not audited: {len(skipped)} of {len(packages)} packages: {', '.join(skipped[:5])}, ...")
    stale = sorted(set(excused) - known) if not skipped else []
    for name in stale:
        print(f"{EXCEPTIONS.name}: {name} excuses nothing any more; remove it")
    if bad or stale:
        return FOUND
    if skipped or not packages:
        return NOT_AUDITED
    print(f"{len(packages)} packages audited: nothing found that is not excused")
    return 0


if __name__ == "__main__":
    warn, arguments = sys.argv[1] == "--warn", sys.argv[1:]
    code = main(arguments[warn:], read_exceptions(EXCEPTIONS.read_text()))
    if code == NOT_AUDITED and warn:
        print("warning: not all packages were audited for known vulnerabilities", file=sys.stderr)
        code = 0
    sys.exit(code)
