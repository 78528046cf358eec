"""The chart as the tests see it: rendered by helm, read as YAML.

HELM names the program; without it `helm` is looked up in PATH.
"""

import functools
import os
import pathlib
import shutil
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "normlab"
HELM = os.environ.get("HELM") or shutil.which("helm")
RELEASE, NAMESPACE = "lab", "research"
# helm without a cluster assumes the version that it was built with, which may be any.
KUBE_VERSION = "1.31.0"

# What a reader of the chart may want: each is rendered, linted and, on a cluster, validated by its API server.
MATRIX = {
    "defaults": {},
    "registry": {"image": {"registry": "registry.example.org:5000/normlab", "tag": "1.2.3", "pullSecrets": [{"name": "pull"}]}},
    "cert-manager": {"tls": {"source": "certManager", "certManager": {"issuerRef": {"name": "lab-ca", "kind": "ClusterIssuer"}}}},
    "given-secrets": {"tls": {"source": "secret", "coordinatorSecret": "c", "workerSecret": "w"}, "tokens": {"existingSecret": "t"}},
    "server-tls-only": {"tls": {"mutual": False}},
    "plain-text": {"tls": {"source": "none", "allowPlaintext": True}},
    "gpu-pool": {"pools": {"cpu": None, "h100": {
        "device": "cuda", "replicas": 4, "gpu": {"count": 1, "type": "NVIDIA-H100-80GB-HBM3"}, "runtimeClassName": "nvidia",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}], "shmSize": "16Gi", "labels": {"network": "ib"},
        "env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}], "checkpointsClaim": "fast"}}},
    "several-pools": {"pools": {"small": {}, "large": {"replicas": 3, "threads": 8, "resources": {"requests": {"cpu": "8"}}},
                                "off": {"enabled": False}}},
    "all-metrics": {"metrics": {"monitors": True, "rules": True, "labels": {"release": "prometheus"},
                                "dashboards": {"enabled": True, "annotations": {"grafana_folder": "normlab"}}}},
    "keda": {"pools": {"cpu": {"autoscaling": {"enabled": True, "maxReplicas": 8}}}},
    "hpa": {"pools": {"cpu": {"autoscaling": {"enabled": True, "kind": "hpa", "minReplicas": 1}}}},
    "toolbox-and-priorities": {"toolbox": {"enabled": True}, "priorityClasses": {"create": True}},
    "bare": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}, "serviceAccount": {"create": False},
             "storage": {"keep": False, "data": {"existingClaim": "d"}, "checkpoints": {"existingClaim": "c"}}},
    "load-balancer": {"coordinator": {"service": {"type": "LoadBalancer", "annotations": {"a/b": "c"}},
                                      "nodeSelector": {"disk": "ssd"}, "podAnnotations": {"note": "7"}, "podLabels": {"team": "nlp"},
                                      "extraArgs": ["--log-level=debug"]}, "commonLabels": {"cost-centre": "7"}},
    "node-port": {"coordinator": {"service": {"type": "NodePort"}}, "metrics": {"monitors": True}},
    "backup": {"coordinator": {"backup": {"enabled": True, "kept": 3, "storageClass": "hdd"}}},
    "long-names": {"fullnameOverride": "a-rather-long-name-for-a-release"},
}


class ChartError(Exception):
    """What helm refused, with its words."""


def helm(*arguments, values=None):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values or {}, file)
        file.flush()
        done = subprocess.run([HELM, *map(str, arguments), "--values", file.name], capture_output=True, text=True)
    if done.returncode:
        raise ChartError(done.stderr)
    return done.stdout


@functools.cache
def _render(frozen):
    return helm("template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-version", KUBE_VERSION, values=yaml.safe_load(frozen))


def render(values=None):
    """All objects that the chart makes of these values."""
    text = _render(yaml.safe_dump(values or {}))
    return [document for document in yaml.safe_load_all(text) if document]


def find(objects, kind, name):
    """The one object of that kind whose name is `name`, or RELEASE-normlab-`name`."""
    found = [thing for thing in objects
             if thing["kind"] == kind and thing["metadata"]["name"] in (name, f"{RELEASE}-normlab-{name}")]
    assert len(found) == 1, f"{len(found)} objects {kind} {name} among " + ", ".join(
        f"{thing['kind']}/{thing['metadata']['name']}" for thing in objects)
    return found[0]


def pod_templates(objects):
    """(name, metadata, spec) of all that runs."""
    for thing in objects:
        if thing["kind"] in ("StatefulSet", "Deployment"):
            yield thing["metadata"]["name"], thing["spec"]["template"]["metadata"], thing["spec"]["template"]["spec"]
        elif thing["kind"] == "CronJob":
            template = thing["spec"]["jobTemplate"]["spec"]["template"]
            yield thing["metadata"]["name"], template["metadata"], template["spec"]
        elif thing["kind"] == "Pod":
            yield thing["metadata"]["name"], thing["metadata"], thing["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]
