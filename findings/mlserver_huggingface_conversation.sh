#!/usr/bin/env bash
# MLServer's Hugging Face runtime does not import with the transformers that pip installs for it.
#
# mlserver-huggingface 1.7.1, the latest, imports `Conversation` from transformers.pipelines, which transformers has not
# had since 4.42. Its requirements do not bound transformers, and the latest optimum that they allow (1.27.0) brings 4.53.3:
#   the runtime imports Conversation: True, its requirements bound transformers: False, transformers 4.53.3 has it: False
# So `mlserver start` ends with an ImportError after a fresh installation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --progress-bar off --no-deps mlserver-huggingface==1.7.1
"$folder/venv/bin/pip" install --quiet --progress-bar off transformers==4.53.3
cd "$folder"
venv/bin/python - <<'PYTHON'
from importlib.metadata import distribution, requires

from transformers import pipelines

package = distribution("mlserver-huggingface")
sources = [file.read_text() for file in package.files if file.suffix == ".py"]
imports = any("from transformers.pipelines import Conversation" in source for source in sources)
bounds = any(line.startswith("transformers") for line in requires("mlserver-huggingface"))
has = hasattr(pipelines, "Conversation")
print(f"the runtime imports Conversation: {imports}, its requirements bound transformers: {bounds}, ", end="")
print(f"transformers 4.53.3 has it: {has}")
raise SystemExit((imports, bounds, has) != (True, False, False))
PYTHON
