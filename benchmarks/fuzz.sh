#!/bin/sh
# Schemathesis makes valid and invalid requests from the OpenAPI document of a running server. No answer may be a 5xx,
# have an undocumented status or content type, or violate its schema. The document covers the whole service: both
# variants, `/admin/reload`, the protocols and the live gap, with the candidate as teacher.
#
#     pip install schemathesis==4.32.5   # into an environment of its own
#     SCHEMATHESIS=/.../bin/schemathesis benchmarks/fuzz.sh BUNDLE CANDIDATE [CASES]
#
# CASES is per operation (default 240, about 7,500 in all). Both bundles must have the same labels and name.
set -eu
bundle=${1:?a bundle} candidate=${2:?another bundle, of the same name and labels} cases=${3:-240}
python=${PYTHON:-.venv/bin/python}
folder=$(mktemp -d)
made=$("$python" -m reflux keys new fuzz --admin)
key=${made#*once: } key=${key%%[[:space:]]*}
echo "${made##*file: }" >"$folder/keys"

env OMP_NUM_THREADS=1 REFLUX_BUNDLE="$bundle" REFLUX_CANDIDATE="$candidate" REFLUX_CANDIDATE_SHARE=0.5 \
  REFLUX_ADMIN=true REFLUX_API_KEYS="$folder/keys" REFLUX_WORKERS=1 REFLUX_BATCH_TOKENS=512 REFLUX_HOST=127.0.0.1 REFLUX_PORT=0 \
  REFLUX_DRAIN_SECONDS=0 REFLUX_SHADOW__PATH="$folder/shadow.sqlite" REFLUX_SHADOW__ENABLED=true \
  REFLUX_SHADOW__RATE=0.2 REFLUX_SHADOW__TEACHER="{\"kind\": \"bundle\", \"path\": \"$candidate\"}" "$python" -m service 2>"$folder/log" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server || true; rm -rf "$folder"' EXIT

port=
while [ -z "$port" ]; do
  kill -0 $server 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
  sleep 0.2
  port=$(sed -n 's/.*"port": \([0-9]*\).*/\1/p' "$folder/log")
done

# With invented names every request would end at 404.
"$python" - "$bundle/manifest.json" >"$folder/schemathesis.toml" <<'PYTHON'
import json
import sys

manifest = json.load(open(sys.argv[1]))
for name in ("name", "version"):
    print(f'parameters."path.{name}" = {json.dumps(manifest[name])}')
PYTHON

(cd "$folder" && "${SCHEMATHESIS:-schemathesis}" run "http://127.0.0.1:$port/openapi.json" --header "X-API-Key: $key" \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance \
  --max-examples "$cases" --continue-on-failure --suppress-health-check all)

# Every 5xx is in the log.
! grep -F '"request failed"' "$folder/log"
