"""The chart without a cluster: it is linted and rendered over a matrix of values, typos are refused, and what it makes has the
properties that its README promises. Needs helm (see charts.py); skipped, with a word, where there is none.
"""

import base64
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import yaml

import charts
from charts import CHART, MATRIX, ROOT, ChartError, find, helm, render

NO_HELM = "no helm in PATH, and HELM does not name one: the chart is not linted, rendered or checked"


@unittest.skipUnless(charts.HELM, NO_HELM)
class Rendering(unittest.TestCase):
    def test_every_combination_is_linted_and_rendered(self):
        for name, values in MATRIX.items():
            with self.subTest(name):
                helm("lint", "--strict", CHART, values=values)
                objects = render(values)
                names = [(thing["kind"], thing["metadata"]["name"]) for thing in objects]
                self.assertEqual(len(names), len(set(names)), "two objects of one name")
                for thing in objects:
                    self.assertLessEqual(len(thing["metadata"]["name"]), 63)
                    self.assertEqual(thing["metadata"]["labels"]["app.kubernetes.io/instance"], charts.RELEASE)

    def notes(self, values):
        """helm shows notes of installations only; a copy of the chart puts them into an object."""
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(CHART, pathlib.Path(folder, "normlab"))
            text = (copy / "templates" / "NOTES.txt").read_text()
            (copy / "templates" / "_notes.tpl").write_text('{{ define "notes" }}' + text + "{{ end }}")
            (copy / "templates" / "notes.yaml").write_text('kind: Notes\nmetadata: {name: notes}\ntext: {{ include "notes" . | toJson }}\n')
            text = helm("template", charts.RELEASE, copy, "--namespace", charts.NAMESPACE, "--kube-version", charts.KUBE_VERSION,
                        "--show-only", "templates/notes.yaml", values=values)
        return yaml.safe_load(text)["text"]

    def test_notes_say_the_next_command(self):
        for name in ("defaults", "toolbox-and-priorities", "plain-text"):
            with self.subTest(name):
                notes = self.notes(MATRIX[name])
                self.assertIn(f"helm -n {charts.NAMESPACE} test {charts.RELEASE}", notes)
                self.assertIn("data-lab-normlab-coordinator-0", notes)
                self.assertEqual("WARNING: there is no TLS" in notes, name == "plain-text")
                self.assertEqual("--tls-ca" in notes, name == "defaults")

    def test_notes_take_a_token_that_the_secret_has(self):
        worker = {"key": "w", "name": "w", "role": "worker"}
        mine = {"key": "my.admin", "name": "ada", "role": "operator"}
        self.assertIn(r"jsonpath='{.data.my\.admin}'", self.notes({"tokens": {"import": [worker, mine]}}))
        self.assertNotIn("get secret lab-normlab-tokens", self.notes({"tokens": {"import": [worker]}}))

    def test_typos_and_wrong_types_are_refused_by_the_schema(self):
        for where, values in {
            "replica": {"pools": {"cpu": {"replica": 2}}},
            "storag": {"storag": {}},
            "leaseSecond": {"coordinator": {"leaseSecond": 3}},
            "replicas": {"pools": {"cpu": {"replicas": "two"}}},
            "count": {"pools": {"cpu": {"gpu": {"count": 2}}}},
            "source": {"tls": {"source": "self-signed"}},
            "role": {"tokens": {"import": [{"key": "k", "name": "n", "role": "admin"}]}},
            "size": {"storage": {"data": {"size": "ten"}}},
            "device": {"poolDefaults": {"device": "tpu"}},
            "GPU_": {"pools": {"GPU_": {}}},
            "extraArgs": {"coordinator": {"extraArgs": ["lease 30"]}},
            "pool": {"pools": {"cpu": {"labels": {"pool": "mine"}}}},
        }.items():
            with self.subTest(where):
                with self.assertRaises(ChartError) as refused:
                    render(values)
                self.assertIn("schema", str(refused.exception))
                self.assertIn(where, str(refused.exception))

    def test_what_the_schema_cannot_say_is_refused_with_what_to_do(self):
        for why, values in {
            "say tls.allowPlaintext=true as well": {"tls": {"source": "none"}},
            "say tls.certManager.issuerRef.name": {"tls": {"source": "certManager"}},
            "say tls.coordinatorSecret": {"tls": {"source": "secret"}},
            "say tls.workerSecret": {"tls": {"source": "secret", "coordinatorSecret": "c"}},
            "no token of the role worker": {"tokens": {"import": [{"key": "a", "name": "a", "role": "operator"}]}},
            "say gpu.count=1": {"pools": {"gpu": {"device": "cuda"}}},
            "toolbox.tokenKey: tokens.import has no key admin": {"toolbox": {"enabled": True, "tokenKey": "admin"}},
            "coordinator.backup.tokenKey: the token submitter has the role submitter; this one needs operator":
                {"coordinator": {"backup": {"enabled": True, "tokenKey": "submitter"}}},
            "more than 52 characters": {"fullnameOverride": "x" * 40, "pools": {"y" * 20: {}}},
        }.items():
            with self.subTest(why):
                with self.assertRaises(ChartError) as refused:
                    render(values)
                self.assertIn(why, str(refused.exception))


@unittest.skipUnless(charts.HELM, NO_HELM)
class Pods(unittest.TestCase):
    def test_every_pod_passes_the_policy_restricted(self):
        for name, values in MATRIX.items():
            for pod, _, spec in charts.pod_templates(render(values)):
                with self.subTest(f"{name}: {pod}"):
                    self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
                    self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                    self.assertIs(spec["automountServiceAccountToken"], False)
                    for key in ("hostNetwork", "hostPID", "hostIPC"):
                        self.assertNotIn(key, spec)
                    for volume in spec["volumes"]:
                        self.assertTrue({"emptyDir", "secret", "persistentVolumeClaim"} & set(volume), volume)
                    for container in charts.containers(spec):
                        security = container["securityContext"]
                        self.assertIs(security["allowPrivilegeEscalation"], False)
                        self.assertIs(security["readOnlyRootFilesystem"], True)
                        self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
                        self.assertIn("requests", container["resources"])
                        self.assertIn("memory", container["resources"]["limits"])

    def test_every_mount_has_its_volume_and_every_volume_its_mount(self):
        for name, values in MATRIX.items():
            for pod, _, spec in charts.pod_templates(render(values)):
                volumes = {volume["name"] for volume in spec["volumes"]}
                if pod.endswith("-coordinator"):
                    volumes.add("data")  # Of the claim template.
                mounts = {mount["name"] for container in charts.containers(spec) for mount in container["volumeMounts"]}
                self.assertEqual(volumes, mounts, f"{name}: {pod}")

    def test_no_probe_hopes_for_a_variable_that_kubernetes_does_not_expand(self):
        for _, _, spec in charts.pod_templates(render()):
            for container in spec["containers"]:
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    self.assertNotIn("$(", json.dumps(container.get(probe)))

    def test_selectors_find_the_pods_that_they_are_for(self):
        objects = render(MATRIX["several-pools"])
        labels = {pod: meta["labels"] for pod, meta, _ in charts.pod_templates(objects)}

        def selected(selector):
            return {pod for pod, has in labels.items() if selector.items() <= has.items()}

        workers = {"lab-normlab-worker-cpu", "lab-normlab-worker-small", "lab-normlab-worker-large"}
        self.assertEqual(selected(find(objects, "Service", "coordinator")["spec"]["selector"]), {"lab-normlab-coordinator"})
        self.assertEqual(selected(find(objects, "Service", "workers")["spec"]["selector"]), workers)
        self.assertEqual(selected(find(objects, "PodDisruptionBudget", "worker-large")["spec"]["selector"]["matchLabels"]),
                         {"lab-normlab-worker-large"})
        policy = find(objects, "NetworkPolicy", "workers")["spec"]
        self.assertEqual(selected(policy["podSelector"]["matchLabels"]), workers)
        self.assertEqual(selected(policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]), workers)
        policy = find(objects, "NetworkPolicy", "coordinator")["spec"]
        self.assertEqual(policy["egress"], [])
        self.assertEqual(selected(policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]), workers)
        self.assertEqual(selected(policy["ingress"][0]["from"][1]["podSelector"]["matchLabels"]), {"lab-normlab-test"})

    def test_workers_and_the_probe_call_the_coordinator_by_a_name_that_its_certificate_has(self):
        objects = render(MATRIX["cert-manager"])
        names = find(objects, "Certificate", "coordinator")["spec"]["dnsNames"]
        coordinator = find(objects, "StatefulSet", "coordinator")["spec"]["template"]["spec"]["containers"][0]
        probe = coordinator["readinessProbe"]["exec"]["command"]
        self.assertIn(probe[probe.index("--tls-name") + 1], names)
        worker = find(objects, "StatefulSet", "worker-cpu")["spec"]["template"]["spec"]["containers"][0]
        [address] = [argument for argument in worker["args"] if argument.startswith("--coordinator=")]
        host, _, port = address.partition("=")[2].rpartition(":")
        self.assertIn(host, names)
        self.assertEqual(port, "7070")

    def test_without_tls_kubernetes_own_grpc_probe_asks_and_plain_text_is_said_twice(self):
        objects = render(MATRIX["plain-text"])
        coordinator = find(objects, "StatefulSet", "coordinator")["spec"]["template"]["spec"]["containers"][0]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(coordinator[probe]["grpc"], {"port": 7070})
        self.assertIn("--plaintext-off-loopback", coordinator["args"])
        self.assertNotIn("Certificate", {thing["kind"] for thing in objects})

    def test_a_worker_has_its_grace_for_a_checkpoint_and_time_to_tell_of_it(self):
        for seconds in (0, 600):
            objects = render({"poolDefaults": {"stopGraceSeconds": seconds}})
            spec = find(objects, "StatefulSet", "worker-cpu")["spec"]["template"]["spec"]
            self.assertIn(f"--stop-grace={seconds}", spec["containers"][0]["args"])
            self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], seconds + 15)

    def test_a_gpu_pool_asks_for_its_gpu_and_its_kind_of_node(self):
        objects = render(MATRIX["gpu-pool"])
        self.assertNotIn("lab-normlab-worker-cpu", {thing["metadata"]["name"] for thing in objects})
        spec = find(objects, "StatefulSet", "worker-h100")["spec"]["template"]["spec"]
        [worker] = spec["containers"]
        self.assertEqual(worker["resources"]["limits"], {"memory": "4Gi", "nvidia.com/gpu": 1})
        self.assertEqual(spec["nodeSelector"], {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"})
        self.assertEqual(spec["runtimeClassName"], "nvidia")
        self.assertEqual(worker["image"], "normlab-worker-cuda:0.1.0")
        self.assertIn({"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}, worker["env"])
        for label in ("--label=pool=h100", "--label=network=ib", "--label=gpu=NVIDIA-H100-80GB-HBM3"):
            self.assertIn(label, worker["args"])
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        self.assertEqual(volumes["shm"]["emptyDir"], {"medium": "Memory", "sizeLimit": "16Gi"})
        self.assertEqual(volumes["checkpoints"]["persistentVolumeClaim"]["claimName"], "fast")
        self.assertEqual(volumes["data"]["persistentVolumeClaim"]["claimName"], "lab-normlab-data")

    def test_a_pool_that_is_scaled_has_no_number_that_an_upgrade_would_set_back(self):
        for kind, name in (("ScaledObject", "keda"), ("HorizontalPodAutoscaler", "hpa")):
            objects = render(MATRIX[name])
            self.assertNotIn("replicas", find(objects, "StatefulSet", "worker-cpu")["spec"])
            target = find(objects, kind, "worker-cpu")["spec"]["scaleTargetRef"]
            self.assertEqual(target["name"], "lab-normlab-worker-cpu")
        self.assertEqual(find(render(), "StatefulSet", "worker-cpu")["spec"]["replicas"], 2)

    def test_images_come_from_the_registry_unless_a_whole_reference_is_given(self):
        objects = render(MATRIX["registry"])
        images = {container["image"] for _, _, spec in charts.pod_templates(objects) for container in charts.containers(spec)}
        self.assertEqual(images, {f"registry.example.org:5000/normlab/normlab-{name}:1.2.3" for name in ("coordinator", "worker-cpu", "cli")})
        exact = "r/c@sha256:" + "0" * 64
        objects = render({"coordinator": {"image": exact}})
        for container in charts.containers(find(objects, "StatefulSet", "coordinator")["spec"]["template"]["spec"]):
            self.assertEqual(container["image"], exact)


@unittest.skipUnless(charts.HELM, NO_HELM)
class Secrets(unittest.TestCase):
    def test_generated_tokens_have_the_form_of_tokens(self):
        data = find(render(), "Secret", "tokens")["data"]
        self.assertEqual(set(data), {"worker", "operator", "submitter"})
        tokens = {base64.b64decode(value).decode() for value in data.values()}
        self.assertEqual(len(tokens), 3)
        for token in tokens:
            self.assertRegex(token, r"^nlt_[0-9a-f]{12}_[0-9a-f]{64}$")

    def test_generated_certificates_are_of_one_authority_and_each_for_its_use(self):
        objects = render()
        with tempfile.TemporaryDirectory() as folder:
            for who in ("coordinator", "worker"):
                for key, value in find(objects, "Secret", f"{who}-tls")["data"].items():
                    with open(f"{folder}/{who}-{key}", "wb") as file:
                        file.write(base64.b64decode(value))
                verify = ["openssl", "verify", "-CAfile", f"{folder}/coordinator-ca.crt", f"{folder}/{who}-tls.crt"]
                self.assertEqual(subprocess.run(verify, capture_output=True).returncode, 0, who)
            text = subprocess.run(["openssl", "x509", "-in", f"{folder}/coordinator-tls.crt", "-noout", "-ext", "subjectAltName"],
                                  capture_output=True, text=True).stdout
            self.assertIn("DNS:lab-normlab-coordinator.research.svc", text)

    def test_a_pod_sees_the_one_token_that_it_needs(self):
        objects = render(MATRIX["toolbox-and-priorities"])
        for pod, keys in (("lab-normlab-worker-cpu", {"worker"}), ("lab-normlab-toolbox", {"operator"}), ("lab-normlab-test", {"submitter"})):
            [spec] = [spec for name, _, spec in charts.pod_templates(objects) if name == pod]
            [token] = [volume for volume in spec["volumes"] if volume["name"] == "token"]
            self.assertEqual({item["key"] for item in token["secret"]["items"]}, keys, pod)

    def test_no_secret_is_made_where_they_are_given(self):
        self.assertNotIn("Secret", {thing["kind"] for thing in render(MATRIX["given-secrets"])})

    def test_what_holds_work_survives_an_uninstall(self):
        objects = render()
        for kind, name in (("PersistentVolumeClaim", "data"), ("PersistentVolumeClaim", "checkpoints"), ("Secret", "tokens")):
            self.assertEqual(find(objects, kind, name)["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
        policy = find(objects, "StatefulSet", "coordinator")["spec"]["persistentVolumeClaimRetentionPolicy"]
        self.assertEqual(policy, {"whenDeleted": "Retain", "whenScaled": "Retain"})


    def test_backups_lie_on_a_claim_that_stays_and_are_asked_for_by_an_operator(self):
        objects = render(MATRIX["backup"])
        claim = find(objects, "PersistentVolumeClaim", "backups")
        self.assertEqual(claim["metadata"]["annotations"], {"helm.sh/resource-policy": "keep"})
        coordinator = find(objects, "StatefulSet", "coordinator")["spec"]["template"]["spec"]
        self.assertIn("--backup-root=/backups", coordinator["containers"][0]["args"])
        self.assertIn("--backups-kept=3", coordinator["containers"][0]["args"])
        job = find(objects, "CronJob", "backup")["spec"]["jobTemplate"]["spec"]["template"]
        self.assertEqual(job["metadata"]["labels"]["normlab.dev/client"], "true")
        self.assertEqual(job["spec"]["containers"][0]["args"][:3], ["admin", "backup", "create"])
        self.assertEqual([item["key"] for volume in job["spec"]["volumes"] if volume["name"] == "token"
                          for item in volume["secret"]["items"]], ["operator"])


@unittest.skipUnless(charts.HELM, NO_HELM)
class Metrics(unittest.TestCase):
    def test_the_coordinator_is_scraped_once_whatever_the_type_of_its_service(self):
        for kind in ("ClusterIP", "NodePort", "LoadBalancer"):
            with self.subTest(kind):
                objects = render({**MATRIX["all-metrics"], "coordinator": {"service": {"type": kind}}})
                monitor = find(objects, "ServiceMonitor", "coordinator")["spec"]
                wanted = monitor["selector"]["matchLabels"].items()
                [service] = [thing for thing in objects if thing["kind"] == "Service" and wanted <= thing["metadata"]["labels"].items()]
                [endpoint] = monitor["endpoints"]
                self.assertIn(endpoint["port"], {port["name"] for port in service["spec"]["ports"]})
                pod = find(objects, "StatefulSet", "coordinator")["spec"]["template"]["metadata"]
                self.assertLessEqual(service["spec"]["selector"].items(), pod["labels"].items())

    def test_autoscaling_asks_for_the_service_that_the_monitor_writes(self):
        values = {**MATRIX["keda"], "metrics": {"monitors": True}}
        [endpoint] = find(render(values), "ServiceMonitor", "coordinator")["spec"]["endpoints"]
        labels = {rule["targetLabel"]: rule["replacement"] for rule in endpoint["relabelings"]}
        [trigger] = find(render(values), "ScaledObject", "worker-cpu")["spec"]["triggers"]
        self.assertIn(f'service="{labels["service"]}"', trigger["metadata"]["query"])
        [metric] = find(render(MATRIX["hpa"]), "HorizontalPodAutoscaler", "worker-cpu")["spec"]["metrics"]
        self.assertEqual(metric["external"]["metric"]["selector"]["matchLabels"], {"service": labels["service"]})

    def test_monitors_name_the_jobs_that_alerts_know(self):
        objects = render(MATRIX["all-metrics"])
        monitor = find(objects, "ServiceMonitor", "coordinator")
        pods = find(objects, "PodMonitor", "workers")
        worker = find(objects, "StatefulSet", "worker-cpu")["spec"]["template"]
        self.assertLessEqual(pods["spec"]["selector"]["matchLabels"].items(), worker["metadata"]["labels"].items())
        self.assertEqual(pods["spec"]["podMetricsEndpoints"][0]["port"], worker["spec"]["containers"][0]["ports"][0]["name"])
        jobs = {monitor["spec"]["endpoints"][0]["relabelings"][0]["replacement"],
                pods["spec"]["podMetricsEndpoints"][0]["relabelings"][0]["replacement"]}
        config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
        self.assertEqual(jobs, {job["job_name"] for job in config["scrape_configs"]})

    def test_rules_are_those_for_bare_hosts_word_for_word(self):
        groups = find(render(MATRIX["all-metrics"]), "PrometheusRule", "lab-normlab")["spec"]["groups"]
        wanted = []
        for name in ("rules.yml", "alerts.yml"):
            wanted += yaml.safe_load((ROOT / "deploy" / "prometheus" / name).read_text())["groups"]
        self.assertEqual(groups, wanted)

    def test_dashboards_are_found_by_grafanas_sidecar(self):
        objects = render(MATRIX["all-metrics"])
        for path in (ROOT / "dashboards").glob("*.json"):
            config = find(objects, "ConfigMap", f"dashboard-{path.stem}")
            self.assertEqual(config["metadata"]["labels"]["grafana_dashboard"], "1")
            self.assertEqual(json.loads(config["data"][path.name]), json.loads(path.read_text()))


class Units(unittest.TestCase):
    def test_systemd_accepts_the_units_of_bare_hosts(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd-analyze: the units are not verified")
        with tempfile.TemporaryDirectory() as folder:
            for path in (ROOT / "deploy" / "systemd").glob("*.service"):
                # The programs are not installed here; systemd asks whether they are there.
                text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE)
                name = path.name.replace("@", "@0")
                pathlib.Path(folder, name).write_text(text)
                done = subprocess.run(["systemd-analyze", "verify", "--man=no", f"{folder}/{name}"], capture_output=True, text=True)
                self.assertEqual((done.returncode, [line for line in done.stderr.splitlines() if folder in line]), (0, []), done.stderr)

    def test_the_flags_in_the_units_environment_exist(self):
        sources = {"coordinator.env": ("coordinator/main.cc", "coordinator/flags.cc"), "worker.env": ("worker/agent/main.cc",)}
        for name, files in sources.items():
            code = "".join((ROOT / file).read_text() for file in files)
            for flag in re.findall(r" (--[a-z-]+)", (ROOT / "deploy" / "systemd" / name).read_text().partition("FLAGS=")[2]):
                self.assertIn(f'"{flag}"', code, name)

    @unittest.skipUnless(charts.HELM, NO_HELM)
    def test_the_flags_in_the_chart_exist(self):
        code = "".join((ROOT / file).read_text() for file in ("coordinator/main.cc", "coordinator/flags.cc", "coordinator/health_command.cc",
                                                              "worker/agent/main.cc"))
        for values in ("defaults", "plain-text", "backup"):
            for _, _, spec in charts.pod_templates(render(MATRIX[values])):
                for container in spec["containers"]:
                    for argument in container.get("args", []):
                        if argument.startswith("--"):
                            self.assertIn(f'"{argument.partition("=")[0]}"', code)


if __name__ == "__main__":
    unittest.main()
