"""Variants compute what their graph does: fused and unpadded exactly, int8 nearly, and with the head as it was."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from distill.students.student import TOKENIZER
from export.bundle.format import FP16, FUSED, INT8, INT8_QDQ, PLAIN
from export.bundle.sequence_packing import NAMES
from export.graph.float16 import to_float16
from export.graph.quantise import KINDS, quantise
from export.graph.unpad import unpad
from export.graph.variants import fuse, load_variants, make_variants

HEADS = {
    "encoder": "module.head.weight",
    "static": "module.head.weight",
    "ngrams": "module.head.weight",
    "sequence-classifier": "module.classifier.classifier.weight",
}


@pytest.fixture(scope="session")
def rows(students, validation):
    """`rows(family)`: token ids of the validation texts."""
    return lambda family: students[family].encode(validation.texts)


@pytest.fixture(scope="session")
def paths(students, graphs, rows, tmp_path_factory):
    """Every variant of each family's graph."""
    made = {}
    for family, student in students.items():
        config = getattr(student.network.module, "config", None)
        made[family] = make_variants(graphs[family], tmp_path_factory.mktemp(family), config, rows(family))
    return made


@pytest.fixture(scope="session")
def fused(students, graphs, tmp_path_factory):
    """The fused graph, not unpadded, of each family with attention."""
    folder = tmp_path_factory.mktemp("fused")
    return {
        family: fuse(graphs[family], folder / f"{family}.onnx", students[family].network.module.config)
        for family in ("encoder", "sequence-classifier")
    }


@pytest.fixture
def answers(student, validation, tmp_path):
    """`answers({name: path})`: what each graph answers to the validation texts, as logits."""
    student.tokenizer.save(str(tmp_path / TOKENIZER))

    def ask(graphs):
        loaded = load_variants(graphs, tmp_path / TOKENIZER, student.max_tokens, len(student.labels))
        return {
            name: np.stack([classifier.classify(text).logits for text in validation.texts])
            for name, classifier in loaded.items()
        }

    return ask


def kinds(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def is_unpadded(path):
    return set(NAMES) <= {value.name for value in onnx.load(path).graph.input}


def products(path):
    """The names of the float constants, and the kinds of nodes, that matrix products read."""
    graph = onnx.load(path).graph
    constants = {value.name: value for value in graph.initializer}
    floats = [
        name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "Attention")
        for name in node.input[1:2]
        if name in constants and constants[name].data_type == TensorProto.FLOAT
    ]
    return floats, [node.op_type for node in graph.node]


def test_only_graphs_with_attention_are_fused(paths):
    assert {family: list(made) for family, made in paths.items()} == {
        "encoder": [PLAIN, FUSED, INT8],
        "static": [PLAIN, INT8],
        "ngrams": [PLAIN, INT8],
        "sequence-classifier": [PLAIN, FUSED, INT8],
    }


def test_an_architecture_that_we_cannot_fuse_is_left_plain(graphs, rows, tmp_path):
    made = make_variants(graphs["encoder"], tmp_path, SimpleNamespace(model_type="nobody-knows"), rows("encoder"))
    assert list(made) == [PLAIN, INT8]


@pytest.mark.parametrize(("family", "layers"), [("encoder", 2), ("sequence-classifier", 3)])
def test_fusion_leaves_one_node_for_each_attention_and_norm(graphs, fused, family, layers):
    before, after = ([node.op_type for node in onnx.load(made[family]).graph.node] for made in (graphs, fused))
    assert not {"Attention", "SkipLayerNormalization"} & set(before)
    assert after.count("Attention") == layers
    assert after.count("SkipLayerNormalization") == 2 * layers
    assert after.count("BiasGelu") == layers
    assert "LayerNormalization" not in after
    assert len(after) < len(before) / 3


@pytest.mark.parametrize("family", ["encoder", "sequence-classifier"])
def test_the_fused_variant_is_unpadded_and_int8_is_made_of_it(paths, family):
    for name in (FUSED, INT8):
        made = kinds(paths[family][name])
        assert "MultiHeadAttention" in made
        assert not {"Attention", "SkipLayerNormalization"} & made
        assert is_unpadded(paths[family][name])
    assert not is_unpadded(paths[family][PLAIN])
    assert not any(is_unpadded(path) for path in paths["static"].values())


@pytest.mark.parametrize("gpu", [False, True])
def test_int8_is_unpadded_fp16_is_not_and_the_fused_graph_is_for_a_cpu(graphs, students, rows, tmp_path, gpu):
    config = students["encoder"].network.module.config
    made = make_variants(graphs["encoder"], tmp_path, config, rows("encoder"), (INT8, FP16), gpu=gpu)
    assert [is_unpadded(made[name]) for name in (FUSED, INT8, FP16)] == [not gpu, True, False]
    for name in (FUSED, FP16) if gpu else (FP16,):
        assert {"Attention", "SkipLayerNormalization"} <= kinds(made[name])


@pytest.mark.parametrize("name", [FUSED, INT8, INT8_QDQ])
def test_a_texts_answer_does_not_depend_on_its_neighbours(students, graphs, rows, validation, tmp_path, name):
    student = students["encoder"]
    student.tokenizer.save(str(tmp_path / TOKENIZER))
    config = student.network.module.config
    paths = {name: make_variants(graphs["encoder"], tmp_path, config, rows("encoder"), [name])[name]}
    classifier = load_variants(paths, tmp_path / TOKENIZER, student.max_tokens, len(student.labels))[name]
    texts = ["", " ".join(validation.texts[:3]), *validation.texts[:10]]
    together = classifier.run([classifier.encode(text) for text in texts])
    for text, answer in zip(texts, together, strict=True):
        np.testing.assert_allclose(answer.logits, classifier.classify(text).logits, rtol=1e-4, atol=1e-4)


def test_every_variant_keeps_the_names_of_inputs_and_outputs(paths):
    for made in paths.values():
        for path in made.values():
            graph = onnx.load(path).graph
            assert [value.name for value in graph.input][:2] == ["input_ids", "attention_mask"]
            assert len(graph.input) == 2 or is_unpadded(path)
            assert [value.name for value in graph.output] == ["logits", "probabilities", "embedding"]


def test_a_fused_graph_computes_what_the_plain_one_does(student, paths, answers):
    made = paths[student.network.family]
    if FUSED in made:
        logits = answers({name: made[name] for name in (PLAIN, FUSED)})
        np.testing.assert_allclose(logits[FUSED], logits[PLAIN], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", [PLAIN, FUSED])
def test_an_int8_graph_computes_nearly_what_its_source_does(student, paths, answers, rows, tmp_path, source, kind):
    made = paths[student.network.family]
    if source in made:
        int8 = quantise(made[source], tmp_path / "int8.onnx", rows(student.network.family), kind)
        logits = answers({source: made[source], INT8: int8})
        assert (logits[INT8] != logits[source]).any()
        assert np.corrcoef(logits[INT8].ravel(), logits[source].ravel())[0, 1] > 0.8


def test_int8_quantises_everything_but_the_head(paths, graphs):
    for family, made in paths.items():
        floats, nodes = products(made[INT8])
        assert [name.removesuffix("_Transposed") for name in floats] == [HEADS[family]]
        assert not {"Attention", "QAttention", "EmbedLayerNormalization"} & set(nodes)
        assert ("MatMulIntegerToFloat" in nodes) == (family != "ngrams")  # it has no product but the head's
        assert "MatMulInteger" not in nodes
        constants = {value.name: value for value in onnx.load(graphs[family]).graph.initializer}
        kept = {value.name: value for value in onnx.load(made[INT8]).graph.initializer}
        np.testing.assert_array_equal(
            numpy_helper.to_array(kept[floats[0]]).T, numpy_helper.to_array(constants[HEADS[family]])
        )
        assert made[INT8].stat().st_size < made[PLAIN].stat().st_size


def test_a_qdq_graph_has_the_operators_of_the_onnx_standard_and_fixed_ranges(graphs, rows, tmp_path):
    for family, graph in graphs.items():
        path = quantise(graph, tmp_path / f"{family}.onnx", rows(family), INT8_QDQ)
        model = onnx.load(path)
        assert not {node.domain for node in model.graph.node} - {"", "ai.onnx"}
        nodes = [node.op_type for node in model.graph.node]
        assert "DynamicQuantizeLinear" not in nodes
        constants = {value.name: value for value in model.graph.initializer}
        floats, _ = products(path)
        assert [name.removesuffix("_Transposed") for name in floats] == [HEADS[family]]
        int8 = [value for value in constants.values() if value.data_type in (TensorProto.INT8, TensorProto.UINT8)]
        assert max(np.prod(value.dims) for value in int8) == max(
            np.prod(value.dims) for value in onnx.load(graph).graph.initializer
        )


@pytest.mark.parametrize("source", [PLAIN, FUSED])
def test_a_qdq_graph_quantises_both_inputs_of_every_product_but_the_heads(paths, rows, tmp_path, source):
    for family in ("encoder", "sequence-classifier"):
        graph = onnx.load(quantise(paths[family][source], tmp_path / f"{family}.onnx", rows(family), INT8_QDQ)).graph
        quantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        named = {value.name for value in graph.initializer}
        products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
        weighted = [node for node in products if {node.input[1]} & (quantised | named)]
        (head,) = (node for node in weighted if not quantised & set(node.input))
        assert HEADS[family] in head.input[1]
        for node in weighted:
            assert node is head or set(node.input[:2]) <= quantised, node.name


def test_the_weights_of_tokens_are_not_quantised(paths):
    kept = {value.name: value.data_type for value in onnx.load(paths["static"][INT8]).graph.initializer}
    assert kept["module.importance.weight"] == TensorProto.FLOAT
    assert kept["module.words.weight_quantized"] in (TensorProto.INT8, TensorProto.UINT8)


def test_the_vectors_of_ngrams_are_quantised(paths):
    kept = {value.name: value.data_type for value in onnx.load(paths["ngrams"][INT8]).graph.initializer}
    assert kept["module.vectors.weight_quantized"] in (TensorProto.INT8, TensorProto.UINT8)


@pytest.mark.parametrize("family", ["encoder", "static"])
def test_int8_quantises_a_plain_graph_too(graphs, rows, tmp_path, family):
    floats, nodes = products(quantise(graphs[family], tmp_path / "int8.onnx", rows(family)))
    assert [name.removesuffix("_Transposed") for name in floats] == [HEADS[family]]
    assert "MatMulIntegerToFloat" in nodes


@pytest.mark.parametrize(
    ("features", "largest"),
    [
        ([], 64),
        (["avx2", "avx512f"], 64),
        *(([name], 127) for name in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")),
    ],
)
def test_weights_get_7_bits_where_8_would_saturate(graphs, rows, tmp_path, monkeypatch, features, largest):
    monkeypatch.setattr("export.graph.quantise.cpu_features", lambda: {"machine": "any", "features": features})
    graph = onnx.load(quantise(graphs["static"], tmp_path / "int8.onnx", rows("static"))).graph
    (weights,) = (value for value in graph.initializer if value.name == "module.hidden.weight_Transposed_quantized")
    assert np.abs(numpy_helper.to_array(weights).astype(int)).max() == pytest.approx(largest, abs=1)


def test_the_source_is_left_as_it_was(graphs, students, rows, tmp_path):
    before = graphs["encoder"].read_bytes()
    fused = fuse(graphs["encoder"], tmp_path / "fused.onnx", students["encoder"].network.module.config)
    unpad(fused, tmp_path / "unpadded.onnx")
    quantise(graphs["encoder"], tmp_path / "int8.onnx", rows("encoder"))
    assert graphs["encoder"].read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fused.onnx", "int8.onnx", "unpadded.onnx"]


@pytest.fixture(scope="session")
def sources(graphs, fused):
    """What fp16 is made of, by family and variant."""
    plain = {(family, PLAIN): path for family, path in graphs.items()}
    return plain | {(family, FUSED): path for family, path in fused.items()}


@pytest.fixture(scope="session")
def halves(sources, tmp_path_factory):
    """The fp16 graph of each of them."""
    folder = tmp_path_factory.mktemp("halves")
    return {
        (family, name): to_float16(path, folder / f"{family}-{name}.onnx") for (family, name), path in sources.items()
    }


def types(path):
    """The types of all that flows through a graph, by the output's name."""
    model = onnx.load(path)
    values = [*model.graph.value_info, *model.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_reduced_graphs_are_made_where_they_are_asked_for(graphs, rows, tmp_path):
    for reduced in ((), (FP16,), (INT8, FP16)):
        made = make_variants(graphs["static"], tmp_path, None, rows("static"), reduced)
        assert list(made) == [PLAIN, *reduced]


def test_an_fp16_graph_computes_nearly_what_its_source_does(student, sources, answers, halves):
    family = student.network.family
    for source in (PLAIN, FUSED):
        if (family, source) in sources:
            logits = answers({source: sources[family, source], FP16: halves[family, source]})
            assert (logits[FP16] != logits[source]).any()
            np.testing.assert_allclose(logits[FP16], logits[source], rtol=0.05, atol=0.2)
            assert np.corrcoef(logits[FP16].ravel(), logits[source].ravel())[0, 1] > 0.999


def test_an_fp16_graph_takes_and_gives_what_its_source_does(halves):
    for path in halves.values():
        graph = onnx.load(path).graph
        assert {value.name: value.type.tensor_type.elem_type for value in graph.input} == dict.fromkeys(
            ("input_ids", "attention_mask"), TensorProto.INT64
        )
        assert {value.name: value.type.tensor_type.elem_type for value in graph.output} == dict.fromkeys(
            ("logits", "probabilities", "embedding"), TensorProto.FLOAT
        )


def test_an_fp16_graph_halves_the_weights_but_not_the_head(sources, halves):
    for (family, source), path in halves.items():
        constants = {value.name: value.data_type for value in onnx.load(path).graph.initializer}
        assert constants[HEADS[family]] == TensorProto.FLOAT
        assert constants["temperature"] == TensorProto.FLOAT
        tables = [
            kind
            for name, kind in constants.items()
            if name.endswith(("word_embeddings.weight", "words.weight", "vectors.weight"))
        ]
        assert tables == [TensorProto.FLOAT16]
        assert path.stat().st_size < sources[family, source].stat().st_size


def test_nothing_between_the_sums_and_the_answer_passes_through_16_bits(halves):
    for path in halves.values():
        graph = onnx.load(path).graph
        producer = {name: node for node in graph.node for name in node.output}
        node = producer["probabilities"]
        seen = []
        while node.op_type not in ("Gemm", "MatMul"):
            seen.append(node.op_type)
            node = producer[node.input[0]]
        assert seen == ["Softmax", "Div"]
        halved = {
            name
            for name, one in producer.items()
            if one.op_type == "Cast" and one.attribute[0].i == TensorProto.FLOAT16
        }
        for one in graph.node:
            if one.op_type in ("ReduceSum", "Exp", "Clip"):
                assert not halved & set(one.input), one.name
