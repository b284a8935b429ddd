"""Bodies of wrong items, too many items and odd JSON are refused in one line on every route that takes a list."""

import struct

import pytest

from service.errors import InvalidRequestError
from service.http.body import check_items

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEBIBYTE = 1 << 20
MOST = 10 * 64 + 1000
MOST_WITH_LABELS = MOST + 40 * 4

LISTS = {
    "/classify": ('{"texts": %s}', "texts"),
    "/classify#infinity": ('{"model": "tiny", "input": %s}', "input"),
    "/v1/classify": ('{"input": %s}', "input"),
    "/predict": ('{"inputs": %s}', "inputs"),
    "/": ('{"parameters": {}, "inputs": %s}', "inputs"),
    "/invocations": ('{"inputs": %s}', "inputs"),
    "/vertex": ('{"instances": %s}', "instances"),
    "/v1/models/tiny:predict": ('{"instances": %s}', "instances"),
    "/v2/models/tiny/infer": ('{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": %s}]}', "data"),
    "/v2/models/tiny/infer#outputs": (
        '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}], "outputs": %s}',
        "outputs",
    ),
    "/v2/models/tiny/infer#shape": (
        '{"inputs": [{"name": "text", "shape": %s, "datatype": "BYTES", "data": ["a"]}]}',
        "shape",
    ),
    "/v1/decisions": ('{"input": "a", "questions": %s}', "questions"),
    "/v1/decisions#choices": ('{"input": "a", "questions": [{"type": "choice", "choices": %s}]}', "choices"),
    "/v1/systemone": ('{"state": "a", "questions": {"q": {"type": "choice", "criteria": %s}}}', "criteria"),
}
QUESTIONS = ("/v1/decisions", "/v1/systemone")
"""Paths whose requests list the labels, so that they may have more items."""

WRONG = {
    "numbers": "1",
    "blank texts": '""',
    "texts": '"a"',
    "nulls": "null",
    "lists": "[]",
    "lists of texts": '["a"]',
    "objects": "{}",
    "commas in texts": '",,"',
    "escapes": r'"\\\","',
    "long numbers": "1" * 300,
}


def many(item, size):
    """Return a JSON list of about `size` bytes that repeats an item."""
    return f"[{','.join([item] * (size // (len(item) + 1)))}]"


async def post(client, path, body):
    headers = {"content-type": "application/json"}
    response = await client.post(path.partition("#")[0], content=body, headers=headers)
    return response.status_code, response.text


@pytest.mark.parametrize("path", LISTS)
async def test_a_list_of_half_a_million_items_is_refused_in_one_line_that_names_it(shared_client, path):
    template, name = LISTS[path]
    remedy = f"more than {MOST} items; send at most 64 texts per request, and nothing else"
    if path.startswith(QUESTIONS):
        remedy = f"more than {MOST_WITH_LABELS} items; ask fewer questions per request"
    for item in WRONG.values():
        status, text = await post(shared_client, path, template % many(item, MEBIBYTE - 200))
        assert status == 422, item
        if len(item) < 100:
            assert f"{name}: {remedy}" in text
        assert len(text) < 1000


@pytest.mark.parametrize("path", LISTS)
async def test_other_bodies_that_are_large_and_wrong_are_refused_in_one_line(shared_client, path):
    template, _ = LISTS[path]
    keys = ",".join(f'"{at}":1' for at in range(90_000))
    for value in (
        f"{{{keys}}}",
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 5_000,
        "1" * 300,
        "-1e400",
        '"' + " " * (MEBIBYTE - 300) + '"',
        '"' + "\\n" * 500_000 + '"',
        '"' + '\\"' * 500_000,
        '"' * 1_000_000,
        "," * 1_000_000,
        "\\" * 1_000_000,
    ):
        status, text = await post(shared_client, path, template % value)
        assert status in (400, 422), value[:20]
        assert len(text) < 1000
    status, text = await post(shared_client, path, f"{{{keys}}}")
    assert status == 422
    assert "body: more than" in text


async def test_a_binary_tensor_of_too_many_texts_is_not_read(shared_client):
    data = struct.pack("<I", 0) * 200_000
    head = (
        b'{"inputs": [{"name": "text", "shape": [200000], "datatype": "BYTES", '
        b'"parameters": {"binary_data_size": %d}}]}' % len(data)
    )
    headers = {"inference-header-content-length": str(len(head))}
    response = await shared_client.post("/v2/models/tiny/infer", content=head + data, headers=headers)
    assert (response.status_code, response.json()) == (
        422,
        {"error": "inputs[0]: at most 64 texts per request, got more"},
    )


async def test_the_largest_valid_requests_are_accepted(shared_client, make_settings):
    text = '\\"Where, oh where,\\" she said, \\"is my parcel, C:\\\\\\\\?\\"\\n' * 250
    instance = f'{{"inputs": "{text}", "truncate": true, "truncation_direction": "right", "raw_scores": false}}'
    for path, item in (("/classify", f'"{text}"'), ("/vertex", instance), ("/v1/models/tiny:predict", f'"{text}"')):
        template, _ = LISTS[path]
        body = template % f"[{', '.join([item] * 64)}]"
        assert 800_000 < len(body) < MEBIBYTE
        status, answered = await post(shared_client, path, body)
        assert status == 200, answered[:200]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"[" + b"1," * 2 * MOST + b"1]", "body"),
        (b'{"a": "b", "c" : [' + b'"",' * MOST + b'""]}', "c"),
        (b'{"a": {' + b'"k": 1,' * MOST + b'"k": 1}}', "a"),
        (b'{"' + b"n" * 200 + b'": [' + b"1," * 2 * MOST + b"1]}", "n" * 64),
        (b'{"\xff": [' + b"1," * 2 * MOST + b"1]}", "\ufffd"),
    ],
)
async def test_items_are_counted_wherever_they_are(make_settings, body, name):
    settings = make_settings()
    with pytest.raises(InvalidRequestError, match=f"^{name}: more than {MOST} items"):
        check_items(body, settings)
    check_items(body.replace(b'"', b"").replace(b",", b""), settings)
    check_items(b'{"text": "' + body.replace(b'"', b'\\"') + b'"}', settings)
