"""Models that transformers made, computed by our trainer's code."""

import unittest

import torch
import transformers

import workbench


def save(name, dtype=torch.float32, shard=None, **settings):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(**{
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 88, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 64, "initializer_range": 0.2, **settings})
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    model = model.to(dtype)
    folder = workbench.workspace() / "theirs" / name
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    # Loaded again: rounding the model here rounded its rotary table too.
    return folder, transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class Import(unittest.TestCase):
    def check(self, folder, model):
        ours = workbench.dump(model=folder)
        logits = model(ours["inputs"], use_cache=False).logits
        self.assertLess((logits - ours["logits"]).abs().max().item(), 1e-4)
        self.assertAlmostEqual(workbench.loss_of(logits, ours["targets"]).item(), ours["loss"].item(), delta=1e-5)

    def test_one_file(self):
        self.check(*save("one"))

    def test_many_files_with_an_index(self):
        folder, model = save("many", shard="40KB")
        self.assertGreater(len(list(folder.glob("model-*.safetensors"))), 2)
        self.check(folder, model)

    def test_half_precision(self):
        self.check(*save("bfloat16", dtype=torch.bfloat16))
        self.check(*save("float16", dtype=torch.float16))

    def test_shared_key_and_value_heads_and_a_tied_head(self):
        self.check(*save("shared", num_key_value_heads=2, tie_word_embeddings=True))

    def test_another_rotary_base(self):
        self.check(*save("base", rope_parameters={"rope_type": "default", "rope_theta": 500.0}))

    def test_what_our_llama_does_not_compute_is_refused(self):
        cases = {
            "attention_bias": {"attention_bias": True},
            "rope_parameters.rope_type": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
            "hidden_act": {"hidden_act": "gelu"},
            "head_dim": {"head_dim": 16},
        }
        for setting, settings in cases.items():
            with self.subTest(setting):
                folder, _ = save(setting, **settings)
                done = workbench.run(workbench.PEER_DUMP, "--model", folder, "--data", workbench.dataset(), "--out", "/dev/null",
                                     expected=1)
                self.assertIn(f"{setting} is", done.stderr)


if __name__ == "__main__":
    unittest.main()
