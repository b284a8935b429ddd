"""What may reach a pod, and what it may reach: exactly what is listed here."""

from ipaddress import ip_address, ip_network

import pytest

from tests.support.kustomize import Document, combinations, pod_templates, rendered

DNS = ("out", "kube-system/k8s-app=kube-dns", ("TCP:53", "UDP:53"))
CLIENTS = ("in", "ingress-nginx/*", ("TCP:http",))
MONITORING = ("in", "monitoring/*", ("TCP:metrics",))
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
DATABASE = {("out", cidr, ("TCP:5432",)) for cidr in PRIVATE}
TEACHER = {("out", cidr, ("TCP:443",)) for cidr in ("0.0.0.0/0", "::/0")}
OWN = "./app.kubernetes.io/name=reflux"
DEV_DATABASE = {("out", f"./app.kubernetes.io/component=database,{OWN[2:]}", ("TCP:5432",))}
PULL = {("out", cidr, ("TCP:443",)) for cidr in ("0.0.0.0/0", "::/0")}
API = {("out", cidr, ("TCP:443", "TCP:6443")) for cidr in ("0.0.0.0/0", "::/0")}

EDGES = {
    ("cpu",): {
        "Deployment/reflux": {DNS, CLIENTS, MONITORING, *DATABASE},
        "Deployment/reflux-worker": {DNS, CLIENTS, MONITORING, *DATABASE, *TEACHER},
    },
    ("cpu", "init-container"): {
        "Deployment/reflux": {DNS, CLIENTS, MONITORING, *DATABASE, *PULL},
        "Deployment/reflux-worker": {DNS, CLIENTS, MONITORING, *DATABASE, *PULL},  # which includes the teacher
    },
    ("cpu", "deferring"): {
        "Deployment/reflux": {DNS, CLIENTS, MONITORING, *DATABASE, *TEACHER},
        "Deployment/reflux-worker": {DNS, CLIENTS, MONITORING, *DATABASE, *TEACHER},
    },
    ("cpu", "gap-report"): {
        "Deployment/reflux": {DNS, CLIENTS, MONITORING, *DATABASE},
        "Deployment/reflux-worker": {
            *(DNS, CLIENTS, MONITORING, *DATABASE, *TEACHER),
            ("in", f"./app.kubernetes.io/component=gap-report,{OWN[2:]}", ("TCP:http",)),
        },
        "CronJob/reflux-gap-report": {DNS, ("out", f"./app.kubernetes.io/component=worker,{OWN[2:]}", ("TCP:http",))},
    },
    ("cpu", "redistill", "anchors", "migrate"): {
        "Deployment/reflux": {DNS, CLIENTS, MONITORING, *DATABASE},
        "Deployment/reflux-worker": {DNS, CLIENTS, MONITORING, *DATABASE, *TEACHER},
        "CronJob/reflux-redistill": {DNS, *DATABASE, *PULL},
        "CronJob/reflux-anchors": {DNS, *TEACHER},
        "Job/reflux-migrate": {DNS, *DATABASE},
    },
    ("cpu", "init-container", "anchors"): {
        "Deployment/reflux": {DNS, CLIENTS, MONITORING, *DATABASE, *PULL},
        "Deployment/reflux-worker": {DNS, CLIENTS, MONITORING, *DATABASE, *PULL},
        "CronJob/reflux-anchors": {DNS, *PULL},
    },
    ("cpu", "canary-plain"): {
        "Deployment/reflux": {DNS, CLIENTS, MONITORING, *DATABASE, *PULL},
        "Deployment/reflux-worker": {DNS, CLIENTS, MONITORING, *DATABASE, *PULL},
        "Deployment/reflux-canary": {DNS, CLIENTS, MONITORING, *DATABASE, *PULL},
        "Deployment/reflux-canary-worker": {DNS, MONITORING, *DATABASE, *PULL},
        "CronJob/reflux-promote": {DNS, *DATABASE, *PULL, *API, ("out", "monitoring/*", ("TCP:9090",))},
    },
    ("dev",): {
        "Deployment/reflux": {DNS, ("in", "./*", ("TCP:http",)), MONITORING, *DEV_DATABASE},
        "Deployment/reflux-worker": {DNS, ("in", "./*", ("TCP:http",)), MONITORING, *DEV_DATABASE},
        "StatefulSet/reflux-database": {DNS, ("in", OWN, ("TCP:postgres",))},
    },
}


@pytest.mark.parametrize("combination", EDGES, ids="+".join)
def test_the_ways_in_and_out_are_exactly_these(combination):
    documents = rendered(*combination)
    found = {
        name: edges(documents, template["metadata"]["labels"]) for name, template in pod_templates(documents).items()
    }
    assert found == EDGES[combination]


def test_every_pod_of_every_combination_is_denied_everything_else():
    for combination in combinations():
        documents = rendered(*combination)
        for name, template in pod_templates(documents).items():
            specs = [policy["spec"] for policy in policies(documents, template["metadata"]["labels"])]
            denied = [set(spec["policyTypes"]) for spec in specs if not {"ingress", "egress"} & spec.keys()]
            assert {"Ingress", "Egress"} in denied, name


def test_no_policy_allows_from_or_to_everywhere_or_every_port():
    for combination in combinations():
        for policy in (found for found in rendered(*combination) if found["kind"] == "NetworkPolicy"):
            spec = policy["spec"]
            for rule in [*spec.get("ingress", ()), *spec.get("egress", ())]:
                assert rule.get("from") or rule.get("to"), policy["metadata"]["name"]
                assert rule.get("ports"), policy["metadata"]["name"]


@pytest.mark.parametrize(
    ("address", "port", "reached"),
    [
        ("104.18.7.192", 443, True),
        ("2606:4700::6812:7c0", 443, True),
        ("104.18.7.192", 80, False),
        ("10.1.2.3", 443, False),
        ("172.20.0.1", 443, False),
        ("192.168.1.1", 443, False),
        ("169.254.169.254", 443, False),  # a cloud's metadata
        ("169.254.169.254", 80, False),
        ("100.100.100.200", 443, False),
        ("fd00:ec2::254", 443, False),
    ],
)
def test_the_worker_reaches_a_teacher_outside_and_nothing_inside(address, port, reached):
    documents = rendered("cpu")
    labels = pod_templates(documents)["Deployment/reflux-worker"]["metadata"]["labels"]
    assert reaches(documents, labels, address, port) is reached


@pytest.mark.parametrize(
    ("address", "port", "reached"),
    [("10.1.2.3", 5432, True), ("104.18.7.192", 443, False), ("104.18.7.192", 5432, False), ("10.1.2.3", 443, False)],
)
def test_serving_reaches_the_database_alone(address, port, reached):
    documents = rendered("cpu")
    labels = pod_templates(documents)["Deployment/reflux"]["metadata"]["labels"]
    assert reaches(documents, labels, address, port) is reached


def policies(documents, labels) -> list[Document]:
    """Return the policies of a pod with these labels."""
    found = [document for document in documents if document["kind"] == "NetworkPolicy"]
    return [policy for policy in found if selects(policy["spec"]["podSelector"], labels)]


def selects(selector, labels) -> bool:
    """Whether a label selector matches."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        exact = exact and labels.get(expression["key"]) in expression["values"]
    return exact


def edges(documents, labels) -> set[tuple[str, str, tuple[str, ...]]]:
    """Return what a pod with these labels may receive and send: the direction, the peer, the ports."""
    found = set()
    for policy in policies(documents, labels):
        for direction, rules, peers in (("in", "ingress", "from"), ("out", "egress", "to")):
            for rule in policy["spec"].get(rules, ()):
                ports = tuple(sorted(f"{port['protocol']}:{port['port']}" for port in rule["ports"]))
                found |= {(direction, _peer(peer), ports) for peer in rule[peers]}
    return found


def reaches(documents, labels, address, port) -> bool:
    """Whether a pod may send to an address outside the cluster's own pods."""
    target = ip_address(address)
    for policy in policies(documents, labels):
        for rule in policy["spec"].get("egress", ()):
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                inside = target in ip_network(block["cidr"])
                excepted = any(target in ip_network(each) for each in block.get("except", ()))
                if inside and not excepted and any(port == each["port"] for each in rule["ports"]):
                    return True
    return False


def _peer(peer) -> str:
    if "ipBlock" in peer:
        return peer["ipBlock"]["cidr"]
    namespace = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name", ".")
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    return f"{namespace}/" + (",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "*")
