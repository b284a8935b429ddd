#!/usr/bin/env bash
# httpx drops what arrived of a download that breaks, if it is read with a chunk size.
#
# httpx 0.28.1. A server announces 5000 bytes, sends 3000 and closes. `iter_raw()`, without a size, yields all 3000 bytes and
# then raises RemoteProtocolError. `iter_raw(1024)` yields 2048, and `iter_raw(65536)` none: bytes of a chunk that is not
# full are lost with the error, in `iter_bytes` as well. Whoever resumes a download asks for them again, and over a link that
# breaks before each chunk is full gets nowhere.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --progress-bar off httpx==0.28.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import socket
import threading

import httpx


def serve(listener):
    while True:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + bytes(3000))
        connection.close()


def received(method, size):
    total = 0
    with httpx.stream("GET", url) as response:
        try:
            for chunk in getattr(response, method)(size):
                total += len(chunk)
        except httpx.RemoteProtocolError:
            return total


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
url = f"http://127.0.0.1:{listener.getsockname()[1]}"
found = {(method, size): received(method, size) for method in ("iter_raw", "iter_bytes") for size in (None, 1024, 65536)}
print(found)
raise SystemExit(list(found.values()) != [3000, 2048, 0] * 2)
PYTHON
