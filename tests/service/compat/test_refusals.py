"""An invalid request is refused in its protocol's shape, with a message that begins with the invalid field."""

import pytest

from service.compat.errors import OpenAIErrorBody

from .conftest import LABELS, refused, tensor

A = tensor(["a"])
CHOICES = [{"value": label} for label in LABELS]
CHOICE = {"type": "choice", "instructions": "Which?", "choices": CHOICES}
CRITERIA = {"type": "choice", "criteria": dict.fromkeys(LABELS)}

TEI = [
    ({}, "inputs: Field required"),
    ({"inputs": " "}, "inputs[0]: String should match pattern"),
    ({"inputs": [["a"], [" "]]}, "inputs[1]: String should match pattern"),
    ({"inputs": [["a"], ["b", "c"]]}, "inputs: item 1 is a pair"),
    ({"inputs": []}, "inputs: List should have at least 1 item"),
    ({"inputs": 1}, "inputs: Input should be a valid array"),
    ({"inputs": "a", "truncation_direction": "left"}, "truncation_direction: Input should be"),
    ({"inputs": "a", "more": 1}, "more: Extra inputs are not permitted"),
    ({"inputs": "a", "raw_scores": 1}, "raw_scores: Input should be a valid boolean"),
    ({"inputs": "a" * 100_001}, "inputs[0]: at most 100000 characters"),
    ({"inputs": [["a"]] * 65}, "inputs: at most 64 per request"),
]
BODIES = {
    "/predict": TEI,
    "/": [
        *TEI,
        ({"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k: Input should be greater"),
        ({"inputs": "a", "parameters": {"function_to_apply": "tanh"}}, "parameters.function_to_apply: Input should be"),
        ({"inputs": "a", "parameters": None}, "parameters: Input should be"),
        ({"inputs": ["a", " "], "parameters": {}}, "inputs[1]: String should match pattern"),
        ({"inputs": "a", "parameters": {}, "raw_scores": True}, "raw_scores: Extra inputs"),
    ],
    "/vertex": [
        ({"instances": []}, "instances: List should have at least 1 item"),
        ({"instances": ["a", " "]}, "instances[1].inputs: String should match pattern"),
        ({"instances": [1]}, "instances[0]: Input should be"),
        ({"instances": ["a"], "parameters": {"top_k": 1}}, "parameters.top_k: Extra inputs"),
        ({"inputs": "a"}, "instances: Field required"),
        ({"instances": ["a"] * 65}, "instances: at most 64 per request"),
    ],
    "/classify": [
        ({"input": "invoice"}, "input: Input should be a valid array"),
        ({"input": []}, "input: List should have at least 1 item"),
        ({"input": ["a", " "]}, "input[1]: String should match pattern"),
        ({"input": ["a"], "text": "a"}, "text: Extra inputs are not permitted"),
        ({"input": ["a"] * 65}, "input: at most 64 per request, got 65"),
    ],
    "/v1/classify": [
        ({"input": [1, 2]}, "input[0]: Input should be a valid string"),
        ({"input": "a", "truncate_prompt_tokens": 1}, "truncate_prompt_tokens: Extra inputs"),
        ({"model": "tiny"}, "input: Field required"),
    ],
    "/v1/decisions": [
        ({}, "input: Field required; questions: Field required"),
        ({"input": " ", "questions": [CHOICE]}, "input: String should match pattern"),
        ({"input": 1, "questions": [CHOICE]}, "input: Input should be a valid string"),
        ({"input": "a" * 100_001, "questions": [CHOICE]}, "input: at most 100000 characters"),
        ({"input": "a", "questions": []}, "questions: List should have at least 1 item"),
        ({"input": "a", "questions": [CHOICE] * 65}, "questions: at most 64 per request, got 65"),
        ({"input": "a", "questions": {"q": CRITERIA}}, "questions: Input should be a valid array"),
        ({"input": "a", "questions": [{"choices": CHOICES}]}, "questions[0].type: Field required"),
        ({"input": "a", "questions": [{"type": "choice"}]}, "questions[0].choices: Field required"),
        ({"input": "a", "questions": [CRITERIA]}, "questions[0].choices: Field required; questions[0].criteria: Extra"),
        ({"input": "a", "questions": [{**CHOICE, "choices": []}]}, "questions[0].choices: List should have at least 2"),
        (
            {"input": "a", "questions": [{**CHOICE, "choices": LABELS}]},
            "questions[0].choices[0]: Input should be an obj",
        ),
        (
            {"input": "a", "questions": [{**CHOICE, "choices": [{"value": True}, {"value": False}]}]},
            "questions[0].choices[0].value: Input should be a valid string",
        ),
        ({"input": "a", "questions": [CHOICE], "stream": True}, "stream: Extra inputs are not permitted"),
        ({"input": "a", "questions": [CHOICE], "model": None}, "model: Input should be a valid string"),
    ],
    "/v1/systemone": [
        ({}, "state: Field required; questions: Field required"),
        ({"state": " ", "questions": {"q": CRITERIA}}, "state: String should match pattern"),
        ({"state": "a" * 100_001, "questions": {"q": CRITERIA}}, "state: at most 100000 characters"),
        ({"state": "a", "questions": {}}, "questions: Dictionary should have at least 1 item"),
        ({"state": "a", "questions": [CRITERIA]}, "questions: Input should be an object"),
        ({"state": "a", "questions": {"q": {"type": "choice"}}}, "questions.q.criteria: Field required"),
        ({"state": "a", "questions": {"q": {**CRITERIA, "criteria": {}}}}, "questions.q.criteria: Dictionary should"),
        ({"state": "a", "questions": {"q": {**CRITERIA, "criteria": LABELS}}}, "questions.q.criteria: Input should be"),
        (
            {"state": "a", "questions": {"q" * 99: {**CRITERIA, "criteria": {"a": 1, "b": 2}}}},
            f"questions.{'q' * 64}.c",
        ),
        (
            {"state": "a", "questions": {"q": CHOICE}},
            "questions.q.criteria: Field required; questions.q.choices: Extra",
        ),
    ],
    "/v1/models/tiny:predict": [
        ({}, "body: give exactly one of `instances` and `inputs`"),
        ({"instances": ["a"], "inputs": ["a"]}, "body: give exactly one of"),
        ({"instances": []}, "instances: List should have at least 1 item"),
        ({"instances": ["a", [1]]}, "instances[1]: Input should be a valid string"),
        ({"inputs": ["a", "a" * 100_001]}, "inputs[1]: at most 100000 characters"),
    ],
    "/v2/models/tiny/infer": [
        ({}, "inputs: Field required"),
        ({"inputs": []}, "inputs: List should have at least 1 item"),
        ({"inputs": [A, A]}, "inputs: List should have at most 1 item"),
        ({"inputs": [tensor(["a"], name="input_ids")]}, "inputs[0].name: Input should be 'text', "),
        ({"inputs": [tensor(["a"], datatype="FP32")]}, "inputs[0].datatype: Input should be 'BYTES'"),
        ({"inputs": [tensor(["a"], shape=[2])]}, "inputs[0].shape: [2], with 1 texts; give [1] or [1, 1]"),
        ({"inputs": [tensor(["a", "b"], shape=[1, 2])]}, "inputs[0].shape: [1, 2], with 2 texts"),
        ({"inputs": [tensor(["a", "b"], shape=[2, 2])]}, "inputs[0].shape: [2, 2], with 2 texts"),
        ({"inputs": [tensor(["a"], shape=[])]}, "inputs[0].shape: List should have at least 1 item"),
        ({"inputs": [tensor(["a", " "])]}, "inputs[0].data[1]: String should match pattern"),
        ({"inputs": [tensor(["a", ["b", "c"]])]}, "inputs[0].data[1]: Input should be a valid string"),
        ({"inputs": [tensor([], shape=[1])]}, "inputs[0].data: List should have at least 1 item"),
        ({"inputs": [tensor(["a"], data="a")]}, "inputs[0].data: Input should be a valid array"),
        ({"inputs": [tensor(["a"], data=None)]}, "inputs[0]: give exactly one of `data` and"),
        ({"inputs": [A], "outputs": [{"name": "more"}]}, "outputs[0].name: Input should be 'label', "),
        ({"inputs": [A], "parameters": {"timeout": -1}}, "parameters.timeout: Input should be greater"),
        (
            {"inputs": [A], "outputs": [{"name": "label", "parameters": {"classification": 1}}]},
            "outputs: `label` has no classes",
        ),
        ({"inputs": [tensor(["a"] * 65)]}, "inputs[0].data: at most 64 per request, got 65"),
    ],
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("path", "body", "message"), [(path, body, message) for path, bodies in BODIES.items() for body, message in bodies]
)
async def test_an_invalid_request_is_refused_with_the_field(shared_client, path, body, message):
    kind = "Validation" if path in ("/predict", "/", "/vertex") else None
    shape = OpenAIErrorBody if path == "/classify" else None  # whose own shape is the native one
    assert refused(await shared_client.post(path, json=body), 422, kind, shape).startswith(message)
