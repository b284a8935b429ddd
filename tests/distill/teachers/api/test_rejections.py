"""What servers say when they reject a call, as vendors and gateways write it, and whom it is taken to be about."""

from __future__ import annotations

from typing import Any

import pytest

from distill.teachers.api import rejections

AZURE = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
        },
    }
}
LITELLM = (
    "litellm.BadRequestError: litellm.{kind}: AnthropicException - "
    '{{"type":"error","error":{{"type":"invalid_request_error","message":"{said}"}}}}'
)


def openai(message: str, code: str | None = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


REFUSED: list[tuple[int, object]] = [
    (400, AZURE),
    (
        400,
        {"error": {"code": "content_filter", "message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
    ),
    (400, openai("Invalid prompt: your prompt was flagged as violating our usage policy.", "invalid_prompt")),
    (400, openai("Your request was rejected as a result of our safety system.", "content_policy_violation")),
    (400, anthropic("invalid_request_error", "Output blocked by content filtering policy")),
    (400, openai(LITELLM.format(kind="ContentPolicyViolationError", said="no"), "400", "None")),
    (
        403,
        {
            "error": {
                "code": 403,
                "message": "Your chosen model requires moderation and your input was flagged",
                "metadata": {"reasons": ["violence"], "flagged_input": "x", "provider_name": "OpenAI"},
            }
        },
    ),
    (403, {"code": "forbidden", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"}),
    (400, openai("Input data may contain inappropriate content.", "data_inspection_failed")),
    (400, {"error": {"code": "1301", "message": "系统检测到输入或生成内容可能包含不安全或敏感内容"}}),
]
TOO_LONG: list[tuple[int, object]] = [
    (400, openai("This model's maximum context length is 8192 tokens. However, …", "context_length_exceeded")),
    (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400}),
    (
        400,
        openai(
            "'max_tokens' or 'max_completion_tokens' is too large: 1. This model's maximum context length is 4096 "
            "tokens and your request has 4096 input tokens (1 > 4096 - 4096)."
        ),
    ),
    (400, anthropic("invalid_request_error", "prompt is too long: 209303 tokens > 200000 maximum")),
    (400, anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 179413 + 32768")),
    (413, anthropic("request_too_large", "Request exceeds the maximum size")),
    (413, "<html><center><h1>413 Request Entity Too Large</h1></center></html>"),
    (413, None),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size. try increasing the context size",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 14429,
                "n_ctx": 8192,
            }
        },
    ),
    (500, {"error": {"code": 500, "message": "no", "type": "exceed_context_size_error"}}),
    (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` "
            "tokens and 20 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    (400, {"error": {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."}}),
    (400, [{"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number"}}]),
    (400, openai(LITELLM.format(kind="ContextWindowExceededError", said="prompt is too long"), "400")),
    (400, openai("Invalid 'messages[1].content': string too long. Expected …", "string_above_max_length")),
    (422, {"detail": [{"loc": ["body", "messages", 1, "content"], "msg": "…", "type": "string_too_long"}]}),
    (400, openai("Range of input length should be [1, 129024]", "invalid_parameter_error")),
    (400, openai("Please reduce the length of the messages or completion.", "context_length_exceeded")),
    (413, openai("Request too large for model `m` on tokens per minute (TPM): Limit 6000", "rate_limit_exceeded")),
    (429, openai("Request too large for gpt-4 on tokens per min (TPM): Limit 10000", "rate_limit_exceeded")),
]
UNCLEAR: list[tuple[int, object]] = [
    (400, openai("We could not parse the JSON body of your request.")),
    (400, anthropic("invalid_request_error", "messages: text content blocks must be non-empty")),
    (400, openai("Failed to validate JSON.", "json_validate_failed")),
    (400, "Bad Request"),
    (400, {}),
    (403, "<html>Sorry, you have been blocked</html>"),
    (403, {"message": "Forbidden"}),
    (406, "Not Acceptable: blocked by Mod_Security"),
    (414, "URI too long"),
    (424, {"error": {"message": "Request failed during generation", "type": "generation"}}),
    (451, {}),
    (500, openai("The server had an error")),
    (502, "<html>bad gateway</html>"),
    (529, anthropic("overloaded_error", "Overloaded")),
    (422, {"object": "error", "message": {"detail": [{"type": "missing", "loc": ["body", "x"], "msg": "required"}]}}),
    (422, {"detail": [{"loc": ["body", "top_logprobs"], "msg": "extra", "input": "the prompt is too long"}]}),
]
ALL: list[tuple[int, object]] = [
    (401, openai("Incorrect API key provided", "invalid_api_key")),
    (401, openai("Your account was flagged for violating our usage policies", "account_deactivated")),
    (402, openai("Insufficient Balance")),
    (403, openai("Your account is not allowed to sample from this model")),
    (404, openai("The model `m` does not exist", "model_not_found")),
    (400, anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API.")),
    (400, anthropic("invalid_request_error", "You have reached your specified API usage limits.")),
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}]),
    (400, openai("Unsupported parameter: 'max_tokens'", "unsupported_parameter")),
    (429, openai("Rate limit reached for m: too many tokens per minute", "rate_limit_exceeded")),
    (429, openai("You exceeded your current quota", "insufficient_quota")),
]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        *((status, body, "refused") for status, body in REFUSED),
        *((status, body, "invalid") for status, body in TOO_LONG),
        *((status, body, "unclear") for status, body in UNCLEAR),
        *((status, body, None) for status, body in ALL),
    ],
)
def test_what_is_said_of_a_text_is_told_from_what_is_said_of_every_one(status, body, expected) -> None:
    assert rejections.verdict(status, body) == expected


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (openai("no good"), "no good"),
        ({"error": "no good"}, "no good"),
        ([{"error": {"message": "no good"}}], "no good"),
        ({"message": {"detail": [{"loc": ["body", "x"], "msg": "required"}]}}, "x: required"),
        ({"detail": [{"loc": ["body", "messages", 0], "msg": "too long"}, {"msg": "b"}]}, "messages.0: too long; b"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"success": False, "errors": [{"code": 3030, "message": "no good"}]}, "no good"),
        ("a page", "a page"),
        ({"error": {"code": 7}}, ""),
        (None, ""),
    ],
)
def test_the_servers_words_are_found_wherever_it_puts_them(body, said) -> None:
    assert rejections.message_of(body) == said


@pytest.mark.parametrize(
    ("response", "status"),
    [
        ({"error": {"code": 502, "message": "Provider returned error"}, "user_id": "u"}, 502),
        ({"error": {"code": "429", "message": "slow"}}, 429),
        ({"choices": [{"error": {"code": 524, "message": "x"}, "finish_reason": "error"}]}, 524),
        ({"choices": None, "error": {"type": "rate_limit_exceeded"}}, 429),
        ({"type": "error", "error": {"type": "overloaded_error"}}, 500),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long"}}, 400),
        ({"error": {"code": "content_filter"}}, 400),
        ({"error": "broken"}, 500),
        ({"error": None, "choices": []}, None),
        ({"choices": [{"message": {"content": "A"}}]}, None),
    ],
)
def test_an_error_in_a_response_of_200_stands_for_a_status(response, status) -> None:
    found = rejections.error_within(response)
    assert (None if found is None else found[0]) == status
