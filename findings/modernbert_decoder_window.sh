#!/usr/bin/env bash
# A ModernBERT decoder comes back from its folder with another window of attention than it was made with.
#
# transformers 4.57.6. The configuration takes `local_attention`, turns it into `sliding_window` (half of it) and keeps
# that alone. What is written has `sliding_window: 4`; what reads it computes the window from the default again:
#   made with 4, written 4, loaded 64
# Weights and shapes fit, so that nothing warns. A model of the default window, 128, comes back as it was.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --progress-bar off transformers==4.57.6
cd "$folder"
TRANSFORMERS_VERBOSITY=critical venv/bin/python - <<'PYTHON'
import json

from transformers import AutoConfig, ModernBertDecoderConfig

made = ModernBertDecoderConfig(local_attention=8)
made.save_pretrained("model")
written = json.load(open("model/config.json"))
loaded = AutoConfig.from_pretrained("model")
print(f"made with {made.sliding_window}, written {written['sliding_window']}, loaded {loaded.sliding_window}")
found = (made.sliding_window, written["sliding_window"], "local_attention" in written, loaded.sliding_window)
raise SystemExit(found != (4, 4, False, 64))
PYTHON
