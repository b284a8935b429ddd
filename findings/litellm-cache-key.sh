#!/usr/bin/env bash
# LiteLLM 1.108.7, its proxy with `cache: true`: the key of its cache leaves out the parameters of the server's own.
#
# Seen: a chat with vLLM's `chat_template_kwargs` or `logprob_token_ids`, which the proxy passes on to the server, gets the
# answer that was kept for the same chat without them, of the same id. So `enable_thinking: false` changes nothing where
# the chat was asked before with thinking, and eight draws are one. Of the headers, `x-litellm-cache-key` alone tells a
# hit from a miss, and `Cache-Control: no-cache` is not heeded. `{"cache": {"no-cache": true}}` in the body does help;
# `no-store` alone does not.
#
# Prints, for each body after the first: whether the answer is that of the first. Exits 1 once that changes.
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
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        shown = {"id": f"call-{next(calls)}", "object": "chat.completion", "created": 1, "model": body["model"]}
        content = json.dumps({**shown, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
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
litellm_settings: {cache: true, cache_params: {type: local}}
YAML
key=sk-$(python3 -c 'import secrets; print(secrets.token_hex(24))')
proxy=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
LITELLM_MASTER_KEY=$key LITELLM_LOCAL_MODEL_COST_MAP=True \
    venv/bin/litellm --config config.yaml --host 127.0.0.1 --port "$proxy" > proxy.log 2>&1 &
until curl --silent --fail "http://127.0.0.1:$proxy/health/liveliness" > /dev/null; do sleep 1; done

ask() {  # ask BODY [curl options]: the id of the answer, and `hit` where the header of a hit is there
    curl --silent --include "${@:2}" "http://127.0.0.1:$proxy/v1/chat/completions" -H "authorization: Bearer $key" \
        -H 'content-type: application/json' -d "{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]$1}" |
        python3 -c '
import json, sys
head, _, body = sys.stdin.read().replace("\r", "").partition("\n\n")
print(json.loads(body)["id"], "hit" if "x-litellm-cache-key:" in head else "miss")'
}

{
    echo "plain: $(ask '')"
    echo "the same: $(ask '')"
    echo "chat_template_kwargs: $(ask ', "chat_template_kwargs": {"enable_thinking": false}')"
    echo "logprob_token_ids: $(ask ', "logprob_token_ids": [1, 2]')"
    echo "Cache-Control: $(ask '' -H 'cache-control: no-cache')"
    echo "no-store: $(ask ', "cache": {"no-store": true}')"
    echo "seed: $(ask ', "seed": 2')"
    echo "no-cache: $(ask ', "cache": {"no-cache": true}')"
    echo "no-cache again: $(ask ', "cache": {"no-cache": true}')"
} | tee found
cat > expected <<'TXT'
plain: call-1 miss
the same: call-1 hit
chat_template_kwargs: call-1 hit
logprob_token_ids: call-1 hit
Cache-Control: call-1 hit
no-store: call-1 hit
seed: call-2 miss
no-cache: call-3 miss
no-cache again: call-4 miss
TXT
diff expected found > /dev/null || { echo "this has changed"; exit 1; }
echo "as described"
