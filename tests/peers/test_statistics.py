"""The statistics of reports beside scipy's."""

import json
import os
import subprocess
import unittest

import numpy
from scipy import integrate, stats

PEER = os.environ["NORMLAB_STATISTICS_PEER"]
ALPHA = 0.05


def ask(samples, p_values=()):
    done = subprocess.run([PEER], input=json.dumps({"samples": samples, "p_values": list(p_values)}), capture_output=True,
                          text=True, check=True)
    return json.loads(done.stdout)


def power(effect, n):
    """Of the two-sided one-sample t test: the normal's tails averaged over the chi distribution of the deviation. (scipy's own
    noncentral t is not a number far out.)"""
    degrees = n - 1
    critical, shift, root = stats.t.ppf(1 - ALPHA / 2, degrees), effect * numpy.sqrt(n), numpy.sqrt(degrees)

    def density(ratio):
        tails = stats.norm.sf(critical * ratio - shift) + stats.norm.cdf(-critical * ratio - shift)
        return tails * stats.chi.pdf(ratio * root, degrees) * root

    return integrate.quad(density, 0, 1, limit=200)[0] + integrate.quad(density, 1, 8, limit=200)[0]


class StatisticsTest(unittest.TestCase):
    def test_means_intervals_tests_and_power_are_scipys(self):
        chance = numpy.random.default_rng(1)
        samples = [(chance.normal(mean, spread, n)).tolist()
                   for n in (2, 3, 5, 10, 30) for mean in (0, -0.02, 0.3) for spread in (0.005, 0.1)]
        for sample, ours in zip(samples, ask(samples)["tests"]):
            n = len(sample)
            with self.subTest(n=n, mean=ours["mean"]):
                expected = stats.ttest_1samp(sample, 0)
                low, high = expected.confidence_interval(1 - ALPHA)
                deviation = numpy.std(sample, ddof=1)
                self.assertAlmostEqual(ours["t"], expected.statistic, delta=1e-9 * abs(expected.statistic))
                self.assertAlmostEqual(ours["p"], expected.pvalue, delta=1e-8 * expected.pvalue + 1e-300)
                self.assertAlmostEqual(ours["half_width"], (high - low) / 2, delta=1e-9 * (high - low))
                self.assertAlmostEqual(ours["power"], power(numpy.mean(sample) / deviation, n), places=6)
                self.assertAlmostEqual(power(ours["detectable"] / deviation, n), 0.8, places=6)

    def test_holms_correction_is_that_of_its_definition(self):
        chance = numpy.random.default_rng(2)
        for size in (1, 2, 5, 12):
            p = chance.uniform(0, 0.2, size)
            order = numpy.argsort(p)
            stepped = numpy.maximum.accumulate(numpy.minimum(1, (size - numpy.arange(size)) * p[order]))
            expected = numpy.empty(size)
            expected[order] = stepped
            numpy.testing.assert_allclose(ask([], p)["adjusted"], expected, rtol=1e-12)


if __name__ == "__main__":
    unittest.main()
