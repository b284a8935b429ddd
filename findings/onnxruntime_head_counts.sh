#!/usr/bin/env bash
# ONNX Runtime's optimizer cannot see how many attention heads a graph of transformers 5 has, and believes what it is told.
#
# transformers 5.24.0, torch 2.13.0, onnxruntime 1.32.0, onnx 1.23.2. transformers 5 reshapes to [batch, tokens, -1, size
# of a head], so the number of heads is no constant of the graph; 4.57 wrote it down. For a BERT whose second layer has
# two heads, as after pruning, and whose first has four, `optimize_model(model_type="bert")` gives
#   num_heads=0 (detect): no Attention node, and a line in the log (with 4.57: nodes of 4 and of 2 heads)
#   num_heads=4: both layers fused with 4 heads, without a warning; the answers differ from those of the plain graph by 0.1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --progress-bar off torch==2.13.0 transformers==5.24.0 onnxruntime==1.32.0 onnx==1.23.2 sympy
cd "$folder"
cat > heads.py <<'PYTHON'
import onnx
import onnxruntime
import torch
from onnxruntime.transformers import optimizer
from transformers import BertConfig, BertModel

torch.manual_seed(0)
config = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, initializer_range=0.3,
    attn_implementation="eager",
)
bert = BertModel(config, add_pooling_layer=False).eval()
attention = bert.encoder.layer[1].attention
with torch.no_grad():
    for layer in bert.encoder.layer:
        for name in ("query", "key", "value"):
            getattr(layer.attention.self, name).bias.normal_()
    for name in ("query", "key", "value"):
        product = getattr(attention.self, name)
        product.weight = torch.nn.Parameter(product.weight[:16].clone())
        product.bias = torch.nn.Parameter(product.bias[:16].clone())
    attention.output.dense.weight = torch.nn.Parameter(attention.output.dense.weight[:, :16].clone())
attention.self.num_attention_heads, attention.self.all_head_size = 2, 16


class States(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


ids = torch.randint(0, 50, (2, 7))
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
axes = {0: "batch", 1: "tokens"}
torch.onnx.export(
    States(), tuple(inputs.values()), "plain.onnx", input_names=list(inputs), output_names=["states"],
    dynamic_axes={name: axes for name in (*inputs, "states")}, opset_version=18, dynamo=False,
)


def run(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def fused(heads):
    optimizer.optimize_model(
        "plain.onnx", model_type="bert", num_heads=heads, hidden_size=8 * heads, opt_level=0
    ).save_model_to_file(f"{heads}.onnx")
    nodes = onnx.load(f"{heads}.onnx").graph.node
    found = [each.i for node in nodes if node.op_type == "Attention" for each in node.attribute if each.name == "num_heads"]
    return found, float(abs(run(f"{heads}.onnx") - run("plain.onnx")).max())


detected, told = fused(0), fused(4)
print(f"num_heads=0: heads of the fused layers {detected[0]}, answers differ by {detected[1]:.0e}")
print(f"num_heads=4: heads of the fused layers {told[0]}, answers differ by {told[1]:.0e}")
if detected[0] or told[0] != [4, 4] or told[1] < 0.01:
    raise SystemExit(1)
PYTHON
venv/bin/python heads.py 2> errors.txt || { tail -n 3 errors.txt; exit 1; }
