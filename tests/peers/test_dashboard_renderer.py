"""The renderer of dashboards on made-up answers: what it draws, and what it refuses as Grafana would misread it."""

import copy
import pathlib
import sys
import tempfile
import unittest

import PIL.Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "dashboards"))
import renderer  # noqa: E402
import sources  # noqa: E402

LAYERS = ("1", "10", "2")


def answer(path, **arguments):
    """Three layers of two schemes for every question, by layer as texts are sorted; the value is the layer's number."""
    result = []
    if arguments["query"] == "nothing":
        return {"result": result}
    for norm in ("lns", "pre_ln"):
        for layer in LAYERS:
            if path == "query_range" and f'norm=~"{norm}"' not in arguments["query"] and "log10" in arguments["query"]:
                continue
            result.append({"metric": {"norm": norm, "layer": layer}})
            if path == "query":
                result[-1]["value"] = [0, layer]
            else:
                result[-1]["values"] = [[time, layer] for time in (1, 2, 3)]
    return {"result": result}


class RendererTest(unittest.TestCase):
    def setUp(self):
        self.dashboard = copy.deepcopy(sources.dashboards()["layer-variance.json"])

    def panel(self, kind):
        return next(panel for panel in self.dashboard["panels"] if panel["type"] == kind)

    def draw(self, *panels):
        self.dashboard["panels"] = list(panels) or self.dashboard["panels"]
        asker = renderer.Asker(answer, {"experiment": "e", "norm": ".*"}, 0, 3)
        with tempfile.TemporaryDirectory() as folder:
            picture = pathlib.Path(folder) / "picture.png"
            drawn = renderer.render(self.dashboard, asker, {"norm": ["lns", "pre_ln"]}, picture)
            with PIL.Image.open(picture) as image:
                self.size = image.size
        return drawn

    def test_a_repeated_panel_is_drawn_once_per_choice_beside_each_other(self):
        drawn = self.draw(self.panel("heatmap"))
        self.assertEqual([title.split()[3] for title in drawn], ["lns:", "pre_ln:"])
        self.assertEqual(self.size, (1440, 400))

    def test_what_stands_below_a_repeated_panel_moves_down(self):
        panel = self.panel("heatmap")
        panel["maxPerRow"] = 1
        self.draw(panel, self.panel("trend"))
        self.assertEqual(self.size, (1440, 40 * (10 + 10 + 9)))

    def test_layers_are_in_the_order_of_numbers(self):
        drawn = self.draw(self.panel("heatmap"), self.panel("trend"))
        self.assertEqual(list(drawn["Output variance of lns: layer by time, log10"].series), ["1", "2", "10"])
        self.assertEqual(drawn["Output variance against depth"].rows, [[1, 2, 10]])

    def test_layers_sorted_as_texts_are_refused(self):
        panel = self.panel("trend")
        panel["transformations"] = panel["transformations"][:-1]
        with self.assertRaisesRegex(ValueError, "has to ascend"):
            self.draw(panel)

    def test_series_are_not_taken_for_buckets_of_a_histogram(self):
        panel = self.panel("heatmap")
        panel["targets"][0]["format"] = "heatmap"
        with self.assertRaisesRegex(ValueError, "buckets of a histogram"):
            self.draw(panel)

    def test_no_answer_is_drawn_as_no_data(self):
        panels = [self.panel("timeseries"), self.panel("trend")]
        for panel in panels:
            panel["targets"][0]["expr"] = "nothing"
        self.assertEqual([drawn.series for drawn in self.draw(*panels).values()], [{}, {}])

    def test_a_filter_hides_what_grafana_hides(self):
        panel = self.panel("heatmap")
        panel["options"]["filterValues"]["le"] = 1
        self.assertEqual(self.draw(panel)["Output variance of lns: layer by time, log10"].series, {"1": 0, "2": 3, "10": 3})

    def test_a_unit_that_is_not_known_is_refused(self):
        panel = self.panel("timeseries")
        panel["fieldConfig"]["defaults"]["unit"] = "seconds"
        with self.assertRaises(KeyError):
            self.draw(panel)

    def test_values_are_written_as_grafana_writes_them(self):
        for value, unit, decimals, text in ((1234567, "short", None, "1.23 Mil"), (0.0032, "s", None, "3.2 ms"),
                                            (0, "s", None, "0 s"), (1.5 * 2**20, "bytes", None, "1.5 MiB"),
                                            (0.214, "percentunit", 0, "21%"), (3e-4, "sci", None, "3.00e-04"),
                                            (997, "none", 0, "997"), (float("nan"), "short", None, "-")):
            with self.subTest(value=value, unit=unit):
                self.assertEqual(renderer.as_text(value, unit, decimals), text)


if __name__ == "__main__":
    unittest.main()
