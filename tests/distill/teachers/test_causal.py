"""A causal teacher's answers are those of a straightforward computation: text by text, without cache or padding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from distill.run import Run
from distill.task import load_task
from distill.teachers import TeacherError, causal, create
from distill.teachers.causal import CausalTeacher
from distill.teachers.prompting.chat_template import ChatTemplate
from distill.teachers.prompting.label_codes import forms, label_codes, order_of
from distill.teachers.prompting.prompt import Prompt

LABELS = ("billing", "refund request", "shipping")
TEXTS = (
    "my parcel is late",
    "no",
    "please charge my card for the invoice, and send the receipt to the address that I gave when I registered",
    "",
    "\n\nrefund <b>now</b> ]]",
    "half a pair: \ud83d",
)
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


def teacher(folder: Path, labels=LABELS, **settings: Any) -> CausalTeacher:
    settings = {"min_covered": 0.0, "batch_size": 4, **settings}  # a random model covers little
    made = create({"kind": "causal", "model": str(folder), **settings}, labels)
    assert isinstance(made, CausalTeacher)
    return made


class Straightforward:
    """The same, without anything clever."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.pieces = [self.tokenizer.decode([index]) for index in range(len(self.tokenizer))]

    def scores(self, prompt: str) -> tuple[np.ndarray, int]:
        """Log probabilities after each token of a prompt, and how many there are."""
        ids = self.tokenizer(prompt.encode("utf-8", "replace").decode())["input_ids"]
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return logits.log_softmax(-1).double().numpy(), len(ids)

    def code_mass(self, prompt: str, names) -> np.ndarray:
        last = np.exp(self.scores(prompt)[0][-1])
        return np.array(
            [sum(last[self.pieces.index(form)] for form in forms(name) if form in self.pieces) for name in names]
        )

    def name_mass(self, prompt: str, answers) -> np.ndarray:
        _, begun = self.scores(prompt)
        masses = []
        for answer in answers:
            ids = self.tokenizer((prompt + answer).encode("utf-8", "replace").decode())["input_ids"]
            scores, _ = self.scores(prompt + answer)
            masses.append(np.exp(sum(scores[place - 1, ids[place]] for place in range(begun, len(ids)))))
        return np.array(masses)


def plain(text: str, order, names, examples=()) -> str:
    """What a model without a template is to read, written out."""
    system, *turns, question = Prompt(examples=examples).messages(text, LABELS, order, names=names)
    lines = [f"{system['content']}\n"]
    for asked, answered in zip(turns[::2], turns[1::2], strict=True):
        lines.append(f"{asked['content']}\nAnswer: {answered['content']}")
    return "\n".join([*lines, f"{question['content']}\nAnswer:"])


EXAMPLES = {"examples": (("where is my refund", "refund request"), ("the courier is late", "shipping"))}


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
@pytest.mark.parametrize("repeat", [0, 1])
async def test_codes_have_their_exact_mass(tiny_causal, family, repeat):
    folder = tiny_causal(family)
    reference = Straightforward(folder)
    asked = teacher(folder, permutations=3, prompt=EXAMPLES)
    assert asked.codes == label_codes(3)
    answers = await asked.ask(TEXTS, repeat)
    orders = set()
    for text, answer in zip(TEXTS, answers, strict=True):
        order = order_of(text, 3, 3, repeat)
        orders.add(order)
        by_code = reference.code_mass(plain(text, order, label_codes(3), **EXAMPLES), label_codes(3))
        mass = np.zeros(3)
        mass[list(order)] = by_code
        assert answer.covered == pytest.approx(mass.sum(), abs=1e-5)
        np.testing.assert_allclose(answer.probabilities, mass / mass.sum(), atol=1e-4)
        assert (answer.method, answer.tail, answer.outcome) == ("logprobs", 0.0, "ok")
    assert len(orders) > 1


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
async def test_names_have_the_exact_mass_of_all_their_tokens_and_of_their_end(tiny_causal, family):
    folder = tiny_causal(family)
    reference = Straightforward(folder)
    asked = teacher(folder, score="names", batch_size=2)
    assert len(reference.tokenizer(" refund request")["input_ids"]) > 2
    for text, answer in zip(TEXTS, await asked.ask(TEXTS), strict=True):
        order = order_of(text, 3, 2)
        prompt = plain(text, order, [LABELS[index] for index in order])
        mass = reference.name_mass(prompt, [f" {label}\n" for label in LABELS])
        assert answer.covered == pytest.approx(mass.sum(), rel=1e-3)
        np.testing.assert_allclose(answer.probabilities, mass / mass.sum(), atol=1e-4)


async def test_a_name_that_begins_another_has_no_part_in_its_mass(tiny_causal):
    labels = ("refund", "refund request")
    asked = teacher(tiny_causal("llama"), labels, score="names")
    short, long = (asked._template.answer(label, ended=True) for label in labels)
    assert long[: len(short)] != short


@pytest.mark.parametrize("score", ["codes", "names"])
async def test_neither_the_batch_nor_padding_changes_an_answer(tiny_causal, score):
    asked = teacher(tiny_causal("mistral"), score=score)
    together = await asked.ask(TEXTS)
    for text, answer in zip(reversed(TEXTS), reversed(together), strict=True):
        (single,) = await asked.ask([text])
        np.testing.assert_allclose(single.probabilities, answer.probabilities, atol=1e-5)
        assert single.tokens == answer.tokens


async def test_what_prompts_have_in_common_is_read_once(tiny_causal, monkeypatch):
    asked = teacher(tiny_causal("llama"), permutations=1)
    await asked.ask(["first"])
    read = []
    network = asked._model.model
    monkeypatch.setattr(
        network,
        "forward",
        lambda *args, _own=network.forward, **given: read.append(given["input_ids"].shape) or _own(*args, **given),
    )
    (answer,) = await asked.ask(["another"])
    assert [shape[0] for shape in read] == [1]
    assert read[0][1] < 30 < 200 < answer.tokens


@pytest.mark.parametrize("score", ["codes", "names"])
async def test_a_prompt_that_begins_otherwise_is_read_whole(tiny_causal, monkeypatch, score):
    folder = tiny_causal("llama")
    expected = await teacher(folder, score=score).ask(TEXTS)
    monkeypatch.setattr(causal, "_PROBES", ("my parcel is lost",))
    found = await teacher(folder, score=score).ask(TEXTS)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


@pytest.mark.parametrize("score", ["codes", "names"])
async def test_a_text_that_is_too_long_loses_its_end_and_is_counted(tiny_causal, score):
    folder = tiny_causal("gpt2", positions=400)
    asked = teacher(folder, score=score, permutations=1)
    long = "please " * 500
    cut, short = await asked.ask([long, "please"])
    assert asked.truncated == 1
    assert short.tokens < cut.tokens <= 400
    assert cut.tokens >= 390 - 10
    ids = asked._question(long, (0, 1, 2))
    question = asked._model.tokenizer.decode(ids)
    names = label_codes(3) if score == "codes" else LABELS
    whole = plain(long, (0, 1, 2), names)
    kept = question.removesuffix("\n</text>\nAnswer:")
    assert kept != question
    assert whole.startswith(kept)
    assert "please please" in kept


async def test_max_tokens_bounds_the_prompt(tiny_causal):
    asked = teacher(tiny_causal("llama"), max_tokens=300)
    (answer,) = await asked.ask(["please " * 500])
    assert answer.tokens <= 300
    assert asked.truncated == 1


def test_instructions_that_do_not_fit_are_refused_not_cut(tiny_causal):
    with pytest.raises(TeacherError, match=r"prompt alone takes \d+ tokens, and there is room for 100.*examples"):
        teacher(tiny_causal("llama"), max_tokens=100)


async def test_an_answer_that_means_something_else_is_no_label(tiny_causal):
    asked = teacher(tiny_causal("llama"), min_covered=1.0)
    asked._checked = True
    (answer,) = await asked.ask(["hello"])
    assert (answer.outcome, answer.probabilities) == ("invalid", None)
    assert 0 < answer.covered < 1


@pytest.mark.parametrize("score", ["codes", "names"])
async def test_a_model_that_wants_to_say_something_else_is_found_before_any_text_counts(tiny_causal, score):
    asked = teacher(tiny_causal("llama"), min_covered=0.999, score=score)
    with pytest.raises(TeacherError, match=rf"of its mass on {score}, less than min_covered 0.999.*prompt\.examples"):
        await asked.ask(["please " * 2000])
    assert asked.truncated == 0


async def test_an_answer_says_what_it_took(tiny_causal):
    asked = teacher(tiny_causal("llama"), usd_per_hour=3600.0)
    (answer,) = await asked.ask(["hello"])
    assert answer.seconds > 0
    assert answer.cost_usd == pytest.approx(answer.seconds)
    assert answer.probabilities.dtype == np.float32
    assert asked.name == "causal:tiny-llama"


def test_what_changes_answers_changes_the_version_and_speed_and_place_do_not(tiny_causal, tmp_path):
    folder = tiny_causal("llama")
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    version = teacher(folder).version
    terms = {"acknowledged": True, "reference": "LICENSE"}
    aside = {"batch_size": 1, "usd_per_hour": 2.0, "device_map": "cpu", "name": "x", "terms": terms}
    assert teacher(copy, **aside).version == version
    others = [
        teacher(tiny_causal("llama", seed=1)).version,
        teacher(folder, prompt={"instructions": "Sort it."}).version,
        teacher(folder, score="names").version,
        teacher(folder, permutations=3).version,
        teacher(folder, dtype="bfloat16").version,
        teacher(folder, chat_template_kwargs={"enable_thinking": False}).version,
        teacher(folder, LABELS[::-1]).version,
    ]
    assert len({version, *others}) == len(others) + 1
    (copy / "chat_template.jinja").write_text(TEMPLATE)
    assert teacher(copy).version != version


def test_a_prompt_that_names_other_labels_is_refused(tiny_causal):
    with pytest.raises(TeacherError, match="refunds"):
        teacher(tiny_causal("llama"), prompt={"descriptions": {"refunds": "money back"}})


def test_a_model_that_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(TeacherError, match="cannot be loaded"):
        teacher(tmp_path)
    with pytest.raises(TeacherError, match="not installed"):
        create({"kind": "causal", "model": "package:no-such-package-at-all"}, LABELS)


def test_a_model_without_a_key_value_cache_is_refused_before_anything_is_asked(tiny_causal, tmp_path):
    AutoTokenizer.from_pretrained(tiny_causal("llama")).save_pretrained(tmp_path)
    config = MambaConfig(vocab_size=460, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match="has no key-value cache"):
        teacher(tmp_path)


# Templates and codes


@pytest.mark.parametrize("score", ["codes", "names"])
async def test_a_models_own_template_is_used_and_ends_names(tiny_causal, score):
    folder = tiny_causal("llama", template=TEMPLATE)
    reference = Straightforward(folder)
    asked = teacher(folder, permutations=1, score=score)
    messages = Prompt().messages("hello", LABELS, (0, 1, 2), names=LABELS if score == "names" else None)
    prompt = "".join(f"<{message['role']}>{message['content']}<|end|>\n" for message in messages) + "<assistant>"
    (answer,) = await asked.ask(["hello"])
    if score == "codes":
        mass = reference.code_mass(prompt, label_codes(3))
        assert answer.covered == pytest.approx(mass.sum(), abs=1e-5)
    else:
        mass = reference.name_mass(prompt, [f"{label}<|end|>" for label in LABELS])
    np.testing.assert_allclose(answer.probabilities, mass / mass.sum(), atol=1e-4)


def test_a_template_without_a_system_message_has_the_user_say_it(tiny_causal):
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal("llama", template=NO_SYSTEM))
    ids = ChatTemplate(tokenizer).ids([{"role": "system", "content": "Sort."}, {"role": "user", "content": "hi"}])
    assert tokenizer.decode(ids) == "<user>Sort.\n\nhi<|end|>\n<assistant>"


def test_a_template_that_fails_is_named(tiny_causal):
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal("llama", template="{{ raise_exception('never') }}"))
    with pytest.raises(TeacherError, match="chat template cannot be used: never"):
        ChatTemplate(tokenizer).ids([{"role": "system", "content": "Sort."}, {"role": "user", "content": "hi"}])


def test_arguments_reach_the_template(tiny_causal):
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal("llama", template=TEMPLATE + "{{ 'hm' if thinking }}"))
    ids = ChatTemplate(tokenizer, {"thinking": True}).ids([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(ids).endswith("hm")


def test_a_tokenizer_that_splits_numbers_gets_pairs_of_letters(tiny_causal):
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal("llama"))
    template = ChatTemplate(tokenizer)
    assert template.codes(26) == label_codes(26)
    with pytest.raises(TeacherError, match=r"no 40 codes of one token.*score: names"):
        template.codes(40)
    tokenizer.add_tokens([f" {first}{second}" for first in "QXZ" for second in "ABCDEFGHIJKLMNOPQ"])
    found = ChatTemplate(tokenizer).codes(40)
    assert len(set(found)) == 40
    assert {len(code) for code in found} == {2}
    assert not {"AS", "NO", "IT"} & set(found)


async def test_answers_follow_the_labels_whatever_codes_there_are(tiny_causal, tmp_path):
    labels = tuple(f"label {number}" for number in range(27))
    folder = tmp_path / "wide"
    shutil.copytree(tiny_causal("llama"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f" {first}{second}" for first in "QXZ" for second in "ABCDEFGHIJ"])
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    asked = teacher(folder, labels)
    assert len(asked.codes) == 27
    scores, orders = asked.next_tokens(["hello"])
    (answer,) = await asked.ask(["hello"])
    mass = np.zeros(27)
    for place, code in enumerate(asked.codes):
        mass[orders[0][place]] = sum(
            np.exp(scores[0, index]) for index in range(len(tokenizer)) if tokenizer.decode([index]) in forms(code)
        )
    np.testing.assert_allclose(answer.probabilities, mass / mass.sum(), atol=1e-5)


def test_weights_in_a_gguf_file_count_and_others_beside_them_do_not(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"one")
    config = causal.CausalConfig(model=str(tmp_path), gguf_file="a.gguf")
    before = config.weights()
    (tmp_path / "b.gguf").write_bytes(b"two")
    assert config.weights() == before
    (tmp_path / "a.gguf").write_bytes(b"three")
    assert config.weights() != before


def test_a_model_folder_of_a_package_is_found(tiny_causal, tmp_path, monkeypatch):
    folder = tmp_path / "carries_a_model"
    shutil.copytree(tiny_causal("llama"), folder)
    info = tmp_path / "carries_a_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carries-a-model\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{folder.name}/{file.name},,\n" for file in folder.iterdir()))
    monkeypatch.syspath_prepend(tmp_path)
    made = create({"kind": "causal", "model": "package:carries-a-model", "min_covered": 0}, LABELS)
    assert made.name == "causal:carries-a-model"
    assert made.version == teacher(folder).version


def test_a_configuration_is_json(tiny_causal):
    config = causal.CausalConfig(model="m", device_map={"": "cpu"}, prompt=EXAMPLES)
    assert causal.CausalConfig.model_validate(json.loads(config.model_dump_json())) == config


def test_a_run_records_how_many_texts_were_cut(tiny_causal, write_csv, tmp_path):
    rows = [(f"{number} {'please ' * 200 if number % 8 == 0 else 'hello'}", LABELS[number % 3]) for number in range(24)]
    write_csv(tmp_path / "train.csv", rows)
    write_csv(tmp_path / "test.csv", [("something else entirely", LABELS[0]), ("and another thing", LABELS[1])])
    given = {"kind": "causal", "model": str(tiny_causal("llama")), "min_covered": 0, "max_tokens": 300}
    task = {
        "name": "cut",
        "labels": list(LABELS),
        "data": {name: {"path": f"{name}.csv", "label": "label"} for name in ("train", "test")},
        "teacher": given,
        "students": {"small": {"family": "static", "model": "package:none"}},
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    run = Run(load_task(tmp_path / "task.yaml"), tmp_path / "run")
    run.make_data()
    cut = sum(len(text) > 1000 for text in (*run.splits().train.texts, *run.splits().validation.texts))
    assert cut > 0
    assert run.make_labels().methods[0] == "logprobs"
    assert f"{cut} cut to what the model reads" in run.labelling()
