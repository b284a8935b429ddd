"""The pods of the overlay `dev`, run here as processes with the commands and the environment that they would have.

Only what a cluster brings is replaced: addresses, and where volumes are mounted.
"""

import json
from contextlib import AsyncExitStack

import httpx

from tests.support.kustomize import find, pod_templates, rendered
from tests.support.postgres import SharedStore
from tests.support.service_process import service_process
from tests.support.sockets import dead_address
from tests.support.waiting import until


def environment(container, settings, mounted):
    """Return the variables of a container, with each path at the place where its volume is mounted here."""
    own = {each["name"]: each.get("value", "1") for each in container.get("env", ())}  # one CPU is requested
    return {name: mounted.get(value, value) for name, value in (settings | own).items()}


async def test_the_pods_answer_ask_the_teacher_and_are_probed_as_written(tiny_bundle, postgres, tmp_path, words):
    store = SharedStore(postgres, postgres.create())
    (tmp_path / "password").write_text(postgres.password)
    documents = rendered("dev")
    settings = find(documents, "ConfigMap", "reflux-settings")["data"]
    assert settings["REFLUX_SHADOW__DATABASE"] == "postgresql://reflux@reflux-database:5432/reflux"
    settings = settings | {
        "REFLUX_SHADOW__DATABASE": f"postgresql://reflux@127.0.0.1:{postgres.port}/{store.name}",
        "REFLUX_SHADOW__TEACHER": settings["REFLUX_SHADOW__TEACHER"].replace("/bundle", str(tiny_bundle.path)),
        "REFLUX_SHADOW__RATE": "1",
        "REFLUX_DRAIN_SECONDS": "0",
        "REFLUX_IDLE_GRACE_SECONDS": "0",
    }
    mounted = {"/bundle": str(tiny_bundle.path), "/database/password": str(tmp_path / "password")}
    pods = {name: template["spec"] for name, template in pod_templates(documents).items()}
    serving, worker = (pods[f"Deployment/{name}"]["containers"][0] for name in ("reflux", "reflux-worker"))

    def started(container):
        ports = {"REFLUX_METRICS_PORT": dead_address().rpartition(":")[2], "REFLUX_PORT": "0"}
        variables = environment(container, settings, mounted) | ports
        return service_process("-m", *container["command"], **variables), variables["REFLUX_METRICS_PORT"]

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient())
        (migrate,) = pods["Deployment/reflux-worker"]["initContainers"]
        migration, _ = started(migrate)
        assert await (await stack.enter_async_context(migration)).ended() == 0
        running = {}
        for name, container in (("serving", serving), ("worker", worker)):
            starting, metrics = started(container)
            process = await stack.enter_async_context(starting)
            assert process.port, process.log
            running[name] = process
            probes = [container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
            for path in (probe["path"] for probe in probes):
                assert (await client.get(f"http://127.0.0.1:{process.port}{path}")).status_code == 200, name
            assert (await client.get(f"http://127.0.0.1:{process.port}/metrics")).status_code == 404, name
            assert "reflux_" in (await client.get(f"http://127.0.0.1:{metrics}/metrics")).text, name
        at = {name: f"http://127.0.0.1:{process.port}" for name, process in running.items()}
        for label in words:
            answer = await client.post(f"{at['serving']}/classify", json={"text": " ".join(words[label][:3])})
            assert answer.status_code == 200

        async def compared():
            gaps = [(await client.get(f"{url}/gap")).json()["counts"]["compared"] for url in at.values()]
            return gaps == [len(words)] * 2

        await until(compared, pause=0.1)
        for process in running.values():
            process.terminate()
            assert await process.ended() == 0
            assert [json.loads(line)["event"] for line in process.errors] == []
