#!/usr/bin/env bash
# typesafe-sdk 0.7.5 beside jevcompat 0.1.1: whether a question works depends on a package that neither of them needs.
#
# Seen: TypeSafe's client compresses a body of 1 KiB or more with zstd as soon as `backports.zstd` can be imported, or on
# Python 3.14, without being told to. jevcompat's reference server, which passes its whole suite, does not read
# Content-Encoding, as many servers of the format; its suite sends with a client of its own, so it does not notice. A
# question with 50 described labels is answered, until something installs backports.zstd; then the same program gets 422.
#
# Prints the answer to a short and to a long question, without and with the package. Exits 1 once that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -c 'import sys; sys.exit(sys.version_info >= (3, 14) and "needs Python 3.11 to 3.13; from 3.14 on zstd is always there")'
python3 -m venv venv
venv/bin/pip install --quiet typesafe-sdk==0.7.5 jevcompat==0.1.1

cat > ask.py <<'PY'
from jevcompat.mock import Running
from typesafe_sdk import Choice, TypeSafeAPIError, TypeSafeClient

with Running() as server, TypeSafeClient(base_url=server.url, api_key="any") as client:
    found = []
    for labels in (3, 50):
        criteria = {f"label {number}": "what this label stands for" for number in range(labels)}
        try:
            client.system_one("a text", {"which": Choice(criteria=criteria)})
            found.append(f"{labels} labels: answered")
        except TypeSafeAPIError as error:
            found.append(f"{labels} labels: {error.status}")
print("; ".join(found))
PY

without=$(venv/bin/python ask.py)
echo "without backports.zstd: $without"
venv/bin/pip install --quiet backports.zstd==1.8.0
with=$(venv/bin/python ask.py)
echo "with backports.zstd 1.8.0: $with"
[ "$without" = "3 labels: answered; 50 labels: answered" ] && [ "$with" = "3 labels: answered; 50 labels: 422" ]
