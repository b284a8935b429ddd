#!/usr/bin/env bash
# transformers.js cuts a long text after its special tokens were added, and always at the end.
#
# @huggingface/transformers 4.3.2 (Node 20), transformers 4.57.6 with tokenizers 0.22.2 (Python). One tokenizer, of the form
# of BERT's, `model_max_length` 8, and ten words between [CLS] and [SEP], `truncation: true`:
#   truncation_side right: Python [CLS] one two three four five six [SEP], JavaScript [CLS] one two three four five six seven
#   truncation_side left:  Python [CLS] five six seven eight nine ten [SEP], JavaScript as above
# A classifier exported for both answers long texts differently in each, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --progress-bar off transformers==4.57.6 tokenizers==0.22.2
npm install --silent --no-audit --no-fund --ignore-scripts @huggingface/transformers@4.3.2
cat > tokenize.mjs <<'JAVASCRIPT'
import { AutoTokenizer, env } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.localModelPath = process.cwd();
const tokenizer = await AutoTokenizer.from_pretrained(process.argv[2]);
const { input_ids } = tokenizer(process.argv[3], { truncation: true });
console.log(JSON.stringify(Array.from(input_ids.data, Number)));
JAVASCRIPT
venv/bin/python - <<'PYTHON'
import json
import subprocess
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = "one two three four five six seven eight nine ten".split()
vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
text = " ".join(words)
right = "[CLS] one two three four five six"
expected = {
    "right": (f"{right} [SEP]", f"{right} seven"),
    "left": ("[CLS] five six seven eight nine ten [SEP]", f"{right} seven"),
}
same = True
for side in ("right", "left"):
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=8, truncation_side=side, **special
    ).save_pretrained(side)
    loaded = AutoTokenizer.from_pretrained(side)
    command = ["node", "tokenize.mjs", side, text]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    answers = tuple(
        " ".join(loaded.convert_ids_to_tokens(ids)) for ids in (loaded(text, truncation=True).input_ids, found)
    )
    print(f"truncation_side {side}\n  Python      {answers[0]}\n  JavaScript  {answers[1]}")
    same = same and answers == expected[side]
sys.exit(not same)
PYTHON
