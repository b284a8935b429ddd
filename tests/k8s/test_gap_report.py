"""The nightly report of the gap: what it asks, and that its Job fails when the student may not stay."""

from urllib.parse import urlsplit

from tests.support.kustomize import find, rendered


def cron_job():
    return find(rendered("cpu", "gap-report"), "CronJob", "reflux-gap-report")["spec"]


def test_it_asks_the_service_of_the_worker():
    (container,) = cron_job()["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    *command, url = container["command"]
    assert command == ["reflux", "gap-report"]
    service = find(rendered("cpu", "gap-report"), "Service", urlsplit(url).hostname)
    assert service["spec"]["ports"][0]["port"] == (urlsplit(url).port or 80)


def test_its_job_fails_at_once_unless_the_student_may_stay():
    spec = cron_job()["jobTemplate"]["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] <= 600


def test_two_reports_never_run_at_once_and_one_that_is_late_is_left_out():
    spec = cron_job()
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] <= 3600
    assert spec["timeZone"] == "Etc/UTC"
