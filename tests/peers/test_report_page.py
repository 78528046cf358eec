"""A report in a real browser: nothing overflows on a desk or a phone, in light and dark, and something is drawn."""

import html
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

PAGE = os.environ["NORMLAB_SAMPLE_REPORT"]
BROWSER = shutil.which("chromium")


def browse(*arguments):
    return subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments],
                          capture_output=True, text=True, check=True, timeout=120).stdout


@unittest.skipUnless(BROWSER, "chromium (Debian's package) is not installed")
class ReportPageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="normlab-page-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        cls.page = cls.folder / "report.html"
        cls.page.write_text(subprocess.run([PAGE], capture_output=True, text=True, check=True).stdout)

    def measure(self, width):
        """What the page looks like to itself inside a frame of that width."""
        frame = self.folder / f"frame-{width}.html"
        frame.write_text(f"""<!doctype html><iframe id=f width={width} height=800 srcdoc="{html.escape(self.page.read_text())}">
            </iframe><pre id=out></pre><script>f.onload = () => {{ const d = f.contentDocument; out.textContent = JSON.stringify({{
            width: d.documentElement.scrollWidth, lines: d.querySelectorAll('path.line').length,
            tables: d.querySelectorAll('table').length, heads: [...d.querySelectorAll('h2')].map(h => h.textContent),
            maps: d.querySelectorAll('svg:has(path.heat)').length, scales: d.querySelectorAll('svg.scale').length,
            bars: d.querySelectorAll('svg:has(rect):not(.scale)').length,
            warnings: d.querySelectorAll('.warning').length, smallest: Math.min(...[...d.querySelectorAll('svg .tick')].map(
            t => t.getBoundingClientRect().height))}}) }}</script>""")
        found = re.search(r'<pre id="out">(.*?)</pre>', browse("--dump-dom", frame.as_uri()), re.DOTALL)
        return json.loads(html.unescape(found.group(1)))

    def test_fits_a_desk_and_a_phone(self):
        for width in (1200, 390):
            with self.subTest(width=width):
                seen = self.measure(width)
                self.assertLessEqual(seen["width"], width)
                self.assertGreaterEqual(seen["lines"], 6)
                self.assertGreaterEqual(seen["tables"], 4)
                self.assertGreater(seen["smallest"], 7, "text in charts is too small to read")

    def test_has_the_layers_of_analyzed_arms_and_what_they_were_made_with(self):
        seen = self.measure(1200)
        self.assertEqual((seen["maps"], seen["bars"], seen["scales"]), (2, 2, 1), "of two arms, with one colour scale")
        for heading in ("Angular distance between layers", "Loss when one layer is removed", "Arms without an analysis",
                        "Environment and exact versions"):
            self.assertIn(heading, seen["heads"])
        self.assertEqual(seen["warnings"], 2, "of two builds: at the top and at the table")

    def test_is_drawn_in_light_and_in_dark(self):
        sizes = {}
        for name, flags in {"light": [], "dark": ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]}.items():
            picture = self.folder / f"{name}.png"
            browse(f"--screenshot={picture}", "--window-size=1200,3000", *flags, self.page.as_uri())
            sizes[name] = picture.read_bytes()
            self.assertGreater(len(sizes[name]), 50_000, "the picture is nearly empty")
        self.assertNotEqual(sizes["light"], sizes["dark"])


if __name__ == "__main__":
    unittest.main()
