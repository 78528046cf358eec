"""Real daemons in a folder of their own, and the few ways in which the tests look at them.

What users do goes through the command line; what the tests check is read with normlab-test-rpc, which learns every
message from the coordinator's reflection service.

Environment: NORMLAB_BIN, the folder of the four programs; NORMLAB_TEST_RPC, the path of normlab-test-rpc;
NORMLAB_TEST_KEEP=1 keeps the folder of a cluster.
"""

import ctypes
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

BIN = pathlib.Path(os.environ["NORMLAB_BIN"])
RPC = os.environ["NORMLAB_TEST_RPC"]
NORMLAB = str(BIN / "normlab")

TIMEOUT_SECONDS = 90
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
DATASET = "text"


def wait_for(condition, what, timeout=TIMEOUT_SECONDS):
    """The first true value of condition(), polled; AssertionError with `what` once the timeout is over."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last seen: {value!r})")
        time.sleep(0.05)


def _die_with_the_test():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Daemon:
    """One process that can be killed and started again with the same arguments; its log goes on in one file."""

    def __init__(self, name, argv, log_path, env=None):
        self.name = name
        self.argv = [str(argument) for argument in argv]
        self.log_path = pathlib.Path(log_path)
        self.env = env
        self.process = None

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                preexec_fn=_die_with_the_test)
        return self

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """kill -9, and gone when this returns."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=TIMEOUT_SECONDS):
        """SIGTERM, and the exit code."""
        if self.process is None:
            return None
        self.process.terminate()
        return self.process.wait(timeout)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class RpcError(Exception):
    """A call that did not end OK; `code` is gRPC's number."""

    def __init__(self, code, message):
        super().__init__(f"code {code}: {message}")
        self.code = code
        self.message = message


def experiment_spec(name="small", steps=40, slow=False, matrix=None, labels=None, **base):
    """An experiment of a tiny model; other keyword arguments replace or add fields of base's sections.

    A step takes well below a millisecond, or about ten if it is to be slow: then there is time to act during the run.
    """
    sections = {
        "model": {"num_layers": 2, "hidden": 16, "num_heads": 2, "ffn_hidden": 32},
        "norm": {"scheme": "lns"},
        "data": {"dataset": DATASET, "seq_len": 16},
        "train": {"steps": steps, "batch_size": 4, "lr": 0.01, "warmup_steps": min(5, steps)},
        "report": {"eval_every_steps": 1000000, "eval_sequences": 8, "checkpoint_every_steps": 100},
        "resources": {"threads": 1},
    }
    if slow:
        sections["data"]["seq_len"] = 64
        sections["train"]["batch_size"] = 64
    for section, fields in base.items():
        if isinstance(fields, dict):
            sections.setdefault(section, {}).update(fields)
        else:
            sections[section] = fields
    spec = {"name": name, "base": sections}
    if matrix:
        spec["matrix"] = matrix
    if labels:
        spec["labels"] = labels
    return spec


class Cluster:
    """A coordinator and workers on loopback with free ports; everything is gone after stop()."""

    def __init__(self, lease_seconds=20, stop_grace_seconds=20, data_folder=None):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="normlab-test-"))
        self.data_root = self.root / "data"
        self.checkpoint_root = self.root / "checkpoints"
        self.coordinator_folder = pathlib.Path(data_folder or self.root / "coordinator")
        for folder in (self.data_root, self.checkpoint_root, self.coordinator_folder):
            folder.mkdir(exist_ok=True)
        self.options = ["--lease", lease_seconds, "--stop-grace", stop_grace_seconds]
        self.coordinator = self._coordinator("127.0.0.1:0", "127.0.0.1:0")
        self.grpc = self.http = None
        self.workers = {}
        self.daemons = [self.coordinator]

    def _coordinator(self, listen, http):
        return Daemon("coordinator", [BIN / "normlab-coordinator", "--data", self.coordinator_folder,
                                      "--listen", listen, "--http", http, *self.options],
                      self.root / "coordinator.log")

    # --- Processes ---

    def start(self, num_workers=1):
        self.start_coordinator()
        for index in range(num_workers):
            self.add_worker(f"w{index}")
        self.wait_for_workers()
        return self

    def start_coordinator(self):
        """The first start takes free ports; later ones take them again, so that workers and clients find it."""
        self.coordinator.start()
        if self.grpc is None:
            address = wait_for(self._read_address, "the coordinator writes its addresses")
            self.grpc, self.http = address["grpc"], address["http"]
            self.coordinator.argv = self._coordinator(self.grpc, self.http).argv
        wait_for(self._is_serving, "the coordinator serves")

    def _read_address(self):
        if not self.coordinator.is_alive():
            raise AssertionError("the coordinator ended:\n" + self.coordinator.log())
        try:
            return json.loads((self.coordinator_folder / "address.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _is_serving(self):
        if not self.coordinator.is_alive():
            raise AssertionError("the coordinator ended:\n" + self.coordinator.log())
        try:
            return self.rpc("grpc.health.v1.Health/Check", {})["status"] == "SERVING"
        except RpcError:
            return False

    def worker_argv(self, name, labels=None, trainer=None, threads=1):
        argv = [BIN / "normlab-worker", "--id", name, "--coordinator", self.grpc, "--work", self.root / name,
                "--data-root", self.data_root, "--checkpoint-root", self.checkpoint_root,
                "--metrics", "127.0.0.1:0", "--threads", threads]
        for key, value in (labels or {}).items():
            argv += ["--label", f"{key}={value}"]
        if trainer:
            argv += ["--trainer", trainer]
        return argv

    def add_worker(self, name, **options):
        worker = Daemon(name, self.worker_argv(name, **options), self.root / f"{name}.log").start()
        self.workers[name] = worker
        self.daemons.append(worker)
        return worker

    def wait_for_workers(self):
        """Every worker that runs holds a lease."""
        names = {name for name, worker in self.workers.items() if worker.is_alive()}

        def are_known():
            known = {worker["id"] for worker in self.list_workers() if worker["state"] in ("IDLE", "BUSY")}
            return names <= known

        wait_for(are_known, f"the coordinator knows {sorted(names)}")

    def stop(self):
        for daemon in reversed(self.daemons):
            if daemon.is_alive():
                daemon.kill()
        if os.environ.get("NORMLAB_TEST_KEEP"):
            print(f"kept {self.root}", file=sys.stderr)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def processes(self, program):
        """Ids of the live processes of that program that belong to this cluster."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                is_zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except (FileNotFoundError, ProcessLookupError):
                continue
            names = [pathlib.Path(argument).name for argument in arguments[:2]]  # Of the interpreter and of its script.
            if program in names and any(str(self.root) in argument for argument in arguments) and not is_zombie:
                found.append(int(entry.name))
        return found

    # --- What users do ---

    def cli(self, *arguments, check=True, timeout=TIMEOUT_SECONDS):
        """Runs `normlab` against this cluster."""
        env = dict(os.environ, NORMLAB_SERVER=self.grpc or "", HOME=str(self.root), USER="tester")
        done = subprocess.run([NORMLAB, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=env,
                              cwd=self.root)
        if check and done.returncode != 0:
            raise AssertionError(f"normlab {' '.join(map(str, arguments))} ended with {done.returncode}:\n"
                                 f"{done.stdout}{done.stderr}")
        return done

    def cli_json(self, *arguments, **options):
        return json.loads(self.cli(*arguments, "-o", "json", **options).stdout)

    def write(self, name, text):
        path = self.root / name
        path.write_text(text if isinstance(text, str) else json.dumps(text, indent=2))  # JSON is YAML.
        return path

    def submit(self, spec, *arguments):
        """Submits a spec (a dict or YAML text) and returns the ids of its runs."""
        path = self.write(f"{hashlib.sha256(repr(spec).encode()).hexdigest()[:12]}.yaml", spec)
        return self.cli_json("submit", path, *arguments)["run_ids"]

    def prepare_dataset(self, name=DATASET):
        """A small dataset of generated words, the same ones each time."""
        source = self.root / "source"
        if not source.exists():
            source.mkdir()
            chance = random.Random(7)
            syllables = ["ka", "to", "mi", "ren", "sol", "du", "va", "nex", "pi", "or"]
            words = ["".join(chance.choices(syllables, k=chance.randint(1, 3))) for _ in range(200)]
            for index in range(40):
                lines = [" ".join(chance.choices(words, k=10)) + "." for _ in range(30)]
                (source / f"{index:02}.txt").write_text("\n".join(lines) + "\n")
        self.cli("data", "prepare", "--out", self.data_root / name, "--vocab-size", 300, source)
        return self.data_root / name

    # --- What the tests look at ---

    def rpc(self, method, request):
        """One call with one answer."""
        answers = self.rpc_stream(method, request)
        assert len(answers) == 1, answers
        return answers[0]

    def rpc_stream(self, method, request):
        if "." not in method.partition("/")[0]:
            method = "normlab.v1." + method
        done = subprocess.run([RPC, self.grpc, method, json.dumps(request)], capture_output=True, text=True,
                              timeout=TIMEOUT_SECONDS)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode == 1:
            raise RpcError(**lines[-1]["error"])
        assert done.returncode == 0, done
        return lines

    def run(self, run_id):
        return self.rpc("RunService/GetRun", {"id": run_id})

    def runs(self):
        """All runs, by id, through all pages."""
        found, token = {}, ""
        while True:
            page = self.rpc("RunService/ListRuns", {"page_size": 500, "page_token": token})
            found.update((run["id"], run) for run in page["runs"])
            token = page["next_page_token"]
            if not token:
                return found

    def step(self, run_id):
        return int((self.run(run_id).get("progress") or {}).get("step", 0))

    def experiments(self):
        return self.rpc("ExperimentService/ListExperiments", {"page_size": 1000})["experiments"]

    def list_workers(self):
        return self.rpc("WorkerService/ListWorkers", {})["workers"]

    def events(self, run_id):
        return self.rpc("RunService/ListEvents", {"run_id": run_id})["events"]

    def states(self, run_id):
        """The states that the run went through, by its events, repeats left out."""
        states = []
        for event in self.events(run_id):
            if event["state"] != "RUN_STATE_UNSPECIFIED" and (not states or states[-1] != event["state"]):
                states.append(event["state"])
        return states

    def history(self, run_id):
        """All stored reports, through small pages."""
        steps = []
        while True:
            after = steps[-1]["step"] if steps else 0
            page = self.rpc("RunService/GetMetrics", {"run_id": run_id, "after_step": after, "page_size": 997})
            steps += page["steps"]
            if not page["has_more"]:
                return steps

    def logs(self, run_id):
        return [entry["line"]["text"] for entry in self.rpc_stream("RunService/StreamLogs", {"run_id": run_id})]

    def wait_state(self, run_id, *states, timeout=TIMEOUT_SECONDS):
        """The run, once it is in one of these states. A terminal state that is not wished for ends the wait at once."""
        seen = {}

        def is_there():
            seen["run"] = self.run(run_id)
            if seen["run"]["state"] in states:
                return True
            if seen["run"]["state"] in TERMINAL:
                raise AssertionError(f"{run_id} is {seen['run']['state']} ({seen['run']['reason']}), not {states}; "
                                     f"logs: {self.logs(run_id)[-5:]}")
            return False

        wait_for(is_there, f"{run_id} becomes {' or '.join(states)}", timeout)
        return seen["run"]

    def wait_step(self, run_id, step):
        """The run has reported this step."""
        def has_reported():
            run = self.run(run_id)
            if run["state"] in TERMINAL:
                raise AssertionError(f"{run_id} is {run['state']} ({run['reason']}) before step {step} was seen")
            return int((run.get("progress") or {}).get("step", 0)) >= step

        wait_for(has_reported, f"{run_id} reports step {step}")

    def weights_digest(self, run_id):
        """SHA-256 of the weights in the run's last checkpoint."""
        checkpoint = self.run(run_id)["progress"]["checkpoint"]
        return file_digest(self.checkpoint_root / run_id / checkpoint["name"] / "model.safetensors")

    def train_by_hand(self, run_id, folder):
        """Trains the run's spec with normlab-train alone, nothing interrupted; SHA-256 of the last weights."""
        folder = self.root / folder
        spec = {"run": self.run(run_id)["spec"], "data_dir": str(self.data_root / DATASET),
                "checkpoint_dir": str(folder), "attempt": 1, "resume_from_attempt": 1, "rank": 0, "world_size": 1,
                "rendezvous": "", "bind_host": "127.0.0.1", "threads": 1}
        path = self.write(f"{folder.name}.json", spec)
        done = subprocess.run([BIN / "normlab-train", "--spec", path, "--events", "-"], capture_output=True, text=True,
                              timeout=TIMEOUT_SECONDS)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        last = [event["checkpoint"] for event in events if "checkpoint" in event][-1]
        return file_digest(folder / last["name"] / "model.safetensors")

    def scrape(self, address, path="/metrics"):
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.read().decode()


class Submits:
    """Submits runs that nothing can serve, one after the other, each with its request id until it is acknowledged."""

    def __init__(self, a_cluster):
        self.cluster = a_cluster
        self.acknowledged = {}
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.submit_on)
        self.thread.start()

    def submit_on(self):
        number = 0
        while not self.is_over.is_set():
            number += 1
            name = f"under fire {number}"
            spec = experiment_spec(name, resources={"worker_labels": {"kind": "none"}})
            while not self.is_over.is_set():
                try:
                    answer = self.cluster.rpc("ExperimentService/CreateExperiment",
                                              {"spec": spec, "request_id": f"fire-{number}", "owner": "x"})
                    self.acknowledged[name] = answer["run_ids"][0]
                    break
                except RpcError:  # The coordinator is down: try the same request again.
                    pass

    def stop(self):
        self.is_over.set()
        self.thread.join()
        return self.acknowledged


def free_address():
    """A loopback address that nothing listens on, for the programs that do not take port 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def file_digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def flip_byte(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


class ClusterTest(unittest.TestCase):
    """Tests that share one cluster with a dataset."""

    num_workers = 1
    lease_seconds = 20
    stop_grace_seconds = 20

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(cls.lease_seconds, cls.stop_grace_seconds)
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.prepare_dataset()
        cls.cluster.start(cls.num_workers)

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            for daemon in self.cluster.daemons:
                print(f"--- {daemon.name}, end of log ---\n{daemon.log()[-3000:]}", file=sys.stderr)

    def assert_whole_history(self, run_id, steps):
        """Every step stands in the history exactly once, in order."""
        history = self.cluster.history(run_id)
        self.assertEqual([int(entry["step"]) for entry in history], list(range(1, steps + 1)))
        for entry in history:
            self.assertIsNotNone(entry.get("report"), entry)
            self.assertEqual(int(entry["report"]["step"]), int(entry["step"]))
        return history
