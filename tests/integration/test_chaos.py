"""Kills of everything at named points and at random ones, under submits, cancels and requeues through gRPC.

At the end nothing that was acknowledged is lost, every run has ended, and the weights are those of an unbroken run.

Environment: NORMLAB_CHAOS_SECONDS, how long the random kills go on (8); NORMLAB_CHAOS_SEED, which they are (a failure
prints it).
"""

import os
import pathlib
import random
import signal
import threading
import time
import unittest

import cluster
from cluster import RpcError, experiment_spec

SECONDS = float(os.environ.get("NORMLAB_CHAOS_SECONDS", 8))
SEED = int(os.environ.get("NORMLAB_CHAOS_SEED", 1))
STEPS = 500
LEASE_SECONDS = 3
NOWHERE = {"worker_labels": {"kind": "none"}}


def long_spec(name, **more):
    return experiment_spec(name, STEPS, slow=True, report={"checkpoint_every_steps": 50}, retries_max=100, **more)


class Client(threading.Thread):
    """One user after the other's fashion: submits, cancels and requeues runs that nothing can serve, and remembers what was
    acknowledged. A call that fails is made again, with the same request id."""

    def __init__(self, a_cluster, seed):
        super().__init__()
        self.cluster = a_cluster
        self.chance = random.Random(seed)
        self.name = f"user-{seed}"
        self.submitted = {}  # Experiment name -> run.
        self.expected = {}   # Run -> state that the last acknowledged change has left it in.
        self.is_over = threading.Event()
        self.error = None  # What ended it before it was told to.

    def run(self):
        try:
            self.work()
        except Exception as error:  # A thread that ends so says it nowhere else.
            self.error = error

    def call(self, method, request):
        """The answer; None if it is over before there is one."""
        while not self.is_over.is_set():
            try:
                return self.cluster.rpc(method, request)
            except RpcError as error:
                # DEADLINE_EXCEEDED, UNAVAILABLE, or no answer to what the client asks first: it may or may not be done.
                if error.code not in (4, 12, 14):
                    raise
                self.is_over.wait(0.05)
        return None

    def work(self):
        number = 0
        while not self.is_over.is_set():
            number += 1
            kind = self.chance.choice(("submit", "submit", "cancel", "requeue"))
            waiting = [run for run, state in self.expected.items() if state == "QUEUED"]
            ended = [run for run, state in self.expected.items() if state == "CANCELLED"]
            if kind == "cancel" and waiting:
                self.change("CancelRuns", self.chance.choice(waiting), "CANCELLED", number)
            elif kind == "requeue" and ended:
                self.change("RequeueRuns", self.chance.choice(ended), "QUEUED", number)
            else:
                self.submit(f"{self.name} {number}")

    def submit(self, name):
        spec = experiment_spec(name, resources=NOWHERE)
        answer = self.call("ExperimentService/CreateExperiment", {"spec": spec, "request_id": name.replace(" ", "-"),
                                                                  "owner": self.name})
        if answer:
            [self.submitted[name]] = answer["run_ids"]
            self.expected[answer["run_ids"][0]] = "QUEUED"

    def change(self, method, run, state, number):
        request = {"selector": {"run_ids": [run]}, "actor": self.name, "reason": "chaos"}
        if method == "RequeueRuns":
            request["request_id"] = f"{self.name}-{number}"
        self.expected[run] = None  # Until the answer is there.
        if self.call("RunService/" + method, request):
            self.expected[run] = state

    def stop(self):
        self.is_over.set()
        self.join()


class ChaosTest(cluster.ClusterTest):
    num_workers = 3
    lease_seconds = LEASE_SECONDS

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        [run_id] = cls.cluster.submit(long_spec("spec of all", resources=NOWHERE))
        cls.cluster.cli("cancel", run_id)
        cls.unbroken_digest = cls.cluster.train_by_hand(run_id, "unbroken")

    def worker_of(self, run_id):
        return self.cluster.run(run_id)["workers"][0]

    def trainers_of(self, worker):
        return [pid for pid in self.cluster.processes("normlab-train")
                if str(self.cluster.root / worker) in pathlib.Path(f"/proc/{pid}/cmdline").read_text()]

    def assert_ended_as_if_unbroken(self, run_id):
        self.cluster.wait_state(run_id, "SUCCEEDED", timeout=240)
        self.assert_counted_history(run_id)
        self.assertEqual(self.cluster.weights_digest(run_id), self.unbroken_digest)
        attempts = [event["attempt"] for event in self.cluster.events(run_id)]
        self.assertEqual(attempts, sorted(attempts), "no attempt comes back once there is a later one")

    def assert_counted_history(self, run_id):
        """Every step stands there at most once and in order. Those that are missing are counted: the next attempt goes on
        from a checkpoint that one whose reports were refused had written."""
        steps = [int(entry["step"]) for entry in self.cluster.history(run_id)]
        self.assertEqual(steps, sorted(set(steps)))
        self.assertEqual(steps[-1], STEPS)
        summary = self.cluster.rpc("RunService/GetHistorySummary", {"run_id": run_id})
        self.assertEqual(int(summary["num_steps"]) + int(summary["num_missing"]), STEPS)

    def bring_all_back(self):
        for worker in self.cluster.workers.values():
            if worker.is_alive():
                os.kill(worker.process.pid, signal.SIGCONT)
            else:
                worker.start()
        if not self.cluster.coordinator.is_alive():
            self.cluster.start_coordinator()

    # --- Named points ---

    def test_the_agent_dies_while_its_run_starts(self):
        [run_id] = self.cluster.submit(long_spec("starting"))
        self.cluster.wait_state(run_id, "STARTING", "RUNNING")
        worker = self.cluster.workers[self.worker_of(run_id)]
        worker.kill()
        worker.start()
        self.assert_ended_as_if_unbroken(run_id)

    def test_the_coordinator_dies_behind_each_acknowledgement(self):
        [run_id] = self.cluster.submit(long_spec("acknowledged", resources=NOWHERE))
        self.restart_coordinator()
        self.assertEqual(self.cluster.run(run_id)["state"], "QUEUED")
        self.cluster.cli("cancel", run_id)
        self.restart_coordinator()
        self.assertEqual(self.cluster.run(run_id)["state"], "CANCELLED")
        self.cluster.cli("requeue", run_id)
        self.restart_coordinator()
        self.assertEqual(self.cluster.run(run_id)["state"], "QUEUED")
        self.cluster.cli("cancel", run_id)

    def restart_coordinator(self):
        self.cluster.coordinator.kill()
        self.cluster.start_coordinator()

    def test_the_trainer_dies_when_a_checkpoint_is_there(self):
        [run_id] = self.cluster.submit(long_spec("checkpoint"))
        folder = self.cluster.checkpoint_root / run_id
        cluster.wait_for(lambda: folder.exists() and any(folder.glob("step-*")), "a checkpoint")
        for pid in self.trainers_of(self.worker_of(run_id)):
            os.kill(pid, signal.SIGKILL)
        self.assert_ended_as_if_unbroken(run_id)

    def test_a_zombie_is_refused_everything(self):
        """An agent is stopped past its lease; its trainer goes on all the while, and both wake up behind another attempt."""
        [run_id] = self.cluster.submit(long_spec("zombie"))
        self.cluster.wait_step(run_id, 60)
        worker = self.worker_of(run_id)
        agent = self.cluster.workers[worker]
        os.kill(agent.process.pid, signal.SIGSTOP)
        try:
            cluster.wait_for(lambda: self.cluster.run(run_id)["attempt"] == 2, "another attempt begins")
            self.assertNotIn(worker, self.cluster.run(run_id)["workers"])
        finally:
            os.kill(agent.process.pid, signal.SIGCONT)
        cluster.wait_for(lambda: not [pid for pid in self.trainers_of(worker)], "the zombie's trainer is ended")
        self.assert_ended_as_if_unbroken(run_id)
        for entry in self.cluster.history(run_id):
            if int(entry["step"]) > 400:
                self.assertEqual(entry["attempt"], 2, "what the zombie said of its steps is void")

    # --- Random points ---

    def kill_something(self, chance, run_ids):
        victim = chance.choice(("coordinator", "coordinator", "agent", "trainer", "zombie"))
        if victim == "coordinator":
            self.restart_coordinator()
            return
        busy = [worker for run_id in run_ids for worker in self.cluster.run(run_id).get("workers", [])]
        worker = chance.choice(sorted(set(busy)) or sorted(self.cluster.workers))
        agent = self.cluster.workers[worker]
        if victim == "trainer":
            for pid in self.trainers_of(worker):
                os.kill(pid, signal.SIGKILL)
        elif victim == "agent":
            agent.kill()
            agent.start()
        else:
            os.kill(agent.process.pid, signal.SIGSTOP)
            try:
                cluster.wait_for(lambda: self.has_lost(worker), f"{worker}'s lease is over")
            finally:
                os.kill(agent.process.pid, signal.SIGCONT)

    def has_lost(self, worker):
        [state] = [known["state"] for known in self.cluster.list_workers() if known["id"] == worker]
        return state == "LOST"

    def test_random_kills_under_load(self):
        print(f"NORMLAB_CHAOS_SEED={SEED} NORMLAB_CHAOS_SECONDS={SECONDS}", flush=True)
        chance = random.Random(SEED)
        run_ids = self.cluster.submit(long_spec("random", matrix={"report.eval_sequences": [8, 9]}))
        clients = [Client(self.cluster, SEED * 100 + index) for index in range(2)]
        for client in clients:
            client.start()
        try:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                time.sleep(chance.uniform(0.2, 1.0))  # The moments of the kills are what is random.
                self.kill_something(chance, run_ids)
        finally:
            self.bring_all_back()
            for client in clients:
                client.stop()
        for run_id in run_ids:
            self.assert_ended_as_if_unbroken(run_id)
        self.assert_nothing_acknowledged_is_lost(clients)

    def assert_nothing_acknowledged_is_lost(self, clients):
        names = [experiment["spec"]["name"] for experiment in self.cluster.experiments()]
        runs = self.cluster.runs()
        self.assertGreater(sum(len(client.submitted) for client in clients), 3)
        for client in clients:
            self.assertIsNone(client.error, client.name)
            for name, run_id in client.submitted.items():
                self.assertEqual(names.count(name), 1, f"{name} was acknowledged once")
            for run_id, state in client.expected.items():
                if state is not None:
                    self.assertEqual(runs[run_id]["state"], state, f"{run_id}: {runs[run_id]['reason']}")
        # What still waits for workers that are not there ends at one word, and then everything has ended.
        self.cluster.rpc("RunService/CancelRuns", {"selector": {"states": ["QUEUED"]}, "actor": "x"})
        self.assertEqual({run["state"] for run in self.cluster.runs().values()} - set(cluster.TERMINAL), set())


if __name__ == "__main__":
    unittest.main()
