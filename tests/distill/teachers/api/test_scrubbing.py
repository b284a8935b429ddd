"""What a server says is told without the keys and the texts that it repeats of the request."""

import json

import httpx
import pytest

from distill.teachers.api.errors import error_of, transport_errors
from distill.teachers.api.scrubbing import scrubbed
from distill.teachers.prompting.prompt import Prompt

KEY = "sk-canary0123456789"
TEXT = 'My card 4111-1111 is lost,\nplease "block" it; Größe 42. 请退款价格太高了'


def request(text=TEXT, body=None):
    messages = Prompt().messages(text, ["billing", "shipping"], [0, 1])
    return httpx.Request(
        "POST",
        "https://me:passw0rd-1@api.example/v1/chat?api-key=query-canary",
        headers={"authorization": f"Bearer {KEY}", "api-key": "azure-canary-1"},
        json={"model": "gpt-4o", "messages": messages} if body is None else body,
    )


@pytest.mark.parametrize(
    "echo",
    [
        TEXT,
        json.dumps(TEXT),
        json.dumps(TEXT, ensure_ascii=False),
        repr(TEXT),
        TEXT.upper(),
        TEXT[:30],
        TEXT[5:40],
        " ".join(TEXT.split()),
        "please block",
        "4111-1111",
        "请退款价格",
    ],
)
def test_a_text_that_is_repeated_is_masked_whole_or_cut_and_however_it_is_written(echo):
    said = scrubbed(f"The prompt was rejected: {echo} [code 17]", request())
    assert said.startswith("The prompt was rejected: ")
    assert "***" in said
    for word in ("card", "4111", "please", "block", "Größe", "gr\\u00f6", "退款", "CARD"):
        assert word not in said


@pytest.mark.parametrize("text", ["refund", "pin", "xyzzyplugh", "a b c"])
def test_a_short_text_is_masked_where_it_is_repeated_whole(text):
    assert scrubbed(f"cannot answer '{text}' now", request(text)) == "cannot answer '***' now"


def test_keys_of_headers_address_and_password_are_masked():
    said = scrubbed(f"bad key {KEY} or azure-canary-1 or query-canary or passw0rd-1 at gpt-4o", request())
    assert said == "bad key *** or *** or *** or *** at gpt-4o"


def test_what_users_add_to_a_body_is_masked():
    sent = {"model": "gpt-4o", "user": "canary-1", "metadata": {"token": ["canary-2"]}, "stop": ["a stop sign"]}
    assert scrubbed("bad canary-1, canary-2, a stop sign", request(body=sent)) == "bad ***, ***, a stop sign"


def test_what_the_server_says_itself_stays():
    said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    assert scrubbed(said, request()) == said


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a canary text"},
        {"input": ["x", "a canary text"]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a canary text"}]}]},
    ],
)
def test_texts_are_found_wherever_a_request_has_them(body):
    assert "canary" not in scrubbed("bad: a canary text", request(body=body))


@pytest.mark.parametrize("body", [[], {"messages": 3}, {"messages": [3, {"role": "user"}]}, {"prompt": None}, "x"])
def test_a_request_of_any_shape_can_be_looked_at(body):
    assert scrubbed("said", request(body=body)) == "said"


@pytest.mark.parametrize("status", [400, 401, 403, 422, 429, 500])
@pytest.mark.parametrize("shape", [{"error": {"message": "%s"}}, {"error": "%s"}, {"detail": [{"input": "%s"}]}, "%s"])
def test_no_error_of_a_call_has_them(status, shape):
    content = json.dumps(shape).replace("%s", json.dumps(f"{TEXT} {KEY}")[1:-1])
    error = error_of(httpx.Response(status, content=content, request=request()), "openai:gpt-4o")
    assert str(status) in str(error)
    for secret in (KEY, "4111", "please", "退款"):
        assert secret not in f"{error}{error.reason}"


@pytest.mark.parametrize(
    "error",
    [
        httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'"),
        httpx.RemoteProtocolError(f"illegal status line: bytearray(b'{TEXT}')"),
    ],
)
def test_no_error_of_a_connection_has_them(error):
    with pytest.raises(Exception, match="broke off its answer") as failed, transport_errors("openai:gpt-4o"):
        raise error
    assert KEY not in str(failed.value)
    assert "4111" not in str(failed.value)


@pytest.mark.parametrize("half", ["\ud83d", "\\ud83d"])
def test_half_a_surrogate_pair_is_replaced(half) -> None:
    said = scrubbed(f"{half} {TEXT}", request())
    assert said.startswith("\ufffd ***")
    assert scrubbed("\\ud83d\\ude00", request()) == "\U0001f600"
