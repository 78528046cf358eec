"""deploy/compose without Docker: the compose file against the Compose Specification, and what it mounts against each other."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

import compose_spec
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
import cluster  # noqa: E402

FILE = ROOT / "deploy" / "compose" / "compose.yml"
PROMETHEUS = shutil.which("prometheus")
# What Grafana's documentation of provisioning names; other keys are ignored there without a word.
DATA_SOURCE_KEYS = {"name", "uid", "type", "access", "url", "isDefault", "jsonData", "editable", "orgId", "version"}
PROVIDER_KEYS = {"name", "folder", "folderUid", "type", "options", "disableDeletion", "updateIntervalSeconds",
                 "allowUiUpdates", "orgId"}

MISTAKES = {
    "a key that no service has": ("restart:", "restrat:"),
    "a policy that does not exist": ("restart: unless-stopped", "restart: sometimes"),
    "a mount that is none": ("grafana:/var/lib/grafana", ":::"),
    "an image's name with a blank": ("grafana/grafana:11.4.0", "grafana/grafana 11.4.0"),
    "a key that no file has": ("services:", "servces:"),
}


def mounts(service):
    """(where it comes from, where it is seen) of each."""
    return [tuple(volume.split(":")[:2]) for volume in service["volumes"]]


class ComposeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = FILE.read_text()
        compose_spec.PyCompose.from_yaml(cls.text)
        cls.compose = yaml.safe_load(cls.text)
        cls.prometheus, cls.grafana = cls.compose["services"]["prometheus"], cls.compose["services"]["grafana"]

    def test_every_mistake_is_found(self):
        for what, (right, wrong) in MISTAKES.items():
            with self.subTest(what):
                self.assertIn(right, self.text)
                with self.assertRaises(Exception):
                    compose_spec.PyCompose.from_yaml(self.text.replace(right, wrong))

    def test_everything_that_is_mounted_or_waited_for_is_there(self):
        for name, service in self.compose["services"].items():
            for other in service.get("depends_on", []):
                self.assertIn(other, self.compose["services"], name)
            for source, _ in mounts(service):
                if source.startswith("."):
                    self.assertTrue((FILE.parent / source).exists(), f"{name}: {source}")
                else:
                    self.assertIn(source, self.compose["volumes"], name)

    def test_images_have_a_version(self):
        for name, service in self.compose["services"].items():
            self.assertRegex(service["image"], r":v?\d+\.\d+\.\d+$", name)

    def test_grafana_is_the_one_whose_model_judges_the_dashboards(self):
        version = self.grafana["image"].partition(":")[2]
        self.assertRegex((ROOT / "tests/peers/requirements.txt").read_text(), rf"grafana-foundation-sdk==\d+!{version}\n")

    def provisioned(self, kind):
        """The file that Grafana finds in its provisioning folder of that kind."""
        [source] = [source for source, target in mounts(self.grafana)
                    if target.startswith(f"/etc/grafana/provisioning/{kind}/")]
        return yaml.safe_load((FILE.parent / source).read_text())

    def test_grafana_finds_the_prometheus_of_the_same_file(self):
        provisioned = self.provisioned("datasources")
        self.assertEqual((set(provisioned), provisioned["apiVersion"]), ({"apiVersion", "datasources"}, 1))
        [source] = provisioned["datasources"]
        self.assertLessEqual(set(source), DATA_SOURCE_KEYS)
        self.assertEqual((source["type"], source["access"], source["isDefault"]), ("prometheus", "proxy", True))
        [address] = [word.partition("=")[2] for word in self.prometheus["command"] if word.startswith("--web.listen-address")]
        self.assertEqual(source["url"], f"http://{address}")

    def test_grafana_finds_the_dashboards_where_they_are_mounted(self):
        provisioned = self.provisioned("dashboards")
        self.assertEqual((set(provisioned), provisioned["apiVersion"]), ({"apiVersion", "providers"}, 1))
        [provider] = provisioned["providers"]
        self.assertLessEqual(set(provider), PROVIDER_KEYS)
        self.assertEqual(provider["type"], "file")
        places = {target: (FILE.parent / source).resolve() for source, target in mounts(self.grafana)}
        self.assertEqual(places[provider["options"]["path"]], ROOT / "dashboards")
        home = pathlib.Path(self.grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
        self.assertTrue((places[str(home.parent)] / home.name).is_file())

    @unittest.skipUnless(PROMETHEUS, "prometheus is not installed")
    def test_prometheus_starts_with_these_arguments_and_this_configuration(self):
        with tempfile.TemporaryDirectory(prefix="normlab-compose-") as folder:
            address = cluster.free_address()
            places = {target: str((FILE.parent / source).resolve()) if source.startswith(".") else folder
                      for source, target in mounts(self.prometheus)}
            arguments = []
            for word in self.prometheus["command"]:
                name, _, value = word.partition("=")
                for target in sorted(places, key=len, reverse=True):
                    if value.startswith(target):
                        value = places[target] + value[len(target):]
                        break
                arguments.append(f"{name}={address if name == '--web.listen-address' else value}")
            daemon = cluster.Daemon("prometheus", [PROMETHEUS, *arguments], pathlib.Path(folder) / "log").start()
            try:
                def is_ready():
                    self.assertTrue(daemon.is_alive(), daemon.log())
                    try:
                        return urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).status == 200
                    except (urllib.error.URLError, ConnectionError):
                        return False

                cluster.wait_for(is_ready, "prometheus is ready")
            finally:
                daemon.kill()


if __name__ == "__main__":
    unittest.main()
