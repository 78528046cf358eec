"""The chart on a real cluster: the one that KUBECONFIG names. One story in order: install, train, lose pods and the node,
upgrade, roll back, uninstall, install again; nothing that was acknowledged may be lost on the way.

The cluster's nodes must be able to get the images: NORMLAB_TEST_REGISTRY (localhost) and NORMLAB_TEST_TAG (dev) say which.
NORMLAB_TEST_POWER_CUT is a command that cuts the node's power and starts it again, and returns once it is Ready; without it
that part is skipped. Everything happens in one namespace, which is removed at the end unless NORMLAB_TEST_KEEP is set.
"""

import base64
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import unittest

import yaml

import charts
from charts import CHART, MATRIX

NAMESPACE, RELEASE = "normlab-test", "lab"
COORDINATOR, TOOLBOX = f"{RELEASE}-normlab-coordinator-0", f"deploy/{RELEASE}-normlab-toolbox"
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
SECONDS = int(os.environ.get("NORMLAB_TEST_SECONDS", "300"))

VALUES = {
    "image": {"registry": os.environ.get("NORMLAB_TEST_REGISTRY", "localhost"), "tag": os.environ.get("NORMLAB_TEST_TAG", "dev")},
    # Longer than a pod takes to come back on a busy machine: attempts go on while the coordinator is away.
    "coordinator": {"leaseSeconds": 120, "storage": {"size": "1Gi"}, "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
    "poolDefaults": {"resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}, "shmSize": "64Mi"},
    "pools": {"cpu": {"replicas": 2}},
    "storage": {"data": {"accessModes": ["ReadWriteOnce"], "size": "1Gi"}, "checkpoints": {"accessModes": ["ReadWriteOnce"], "size": "1Gi"}},
    "toolbox": {"enabled": True},
    "metrics": {"monitors": True, "rules": True, "dashboards": {"enabled": True}},
    "test": {"timeoutSeconds": SECONDS},
}


def missing():
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG is not set: nothing was tried on a cluster"
    if not charts.HELM or not shutil.which("kubectl"):
        return "helm or kubectl is missing: nothing was tried on a cluster"
    return ""


def run(*argv, stdin=None, check=True, timeout=SECONDS + 60):
    done = subprocess.run([str(word) for word in argv], input=stdin, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"{shlex.join(done.args)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def kubectl(*arguments, **options):
    return run("kubectl", "--namespace", NAMESPACE, *arguments, **options).stdout


def get(kind, name):
    return json.loads(kubectl("get", kind, name, "-o", "json"))


def wait_for(condition, what, seconds=SECONDS):
    """The first true value of condition(); what it cannot see yet may fail with AssertionError."""
    deadline, last = time.monotonic() + seconds, None
    while True:
        try:
            last = condition()
            if last:
                return last
        except (AssertionError, ValueError, KeyError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last seen: {last!r})")
        time.sleep(1)


def normlab(*arguments, stdin=None, check=True):
    return run("kubectl", "--namespace", NAMESPACE, "exec", "-i", TOOLBOX, "--", "normlab", *arguments, stdin=stdin, check=check)


def show(run_id):
    return json.loads(normlab("show", run_id, "-o", "json").stdout)


def state(run_id):
    return show(run_id)["run"]["state"]


def step(run_id):
    return int(show(run_id)["run"]["progress"].get("step", 0))


def submit(name, steps, workers=1, **report):
    spec = {"name": name, "base": {
        "model": {"num_layers": 2, "hidden": 32, "num_heads": 2, "ffn_hidden": 64}, "norm": {"scheme": "lns"},
        "data": {"dataset": "helm-test", "seq_len": 64}, "train": {"steps": steps, "batch_size": 32, "lr": 0.01},
        "report": {"eval_every_steps": 10_000_000, "eval_sequences": 8, "checkpoint_every_steps": 100, **report},
        "resources": {"workers": workers, "threads": 1}}}
    return json.loads(normlab("submit", "-", "-o", "json", stdin=yaml.safe_dump(spec)).stdout)["run_ids"][0]


def upgrade(values, command="upgrade"):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        return run(charts.HELM, command, RELEASE, CHART, "--namespace", NAMESPACE, "--values", file.name, "--wait",
                   "--timeout", f"{SECONDS}s").stdout


def pods():
    """Ready pods by name."""
    found = json.loads(kubectl("get", "pods", "-o", "json"))["items"]
    return {pod["metadata"]["name"]: pod for pod in found
            if any(is_["type"] == "Ready" and is_["status"] == "True" for is_ in pod["status"].get("conditions", []))
            and "deletionTimestamp" not in pod["metadata"]}


def explain():
    return (kubectl("get", "pods,pvc", "-o", "wide", check=False) + kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-4000:] +
            kubectl("logs", COORDINATOR, "--tail=20", "--all-containers", check=False))


@unittest.skipIf(missing(), missing())
class Story(unittest.TestCase):
    """Each test stands on the one before."""

    failed = False

    @classmethod
    def setUpClass(cls):
        run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
        run("kubectl", "create", "namespace", NAMESPACE)
        run("kubectl", "label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        if not os.environ.get("NORMLAB_TEST_KEEP"):
            cls.addClassCleanup(run, "kubectl", "delete", "namespace", NAMESPACE, "--wait=false")

    def run(self, result=None):
        if Story.failed:
            result.startTest(self)
            result.addSkip(self, "an earlier part of the story failed")
            return result.stopTest(self)
        bad, begin = len(result.failures) + len(result.errors), time.monotonic()
        super().run(result)
        print(f" [{self._testMethodName}: {time.monotonic() - begin:.0f} s]", flush=True)
        if len(result.failures) + len(result.errors) > bad:
            Story.failed = True
            print(explain())

    def test_01_every_rendered_object_is_valid_for_the_api_server(self):
        known = set(run("kubectl", "api-resources", "-o", "name").stdout.split())
        foreign = {"Certificate": "certificates.cert-manager.io", "ScaledObject": "scaledobjects.keda.sh",
                   "ServiceMonitor": "servicemonitors.monitoring.coreos.com", "PodMonitor": "podmonitors.monitoring.coreos.com",
                   "PrometheusRule": "prometheusrules.monitoring.coreos.com"}
        unknown = {kind for kind, resource in foreign.items() if resource not in known}
        for name, values in MATRIX.items():
            with self.subTest(name):
                objects = [thing for thing in charts.render(values) if thing["kind"] not in unknown]
                for thing in objects:
                    thing["metadata"]["namespace"] = NAMESPACE
                    if thing["kind"] == "Pod":
                        # A pod is admitted only where its account is, which a dry run does not make.
                        thing["spec"]["serviceAccountName"] = "default"
                done = run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(objects))
                self.assertNotIn("would violate", done.stderr)
        if unknown:
            print("not validated, since this cluster does not know them:", ", ".join(sorted(unknown)), end=" ")

    def test_02_all_pods_become_ready_under_the_policy_restricted(self):
        self.assertIn("helm -n normlab-test test lab", upgrade(VALUES, command="install"))
        self.assertLessEqual({COORDINATOR, f"{RELEASE}-normlab-worker-cpu-0", f"{RELEASE}-normlab-worker-cpu-1"}, set(pods()))
        refused = run("kubectl", "--namespace", NAMESPACE, "run", "root", "--image=localhost/any", check=False)
        self.assertIn("violates PodSecurity", refused.stderr)

    def test_03_the_hook_trains_a_tiny_run(self):
        self.assertIn("Succeeded", run(charts.HELM, "test", RELEASE, "--namespace", NAMESPACE, "--timeout", f"{SECONDS}s").stdout)

    def test_04_a_gang_of_two_trains_over_the_pod_network(self):
        gang = submit("gang", 50, workers=2)
        wait_for(lambda: state(gang) in TERMINAL, "the gang ends")
        self.assertEqual(state(gang), "SUCCEEDED", normlab("logs", gang, check=False).stdout)
        logs = [kubectl("logs", f"{RELEASE}-normlab-worker-cpu-{index}") for index in (0, 1)]
        for rank in (0, 1):
            self.assertEqual(sum(f"{gang}.1.{rank} is started" in log for log in logs), 1, "each rank in a pod of its own")

    def test_05_without_a_token_or_under_another_name_nobody_comes_in(self):
        bare = run("kubectl", "--namespace", NAMESPACE, "exec", TOOLBOX, "--", "env", "-u", "NORMLAB_TOKEN_FILE", "normlab", "list", check=False)
        self.assertEqual(bare.returncode, 6, bare.stderr)
        plain = run("kubectl", "--namespace", NAMESPACE, "exec", TOOLBOX, "--", "env", "-u", "NORMLAB_TLS_CA", "normlab", "list", check=False)
        self.assertNotEqual(plain.returncode, 0)
        self.assertIn("without --tls-ca nothing is encrypted", plain.stderr)

    def test_06_metrics_are_scraped_from_the_pods(self):
        def scrape(pod, port):
            return run("kubectl", "get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{port}/proxy/metrics").stdout
        self.assertIn('normlab_runs{state="SUCCEEDED"}', scrape(COORDINATOR, 7071))
        for pod in (f"{RELEASE}-normlab-worker-cpu-0", f"{RELEASE}-normlab-worker-cpu-1"):
            self.assertIn("normlab_worker_connected 1", scrape(pod, 9101))

    def test_07_a_gang_larger_than_the_cluster_waits_and_says_why(self):
        large = submit("large", 10, workers=8)
        line = wait_for(lambda: next((l for l in normlab("queue").stdout.splitlines() if large in l), None), "it waits")
        self.assertIn("needs 8 workers", line)
        normlab("cancel", large)

    def test_08_a_deleted_worker_drains_through_a_checkpoint_and_the_run_goes_on(self):
        Story.long = submit("long", 10_000_000)
        wait_for(lambda: step(self.long) > 20, "it trains")
        before = show(self.long)["run"]
        [pod] = before["workers"]
        kubectl("delete", "pod", pod, "--wait=false")
        wait_for(lambda: int(show(self.long)["run"]["attempt"]) > int(before["attempt"]) and state(self.long) == "RUNNING", "another attempt")
        after = show(self.long)["run"]
        self.assertEqual(int(after.get("failures", 0)), 0, "a drain is no failure")
        self.assertGreaterEqual(step(self.long), int(before["progress"]["step"]), "it goes on from where it was")
        wait_for(lambda: pod in pods(), "the pod is back")

    def test_09_a_killed_coordinator_comes_back_and_the_attempt_goes_on(self):
        before = show(self.long)["run"]
        restarts = get("pod", COORDINATOR)["metadata"]["uid"]
        kubectl("delete", "pod", COORDINATOR, "--grace-period=0", "--force")
        wait_for(lambda: COORDINATOR in pods() and pods()[COORDINATOR]["metadata"]["uid"] != restarts, "the coordinator is back")
        wait_for(lambda: step(self.long) > int(before["progress"]["step"]) and state(self.long) == "RUNNING", "it trains on")
        self.assertEqual(show(self.long)["run"]["attempt"], before["attempt"], "nothing was interrupted")

    def test_10_a_power_cut_loses_nothing_that_was_saved(self):
        command = os.environ.get("NORMLAB_TEST_POWER_CUT")
        if not command:
            self.skipTest("NORMLAB_TEST_POWER_CUT is not set: the node's power was not cut")
        saved = int(wait_for(lambda: show(self.long)["run"]["progress"]["checkpoint"]["step"], "a checkpoint"))
        experiments = len(json.loads(normlab("list", "-o", "json").stdout)["experiments"])
        subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL, timeout=600)
        wait_for(lambda: len(pods()) >= 4, "all pods are back")
        wait_for(lambda: state(self.long) == "RUNNING" and step(self.long) >= saved, "the run goes on from its checkpoint")
        self.assertEqual(len(json.loads(normlab("list", "-o", "json").stdout)["experiments"]), experiments)

    def test_11_an_upgrade_changes_what_it_says_and_loses_nothing(self):
        changed = json.loads(json.dumps(VALUES))
        changed["coordinator"]["logLevel"] = "debug"
        changed["pools"]["cpu"]["replicas"] = 3
        attempt = show(self.long)["run"]["attempt"]
        upgrade(changed)
        wait_for(lambda: f"{RELEASE}-normlab-worker-cpu-2" in pods(), "the third worker")
        self.assertIn("--log-level=debug", get("pod", COORDINATOR)["spec"]["containers"][0]["args"])
        wait_for(lambda: state(self.long) == "RUNNING", "it trains on")
        self.assertEqual(show(self.long)["run"]["attempt"], attempt, "workers whose pods did not change were left alone")
        wait_for(lambda: len(json.loads(normlab("workers", "-o", "json").stdout)["workers"]) == 3, "it is known")

    def test_12_a_rollback_takes_it_back(self):
        run(charts.HELM, "rollback", RELEASE, "1", "--namespace", NAMESPACE, "--wait", "--timeout", f"{SECONDS}s")
        wait_for(lambda: f"{RELEASE}-normlab-worker-cpu-2" not in pods(), "the third worker is drained")
        self.assertIn("--log-level=info", get("pod", COORDINATOR)["spec"]["containers"][0]["args"])
        wait_for(lambda: state(self.long) == "RUNNING", "it trains on")

    def test_13_new_certificates_are_taken_up_by_running_pods(self):
        before = get("secret", f"{RELEASE}-normlab-coordinator-tls")["data"]["tls.crt"]
        uids = {name: pod["metadata"]["uid"] for name, pod in pods().items() if "toolbox" not in name}
        kubectl("delete", "secret", f"{RELEASE}-normlab-coordinator-tls", f"{RELEASE}-normlab-worker-tls")
        upgrade(VALUES)
        made = get("secret", f"{RELEASE}-normlab-coordinator-tls")["data"]
        self.assertNotEqual(made["tls.crt"], before)

        def seen(pod, key):
            text = kubectl("exec", pod, "-c", "coordinator" if pod == COORDINATOR else "toolbox", "--", "cat", f"/etc/normlab/tls/{key}")
            return base64.b64encode(text.encode()).decode() == made[key]

        # Kubelets look at secrets about once a minute.
        wait_for(lambda: seen(COORDINATOR, "tls.crt") and seen(TOOLBOX, "ca.crt"), "the pods see the new files")
        wait_for(lambda: normlab("workers", check=False).returncode == 0, "who knows the new authority alone is let in")
        wait_for(lambda: state(self.long) == "RUNNING", "it trains on")
        self.assertEqual({name: pod["metadata"]["uid"] for name, pod in pods().items() if name in uids}, uids, "no pod was restarted")

    def test_14_uninstalled_and_installed_again_everything_is_there(self):
        at = step(self.long)
        run(charts.HELM, "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", f"{SECONDS}s")
        ours = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component!=test"
        wait_for(lambda: not json.loads(kubectl("get", "pods", "-l", ours, "-o", "json"))["items"], "all pods are gone")
        claims = {claim["metadata"]["name"] for claim in json.loads(kubectl("get", "pvc", "-o", "json"))["items"]}
        self.assertEqual(claims, {f"data-{COORDINATOR}", f"{RELEASE}-normlab-data", f"{RELEASE}-normlab-checkpoints"})
        upgrade(VALUES, command="install")
        wait_for(lambda: state(self.long) == "RUNNING" and step(self.long) >= at, "the run goes on where the drain left it")
        normlab("cancel", self.long)
        wait_for(lambda: state(self.long) == "CANCELLED", "it is cancelled")


if __name__ == "__main__":
    unittest.main()
