#!/usr/bin/env bash
# LiteLLM 1.108.7, its proxy: a server's `Retry-After` and resets arrive under other names, and vLLM's own fields not at all.
#
# Seen: a 429 with `retry-after`, `retry-after-ms` and `x-ratelimit-*` comes out with `x-ratelimit-limit-requests` and
# `x-ratelimit-remaining-requests` under their names, but the waits and the resets only as `llm_provider-retry-after`,
# `llm_provider-retry-after-ms` and `llm_provider-x-ratelimit-reset-requests`: who reads `Retry-After` finds none. Of an
# answer, `prompt_logprobs` and `kv_transfer_params`, which only vLLM gives, are left out, so that nobody sees through the
# proxy what its server is; and 50 top_logprobs pass, whatever vendors' maximum of 20 is.
#
# Prints the names of such headers, the fields of an answer and how many tokens it lists. Exits 1 once that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet 'litellm[proxy]==1.108.7'

cat > server.py <<'PY'
import itertools, json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

calls = itertools.count(1)


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        listed = [{"token": f"t{n}", "logprob": -1.0 - n, "bytes": [65]} for n in range(body.get("top_logprobs", 1))]
        logprobs = {"content": [{"token": "t0", "logprob": -1.0, "bytes": [65], "top_logprobs": listed}]}
        message = {"role": "assistant", "content": "hi"}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        shown = {"id": f"call-{next(calls)}", "object": "chat.completion", "created": 1, "model": body["model"]}
        answer = {**shown, "choices": [choice], "usage": usage, "prompt_logprobs": None, "kv_transfer_params": None}
        full = "full" in json.dumps(body["messages"])
        content = json.dumps({"error": {"message": "slow down"}} if full else answer).encode()
        self.send_response(429 if full else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        if full:
            self.send_header("retry-after", "90")
            self.send_header("retry-after-ms", "90000")
            self.send_header("x-ratelimit-limit-requests", "10")
            self.send_header("x-ratelimit-remaining-requests", "0")
            self.send_header("x-ratelimit-reset-requests", "1m30s")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *parts):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
with open("port", "w") as file:
    file.write(str(server.server_port))
server.serve_forever()
PY
python3 server.py &
until [ -s port ]; do sleep 0.1; done

cat > config.yaml <<YAML
model_list:
  - model_name: m
    litellm_params: {model: hosted_vllm/qwen, api_base: "http://127.0.0.1:$(cat port)/v1", api_key: none}
litellm_settings: {num_retries: 0}
YAML
key=sk-$(python3 -c 'import secrets; print(secrets.token_hex(24))')
proxy=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
LITELLM_MASTER_KEY=$key LITELLM_LOCAL_MODEL_COST_MAP=True \
    venv/bin/litellm --config config.yaml --host 127.0.0.1 --port "$proxy" > proxy.log 2>&1 &
until curl --silent --fail "http://127.0.0.1:$proxy/health/liveliness" > /dev/null; do sleep 1; done

ask() {  # ask TEXT: headers and body of the answer
    curl --silent --include "http://127.0.0.1:$proxy/v1/chat/completions" -H "authorization: Bearer $key" \
        -H 'content-type: application/json' \
        -d "{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"$1\"}], \"logprobs\": true, \"top_logprobs\": 50}"
}

{
    ask hi | tail -n 1 | python3 -c '
import json, sys
answer = json.load(sys.stdin)
print("fields:", *sorted(answer))
print("listed:", len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]))'
    ask full | tr -d '\r' | grep --ignore-case --extended-regexp '^[a-z_-]*(retry-after|ratelimit)[a-z-]*:' | sort
} | tee found
cat > expected <<'TXT'
fields: choices created id model object usage
listed: 50
llm_provider-retry-after-ms: 90000
llm_provider-retry-after: 90
llm_provider-x-ratelimit-limit-requests: 10
llm_provider-x-ratelimit-remaining-requests: 0
llm_provider-x-ratelimit-reset-requests: 1m30s
x-ratelimit-limit-requests: 10
x-ratelimit-remaining-requests: 0
TXT
diff <(sort expected) <(sort found) > /dev/null || { echo "this has changed"; exit 1; }
echo "as described"
