"""A unpadded graph answers as its source does, computes for tokens alone, and leaves alone what it does not know."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.bundle.classifier import INPUTS, OUTPUTS
from export.bundle.sequence_packing import NAMES, SequencePacking
from export.bundle.session import create_session
from export.graph.unpad import unpad

VOCABULARY, LONGEST = 50, 24
CLS, SEP = 2, 3
WIDTH = 32
LAYERS = {"encoder": 2, "sequence-classifier": 3}


@pytest.fixture(scope="session", params=LAYERS)
def fused(request, lively):
    """The lively graph of each family with attention."""
    return lively[request.param]


@pytest.fixture(scope="session")
def unpadded(fused, tmp_path_factory):
    return unpad(fused, tmp_path_factory.mktemp("unpadded") / "unpadded.onnx")


@pytest.fixture
def edited(lively, tmp_path):
    """`edited(change)`: the encoder's graph after `change(graph)`, and the path of what `unpad` makes of it."""

    def edit(change):
        model = onnx.load(lively["encoder"])
        change(model.graph)
        onnx.save(model, tmp_path / "edited.onnx")
        return tmp_path / "edited.onnx", unpad(tmp_path / "edited.onnx", tmp_path / "unpadded.onnx")

    return edit


def batch(lengths, seed=0):
    """Texts of that many tokens, special ones included, padded to the longest, and their rows of attention."""
    generator = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = [CLS, *generator.integers(SEP + 1, VOCABULARY, size=length), SEP][:length]
        ids[row, length - 1] = SEP
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask} | SequencePacking(LONGEST).pack(lengths)


def one_text(length):
    """All that a text has beside its tokens."""
    return {name: values for name, values in batch((length,)).items() if name != "input_ids"}


def run(path, names, feeds):
    session = create_session(path)
    return session.run(list(names), {value.name: feeds[value.name] for value in session.get_inputs()})


def answers(path, feeds):
    return run(path, OUTPUTS, feeds)


def assert_same_answers(source, target, lengths=(5, 1, LONGEST), seed=0):
    feeds = batch(lengths, seed)
    for name, one, other in zip(OUTPUTS, answers(source, feeds), answers(target, feeds), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5, err_msg=name)


def is_unpadded(path):
    return [value.name for value in onnx.load(path).graph.input] == [*INPUTS, *NAMES]


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def last(graph, kind):
    return [node for node in graph.node if node.op_type == kind][-1]


def insert(graph, node, kind, *others, count=1):
    """Put `count` operators between the first output of a node and all who read it; several are added up."""
    name = node.output[0]
    made = [helper.make_node(kind, [name, *others], [f"{name}/{kind}{index}"]) for index in range(count)]
    made += [
        helper.make_node("Add", [made[index].output[0], made[index + 1].output[0]], [f"{name}/sum{index}"])
        for index in range(count - 1)
    ]
    for reader in graph.node:
        for index, read in enumerate(reader.input):
            if read == name:
                reader.input[index] = made[-1].output[0]
    place = list(graph.node).index(node) + 1
    for offset, each in enumerate(made):
        graph.node.insert(place + offset, each)


def constant(graph, values, name="a constant"):
    graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    return name


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param((1,), id="one token"),
        pytest.param((2,), id="only special tokens"),
        pytest.param((LONGEST,), id="alone"),
        pytest.param((9, 9, 9), id="equal lengths"),
        pytest.param((2, LONGEST), id="shortest first"),
        pytest.param((LONGEST, 2), id="longest first"),
        pytest.param((7, 1, 19, 2, LONGEST, 2), id="very different lengths"),
    ],
)
def test_an_unpadded_graph_answers_as_its_source(fused, unpadded, lengths):
    assert_same_answers(fused, unpadded, lengths)


@pytest.mark.parametrize("seed", range(8))
def test_it_does_so_for_random_lengths(fused, unpadded, seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, LONGEST + 1, size=generator.integers(1, 9)).tolist()
    assert_same_answers(fused, unpadded, lengths, seed)


def test_answers_differ_between_texts(unpadded):
    logits = answers(unpadded, batch((9, 9, 2)))[0]
    assert np.abs(logits[:, None] - logits).max(axis=-1)[np.triu_indices(3, 1)].min() > 1e-2


def test_an_answer_does_not_depend_on_its_neighbours(unpadded):
    lengths = (5, LONGEST, 2, 13)
    feeds = batch(lengths)
    together = answers(unpadded, feeds)
    for row, length in enumerate(lengths):
        alone = answers(unpadded, {"input_ids": feeds["input_ids"][row : row + 1, :length]} | one_text(length))
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_allclose(all_[row], one[0], rtol=1e-4, atol=1e-5)


def test_what_stands_in_padded_places_changes_nothing(unpadded):
    feeds = batch((3, LONGEST))
    other = {**feeds, "input_ids": np.where(feeds["attention_mask"] == 1, feeds["input_ids"], VOCABULARY - 1)}
    for one, same in zip(answers(unpadded, feeds), answers(unpadded, other), strict=True):
        np.testing.assert_array_equal(one, same)


def test_all_but_attention_is_computed_for_tokens_alone(unpadded, tmp_path):
    model = onnx.load(unpadded)
    names = [
        node.output[0]
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gelu", "LayerNormalization") or node.name.endswith(("/sum", "/sum0"))
    ]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(model, tmp_path / "probed.onnx")
    lengths = (2, LONGEST, 7)
    shown = run(tmp_path / "probed.onnx", names, batch(lengths))
    layers = kinds(unpadded).count("MultiHeadAttention")
    assert len(shown) == 2 + layers * (6 + 1 + 2 + 2)  # the embedding is a sum with a norm
    assert {values.shape[0] for values in shown} == {sum(lengths)}


def test_every_attention_and_norm_is_unpadded(fused, unpadded):
    before, after = kinds(fused), kinds(unpadded)
    assert after.count("MultiHeadAttention") == before.count("Attention") > 0
    assert after.count("LayerNormalization") == before.count("SkipLayerNormalization") + 1 > 1
    assert not {"Attention", "SkipLayerNormalization", "EmbedLayerNormalization"} & set(after)


def test_inputs_and_outputs_stay_and_the_rows_come_in_beside(fused, unpadded):
    before, after = onnx.load(fused).graph, onnx.load(unpadded).graph
    assert list(after.input)[: len(INPUTS)] == list(before.input)
    assert list(after.output) == list(before.output)
    assert is_unpadded(unpadded)


def test_the_source_is_left_as_it_was(lively, tmp_path):
    before = lively["encoder"].read_bytes()
    path = unpad(lively["encoder"], tmp_path / "unpadded.onnx")
    assert path == tmp_path / "unpadded.onnx"
    assert lively["encoder"].read_bytes() == before
    assert not is_unpadded(lively["encoder"])
    assert list(tmp_path.iterdir()) == [path]


def test_other_metadata_stays(lively, tmp_path):
    model = onnx.load(lively["encoder"])
    helper.set_model_props(model, {"made by": "hand"})
    onnx.save(model, tmp_path / "source.onnx")
    path = unpad(tmp_path / "source.onnx", tmp_path / "unpadded.onnx")
    assert {prop.key: prop.value for prop in onnx.load(path).metadata_props} == {"made by": "hand"}


def test_no_node_and_no_constant_of_its_own_is_left_unread(unpadded):
    graph = onnx.load(unpadded).graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert all(set(node.output) & read for node in graph.node)
    assert {tensor.name for tensor in graph.initializer if tensor.name.startswith("unpadded ")} <= read


def assert_left_alone(source, target):
    assert onnx.load(target) == onnx.load(source)
    assert not is_unpadded(target)


@pytest.mark.parametrize("family", [*LAYERS, "static", "ngrams"])
def test_a_plain_graph_is_written_as_it_is(graphs, tmp_path, family):
    assert_left_alone(graphs[family], unpad(graphs[family], tmp_path / "unpadded.onnx"))


def test_a_graph_without_attention_is_written_as_it_is(edited):
    def remove(graph):
        for node in graph.node:
            if node.op_type == "Attention":
                node.CopyFrom(helper.make_node("Relu", node.input[:1], node.output))

    assert_left_alone(*edited(remove))


def test_an_unpadded_graph_is_written_as_it_is(lively, tmp_path):
    once = unpad(lively["encoder"], tmp_path / "once.onnx")
    twice = unpad(once, tmp_path / "twice.onnx")
    assert onnx.load(twice) == onnx.load(once)


def first_norm(graph):
    return next(node for node in graph.node if node.op_type == "SkipLayerNormalization")


def put(node, index, name):
    node.input[index] = name


def attribute(name, value):
    """A change that gives the last attention an attribute."""
    return lambda graph: last(graph, "Attention").attribute.append(helper.make_attribute(name, value))


def computed_weights(graph):
    attention = last(graph, "Attention")
    graph.node.insert(0, helper.make_node("Relu", [attention.input[1]], ["computed"]))
    put(attention, 1, "computed")


def another_mask(graph):
    next(value for value in graph.input if value.name == "attention_mask").name = "mask"
    for node in graph.node:
        node.input[:] = ["mask" if name == "attention_mask" else name for name in node.input]


UNKNOWN = {
    "causal": attribute("unidirectional", 1),
    "rotary": attribute("do_rotary", 1),
    "biased": lambda graph: last(graph, "Attention").input.extend(
        ["", constant(graph, np.zeros((1, 2, LONGEST, LONGEST)))]
    ),
    "unmasked": lambda graph: last(graph, "Attention").input.pop(3),
    "without biases": lambda graph: put(last(graph, "Attention"), 2, ""),
    "computed weights": computed_weights,
    "unknown before it": lambda graph: insert(graph, first_norm(graph), "Softsign"),
    "unknown after the embedding": lambda graph: insert(graph, last(graph, "EmbedLayerNormalization"), "Softsign"),
    "another mask": another_mask,
}


@pytest.mark.parametrize("change", UNKNOWN)
def test_a_graph_whose_attention_it_does_not_know_is_written_as_it_is(edited, change):
    assert_left_alone(*edited(UNKNOWN[change]))


@pytest.mark.parametrize(("name", "value"), [("unidirectional", 0), ("scale", 0.9)])
def test_attention_may_say_that_it_is_not_causal_or_have_a_scale(edited, name, value):
    source, target = edited(attribute(name, value))
    assert is_unpadded(target)
    assert_same_answers(source, target)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["Attention", "MatMul", "BiasGelu", "SkipLayerNormalization"])
def test_an_unknown_operator_gets_the_padded_value(edited, kind, count):
    source, target = edited(lambda graph: insert(graph, last(graph, kind), "Softsign", count=count))
    assert is_unpadded(target)
    assert_same_answers(source, target)


@pytest.mark.parametrize("kind", ["Relu", "Tanh", "Gelu", "FastGelu", "BiasGelu", "Add", "Mul", "MatMul"])
def test_an_operator_on_each_place_stays_unpadded(edited, kind):
    shapes = {"BiasGelu": (WIDTH,), "Add": (WIDTH,), "Mul": (), "MatMul": (WIDTH, WIDTH)}

    def place(graph):
        others = [constant(graph, np.random.default_rng(1).normal(size=shapes[kind]))] if kind in shapes else []
        before = list(graph.node)
        insert(graph, first_norm(graph), kind, *others)
        for node in graph.node:
            if node not in before and kind.endswith("Gelu"):
                node.domain = "com.microsoft"

    source, target = edited(place)
    assert is_unpadded(target)
    assert_same_answers(source, target)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("Add", (LONGEST, WIDTH)), ("Mul", (LONGEST, 1)), ("Add", (1, 1, WIDTH)), ("MatMul", (1, WIDTH, WIDTH))],
)
def test_a_constant_that_could_tell_places_apart_meets_the_padded_value(edited, kind, shape):
    values = np.random.default_rng(1).normal(size=shape)
    source, target = edited(
        lambda graph: insert(graph, last(graph, "SkipLayerNormalization"), kind, constant(graph, values))
    )
    assert is_unpadded(target)
    assert_same_answers(source, target)


def test_two_unpadded_values_meet_unpadded(edited):
    source, target = edited(lambda graph: insert(graph, last(graph, "BiasGelu"), "Tanh", count=2))
    assert_same_answers(source, target)
    # Words, places, the longest text and the table of places; three into each attention and one out; one to pool.
    assert kinds(target).count("Gather") == 4 + 2 * (3 + 1) + 1


def segments_of(graph):
    """The constant from which the segment of each token comes."""
    node, made = last(graph, "EmbedLayerNormalization"), {name: node for node in graph.node for name in node.output}
    name = node.input[1]
    while name in made:
        name = made[name].input[0]
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def second_segment(graph):
    tensor = segments_of(graph)
    tensor.CopyFrom(numpy_helper.from_array(np.ones_like(numpy_helper.to_array(tensor)), tensor.name))


def mask_is_read(graph):
    mask = last(graph, "EmbedLayerNormalization").output[1]
    graph.node.append(helper.make_node("Identity", [mask], ["read"]))
    graph.output.append(helper.make_empty_tensor_value_info("read"))


def no_segments(graph):
    node = last(graph, "EmbedLayerNormalization")
    node.input[1] = node.input[4] = ""


@pytest.mark.parametrize(("change", "kept"), [(second_segment, True), (mask_is_read, True), (no_segments, False)])
def test_an_embedding_of_more_than_words_and_places_meets_the_padded_texts(edited, change, kept):
    source, target = edited(change)
    assert is_unpadded(target)
    assert ("EmbedLayerNormalization" in kinds(target)) == kept
    assert_same_answers(source, target)


def test_what_only_the_padded_embedding_read_is_gone(unpadded, fused):
    before, after = ({tensor.name for tensor in onnx.load(path).graph.initializer} for path in (fused, unpadded))
    assert not any("position" in name for name in after)
    assert any("position" in name for name in before)


@pytest.mark.parametrize("kind", ["EmbedLayerNormalization", "Attention", "MatMul", "BiasGelu"])
def test_a_value_that_is_an_output_is_padded(edited, kind):
    shown = []

    def show(graph):
        shown.append(last(graph, kind).output[0])
        graph.output.append(helper.make_empty_tensor_value_info(shown[0]))

    source, target = edited(show)
    lengths = (5, 1, LONGEST)
    feeds = batch(lengths)
    one, other = (run(path, shown, feeds)[0] for path in (source, target))
    assert other.shape == one.shape == (len(lengths), LONGEST, one.shape[-1])
    real = feeds["attention_mask"].astype(bool)
    np.testing.assert_allclose(other[real], one[real], rtol=1e-4, atol=1e-5)
    assert is_unpadded(target)


KNOWN_NORMS = {
    "without the product's bias": lambda norm: norm.input.pop(4),
    "without epsilon": lambda norm: norm.attribute.pop(),
    "with a large epsilon": lambda norm: setattr(norm.attribute[0], "f", 0.5),
}
UNKNOWN_NORMS = {
    "with its sum": lambda norm: norm.output.extend(["", "", "the sum"]),
    "without beta": lambda norm: put(norm, 3, ""),
    "without beta and bias": lambda norm: [norm.input.pop() for _ in range(2)],
}


@pytest.mark.parametrize(
    ("change", "count"), [*((each, 0) for each in KNOWN_NORMS), *((each, 1) for each in UNKNOWN_NORMS)]
)
def test_norms_that_it_does_not_know_get_the_padded_value_and_others_are_unpadded(edited, change, count):
    changes = KNOWN_NORMS | UNKNOWN_NORMS
    source, target = edited(lambda graph: changes[change](last(graph, "SkipLayerNormalization")))
    assert kinds(target).count("SkipLayerNormalization") == count
    assert_same_answers(source, target)
