"""A task file is read whole or refused, and a refusal names the file, the key and what was expected there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill.errors import TaskError
from distill.sections import FileSource, TicketSource
from distill.students.config import EncoderStudent, StaticStudent
from distill.task import Task, load_task
from distill.teachers.local import LocalConfig
from distill.teachers.openai import OpenAIConfig
from distill.teachers.recorded import RecordedConfig

LOCAL = "{kind: local, model: x}"


def written(
    folder: Path,
    *,
    train: str = "{path: train.csv}",
    validation: str = "0.1",
    teacher: str = LOCAL,
    encoder: str = "{family: encoder, model: x}",
    more: str = "",
) -> Path:
    path = folder / "task.yaml"
    path.write_text(
        f"name: desk\ndata: {{train: {train}, test: {{path: test.csv}}, validation: {validation}}}\n"
        f"teacher: {teacher}\nstudents:\n  encoder: {encoder}\n{more}\n",
        encoding="utf-8",
    )
    return path


def refusal(path: Path) -> list[str]:
    """The lines of the error, without the file that each must name."""
    with pytest.raises(TaskError) as caught:
        load_task(path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: ")
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_a_whole_task_is_typed(tmp_path):
    more = "  words: {family: static, model: package:x}\nlabels: [a, b]\nbudget: {latency_ms: 5}"
    task = load_task(written(tmp_path, train="{tickets: 30, seed: 4}", more=more))
    assert isinstance(task, Task)
    assert task.data.train == TicketSource(tickets=30, seed=4)
    assert task.teacher == LocalConfig(model="x")
    assert isinstance(task.students["encoder"], EncoderStudent)
    assert isinstance(task.students["words"], StaticStudent)
    assert task.labels == ("a", "b")
    assert task.budget.latency_ms == 5


def test_validation_is_a_share_or_a_source(tmp_path):
    assert load_task(written(tmp_path, validation="0.25")).data.validation == 0.25
    given = load_task(written(tmp_path, validation="{path: v.csv}")).data.validation
    assert given == FileSource(path=tmp_path / "v.csv")


def test_labelling_asks_for_nothing_more_unless_told_to(tmp_path):
    assert load_task(written(tmp_path)).labelling.model_dump() == {"calibration": None, "self_agreement": 0}
    more = "labelling: {calibration: {data: {path: gold.csv, label: intent}}, self_agreement: 200}"
    labelling = load_task(written(tmp_path, more=more)).labelling
    assert labelling.calibration is not None
    assert labelling.calibration.data == FileSource(path=tmp_path / "gold.csv", label="intent")
    assert (labelling.calibration.method, labelling.self_agreement) == ("auto", 200)


def test_paths_are_relative_to_the_task_file(tmp_path, monkeypatch):
    folder = tmp_path / "tasks"
    folder.mkdir()
    recorded = "{kind: recorded, logits: ../l.npz, recordings: [{array: train, rows: {path: train.csv}}]}"
    written(folder, train="{path: ../data/train.csv}", teacher=recorded, encoder="{family: encoder, model: ./encoder}")
    monkeypatch.chdir(tmp_path)
    task = load_task("tasks/task.yaml")
    assert isinstance(task.data.train, FileSource)
    assert task.data.train.path == tmp_path / "data" / "train.csv"
    assert isinstance(task.teacher, RecordedConfig)
    assert task.teacher.logits == tmp_path / "l.npz"
    assert task.teacher.recordings[0].rows.path == folder / "train.csv"
    assert task.students["encoder"].model == str(folder / "encoder")


def test_what_the_user_names_is_no_path_and_a_file_with_a_key_is(tmp_path):
    teacher = (
        "{kind: openai, model: m, key_file: ../key, prompt: {descriptions: {path: a way}}, groups: {path: [a, b]}}"
    )
    (tmp_path / "tasks").mkdir()
    config = load_task(written(tmp_path / "tasks", teacher=teacher)).teacher
    assert isinstance(config, OpenAIConfig)
    assert config.key_file == tmp_path / "key"
    assert config.prompt.descriptions == {"path": "a way"}
    assert config.groups == {"path": ("a", "b")}


@pytest.mark.parametrize("family", ["static", "ngrams", "decoder"])
def test_pruning_needs_a_student_of_the_family_encoder(tmp_path, family):
    prune = "export: {prune: [{heads: 0.25}]}"
    path = written(tmp_path, encoder=f"{{family: {family}, model: x}}", more=prune)
    expected = (
        f"export.prune: only students of the family encoder can be pruned, and the task has {family}; remove the key"
    )
    with pytest.raises(TaskError, match=re.escape(f"{path}: {expected}")):
        load_task(path)


@pytest.mark.parametrize("model", ["package:some-encoder", "organisation/some-encoder"])
def test_models_that_are_no_paths_are_left_alone(tmp_path, model):
    assert (
        load_task(written(tmp_path, encoder=f"{{family: encoder, model: {model}}}")).students["encoder"].model == model
    )


UNKNOWN = "unknown key; remove it or correct its spelling"
NO_RATES = "layer_decay: has no effect in this family"
MISSING = "missing; this key is required"
READS = "expected text, and YAML reads"
KINDS = "anthropic, bundle, causal, decisions, ensemble, local, openai, recorded"
VARIANTS = "'auto', 'fp32', 'plain', 'int8', 'int8-qdq', 'int8-dynamic' or 'fp16'"


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("more", "colour: red", f"colour: {UNKNOWN}"),
        ("train", "{path: a.csv, labels: b}", f"data.train.labels: {UNKNOWN}"),
        ("encoder", "{family: encoder, model: x, depth: 3}", f"students.encoder.depth: {UNKNOWN}"),
        ("teacher", "{kind: local, model: x, key: y}", f"teacher.key: {UNKNOWN}"),
        ("more", "export: {gates: {speed: 1}}", f"export.gates.speed: {UNKNOWN}"),
        ("more", "export: {prune: {heads: 0.25}}", "export.prune: expected a list, such as [{heads: 0.25}]"),
        ("more", "export: {prune: ~}", "export.prune: expected a list (got None)"),
        ("more", "export: {prune: [{heads: 0}]}", "export.prune.0.heads: Input should be greater than 0 (got 0)"),
        ("more", "export: {prune: [{heads: 1}]}", "export.prune.0.heads: Input should be less than 1 (got 1)"),
        ("more", "export: {prune: [{feed_forward: -1}]}", "export.prune.0.feed_forward: Input should be greater than"),
        ("more", "export: {prune: [{feed_forward: .nan}]}", "export.prune.0.feed_forward: "),
        ("more", "export: {prune: [{heads: 0.5, epochs: -1}]}", "export.prune.0.epochs: Input should be greater than"),
        ("more", "export: {prune: [{epochs: 2}]}", "export.prune.0: nothing to remove; give the share of `heads`, of"),
        (
            "more",
            "export: {prune: [{heads: 0.5}, {heads: 0.5, epochs: 0}]}",
            "export.prune: two entries are called 50-0",
        ),
        (
            "more",
            "export: {prune: [{heads: 0.1, feed_forward: 0.33333333}, {heads: 0.1, feed_forward: 0.33333334}]}",
            "export.prune: two entries are called 10-33.3333, after their shares in percent; give each pair once",
        ),
        *(
            (
                "more",
                f"{section}: {{{key}: {value}}}",
                f"{section}.{key}: Input should be a finite number (got {value[1:]}",
            )
            for section, key in (("budget", "latency_ms"), ("budget", "usd_per_hour"))
            for value in (".inf", ".nan")
        ),
        (
            "more",
            "export: {prune: [{heads: 0.5, learning_rate: .inf}], gates: {parity: .inf}}",
            "export.prune.0.learning_rate: Input should be a finite number (got inf)",
        ),
        *(
            (
                "encoder",
                f"{{family: encoder, model: x, {section}: {{{key}: .inf}}}}",
                f"students.encoder.{section}.{key}: Input should be a f",
            )
            for section, key in (
                ("embedding_phase", "learning_rate"),
                ("optimisation", "learning_rate"),
                ("loss", "temperature"),
            )
        ),
        (
            "more",
            "labelling: {paraphrases: true}",
            "labelling.paraphrases: expected a mapping, with keys among per_text (got True)",
        ),
        (
            "more",
            "labelling: {views: 2}",
            "labelling.views: expected a mapping, with keys among per_text, drop, swap, seed",
        ),
        ("more", "labelling: ~", "labelling: expected a mapping, with keys among calibration, self_agreement, views"),
        (
            "more",
            "export: int8",
            "export: expected a mapping, with keys among trim_vocabulary, prune, variant, gates (got",
        ),
        (
            "more",
            "export: {prune: [0.25]}",
            "export.prune.0: expected a mapping, with keys among heads, feed_forward, epoc",
        ),
        ("more", "sweep: {students: [a]}", "sweep.students: expected a mapping (got ['a'])"),
        ("encoder", "small", "students.encoder: expected a mapping (got 'small')"),
        (
            "encoder",
            "{family: encoder, model: x, loss: kl}",
            "students.encoder.loss: expected a mapping, with keys among kind",
        ),
        ("validation", "{path: v.csv, label: {}}", "data.validation.label: "),
        (
            "train",
            "[a.csv]",
            "data.train: expected a mapping, with keys among path, text, label, id, delimiter (got ['a.csv'])",
        ),
        ("validation", "v.csv", "data.validation: "),
        ("more", "labelling: {seed: 1}", f"labelling.seed: {UNKNOWN}"),
        ("train", "{}", f"data.train.path: {MISSING}"),
        ("train", "{text: body}", f"data.train.path: {MISSING}"),
        ("encoder", "{family: static}", f"students.encoder.model: {MISSING}"),
        ("encoder", "{model: x}", "students.encoder: the key 'family' is missing"),
        ("teacher", "{kind: local}", f"teacher.model: {MISSING}"),
        ("more", "labelling: {calibration: {method: auto}}", f"labelling.calibration.data: {MISSING}"),
        ("train", "{tickets: none}", "data.train.tickets: Input should be a valid integer, unable to parse"),
        ("train", "{tickets: 0}", "data.train.tickets: Input should be greater than or equal to 1 (got 0)"),
        ("train", "a.csv", "data.train: expected a mapping, with keys among path, text, label"),
        ("train", "{path: a.csv, delimiter: ;;}", "data.train.delimiter: expected one character"),
        ("validation", "0.7", "data.validation: Input should be less than 0.5 (got 0.7)"),
        ("validation", "{path: 3}", "data.validation.path: "),
        (
            "encoder",
            "{family: encoder, model: x, layers: [0, b]}",
            "students.encoder.layers.1: Input should be a valid i",
        ),
        ("encoder", "{family: encoder, model: x, layers: 0}", "students.encoder.layers: Input should be greater than"),
        ("encoder", "{family: encoder, model: x, layers: two}", "students.encoder.layers: Input should be a valid int"),
        ("encoder", "{family: encoder, model: x, optimisation: {epochs: 0}}", "students.encoder.optimisation.epochs: "),
        *(
            (
                "encoder",
                f"{{family: {one}, model: x, optimisation: {{layer_decay: 0.8}}}}",
                f"students.encoder.optimisation: {NO_RATES}",
            )
            for one in ("ngrams", "decoder")
        ),
        *(
            ("encoder", f"{{family: static, model: x, loss: {{{loss}}}}}", f"students.encoder.loss: {told}")
            for loss, told in (
                ("kind: mse, temperature: 4", "temperature: has no effect with `kind: mse`; leave it out"),
                ("hard: 1, temperature: 4", "temperature: has no effect with `hard: 1`"),
                ("hard: 1, kind: mse", "kind: has no effect with `hard: 1`"),
            )
        ),
        (
            "encoder",
            "{family: tree, model: x}",
            "students.encoder: Input tag 'tree' found using 'family' does not match",
        ),
        ("teacher", "{kind: local, model: x, fit: {data: {path: 1}}}", "teacher.fit.data.path: "),
        ("teacher", "local", "teacher: expected a mapping with a `kind`"),
        ("teacher", "{kind: oracle}", f"teacher: kind: expected one of {KINDS}"),
        ("more", "labels: [a]", "labels: expected 2 or more entries, got 1"),
        ("more", "labels: [a, b, a]", "labels: the label 'a' is given twice; remove one"),
        ("more", "labels: [a, b, ' a ']", "labels: the label 'a' is given twice; remove one"),
        ("more", "labels: [a, b, '']", "labels: a label is empty; remove it"),
        ("more", 'labels: [a, b, " \\u200B"]', "labels: a label is empty; remove it"),
        ("more", "cascade: {stages: [encoder, encoder]}", "cascade.stages: 'encoder' is named twice; name each stage"),
        ("more", "cascade: {margin: 1}", "cascade.margin: Input should be less than 1 (got 1)"),
        ("more", "cascade: {defer: 99}", "cascade.defer: Input should be less than 1 (got 99)"),
        (
            "more",
            "cascade: {defer: 0.99, margin: 0.1}",
            "cascade.margin: with cascade.defer there is no margin to keep",
        ),
        (
            "more",
            "cascade: {build: false, stages: [encoder], defer: 0.9}",
            "cascade.stages: with cascade.build false no cascade has them; leave out one of the keys",
        ),
        ("more", "cascade: {stages: [encoder]}", "cascade.stages: name two students or more, or give cascade.defer"),
        ("more", "labels: billing", "labels: expected a list, such as [billing]"),
        ("more", "  No!: {family: static, model: x}", "students.No!: String should match pattern"),
        (
            "more",
            "  teacher: {family: static, model: x}",
            "students.teacher: this name is kept for the teacher's bundle",
        ),
        (
            "more",
            "sweep: {students: {teacher: {family: static, model: x}}}",
            "sweep.students.teacher: this name is kept for the teacher's bundle; choose another",
        ),
        ("more", "budget: {latency_ms: -1}", "budget.latency_ms: Input should be greater than 0 (got -1)"),
        ("more", "labelling: {self_agreement: -1}", "labelling.self_agreement: Input should be greater than or equal"),
        ("more", "labelling: {calibration: {data: {tickets: 9}, method: isotonic}}", "labelling.calibration.method: "),
        ("more", "labelling: {calibration: {data: {path: 1}}}", "labelling.calibration.data.path: "),
        ("more", "export: {variant: int4}", f"export.variant: Input should be {VARIANTS} (got 'int4')"),
        (
            "more",
            "  hashed: {family: ngrams, model: x}\nexport: {trim_vocabulary: true}",
            "export.trim_vocabulary: students.hashed is of the family ngrams, which has no table of tokens to trim",
        ),
        (
            "more",
            "sweep: {students: {hashed: {family: ngrams, model: x}}}\nexport: {trim_vocabulary: true}",
            "export.trim_vocabulary: sweep.students.hashed is of the family ngrams",
        ),
        ("more", "labels: [yes, no]", f'labels.0: {READS} yes as true; quote it: "yes"'),
        ("more", "labels: [No, b]", f'labels.0: {READS} No as false; quote it: "No"'),
        ("more", "labels: [a, 12:30]", f'labels.1: {READS} 12:30 as the number 750; quote it: "12:30"'),
        ("more", "labels: [a, 1_000]", f'labels.1: {READS} 1_000 as the number 1000; quote it: "1_000"'),
        ("more", "labels: [a, 0.10]", f'labels.1: {READS} 0.10 as the number 0.1; quote it: "0.10"'),
        ("more", "labels: [a, ~]", f'labels.1: {READS} ~ as nothing; quote it: "~"'),
        ("more", "labels:\n- a\n- 2024-01-31", f"labels.1: {READS} 2024-01-31 as the date 2024-01-31; "),
        ("train", "{path: a.csv, label: on}", f'data.train.label: {READS} on as true; quote it: "on"'),
        ("train", "{path: 2024}", f'data.train.path: {READS} 2024 as the number 2024; quote it: "2024"'),
        ("teacher", "{kind: local, model: off}", f'teacher.model: {READS} off as false; quote it: "off"'),
        (
            *("teacher", "{kind: openai, model: x, prompt: {descriptions: {no: it is not}}}"),
            f'teacher.prompt.descriptions: {READS} no as false; quote it: "no"',
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(tmp_path, key, value, line):
    assert any(found.startswith(line) for found in refusal(written(tmp_path, **{key: value})))


def test_an_unknown_family_lists_the_families(tmp_path):
    (line,) = refusal(written(tmp_path, encoder="{family: tree, model: x}"))
    assert "'encoder', 'static'" in line


def test_everything_wrong_is_told_at_once(tmp_path):
    lines = refusal(written(tmp_path, encoder="{family: encoder}", more="colour: red"))
    assert sorted(lines) == [f"colour: {UNKNOWN}", f"students.encoder.model: {MISSING}"]


def test_a_missing_section_is_named(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("name: desk")
    assert {line.split(":")[0] for line in refusal(path)} == {"data", "teacher", "students"}


@pytest.mark.parametrize("more", ["name: desk", "budget: {latency_ms: 1, latency_ms: 2}"])
def test_a_key_given_twice_is_refused(tmp_path, more):
    (line,) = refusal(written(tmp_path, more=more))
    assert "is given twice" in line
    assert "(line 6, column " in line


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "? [a]\n: b", "a: 2024-99-99", "\t- a"])
def test_what_is_not_yaml_is_refused(tmp_path, text):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    (line,) = refusal(path)
    assert line.startswith("not YAML: ")


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words"])
def test_yaml_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    assert refusal(path) == ["expected a mapping with the keys name, data, teacher and students"]


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{', '.join([f'*{other}'] * 10)}]\n" for other, one in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 200,000 values, aliases counted (line 6, column "),
        ("a: &a {" + "x: *a, " + "}", "the alias *a refers to a value that contains it (line 1, column 11)"),
        ("a: &a [b, &b [*a]]", "the alias *a refers to a value that contains it"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested more than 100 deep (line 1, column 103)"),
        ("a: " + "{b: " * 5000 + "}" * 5000, "nested more than 100 deep"),
        ("".join("  " * depth + "a:\n" for depth in range(300)), "nested more than 100 deep (line 101,"),
        ("- " * 5000 + "x", "nested more than 100 deep"),
        ("a: [" + "x, " * 200_001 + "]", "more than 200,000 values"),
        ("a: " + "x" * (4 * 2**20), "more than 4,194,304 characters"),
        ("a: *b", "not YAML: found undefined alias 'b' (line 1, column 4)"),
        ("a: !!python/object:os.system {}", "not YAML: could not determine a constructor for the tag"),
        ("a: " + "9" * 5000, f"not YAML: '{'9' * 40}…' is read as a number and is not one; quote it to make it text"),
        ("a: 2024-13-45", "not YAML: '2024-13-45' is read as a date and is not one; quote it to make it text (line 1,"),
        ("a: !!timestamp soon", "not YAML: 'soon' is read as a date"),
        ("a: [!!bool maybe]", "not YAML: 'maybe' is read as true or false"),
        ("a: !!int ''", "not YAML: '' is read as a number"),
        ("? !!float ''\n: b", "not YAML: '' is read as a number"),
        ('a: "\\ud800"', "half a character (a lone surrogate) (line 1, column 4); correct the escape"),
        ("a: \x00", "not YAML: unacceptable character #x0000"),
        ("a: 1\n---\nb: 2", "not YAML: expected a single document in the stream but found another document (line 2,"),
    ],
)
def test_yaml_out_of_bounds_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    (line,) = refusal(path)
    assert line.startswith(message)


def test_an_entry_that_does_not_fit_is_the_only_complaint_about_its_list(tmp_path):
    (line,) = refusal(written(tmp_path, more="labels: [a, no]"))
    assert line.startswith("labels.1: expected text, and YAML reads no as false")


def test_marks_that_old_yaml_gives_a_meaning_are_labels(tmp_path):
    assert load_task(written(tmp_path, more="labels: [=, <<, <]")).labels == ("=", "<<", "<")


def test_a_tilde_is_ones_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    recorded = "{kind: recorded, logits: ~/l.npz, recordings: [{array: train, rows: {path: ~/train.csv}}]}"
    task = load_task(
        written(tmp_path, train="{path: ~/a.csv}", teacher=recorded, encoder="{family: encoder, model: ~/m}")
    )
    home = tmp_path / "home"
    assert isinstance(task.data.train, FileSource)
    assert isinstance(task.teacher, RecordedConfig)
    assert (task.data.train.path, task.teacher.logits) == (home / "a.csv", home / "l.npz")
    assert task.teacher.recordings[0].rows == FileSource(path=home / "train.csv")
    assert task.students["encoder"].model == str(home / "m")


def test_yaml_may_share_a_section_between_students(tmp_path):
    more = "  deep: {<<: *base, layers: [0]}"
    task = load_task(written(tmp_path, encoder="&base {family: encoder, model: x, max_tokens: 64}", more=more))
    deep = task.students["deep"]
    assert isinstance(deep, EncoderStudent)
    assert (deep.max_tokens, deep.layers) == (64, (0,))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert refusal(tmp_path / "none.yaml")[0].startswith("cannot be read (")
    assert refusal(tmp_path)[0].startswith("cannot be read (")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café".encode("latin-1"))
    assert refusal(latin)[0].startswith("cannot be read (")


def test_a_task_cannot_be_changed(tmp_path):
    task = load_task(written(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        task.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("teacher", [LOCAL, "{kind: bundle, path: x}"])
def test_a_student_starts_from_a_teacher_that_is_fitted_alone(tmp_path, teacher):
    encoder = "{family: encoder, model: teacher}"
    fitted = "{kind: local, model: x, fit: {data: {path: gold.csv}}}"
    assert load_task(written(tmp_path, encoder=encoder, teacher=fitted)).students["encoder"].model == "teacher"
    (line,) = refusal(written(tmp_path, encoder=encoder, teacher=teacher))
    assert line.startswith("students.encoder.model: `teacher` needs a local teacher with a `fit`")
