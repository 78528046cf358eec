"""A real Prometheus finds the workers through the coordinator and scrapes both kinds of daemon."""

import json
import shutil
import unittest
import urllib.error
import urllib.parse
import urllib.request

import cluster
from cluster import Daemon, experiment_spec, free_address

ENDLESS = 10_000_000

CONFIG = """\
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - job_name: coordinator
    static_configs: [{{targets: ["{http}"]}}]
  - job_name: workers
    http_sd_configs: [{{url: "http://{http}/sd", refresh_interval: 500ms}}]
"""


@unittest.skipUnless(shutil.which("prometheus"), "prometheus is not installed")
class PrometheusTest(cluster.ClusterTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        config = cls.cluster.write("prometheus.yml", CONFIG.format(http=cls.cluster.http))
        cls.address = free_address()
        cls.prometheus = Daemon("prometheus", [
            shutil.which("prometheus"), f"--config.file={config}", f"--web.listen-address={cls.address}",
            f"--storage.tsdb.path={cls.cluster.root / 'tsdb'}", "--log.level=warn"],
            cls.cluster.root / "prometheus.log")
        cls.prometheus.start()
        cls.cluster.daemons.append(cls.prometheus)

    def query(self, expression):
        """The instant vector, or nothing while Prometheus is not up."""
        url = f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            self.assertTrue(self.prometheus.is_alive(), self.prometheus.log())
            return []

    def test_sees_layers_while_a_run_trains_and_forgets_them_after_it(self):
        [run_id] = self.cluster.submit(experiment_spec("watched", ENDLESS, slow=True, seed=3))
        experiment_id = run_id.partition(".")[0]
        variance = f'normlab_layer_output_variance{{run="{run_id}"}}'
        series = cluster.wait_for(lambda: self.query(variance), "the run's layers are scraped")
        self.assertEqual(sorted(entry["metric"]["layer"] for entry in series), ["1", "2"])
        for entry in series:
            labels = entry["metric"]
            self.assertEqual((labels["experiment"], labels["norm"], labels["seed"], labels["job"]),
                             (experiment_id, "lns", "3", "workers"))
            self.assertGreater(float(entry["value"][1]), 0)
        for name in self.metric_names(f'{{run="{run_id}"}}'):
            self.assertRegex(name, r"^normlab_[a-z0-9_]+$")
        self.assertEqual([entry["value"][1] for entry in self.query('up{job="workers"}')], ["1"])
        self.assertEqual([entry["value"][1] for entry in self.query('up{job="coordinator"}')], ["1"])
        running = cluster.wait_for(lambda: self.query('{__name__=~"normlab_.*runs.*",state=~"(?i)running"} == 1'),
                                   "the coordinator counts the running run")
        self.assertEqual(running[0]["metric"]["job"], "coordinator")

        self.cluster.cli("cancel", run_id)
        self.cluster.wait_state(run_id, "CANCELLED")
        # Gone by the staleness marks of the next scrape, not by Prometheus's five minutes of patience.
        cluster.wait_for(lambda: not self.query(f'{{run="{run_id}"}}'), "the run's series are gone", 20)
        self.assertEqual([entry["value"][1] for entry in self.query('up{job="workers"}')], ["1"])

    def metric_names(self, selector):
        return {entry["metric"]["__name__"] for entry in self.query(selector)}

    def test_pages_are_openmetrics_for_those_that_ask(self):
        [worker] = cluster.wait_for(lambda: self.query('up{job="workers"} == 1'), "the worker is scraped")
        for address in (self.cluster.http, worker["metric"]["instance"]):
            request = urllib.request.Request(f"http://{address}/metrics", headers={
                "Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                self.assertTrue(answer.headers["Content-Type"].startswith("application/openmetrics-text"))
                self.assertTrue(answer.read().decode().endswith("\n# EOF\n"))
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                self.assertTrue(answer.headers["Content-Type"].startswith("text/plain"))

    def test_says_why_runs_wait_and_how_the_store_is(self):
        [run_id] = self.cluster.submit(experiment_spec("waiting", resources={"worker_labels": {"planet": "mars"}}))
        waiting = cluster.wait_for(lambda: self.query('normlab_queued_runs{reason="no_worker"} == 1'), "the reason is scraped")
        self.assertEqual(waiting[0]["metric"]["job"], "coordinator")
        for name in ("normlab_store_wal_bytes", "normlab_store_memtable_bytes", "normlab_store_wal_written_bytes_total"):
            self.assertGreater(float(self.query(name)[0]["value"][1]), 0, name)
        self.assertEqual(self.query("normlab_store_write_stopped")[0]["value"][1], "0")
        self.cluster.cli("cancel", run_id)

    def test_forgets_a_worker_that_has_gone(self):
        worker = self.cluster.add_worker("short-lived")
        self.cluster.wait_for_workers()
        cluster.wait_for(lambda: len(self.query('up{job="workers"} == 1')) == 2, "both workers are scraped")
        self.assertEqual(worker.stop(), 0)
        cluster.wait_for(lambda: len(self.query('up{job="workers"}')) == 1, "the worker is no target any more", 30)


if __name__ == "__main__":
    unittest.main()
