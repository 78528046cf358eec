"""Health and reflection, as grpcurl and Kubernetes use them."""

import subprocess
import unittest

import cluster


class ReflectionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = cluster.Cluster()
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start(num_workers=0)

    def test_all_services_are_listed(self):
        done = subprocess.run([cluster.RPC, self.cluster.grpc, "list"], capture_output=True, text=True, check=True)
        services = done.stdout.split()
        for name in ("ExperimentService", "RunService", "WorkerService", "AdminService"):
            self.assertIn(f"normlab.v1.{name}", services)
        self.assertIn("grpc.health.v1.Health", services)
        self.assertIn("grpc.reflection.v1alpha.ServerReflection", services)

    def test_the_server_is_healthy(self):
        self.assertEqual(self.cluster.rpc("grpc.health.v1.Health/Check", {}), {"status": "SERVING"})

    def test_a_method_can_be_called_with_types_from_reflection_alone(self):
        info = self.cluster.rpc("AdminService/GetInfo", {})
        self.assertEqual(int(info["num_experiments"]), 0)
        self.assertEqual(info["http_address"], self.cluster.http)
        self.assertTrue(info["version"])

    def test_unknown_ids_are_not_found(self):
        not_found, invalid = 5, 3
        for method, request in (("RunService/GetRun", {"id": "exp-0009.01"}),
                                ("ExperimentService/GetExperiment", {"id": "exp-0009"}),
                                ("RunService/ListEvents", {"run_id": "exp-0009.01"}),
                                ("RunService/GetMetrics", {"run_id": "exp-0009.01"}),
                                ("RunService/StreamLogs", {"run_id": "exp-0009.01"}),
                                ("RunService/CancelRuns", {"selector": {"experiment_id": "exp-0009"}, "actor": "x"}),
                                ("RunService/RequeueRuns", {"selector": {"experiment_id": "exp-0009"},
                                                            "actor": "x", "request_id": "r"})):
            with self.subTest(method), self.assertRaises(cluster.RpcError) as caught:
                self.cluster.rpc(method, request)
            self.assertEqual(caught.exception.code, not_found, caught.exception)
            self.assertIn("exp-0009", caught.exception.message)
        for bad in ("", "exp", "exp-0001", "exp-1.x", "../etc"):
            with self.subTest(id=bad), self.assertRaises(cluster.RpcError) as caught:
                self.cluster.rpc("RunService/GetRun", {"id": bad})
            self.assertIn(caught.exception.code, (invalid, not_found), caught.exception)

    def test_prometheus_pages_are_served(self):
        self.assertIn("# TYPE normlab_", self.cluster.scrape(self.cluster.http))
        self.assertEqual(self.cluster.scrape(self.cluster.http, "/sd").strip()[:1], "[")


if __name__ == "__main__":
    unittest.main()
