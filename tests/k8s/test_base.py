"""The manifests in k8s/base fit the service that they start."""

from pathlib import Path

import pytest
import yaml

from service.settings import load_settings

BASE = Path(__file__).parents[2] / "k8s" / "base"


@pytest.fixture
def settings(monkeypatch):
    for line in (BASE / "settings.env").read_text().split():
        monkeypatch.setenv(*line.split("=", 1))
    return load_settings()


def test_a_pod_is_given_the_time_that_its_shutdown_takes(settings):
    pod = yaml.safe_load((BASE / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    steps = settings.drain_seconds + settings.idle_grace_seconds + settings.shutdown_seconds
    assert pod["terminationGracePeriodSeconds"] >= steps + 5 + 5  # stopping the shadow, and the last spans


def test_the_container_has_what_the_settings_name(settings):
    (container,) = yaml.safe_load((BASE / "deployment.yaml").read_text())["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]
    mounts = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert {settings.bundle, settings.shadow.path.parent} <= mounts
