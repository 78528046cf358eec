"""Analyses, computed again with the hidden states of transformers."""

import copy
import csv
import json
import math
import unittest

import numpy
import torch

import test_export
import workbench

NUM_SEQUENCES = 4
ALL_JACOBIANS = ("--jacobian-tokens", NUM_SEQUENCES * workbench.SEQ_LEN, "--jacobian-probes", 16)


def analyze(kind, folder, *flags):
    out = workbench.workspace() / "analyses" / f"{kind}-{folder.name}"
    workbench.run("normlab-analyze", f"--{kind}", folder, "--data", workbench.dataset(), "--out", out, "--seq-len",
                  workbench.SEQ_LEN, "--sequences", NUM_SEQUENCES, "--batch", NUM_SEQUENCES, "--threads", 1, *flags)
    return out, json.loads((out / "analysis.json").read_text())


def stream(model, inputs):
    """x_1 to x_{L+1}: what goes into each block, and what comes out of the last (transformers shows it only normed)."""
    states = []
    hooks = [layer.register_forward_pre_hook(lambda module, arguments, keywords: states.append(
        arguments[0] if arguments else keywords["hidden_states"]), with_kwargs=True) for layer in model.model.layers]
    hooks.append(model.model.norm.register_forward_pre_hook(lambda module, arguments: states.append(arguments[0])))
    loss_input = model(inputs, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return states, loss_input


def without_layer(model, layer):
    """A copy whose block `layer` (1-based) is left out; the gains keep what was folded into them."""
    shorter = copy.deepcopy(model)
    del shorter.model.layers[layer - 1]
    shorter.config.num_hidden_layers -= 1
    return shorter


class Analysis(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.checkpoints = workbench.train("lns", norm={"scheme": "lns"})
        cls.export = workbench.export(cls.checkpoints)
        cls.model = test_export.load(cls.export)
        cls.batch = workbench.dump(checkpoint=cls.checkpoints)
        cls.folder, cls.result = analyze("checkpoint", cls.checkpoints, *ALL_JACOBIANS)
        cls.states, cls.logits = stream(cls.model, cls.batch["inputs"])

    def layers(self, column):
        return [layer[column] for layer in self.result["layers"]]

    def assert_near(self, ours, theirs, relative):
        numpy.testing.assert_allclose(ours, theirs, rtol=relative, atol=1e-7)

    def test_variance(self):
        for column, measure in {
            "variance_mean": lambda v, x: v.mean(),
            "variance_median": lambda v, x: torch.quantile(v.flatten(), 0.5),
            "mean_square": lambda v, x: x.square().mean(),
            "max_abs": lambda v, x: x.abs().max(),
        }.items():
            for suffix, first in (("", 0), ("_without_first", 1)):
                theirs = []
                for state in self.states[1:]:
                    x = state.detach().double()[:, first:]
                    theirs.append(measure(x.var(-1, unbiased=False), x).item())
                self.assert_near(self.layers(column + suffix), theirs, 1e-4)

    def test_growth(self):
        variance = numpy.array(self.layers("variance_mean"))
        layers = numpy.arange(1, len(variance) + 1)
        for curve, rate, x in (("power", "p", numpy.log(layers)), ("exponential", "k", layers)):
            slope, intercept = numpy.polyfit(x, numpy.log(variance), 1)
            r_squared = numpy.corrcoef(x, numpy.log(variance))[0, 1] ** 2
            fit = self.result["variance_growth"]["all"][curve]
            self.assert_near([fit["c"], fit[rate], fit["r_squared"]], [math.exp(intercept), slope, r_squared], 1e-6)

    def test_angular_distance(self):
        states = [state.detach().double() for state in self.states]
        for l in range(1, len(states)):
            for n in range(1, len(states) - l + 1):
                cosine = torch.nn.functional.cosine_similarity(states[l - 1], states[l - 1 + n], dim=-1)
                angle = torch.arccos(cosine.clamp(-1, 1)) / math.pi
                ours = self.result["angular_distance"]
                self.assertAlmostEqual(ours["all_positions"][l - 1][n - 1], angle.mean().item(), delta=1e-5)
                self.assertAlmostEqual(ours["last_position"][l - 1][n - 1], angle[:, -1].mean().item(), delta=1e-5)

    def test_layer_removal(self):
        self.assertAlmostEqual(self.result["loss"], workbench.loss_of(self.logits, self.batch["targets"]).item(), delta=1e-5)
        for layer in range(1, workbench.NUM_LAYERS + 1):
            with torch.no_grad():
                logits = without_layer(self.model, layer)(self.batch["inputs"], use_cache=False).logits
            loss = workbench.loss_of(logits, self.batch["targets"]).item()
            self.assertAlmostEqual(self.layers("loss_without")[layer - 1], loss, delta=1e-5)
            self.assertAlmostEqual(self.layers("loss_delta")[layer - 1], loss - self.result["loss"], delta=2e-5)

    def test_gradients(self):
        states, logits = stream(self.model, self.batch["inputs"])
        loss = workbench.loss_of(logits, self.batch["targets"])
        boundaries = torch.autograd.grad(loss, states)
        self.assert_near(self.result["boundary_gradients"], [gradient.norm().item() for gradient in boundaries], 1e-3)
        ours = {row["name"]: row for row in self.result["parameter_gradients"]}
        for name, row in ours.items():
            gradient = self.batch["grad." + name]
            self.assert_near([row["norm"], row["rms"]], [gradient.norm().item(), gradient.square().mean().sqrt().item()], 1e-3)
        for layer, norm in enumerate(self.layers("gradient_norm"), start=1):
            squares = sum(row["norm"] ** 2 for row in ours.values() if row["layer"] == layer)
            self.assert_near([norm], [squares ** 0.5], 1e-6)

    def test_jacobian(self):
        for layer in range(1, workbench.NUM_LAYERS + 1):
            theirs = self.identity_distances(layer, probes=16)
            self.assert_near([self.layers("jacobian_identity_distance_median")[layer - 1]], [numpy.median(theirs)], 0.15)

    def identity_distances(self, layer, probes):
        """E |J^T v - v|^2 / |v|^2 at every token, in another order and from other random numbers than ours."""
        block = self.model.model.layers[layer - 1]
        x = self.states[layer - 1].detach().requires_grad_()
        positions = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
        rotary = self.model.model.rotary_emb(x, positions)
        y = block(x, position_embeddings=rotary, position_ids=positions)
        y = y[0] if isinstance(y, tuple) else y
        generator = torch.Generator().manual_seed(7)
        distances = []
        for position in range(x.shape[1]):
            sums = torch.zeros(x.shape[0])
            for _ in range(probes):
                v = torch.randn(x.shape[0], x.shape[2], generator=generator)
                product = torch.autograd.grad((y[:, position] * v).sum(), x, retain_graph=True)[0][:, position]
                sums += (product - v).square().sum(-1) / v.square().sum(-1)
            distances += (sums / probes).tolist()
        return distances

    def test_the_export_has_the_same_analysis(self):
        _, theirs = analyze("model", self.export, *ALL_JACOBIANS)
        for ours, other in zip(self.result["layers"], theirs["layers"], strict=True):
            for column in ours:
                # Gradients by folded gains are others.
                if column != "gradient_norm":
                    self.assert_near([ours[column]], [other[column]], 2e-3)

    def test_the_tables_say_what_the_document_says(self):
        with open(self.folder / "layers.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([int(row["layer"]) for row in rows], list(range(1, workbench.NUM_LAYERS + 1)))
        for row, layer in zip(rows, self.result["layers"], strict=True):
            self.assertEqual({name: float(value) for name, value in row.items()}, layer)
        with open(self.folder / "angular_distance.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(len(rows), workbench.NUM_LAYERS * (workbench.NUM_LAYERS + 1) // 2)

    def test_only_what_was_asked_for_is_measured(self):
        out, result = analyze("checkpoint", self.checkpoints / max(path.name for path in self.checkpoints.iterdir()),
                              "--only", "angular")
        self.assertEqual(set(result["layers"][0]), {"layer", "angular_distance"})
        self.assertFalse((out / "gradients.csv").exists())


if __name__ == "__main__":
    unittest.main()
