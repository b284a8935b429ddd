"""What a rehearsal needs of the machine, asked for all at once before anything is made."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from tests.rehearsals.hosts.cluster import Bundles
from tests.rehearsals.hosts.database import programs

PROGRAMS = {
    "ip": "iproute2",
    "setpriv": "util-linux",
    "haproxy": "haproxy",
    "prometheus": "prometheus",
    "psql": "postgresql-client",
}
"""Programs by name, with Debian's packages that have them."""


def missing(bundles: Bundles) -> list[str]:
    """Return what this machine lacks, in sentences that say what to do."""
    lacking = []
    if platform.system() != "Linux":
        lacking.append("network namespaces are Linux's: run this on Linux, also in a virtual machine")
    elif os.geteuid() != 0:
        lacking.append("only root may make network namespaces: run this with sudo, or in a virtual machine")
    packages = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if programs() is None:
        packages.append("postgresql")
    if packages:
        lacking.append(f"programs are missing: apt-get install {' '.join(packages)}")
    for folder in (bundles.student, bundles.successor, bundles.teacher):
        if not (folder / "manifest.json").is_file():
            lacking.append(f"{folder} has no bundle: run `make demo`, or give the folder of your run's bundles")
    return lacking


def leftover(parent: Path, prefix: str) -> list[Path]:
    """Return the folders that earlier rehearsals left in `parent`."""
    return sorted(path for path in parent.glob(f"{prefix}*") if path.is_dir() and not path.is_symlink())
