"""Mutual TLS, tokens and roles end to end: who may do what, what happens when certificates and tokens change under way."""

import json
import pathlib
import re
import socket
import ssl
import subprocess
import unittest

import cluster
from cluster import BIN, Daemon, experiment_spec, wait_for

ENDLESS = 10_000_000
DENIED, UNREACHABLE = 6, 5
TOKEN = re.compile(r"nlt_[0-9a-f]{12}_[0-9a-f]{64}")


class Authority:
    """Makes certificates with the openssl program."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self._openssl("req", "-x509", *self._new_key("ca"), "-out", "ca.crt", "-days", "2", "-subj", "/CN=test authority")

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, text=True)

    @staticmethod
    def _new_key(name):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key")

    def issue(self, name, names="IP:127.0.0.1", days="1"):
        """NAME.crt and NAME.key; a certificate of that name is replaced."""
        new = f"{name}.new"
        self._openssl("req", *self._new_key(new), "-out", f"{new}.csr", "-subj", f"/CN={name}",
                      "-addext", f"subjectAltName={names}")
        self._openssl("x509", "-req", "-in", f"{new}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-out", f"{new}.crt", "-days", days, "-copy_extensions", "copy")
        for suffix in ("key", "crt"):
            self.file(f"{new}.{suffix}").rename(self.file(f"{name}.{suffix}"))

    def file(self, name):
        return self.folder / name


class SecureCluster(cluster.Cluster):
    def __init__(self):
        super().__init__(lease_seconds=10, stop_grace_seconds=5)
        self.authority = Authority(self.root / "certificates")
        for name in ("coordinator", "worker"):
            self.authority.issue(name)
        self.tokens = {}
        for name, role in (("root", "operator"), ("ada", "submitter"), ("bob", "submitter"), ("eve", "viewer"),
                           ("pool", "worker")):
            self.tokens[name] = self.make_token(name, role)
        self.options += ["--require-tokens", "--tls-cert", self.authority.file("coordinator.crt"),
                         "--tls-key", self.authority.file("coordinator.key"),
                         "--tls-client-ca", self.authority.file("ca.crt")]
        self.coordinator = self._coordinator("127.0.0.1:0", "127.0.0.1:0")
        self.daemons = [self.coordinator]

    def make_token(self, name, role):
        """The first tokens are made on the data folder."""
        path = self.root / f"{name}.token"
        subprocess.run([BIN / "normlab-coordinator", "token", "create", "--data", self.coordinator_folder, "--name", name,
                        "--role", role, "--out", path], check=True, capture_output=True, text=True)
        return path

    def secret(self, name):
        return self.tokens[name].read_text().strip().rpartition("_")[2]

    def token_id(self, name):
        return self.tokens[name].read_text().split("_")[1]

    def _is_serving(self):
        return self.as_user("root", "version").stdout.count("coordinator") == 1

    def worker_argv(self, name, with_certificate=True, **options):
        argv = super().worker_argv(name, **options)
        argv += ["--tls-ca", self.authority.file("ca.crt"), "--token-file", self.tokens["pool"]]
        if with_certificate:
            argv += ["--tls-cert", self.authority.file("worker.crt"), "--tls-key", self.authority.file("worker.key")]
        return argv

    def as_user(self, user, *arguments, **options):
        security = ["--tls-ca", self.authority.file("ca.crt")]
        if user:
            security += ["--token-file", self.tokens[user]]
        return self.cli(*security, *arguments, **options)

    def json_as(self, user, *arguments):
        return json.loads(self.as_user(user, *arguments, "-o", "json").stdout)

    def list_workers(self):
        return self.json_as("root", "workers")["workers"]

    def run(self, run_id):
        return self.json_as("eve", "show", run_id)["run"]

    def submit_as(self, user, spec, **options):
        path = self.write(f"{spec['name']}.yaml", spec)
        done = self.as_user(user, "submit", path, "-o", "json", **options)
        return json.loads(done.stdout)["run_ids"] if done.returncode == 0 else done

    def state(self, run_id):
        return self.run(run_id)["state"]

    def serial(self, address):
        """The serial number of the certificate that is served there now."""
        context = ssl.create_default_context(cafile=self.authority.file("ca.crt"))
        context.set_alpn_protocols(["h2"])
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as plain, \
                context.wrap_socket(plain, server_hostname=host) as encrypted:
            return encrypted.getpeercert()["serialNumber"]


class SecurityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = SecureCluster()
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.prepare_dataset()
        cls.cluster.start(1)

    def wait_state(self, run_id, state):
        wait_for(lambda: self.cluster.state(run_id) == state, f"{run_id} becomes {state}")

    def test_a_run_trains_under_its_owners_name_and_only_he_or_an_operator_ends_it(self):
        [small] = self.cluster.submit_as("ada", experiment_spec("small", 20))
        self.wait_state(small, "SUCCEEDED")
        self.assertEqual(self.cluster.run(small)["owner"], "ada")
        [endless] = self.cluster.submit_as("ada", experiment_spec("endless", ENDLESS, slow=True))
        self.wait_state(endless, "RUNNING")
        for user, why in (("bob", "is ada's"), ("eve", "has the role viewer"), ("pool", "has the role worker"),
                          (None, "asks for a token")):
            with self.subTest(user=user):
                done = self.cluster.as_user(user, "cancel", endless, check=False)
                self.assertEqual(done.returncode, DENIED, done.stderr)
                self.assertIn(why, done.stderr)
        self.assertEqual(self.cluster.state(endless), "RUNNING")
        self.cluster.as_user("ada", "cancel", endless)
        self.wait_state(endless, "CANCELLED")

    def test_roles_bound_what_a_token_can_do(self):
        refused = self.cluster.submit_as("eve", experiment_spec("viewer", 20), check=False)
        self.assertEqual(refused.returncode, DENIED, refused.stderr)
        self.assertIn("needs the role submitter", refused.stderr)
        self.assertIn("eve (viewer", self.cluster.as_user("eve", "admin", "whoami").stdout)
        done = self.cluster.as_user("ada", "admin", "token", "list", check=False)
        self.assertEqual(done.returncode, DENIED, done.stderr)
        listed = self.cluster.as_user("root", "admin", "token", "list").stdout
        self.assertIn(self.cluster.token_id("ada"), listed)
        self.assertIsNone(TOKEN.search(listed))

    def test_plain_text_and_strangers_are_refused(self):
        done = self.cluster.cli("--token-file", self.cluster.tokens["ada"], "list", check=False)
        self.assertEqual(done.returncode, UNREACHABLE, done.stderr)
        other = Authority(self.cluster.root / "other")
        done = self.cluster.cli("--tls-ca", other.file("ca.crt"), "list", check=False)
        self.assertEqual(done.returncode, UNREACHABLE, done.stderr)
        # OpenSSL names what it misses by whether the server sent its root along.
        self.assertRegex(done.stderr, "is refused: (unable to get local issuer certificate|self-signed certificate)")
        bare = self.cluster.add_worker("bare", with_certificate=False)
        wait_for(lambda: "needs a certificate" in bare.log(), "a worker without a certificate is told so")
        self.assertNotIn("bare", [worker["id"] for worker in self.cluster.list_workers()])
        bare.stop()
        self.cluster.workers.pop("bare")

    def test_certificates_are_replaced_without_a_restart(self):
        [run_id] = self.cluster.submit_as("ada", experiment_spec("rotation", ENDLESS, slow=True))
        self.wait_state(run_id, "RUNNING")
        before = self.cluster.serial(self.cluster.grpc)
        self.cluster.authority.issue("coordinator")
        wait_for(lambda: self.cluster.serial(self.cluster.grpc) != before, "the new certificate is served")
        self.assertEqual(self.cluster.state(run_id), "RUNNING")
        self.assertEqual(self.cluster.run(run_id)["attempt"], 1, "nothing was interrupted")
        self.cluster.as_user("ada", "cancel", run_id)
        self.wait_state(run_id, "CANCELLED")

    def health(self, *flags):
        return subprocess.run([BIN / "normlab-coordinator", "--data", self.cluster.coordinator_folder, "health", *flags],
                              capture_output=True, text=True, timeout=30)

    def test_a_probe_asks_for_health_through_tls_and_without_a_token(self):
        ca = ("--tls-ca", self.cluster.authority.file("ca.crt"))
        healthy = self.health(*ca)
        self.assertEqual(healthy.returncode, 0, healthy.stderr)
        for flags, why in ((("--timeout", "1"), "does not answer within 1 s"),
                           ((*ca, "--tls-name", "elsewhere.example", "--timeout", "1"), "does not answer within 1 s")):
            with self.subTest(flags):
                done = self.health(*flags)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(why, done.stderr)

    def test_a_token_from_a_secret_store_is_let_in(self):
        path = self.cluster.root / "imported.token"
        path.write_text("nlt_0123456789ab_" + "5" * 64 + "\n")
        self.cluster.tokens["imported"] = path
        for _ in range(2):
            subprocess.run([BIN / "normlab-coordinator", "token", "import", "--data", self.cluster.coordinator_folder,
                            "--name", "fay", "--role", "viewer", "--from", path], check=True, capture_output=True)
        wait_for(lambda: self.cluster.as_user("imported", "list", check=False).returncode == 0, "it is known")
        self.assertIn("fay (viewer", self.cluster.as_user("imported", "admin", "whoami").stdout)

    def test_a_revoked_token_is_refused(self):
        path = self.cluster.root / "carl.token"
        self.cluster.as_user("root", "admin", "token", "create", "--name", "carl", "--role", "viewer", "--out", path)
        self.cluster.tokens["carl"] = path
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.cluster.as_user("carl", "list")
        self.cluster.as_user("root", "admin", "token", "revoke", self.cluster.token_id("carl"))
        done = self.cluster.as_user("carl", "list", check=False)
        self.assertEqual(done.returncode, DENIED, done.stderr)
        self.assertIn("revoked", done.stderr)
        # The same on the data folder, beside the running coordinator.
        offline = self.cluster.tokens["dora"] = self.cluster.make_token("dora", "viewer")
        wait_for(lambda: self.cluster.as_user("dora", "list", check=False).returncode == 0, "it is known")
        subprocess.run([BIN / "normlab-coordinator", "token", "revoke", self.cluster.token_id("dora"), "--data",
                        self.cluster.coordinator_folder], check=True, capture_output=True)
        self.assertTrue(offline.exists())
        wait_for(lambda: self.cluster.as_user("dora", "list", check=False).returncode == DENIED, "it is refused")

    def test_z_no_log_or_audit_line_has_a_token_and_the_audit_log_says_who_did_what(self):
        audit = (self.cluster.coordinator_folder / "audit" / "audit.jsonl").read_text()
        lines = [json.loads(line) for line in audit.splitlines()]
        self.assertTrue(any(line["who"] == "ada" and line["method"] == "ExperimentService/CreateExperiment" and
                            line["result"] == "OK" for line in lines), lines)
        for path in self.cluster.root.rglob("*"):
            is_known = path.suffix == ".token" or not path.is_file() or path.stat().st_size > 64 << 20
            if is_known:
                continue
            text = path.read_bytes().decode(errors="replace")
            for name in self.cluster.tokens:
                self.assertNotIn(self.cluster.secret(name), text, path)


class RefusalTest(unittest.TestCase):
    """What a coordinator does not begin with."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = cluster.Cluster()
        cls.addClassCleanup(cls.cluster.stop)
        cls.authority = Authority(cls.cluster.root / "certificates")
        cls.authority.issue("good")
        cls.authority.issue("other")
        cls.authority.issue("expired", days="-1")

    def start(self, *flags):
        argv = [BIN / "normlab-coordinator", "--data", self.cluster.root / "refused", *flags]
        if "--http" not in flags:
            argv += ["--http", "127.0.0.1:0"]
        return subprocess.run([str(argument) for argument in argv], capture_output=True, text=True, timeout=30)

    def test_plain_text_off_the_loopback_has_to_be_said_twice(self):
        for flags in ((), ("--plaintext",), ("--plaintext-off-loopback",)):
            with self.subTest(flags):
                done = self.start("--listen", "0.0.0.0:0", *flags)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn("not of the loopback", done.stderr)
        done = self.start("--listen", "127.0.0.1:0", "--http", "0.0.0.0:0", "--http-plaintext")
        self.assertIn("metrics are plain text", done.stderr)
        daemon = Daemon("twice", [BIN / "normlab-coordinator", "--data", self.cluster.root / "twice", "--http",
                                  "127.0.0.1:0", "--listen", "0.0.0.0:0", "--plaintext", "--plaintext-off-loopback"],
                        self.cluster.root / "twice.log").start()
        self.addCleanup(daemon.stop)
        wait_for(lambda: "plain text, with tokens" in daemon.log(), "it serves, and asks for tokens all the same")

    def test_each_bad_certificate_has_its_own_message(self):
        for cert, key, why in (("good", "other", "does not belong"), ("expired", "expired", "expired on"),
                               ("missing", "good", "No such file")):
            with self.subTest(cert):
                done = self.start("--listen", "127.0.0.1:0", "--tls-cert", self.authority.file(f"{cert}.crt"),
                                  "--tls-key", self.authority.file(f"{key}.key"))
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertIn(why, done.stderr)

    def test_a_client_without_a_usable_token_file_says_so_and_sends_nothing(self):
        self.cluster.grpc = "127.0.0.1:1"
        for text, why in ((None, "No such file"), ("hunter2", "holds no token")):
            path = self.cluster.root / "bad.token"
            path.unlink(missing_ok=True)
            if text:
                path.write_text(text)
            done = self.cluster.cli("--token-file", path, "list", check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(why, done.stderr)
            self.assertNotIn("hunter2", done.stderr)


if __name__ == "__main__":
    unittest.main()
