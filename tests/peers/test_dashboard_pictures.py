"""Every dashboard as a picture of a real experiment: NORMLAB_DASHBOARD_PICTURES, or dashboards/ beside the programs' folder.

The pictures are for people. What is checked is that every panel drew what its query is for.
"""

import os
import pathlib
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "dashboards"))
import observed  # noqa: E402
import renderer  # noqa: E402
import sources  # noqa: E402
from observed import cluster  # noqa: E402

NUM_LAYERS = 12
SCHEMES = ["lns", "pre_ln"]
SEEDS = [1, 2]
FOLDER = pathlib.Path(os.environ.get("NORMLAB_DASHBOARD_PICTURES", cluster.BIN.parent / "dashboards"))


@unittest.skipUnless(observed.PROMETHEUS, "prometheus is not installed")
class DashboardPicturesTest(observed.ObservedClusterTest):
    num_workers = len(SCHEMES) * len(SEEDS)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        start = time.time()
        cls.watch(300, model={"num_layers": NUM_LAYERS}, data={"seq_len": 32}, train={"batch_size": 8, "warmup_steps": 300},
                  matrix={"seed": SEEDS},
                  report={"eval_every_steps": 20, "checkpoint_every_steps": 50})
        cls.wait_for_answers(sources.EMPTY_ON_PURPOSE)
        FOLDER.mkdir(parents=True, exist_ok=True)
        asker = renderer.Asker(cls.ask, cls.variables, start, time.time())
        cls.drawn = {}
        for name, dashboard in sources.dashboards().items():
            picture = FOLDER / name.replace(".json", ".png")
            cls.drawn[name] = renderer.render(dashboard, asker, {"norm": SCHEMES}, picture)
        print(f"pictures of the dashboards: {FOLDER}", file=sys.stderr)

    def panels(self, kind):
        for name, drawn in self.drawn.items():
            for title, panel in drawn.items():
                if panel.kind == kind:
                    yield f"{name}: {title}", panel

    def test_every_panel_draws_something(self):
        for name, drawn in self.drawn.items():
            for title, panel in drawn.items():
                with self.subTest(f"{name}: {title}"):
                    self.assertEqual(bool(panel.series), f"{name}: {title}" not in sources.EMPTY_ON_PURPOSE, panel.series)
                    self.assertTrue(all(panel.series.values()), panel.series)

    def test_lines_have_more_than_one_point(self):
        for where, panel in self.panels("timeseries"):
            with self.subTest(where):
                self.assertTrue(all(points > 1 for points in panel.series.values()), panel.series)
                self.assertNotIn("", panel.series, "a line without a name")

    def test_depth_profiles_go_from_the_first_layer_to_the_last_in_order(self):
        for where, panel in self.panels("trend"):
            if where in sources.EMPTY_ON_PURPOSE:
                continue
            with self.subTest(where):
                self.assertEqual(panel.rows, [list(range(1, NUM_LAYERS + 1))])
                self.assertEqual(set(panel.series.values()), {NUM_LAYERS}, panel.series)
        for where, panel in self.panels("heatmap"):
            with self.subTest(where):
                self.assertEqual(list(panel.series), [str(layer) for layer in range(1, NUM_LAYERS + 1)])

    def test_schemes_are_compared_with_each_other(self):
        for title in ("Output variance against depth", "Gradient norm against depth"):
            self.assertEqual(sorted(self.drawn["layer-variance.json"][title].series), SCHEMES)
        for scheme in SCHEMES:
            self.assertIn(f"Output variance of {scheme}: layer by time, log10", self.drawn["layer-variance.json"])

    def test_the_table_has_one_full_row_for_each_run(self):
        [(where, panel)] = self.panels("table")
        self.assertEqual([row[0] for row in panel.rows], sorted(self.runs), where)
        for row in panel.rows:
            self.assertNotIn("-", row)


if __name__ == "__main__":
    unittest.main()
