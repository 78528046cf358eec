"""Exports, loaded by the real transformers with no code of ours."""

import json
import unittest

import sentencepiece
import torch
import transformers

import workbench

GPT2 = {"family": "gpt2", "max_positions": 64}


def unchanged(name):
    return 1.0


def inverse_root_depth(name):
    """Of a norm in a block, they have the gain g' = g * scale, so that dloss/dg = scale * dloss/dg'."""
    is_norm = "layernorm" in name or ".ln_1." in name or ".ln_2." in name
    return (1 + int(name.split(".")[2])) ** -0.5 if is_norm else 1.0


def gemma_embedding(name):
    return 32 ** -0.5 if "embed_tokens" in name else 1.0


# Norm, model, class, and the factor from the gradient there to the one here; None where scales are learned.
EXPRESSIBLE = {
    "pre_ln": ({"scheme": "pre_ln"}, {}, "LlamaForCausalLM", unchanged),
    "lns": ({"scheme": "lns"}, {}, "LlamaForCausalLM", inverse_root_depth),
    "lns_after_branch": ({"scheme": "lns", "lns_position": "after_branch"}, {}, "LlamaForCausalLM", None),
    "pre_ln_scaled_init": ({"scheme": "pre_ln_scaled_init"}, {}, "LlamaForCausalLM", unchanged),
    "layer_scale": ({"scheme": "layer_scale", "layer_scale_init": 0.3}, {}, "LlamaForCausalLM", None),
    "skip_init": ({"scheme": "skip_init"}, {}, "LlamaForCausalLM", None),
    "qk_norm": ({"scheme": "pre_ln", "qk_norm": "head"}, {}, "Qwen3ForCausalLM", unchanged),
    "olmo2_qk_norm": ({"scheme": "olmo2", "qk_norm": "full"}, {}, "Olmo2ForCausalLM", unchanged),
    "sandwich": ({"scheme": "sandwich"}, {}, "Gemma2ForCausalLM", gemma_embedding),
    "peri_ln": ({"scheme": "peri_ln"}, {}, "Gemma2ForCausalLM", gemma_embedding),
    "gpt2": ({"scheme": "pre_ln"}, GPT2, "GPT2LMHeadModel", unchanged),
    "gpt2_lns": ({"scheme": "lns"}, GPT2, "GPT2LMHeadModel", inverse_root_depth),
    "gpt2_layer_scale": ({"scheme": "layer_scale", "layer_scale_init": 0.3}, GPT2, "GPT2LMHeadModel", None),
}
NOT_EXPRESSIBLE = {
    "post_ln": "a norm stands behind the residual sum of attention (blocks 1 to 4)",
    "deepnorm": "the residual around attention is multiplied by 1.682 (blocks 1 to 4)",
    "olmo2": "Olmo2ForCausalLM has norms on query and key as norm.qk_norm: full makes them (blocks 1 to 4)",
    "dyt": "attention has a tanh where a norm would be (blocks 1 to 4)",
    "ngpt": "the stream and all matrices are vectors of norm 1",
    "mix_ln": "a norm stands behind the residual sum of attention (block 1)",
}


def load(folder):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


class Export(unittest.TestCase):
    def test_logits_loss_and_gradients_agree(self):
        for name, (norm, model, architecture, scale) in EXPRESSIBLE.items():
            with self.subTest(name):
                checkpoints = workbench.train(name, norm=norm, model=model)
                model = load(workbench.export(checkpoints))
                self.assertEqual(type(model).__name__, architecture)
                ours = workbench.dump(checkpoint=checkpoints)
                logits = model(ours["inputs"], use_cache=False).logits
                self.assertGreater(ours["logits"].std().item(), 0.1, "the model has learned nothing that could differ")
                self.assertLess((logits - ours["logits"]).abs().max().item(), 1e-4)
                loss = workbench.loss_of(logits, ours["targets"])
                self.assertAlmostEqual(loss.item(), ours["loss"].item(), delta=1e-5)
                loss.backward()
                if scale is not None:
                    self.check_gradients(model, ours, scale)

    def check_gradients(self, model, ours, scale):
        theirs = dict(model.named_parameters())
        names = [name.removeprefix("grad.") for name in ours if name.startswith("grad.")]
        self.assertEqual(set(names), set(theirs))
        for name in names:
            gradient = theirs[name].grad * scale(name)
            error = (gradient - ours["grad." + name]).norm() / gradient.norm()
            self.assertLess(error.item(), 1e-3, name)

    def test_the_tokenizer_gives_the_ids_of_the_dataset(self):
        folder = workbench.export(workbench.train("lns", norm={"scheme": "lns"}))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(workbench.dataset() / "tokenizer.model"))
        self.assertEqual(len(tokenizer), pieces.get_piece_size())
        self.assertEqual(tokenizer.eos_token_id, pieces.eos_id())
        for sample in ("  two spaces\tand a tab \n\n", "Größe ∑ 你好 🙂", "a", ""):
            with self.subTest(sample):
                self.assertEqual(tokenizer.encode(sample), pieces.encode(sample))
                self.assertEqual(tokenizer.decode(tokenizer.encode(sample)), sample)
        text = (workbench.ROOT / "README.md").read_text()
        ids, expected = tokenizer.encode(text), pieces.encode(text)
        self.assertEqual(tokenizer.decode(ids), text)
        # Runs of spaces can be cut in several ways of exactly the same score; the libraries choose by their rounding.
        self.assertEqual(sorted(ids), sorted(expected))
        different = sum(a != b for a, b in zip(ids, expected, strict=True))
        self.assertLess(different / len(ids), 0.01)

    def test_what_no_class_computes_is_refused_with_the_parts(self):
        for scheme, reason in NOT_EXPRESSIBLE.items():
            with self.subTest(scheme):
                out = workbench.workspace() / "exports" / f"no-{scheme}"
                done = workbench.run("normlab-export", "--checkpoint", workbench.train(scheme, norm={"scheme": scheme}),
                                     "--out", out, expected=4)
                self.assertIn(f"no class of transformers computes a llama model with {scheme}", done.stderr)
                self.assertIn(reason, done.stderr)
                self.assertFalse(out.exists())

    def test_the_hybrid_is_refused_with_what_its_class_does_otherwise(self):
        model = {"family": "minimax", "num_kv_heads": 2, "softmax_every": 2, "num_experts": 4}
        checkpoints = workbench.train("hybrid", norm={"scheme": "pre_ln"}, model=model)
        out = workbench.workspace() / "exports" / "no-hybrid"
        done = workbench.run("normlab-export", "--checkpoint", checkpoints, "--out", out, expected=4)
        self.assertIn("MiniMaxForCausalLM rotates whole heads", done.stderr)

    def test_an_export_is_not_overwritten_without_force(self):
        checkpoints = workbench.train("lns", norm={"scheme": "lns"})
        folder = workbench.export(checkpoints, "forced")
        before = (folder / "config.json").stat().st_mtime_ns
        arguments = ("--checkpoint", checkpoints, "--data", workbench.dataset(), "--out", folder)
        refused = workbench.run("normlab-export", *arguments, expected=4)
        self.assertIn("is there already", refused.stderr)
        self.assertEqual((folder / "config.json").stat().st_mtime_ns, before)
        result = json.loads(workbench.run("normlab-export", *arguments, "--force", "--json").stdout)
        self.assertEqual(result["files"], ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model",
                                           "tokenizer_config.json"])
        self.assertEqual(sorted(path.name for path in folder.iterdir()), result["files"])
        other = workbench.workspace() / "mine"
        other.mkdir()
        (other / "thesis.txt").write_text("years of work")
        arguments = ("--checkpoint", checkpoints, "--out", other, "--force")
        self.assertIn("it is no export", workbench.run("normlab-export", *arguments, expected=4).stderr)
        self.assertEqual((other / "thesis.txt").read_text(), "years of work")

    def test_a_damaged_checkpoint_is_passed_over_and_named(self):
        checkpoints = workbench.train("damaged", norm={"scheme": "pre_ln"})
        newest = max(path for path in checkpoints.iterdir())
        with open(newest / "model.safetensors", "r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x55")
        out = workbench.workspace() / "exports" / "damaged"
        done = workbench.run("normlab-export", "--checkpoint", checkpoints, "--out", out)
        self.assertIn("step-00000006", done.stdout)
        self.assertIn(f"{newest.name} is damaged", done.stderr)
        done = workbench.run("normlab-export", "--checkpoint", newest, "--out", out.with_name("never"), expected=1)
        self.assertIn("was changed", done.stderr)


if __name__ == "__main__":
    unittest.main()
