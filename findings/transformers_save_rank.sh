#!/usr/bin/env bash
# transformers 5 saves a model in the first process only, and tells the others nothing.
#
# transformers 5.24.0, torch 2.13.0. `save_pretrained(folder)` has `is_main_process=True` by default, so that a process
# that calls it without the argument was taken for the main one until 4.57. Version 5 looks at the rank of the process,
# too: each of two processes saves into a folder of its own, both calls return without a warning, and the files are
#   rank 0: config.json model.safetensors
#   rank 1: nothing
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --progress-bar off torch==2.13.0 transformers==5.24.0
cd "$folder"
cat > save.py <<'PYTHON'
import os
import warnings

import torch
from transformers import BertConfig, BertModel

warnings.simplefilter("error")
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
model = BertModel(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
model.save_pretrained(f"model-{rank}")
torch.distributed.barrier()
if rank == 0:
    found = [" ".join(sorted(os.listdir(f"model-{each}"))) or "nothing" for each in range(2)]
    for each, files in enumerate(found):
        print(f"rank {each}: {files}")
    if found != ["config.json model.safetensors", "nothing"]:
        open("changed", "w").close()
torch.distributed.destroy_process_group()
PYTHON
OMP_NUM_THREADS=1 venv/bin/python -m torch.distributed.run --standalone --nproc_per_node 2 save.py
test ! -e changed
