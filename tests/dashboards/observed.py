"""Daemons that train while a real Prometheus with our rules scrapes them."""

import json
import pathlib
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import cluster  # noqa: E402
import sources  # noqa: E402

PROMETHEUS = shutil.which("prometheus")
ENDLESS = 10_000_000
CONFIG = """\
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: ["{rules}/rules.yml", "{rules}/alerts.yml"]
scrape_configs:
  - job_name: normlab-coordinator
    static_configs: [{{targets: ["{http}"]}}]
  - job_name: normlab-workers
    http_sd_configs: [{{url: "http://{http}/sd", refresh_interval: 500ms}}]
"""


class ObservedClusterTest(cluster.ClusterTest):
    """A cluster with one run that has ended and, once watch() returned, an experiment whose runs all train."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        config = cls.cluster.write("prometheus.yml", CONFIG.format(http=cls.cluster.http, rules=sources.PROMETHEUS))
        cls.address = cluster.free_address()
        cls.prometheus = cluster.Daemon("prometheus", [
            PROMETHEUS, f"--config.file={config}", f"--web.listen-address={cls.address}",
            f"--storage.tsdb.path={cls.cluster.root / 'tsdb'}", "--log.level=warn"], cls.cluster.root / "prometheus.log")
        cls.prometheus.start()
        cls.cluster.daemons.append(cls.prometheus)
        # Whatever the coordinator counts from now on is an increase for Prometheus.
        cluster.wait_for(lambda: cls.query('up{job="normlab-coordinator"} == 1'), "the coordinator is scraped")
        [ended] = cls.cluster.submit(cluster.experiment_spec("ended", steps=5))
        cls.cluster.wait_state(ended, "SUCCEEDED")

    @classmethod
    def watch(cls, step, **spec):
        """Submits LNS beside Pre-LN and returns the runs once each has reached that step."""
        spec["matrix"] = {"norm.scheme": ["lns", "pre_ln"], **spec.get("matrix", {})}
        cls.runs = cls.cluster.submit(cluster.experiment_spec("watched", ENDLESS, slow=True, **spec))
        for run in cls.runs:
            cls.cluster.wait_step(run, step)
        cls.variables = {"experiment": cls.runs[0].partition(".")[0], "norm": ".*", "run": cls.runs[0]}

    @classmethod
    def ask(cls, path, **arguments):
        url = f"http://{cls.address}/api/v1/{path}?" + urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # It has begun to listen, but not to answer.
                return {"result": []}
            raise AssertionError(f"{arguments}: {error.read().decode()}") from error
        except (urllib.error.URLError, ConnectionError):
            if not cls.prometheus.is_alive():
                raise AssertionError(cls.prometheus.log())
            return {"result": []}

    @classmethod
    def query(cls, expression):
        return cls.ask("query", query=expression)["result"]

    @classmethod
    def wait_for_answers(cls, empty_on_purpose=()):
        """Every question that a panel asks has an answer, but for those of the named panels."""
        for where, expression in sources.queries():
            filled = sources.fill(expression, **cls.variables)
            if "$" in filled:
                raise AssertionError(f"{where}: there is no such variable: {filled}")
            if where not in empty_on_purpose:
                cluster.wait_for(lambda: cls.query(filled), f"{where} has data: {filled}", 30)
