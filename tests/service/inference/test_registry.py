"""Models are replaced while requests are answered: no request is lost or answered by the wrong model, nothing leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import shutil
import sys
import threading
import weakref
from collections import Counter

import httpx
import pytest

from export.bundle.classifier import Classifier
from export.bundle.format import write_bundle
from service.app import create_app
from service.errors import StartupError
from service.inference import load as loading
from service.inference import registry as module
from service.inference.registry import Models, Variant
from service.shadow.active import ActiveShadow
from service.shadow.errors import ShadowError
from tests.support.waiting import PATIENCE, until

ON_LOOP = {"workers": 0, "batch_tokens": 512}
ON_THREAD = {"workers": 1, "batch_tokens": 512}
FLIPS = ({}, {"refund": "shipping", "late": "technical"}, {"refund": "account", "crash": "billing"})
TEXTS = ("refund", "late", "crash", "login", "refund please", "my parcel is late", "crash crash login", "help")
CLIENTS = 20


@pytest.fixture(scope="module")
def bundles(make_bundle, tmp_path_factory):
    """Three bundles that answer some texts differently, to be copied to where one is served from."""
    folder = tmp_path_factory.mktemp("versions")
    return [make_bundle(folder / str(number), flip=flip) for number, flip in enumerate(FLIPS)]


@pytest.fixture(scope="module")
def right(bundles):
    """The label of a text by (version, text)."""
    found = {}
    for bundle in bundles:
        classifier = Classifier.load(bundle)
        for text in TEXTS:
            label = int(classifier.classify(text).probabilities.argmax())
            found[bundle.manifest.version, text] = bundle.manifest.labels[label]
    return found


def publish(bundle, path):
    """Replace the bundle at `path` by a copy of `bundle`, with the same version."""
    return write_bundle(path, {name: bundle.path / name for name in bundle.manifest.files}, bundle.manifest).path


@pytest.fixture
def path(bundles, tmp_path):
    """Where the first bundle is, to be served and replaced."""
    return publish(bundles[0], tmp_path / "served")


async def reload(client, bundle=None, path=None):
    """Reload, with another bundle at `path` if one is given."""
    if bundle is not None:
        publish(bundle, path)
    return await client.post("/admin/reload")


def version(bundle):
    return bundle.manifest.version


def models_of(client):
    return client._transport.app.state.reflux.models


def inference_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("inference-")]


def served(client):
    return {model.manifest.version: model for model in models_of(client)}


def large_parts(model):
    """Weak references to a model's classifier and to its teacher."""
    return weakref.ref(model.loaded.stages[0].classifier), weakref.ref(model.shadow._active.asking.teacher)


async def ask(client, text, **options):
    response = await client.post("/classify", json={"text": text}, **options)
    assert response.status_code == 200, response.text
    body = response.json()
    return body["version"], body["results"][0]["label"]


class Gate:
    """Holds runs of graphs, in threads, until it is opened."""

    def __init__(self, monkeypatch):
        self.reached, self.opened = threading.Event(), threading.Event()
        self._run = Classifier.run
        monkeypatch.setattr(Classifier, "run", lambda classifier, rows: self.hold(classifier, rows))

    def hold(self, classifier, rows):
        if threading.current_thread().name.startswith("inference-") and not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(PATIENCE)
        return self._run(classifier, rows)


@pytest.fixture
def gate(monkeypatch):
    """Holds the first run of an inference thread, and that alone."""
    gate = Gate(monkeypatch)
    yield gate
    gate.opened.set()


@pytest.mark.parametrize("engine", [ON_LOOP, ON_THREAD], ids=["loop", "thread"])
async def test_reloads_under_load_lose_no_request_and_every_label_is_that_of_the_version_it_names(
    running, bundles, right, path, engine
):
    threads = len(inference_threads())
    async with running(bundle=path, admin=True, shutdown_seconds=600, **engine) as client:
        answered: Counter[str] = Counter()
        done = asyncio.Event()

        async def user(seed):
            generator = random.Random(seed)
            while not done.is_set():
                texts = generator.choices(TEXTS, k=generator.randint(1, 4))
                response = await client.post("/classify", json={"texts": texts})
                assert response.status_code == 200, response.text
                body = response.json()
                labels = [result["label"] for result in body["results"]]
                assert labels == [right[body["version"], text] for text in texts]
                answered[body["version"]] += 1

        async def exchange(bundle):
            wanted = answered[version(bundle)] + CLIENTS
            assert (await reload(client, bundle, path)).json() == {"versions": {"stable": version(bundle)}}
            await until(lambda: answered[version(bundle)] >= wanted)

        users = [asyncio.create_task(user(seed)) for seed in range(CLIENTS)]
        try:
            for number in range(1, 7):
                await exchange(bundles[number % len(bundles)])
        finally:
            done.set()
            await asyncio.gather(*users)
        assert set(answered) == {version(bundle) for bundle in bundles}
        await until(lambda: len(inference_threads()) == threads + engine["workers"])
        assert len(served(client)) == 1
    assert len(inference_threads()) == threads


@pytest.mark.parametrize("engine", [ON_LOOP, ON_THREAD], ids=["loop", "thread"])
async def test_a_released_model_and_its_teacher_are_freed_without_garbage_collection(
    running, bundles, shadow, path, engine
):
    async with running(bundle=path, admin=True, shadow=shadow, **engine) as client:
        for text in TEXTS:
            await ask(client, text)
        await compared(client, len(TEXTS))
        gc.collect()
        gc.freeze()  # as the server does before it listens
        try:
            old = large_parts(*models_of(client))
            assert (await reload(client, bundles[1], path)).status_code == 200
            await until(lambda: [part() for part in old] == [None, None])
        finally:
            gc.unfreeze()


async def test_a_request_in_flight_is_answered_by_the_model_that_took_it_which_ends_then(
    running, bundles, right, path, gate
):
    async with running(bundle=path, admin=True, **ON_THREAD) as client:
        old = weakref.ref(served(client)[version(bundles[0])].loaded.stages[0].classifier)
        asking = asyncio.create_task(ask(client, "refund"))
        await until(gate.reached.is_set)
        assert (await reload(client, bundles[1], path)).status_code == 200
        assert await ask(client, "refund") == (version(bundles[1]), right[version(bundles[1]), "refund"])
        assert old() is not None
        assert not asking.done()
        gate.opened.set()
        assert await asking == (version(bundles[0]), right[version(bundles[0]), "refund"])
        await until(lambda: old() is None)


async def test_a_request_that_outlasts_the_limit_of_a_released_model_fails(running, bundles, path, gate):
    async with running(bundle=path, admin=True, shutdown_seconds=0.01, **ON_THREAD) as client:
        asking = asyncio.create_task(client.post("/classify", json={"text": "refund"}))
        await until(gate.reached.is_set)
        assert (await reload(client, bundles[1], path)).status_code == 200
        response = await asking
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
        gate.opened.set()


async def test_a_reload_of_the_same_version_changes_nothing(running, bundles, path):
    async with running(bundle=path, admin=True, **ON_THREAD) as client:
        before, threads = list(models_of(client)), inference_threads()
        assert (await reload(client, bundles[0], path)).json() == {"versions": {"stable": version(bundles[0])}}
        assert list(models_of(client)) == before
        assert inference_threads() == threads


async def test_of_simultaneous_reloads_one_runs_and_the_others_are_refused_at_once(running, bundles, shadow, path):
    threads = len(inference_threads())
    async with running(bundle=path, admin=True, shadow=shadow, **ON_THREAD) as client:
        publish(bundles[1], path)
        responses = await asyncio.gather(*(client.post("/admin/reload") for _ in range(5)))
        done, *refused = sorted(responses, key=lambda response: response.status_code)
        assert done.json() == {"versions": {"stable": version(bundles[1])}}
        assert {(response.status_code, response.json()["error"]["code"]) for response in refused} == {
            (409, "reloading")
        }
        assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
        await until(lambda: len(inference_threads()) == threads + 1)


async def test_a_reload_keeps_the_tuning_and_the_tokenizer_if_they_fit(running, bundles, path, monkeypatch):
    async with running(bundle=path, admin=True) as client:
        (old,) = models_of(client)
        monkeypatch.setattr(loading, "choose", None)  # nothing is measured again
        assert (await reload(client, bundles[1], path)).status_code == 200
        (new,) = models_of(client)
        assert (new.loaded.stages[0].tuning, new.loaded.stages[0].classifier.tokenizer) == (
            old.loaded.stages[0].tuning,
            old.loaded.stages[0].classifier.tokenizer,
        )


async def test_a_candidate_shares_the_tokenizer_of_the_stable_bundle(running, pair):
    async with running(**pair) as client:
        stable, candidate = models_of(client)
        assert candidate.loaded.stages[0].classifier.tokenizer is stable.loaded.stages[0].classifier.tokenizer


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to the whole process here")
@pytest.mark.parametrize(("cpus", "nicer"), [(1, [False, True]), (2, [False, False])])
async def test_on_a_single_cpu_a_reload_has_a_low_priority(running, bundles, path, monkeypatch, cpus, nicer):
    usual, seen = os.getpriority(os.PRIO_PROCESS, 0), []

    def load(*arguments, **options):
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) > usual)
        return loading.load(*arguments, **options)

    monkeypatch.setattr(module, "available_cpus", lambda: cpus)
    monkeypatch.setattr(module, "load", load)
    async with running(bundle=path, admin=True, **ON_LOOP) as client:
        assert (await reload(client, bundles[1], path)).status_code == 200
    assert seen == nicer


async def test_a_reload_is_refused_while_another_runs_and_runs_when_that_has_ended(running, bundles, path, monkeypatch):
    async with running(bundle=path, admin=True, **ON_LOOP) as client:
        began, go_on, load = threading.Event(), threading.Event(), loading.load

        def load_and_linger(*arguments, **options):
            loaded = load(*arguments, **options)
            began.set()
            assert go_on.wait(PATIENCE)
            return loaded

        monkeypatch.setattr(module, "load", load_and_linger)
        publish(bundles[1], path)
        first = asyncio.create_task(client.post("/admin/reload"))
        await until(began.is_set)
        assert (await reload(client, bundles[2], path)).json()["error"]["code"] == "reloading"
        assert not first.done()
        go_on.set()
        assert (await first).json() == {"versions": {"stable": version(bundles[1])}}
        assert (await reload(client)).json() == {"versions": {"stable": version(bundles[2])}}


async def test_a_bundle_that_is_replaced_while_it_is_loaded_is_refused(running, bundles, path, monkeypatch):
    async with running(bundle=path, admin=True, **ON_LOOP) as client:
        publish(bundles[1], path)
        read = Classifier.load

        def exchange_and_read(bundle, **options):
            publish(bundles[2], path)
            return read(bundle, **options)

        monkeypatch.setattr(Classifier, "load", exchange_and_read)
        response = await reload(client)
        assert response.status_code == 409
        assert "changed while" in response.json()["error"]["message"]
        assert list(served(client)) == [version(bundles[0])]
        monkeypatch.undo()
        assert (await reload(client)).json() == {"versions": {"stable": version(bundles[2])}}


async def test_a_bundle_that_is_still_loading_at_the_end_is_not_served(make_settings, bundles, path, monkeypatch):
    models = module.Models(make_settings(bundle=path, **ON_THREAD))
    threads = len(inference_threads())
    await models.reload()
    began, go_on, load = threading.Event(), threading.Event(), loading.load

    def wait_and_load(*arguments, **options):
        began.set()
        assert go_on.wait(PATIENCE)
        return load(*arguments, **options)

    monkeypatch.setattr(module, "load", wait_and_load)
    publish(bundles[1], path)
    reloading = asyncio.create_task(models.reload())
    await until(began.is_set)
    stopping = asyncio.create_task(models.stop())
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(StartupError, match="stopping"):
        await reloading
    await stopping
    assert not models.loaded
    assert len(inference_threads()) == threads
    with pytest.raises(StartupError, match="stopping"):
        await models.reload()


@pytest.fixture
def pair(bundles, tmp_path):
    """Settings with a stable and a candidate bundle that a test may change."""
    return {
        "bundle": publish(bundles[0], tmp_path / "stable"),
        "candidate": publish(bundles[1], tmp_path / "candidate"),
        "admin": True,
        **ON_LOOP,
    }


@pytest.mark.parametrize(("share", "chosen"), [(0.0, 0), (1.0, 1)])
async def test_the_candidate_answers_none_or_all_of_the_requests(running, bundles, right, pair, share, chosen):
    async with running(candidate_share=share, **pair) as client:
        wanted = version(bundles[chosen])
        for text in TEXTS:
            assert await ask(client, text) == (wanted, right[wanted, text])
        assert {models_of(client).choose().manifest.version for _ in range(2000)} == {wanted}


async def test_the_candidate_answers_its_share_of_the_requests(running, bundles, right, pair):
    async with running(candidate_share=0.5, **pair) as client:
        for _ in range(4):
            for text in TEXTS:
                got, label = await ask(client, text)
                assert label == right[got, text]
        chosen = sum(models_of(client).choose().manifest.version == version(bundles[1]) for _ in range(10_000))
        assert abs(chosen - 5000) < 6 * 50, "six standard deviations of a binomial"


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_a_request_may_ask_for_either_variant(running, bundles, right, pair, share):
    async with running(candidate_share=share, **pair) as client:
        for variant, bundle in zip(("stable", "candidate"), bundles, strict=False):
            wanted = version(bundle)
            headers = {"x-reflux-variant": variant}
            assert await ask(client, "refund", headers=headers) == (wanted, right[wanted, "refund"])


@pytest.mark.parametrize("wanted", ["nonsense", "", "Candidate", "stable,candidate", "é".encode("latin-1")])
async def test_an_unknown_variant_is_refused_by_name(running, pair, wanted):
    async with running(**pair) as client:
        response = await client.post("/classify", json={"text": "refund"}, headers={"x-reflux-variant": wanted})
        assert response.status_code == 422
        assert response.json()["error"]["code"] == "invalid"
        assert "stable, candidate" in response.json()["error"]["message"]


async def test_without_a_candidate_a_request_for_it_is_refused(client):
    response = await client.post("/classify", json={"text": "refund"}, headers={"x-reflux-variant": "candidate"})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid")


async def test_each_variant_describes_itself(running, bundles, pair):
    async with running(**pair) as client:
        for variant, bundle in zip(("stable", "candidate"), bundles, strict=False):
            served = (await client.get("/model", params={"variant": variant})).json()
            assert served["version"] == served["variants"][variant]["version"] == version(bundle)
        assert (await client.get("/model")).json()["version"] == version(bundles[0])
        await ask(client, "refund", headers={"x-reflux-variant": "candidate"})
        counts = [
            (await client.get("/gap", params={"variant": variant})).json()["counts"]["requests"]
            for variant in ("stable", "candidate")
        ]
        assert counts == [0, 1]


async def test_the_share_of_each_variant_is_told(running, pair):
    async with running(candidate_share=0.25, **pair) as client:
        variants = (await client.get("/model")).json()["variants"]
        assert {name: served["share"] for name, served in variants.items()} == {"stable": 0.75, "candidate": 0.25}


@pytest.mark.parametrize("path", ["/model", "/gap"])
@pytest.mark.parametrize("variant", ["candidate", "nonsense"])
async def test_a_variant_that_is_not_served_cannot_be_described(client, path, variant):
    response = await client.get(path, params={"variant": variant})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "invalid"


@pytest.mark.parametrize(("labels", "named"), [(None, "no manifest"), (("billing", "shipping"), "different labels")])
async def test_a_candidate_that_does_not_fit_stops_the_start(running, make_bundle, pair, labels, named):
    if labels is None:
        shutil.rmtree(pair["candidate"])
    else:
        make_bundle(pair["candidate"], labels=labels)
    with pytest.raises(StartupError, match=named):
        async with running(**pair):
            pass


async def test_the_order_of_the_labels_may_differ(running, make_bundle, pair):
    make_bundle(pair["candidate"], labels=("technical", "account", "shipping", "billing"))
    async with running(**pair) as client:
        for variant in Variant:
            assert (await ask(client, "invoice", headers={"x-reflux-variant": variant}))[1] == "billing"


async def test_other_labels_are_taken_from_both_bundles_or_from_none(running, make_bundle, bundles, pair):
    async with running(**pair) as client:
        stable = make_bundle(pair["bundle"], labels=("billing", "shipping"))
        response = await reload(client)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "bundle_refused")
        assert list(served(client)) == [version(bundles[0]), version(bundles[1])]
        candidate = make_bundle(pair["candidate"], labels=("billing", "shipping"), flip={"fee": "shipping"})
        assert (await reload(client)).json() == {
            "versions": {"stable": version(stable), "candidate": version(candidate)}
        }


async def test_a_candidate_that_is_refused_keeps_the_new_stable_bundle_out_too(running, bundles, pair):
    async with running(**pair) as client:
        publish(bundles[2], pair["bundle"])
        (pair["candidate"] / "model.onnx").write_bytes(b"")
        assert (await reload(client)).status_code == 409
        assert models_of(client).versions == {"stable": version(bundles[0]), "candidate": version(bundles[1])}


async def test_a_candidate_that_is_the_stable_bundle_is_served_once(running, bundles, pair):
    publish(bundles[0], pair["candidate"])
    async with running(candidate_share=1.0, **pair) as client:
        assert models_of(client).versions == {"stable": version(bundles[0])}
        assert (await ask(client, "refund"))[0] == version(bundles[0])


async def test_a_candidate_is_promoted_and_the_next_one_takes_its_place(running, bundles, right, pair, shadow):
    async with running(candidate_share=0.5, shadow=shadow, **pair) as client:
        assert (await reload(client, bundles[1], pair["bundle"])).json() == {
            "versions": {"stable": version(bundles[1])}
        }
        for text in TEXTS:
            assert await ask(client, text) == (version(bundles[1]), right[version(bundles[1]), text])
        # The candidate's outbox is free again.
        assert (await reload(client, bundles[2], pair["candidate"])).json() == {
            "versions": {"stable": version(bundles[1]), "candidate": version(bundles[2])}
        }


async def test_stable_and_candidate_may_change_places(running, bundles, right, pair, shadow):
    async with running(candidate_share=0.5, shadow=shadow, **pair) as client:
        publish(bundles[1], pair["bundle"])
        assert (await reload(client, bundles[0], pair["candidate"])).json() == {
            "versions": {"stable": version(bundles[1]), "candidate": version(bundles[0])}
        }
        for _ in range(4):
            got, label = await ask(client, "refund")
            assert label == right[got, "refund"]


async def test_the_stable_model_is_the_only_one_until_there_is_a_candidate(make_settings, bundles, pair):
    alone = Models(make_settings())
    assert alone.only is None, "before there is any"
    await alone.reload()
    (stable,) = alone
    assert alone.only is stable
    await alone.stop()
    both = Models(make_settings(**pair))
    await both.reload()
    assert (len([*both]), both.only) == (2, None)
    await both.stop()


WITHOUT_MODEL = ("process_", "python_", "reflux_http_", "reflux_key_")


async def scrape(client):
    """Return the samples of the page; check that no sample and no family comes twice."""
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families((await client.get("/metrics")).text))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    samples = [sample for family in families for sample in family.samples]
    keys = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, samples, strict=True))


async def test_every_series_of_a_model_has_its_version_and_no_series_comes_twice(running, bundles, pair, shadow):
    async with running(shadow=shadow, **pair) as client:
        for variant in Variant:
            await ask(client, "refund", headers={"x-reflux-variant": variant})
        samples = (await scrape(client)).values()
        of_models = [sample for sample in samples if not sample.name.startswith(WITHOUT_MODEL)]
        assert {sample.name for sample in of_models} >= {"reflux_answers_total", "reflux_model_info"}
        by_name: dict[str, set[str]] = {}
        for sample in of_models:
            by_name.setdefault(sample.name, set()).add(sample.labels["model_version"])
        both = {version(bundles[0]), version(bundles[1])}
        assert {name for name, versions in by_name.items() if versions != both} == set()
        roles = {
            sample.labels["model_version"]: sample.labels["role"] for sample in of_models if "role" in sample.labels
        }
        assert roles == {version(bundles[0]): "stable", version(bundles[1]): "candidate"}


async def test_the_series_of_a_released_version_are_gone_and_those_of_http_stay(running, bundles, pair):
    def answers(samples, bundle):
        return samples[("reflux_answers_total", ("model_version", version(bundle)), ("outcome", "ok"))].value

    async with running(**pair) as client:
        for _ in range(3):
            await ask(client, "refund")
        assert answers(await scrape(client), bundles[0]) == 3
        await reload(client, bundles[2], pair["bundle"])
        await ask(client, "refund")
        samples = await scrape(client)
        assert answers(samples, bundles[2]) == 1
        assert answers(samples, bundles[1]) == 0
        assert version(bundles[0]) not in {sample.labels.get("model_version") for sample in samples.values()}
        asked = [("code", "200"), ("method", "POST"), ("route", "/classify")]
        assert samples[("reflux_http_requests_total", *asked)].value == 4


async def test_a_promoted_version_has_each_series_once(running, bundles, pair):
    async with running(**pair) as client:
        await reload(client, bundles[1], pair["bundle"])
        samples = (await scrape(client)).values()
        assert {s.labels["model_version"] for s in samples if "model_version" in s.labels} == {version(bundles[1])}
        assert [s.labels["role"] for s in samples if "role" in s.labels] == ["stable"]


def shadowing(folder, teacher):
    """Return settings that show every answered text to a teacher."""
    return {
        "enabled": True,
        "rate": 1.0,
        "path": folder / "shadow.sqlite",
        "flush_seconds": 0.01,
        "teacher": {"kind": "bundle", "path": str(teacher.path)},
    }


@pytest.fixture
def shadow(tmp_path, tiny_teacher):
    return shadowing(tmp_path, tiny_teacher)


async def compared(client, count, variant="stable"):
    """Wait until `count` texts were compared with the teacher, and return the report."""
    async with asyncio.timeout(PATIENCE):
        while True:
            report = (await client.get("/gap", params={"variant": variant})).json()
            if report["counts"]["compared"] >= count:
                return report
            await asyncio.sleep(0.01)


async def test_the_shadow_moves_to_the_new_bundle(running, bundles, shadow, path, tmp_path):
    async with running(bundle=path, admin=True, shadow=shadow, **ON_LOOP) as client:
        await ask(client, "refund")
        # The teacher takes `refund` for shipping, as the second bundle does.
        assert (await compared(client, 1))["counts"]["disagreements"] == 1
        assert (await reload(client, bundles[1], path)).status_code == 200
        await ask(client, "refund")
        await ask(client, "login")
        report = await compared(client, 2)
        assert report["counts"] == {"requests": 2, "sampled": 2, "compared": 2, "disagreements": 0}
        assert (await reload(client, bundles[0], path)).status_code == 200
        await ask(client, "refund")
        assert (await compared(client, 1))["counts"]["disagreements"] == 1
    assert (tmp_path / "shadow.sqlite").is_file()


async def test_the_candidate_has_an_outbox_of_its_own(running, pair, shadow, tmp_path):
    async with running(shadow=shadow, **pair) as client:
        for variant in Variant:
            await ask(client, "refund", headers={"x-reflux-variant": variant})
        stable = await compared(client, 1)
        candidate = await compared(client, 1, "candidate")
    assert (stable["counts"]["disagreements"], candidate["counts"]["disagreements"]) == (1, 0)
    assert (tmp_path / "shadow.sqlite").is_file()
    assert (tmp_path / "shadow-candidate.sqlite").is_file()


async def test_a_shadow_sees_every_answer_before_it_ends(running, bundles, shadow, path):
    async with running(bundle=path, admin=True, shadow=shadow, **ON_LOOP) as client:
        (old,) = models_of(client)
        shadowed = []
        old.metrics.deferred.add(lambda: shadowed.append(old.shadow._active is not None))
        await reload(client, bundles[1], path)
        assert shadowed == [True]


async def test_a_shadow_that_cannot_start_for_the_new_bundle_leaves_the_old_one_served_and_shadowing(
    running, make_bundle, bundles, shadow, path
):
    threads = len(inference_threads())
    async with running(bundle=path, admin=True, shadow=shadow, **ON_THREAD) as client:
        make_bundle(path, multi_label=True)  # which cannot be shadowed
        response = await reload(client)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "bundle_refused")
        assert "multi-label" in response.json()["error"]["message"]
        assert list(served(client)) == [version(bundles[0])]
        await ask(client, "refund")
        await compared(client, 1)
        await until(lambda: len(inference_threads()) == threads + 1)
        assert (await reload(client, bundles[1], path)).json() == {"versions": {"stable": version(bundles[1])}}


async def test_if_the_candidates_shadow_cannot_start_the_stable_bundle_stays_too(
    running, make_bundle, bundles, pair, shadow, monkeypatch
):
    async with running(shadow=shadow, **pair) as client:
        publish(bundles[2], pair["bundle"])
        refused = version(make_bundle(pair["candidate"], flip={"fee": "account"}))
        start = ActiveShadow.start

        async def start_but_for_one(settings, manifest, *others):
            if manifest.version == refused:
                raise ShadowError("not this one")
            return await start(settings, manifest, *others)

        monkeypatch.setattr(ActiveShadow, "start", start_but_for_one)
        response = await reload(client)
        assert response.status_code == 409
        assert "not this one" in response.json()["error"]["message"]
        assert models_of(client).versions == {"stable": version(bundles[0]), "candidate": version(bundles[1])}
        for variant in Variant:
            await ask(client, "refund", headers={"x-reflux-variant": variant})
            await compared(client, 1, variant)


async def test_if_no_shadow_can_start_the_old_bundle_answers_without_one(
    running, make_bundle, bundles, right, path, tmp_path, tiny_teacher
):
    teacher = make_bundle(tmp_path / "teacher", role="teacher")
    async with running(bundle=path, admin=True, shadow=shadowing(tmp_path, teacher), **ON_LOOP) as client:
        (teacher.path / "model.onnx").write_bytes(b"")
        response = await reload(client, bundles[1], path)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "bundle_refused")
        assert await ask(client, "refund") == (version(bundles[0]), right[version(bundles[0]), "refund"])
        # The teacher is mended.
        make_bundle(teacher.path, role="teacher")
        assert (await reload(client)).json() == {"versions": {"stable": version(bundles[1])}}
        await ask(client, "refund")
        await compared(client, 1)


async def test_before_the_start_there_is_no_variant(make_settings, pair):
    transport = httpx.ASGITransport(create_app(make_settings(**{**pair, "admin": False})))
    async with httpx.AsyncClient(transport=transport, base_url="http://reflux") as client:
        response = await client.post("/classify", json={"text": "refund"}, headers={"x-reflux-variant": "candidate"})
        assert response.status_code == 503
