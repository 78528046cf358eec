"""The hybrid of lightning and softmax attention with experts, beside transformers' own MiniMax."""

import unittest

import safetensors.torch
import torch
import transformers

import workbench

HIDDEN, HEADS, KV_HEADS, EXPERTS, EVERY, HEAD_DIM = 32, 4, 2, 4, 2, 8
# transformers drops no tokens and has no balance loss in its loss by default; a factor of 2 leaves room for every choice.
MODEL = {"family": "minimax", "num_kv_heads": KV_HEADS, "softmax_every": EVERY, "num_experts": EXPERTS,
         "capacity_factor": EXPERTS / 2, "balance_coefficient": 0}
NORM = {"scheme": "deepnorm", "final_norm": False}


class HalfRotary(torch.nn.Module):
    """Half of each head rotates, as in MiniMax-01; transformers' class rotates all of it."""

    def forward(self, x, position_ids):
        frequency = 10000.0 ** -(torch.arange(HEAD_DIM // 4) / (HEAD_DIM / 4))
        angle = torch.nn.functional.pad(position_ids[..., None] * frequency, (0, HEAD_DIM // 4))
        angle = torch.cat((angle, angle), -1)
        return angle.cos(), angle.sin()


def build():
    """DeepNorm in MiniMax's form, norms at the entry of sublayers, but for the one on the embedding."""
    alpha = (2 * workbench.NUM_LAYERS) ** 0.25
    factors = {f"{site}_{kind}_factor": value for site in ("linear_attn", "full_attn", "mlp")
               for kind, value in (("alpha", alpha), ("beta", 1.0))}
    kinds = ["full_attention" if (i + 1) % EVERY == 0 else "linear_attention" for i in range(workbench.NUM_LAYERS)]
    model = transformers.MiniMaxForCausalLM(transformers.MiniMaxConfig(
        vocab_size=512, hidden_size=HIDDEN, intermediate_size=88, num_hidden_layers=workbench.NUM_LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM, num_local_experts=EXPERTS,
        num_experts_per_tok=2, rms_norm_eps=1e-6, layer_types=kinds, block_size=16, max_position_embeddings=64,
        tie_word_embeddings=False, attn_implementation="eager", **factors))
    model.model.layers[0].input_layernorm = torch.nn.Identity()
    model.model.rotary_emb = HalfRotary()
    return model.eval()


def to_theirs(ours):
    """Our weights under their names, differentiably."""
    theirs = {name: ours[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    for i in range(workbench.NUM_LAYERS):
        block = f"model.layers.{i}."

        def own(name, block=block):
            return ours[block + name + ".weight"]

        theirs[block + "post_attention_layernorm.weight"] = own("input_layernorm")
        behind = f"model.layers.{i + 1}.input_layernorm" if i + 1 < workbench.NUM_LAYERS else "model.norm"
        theirs[behind + ".weight"] = own("post_attention_layernorm")
        if (i + 1) % EVERY == 0:
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                theirs[f"{block}self_attn.{name}.weight"] = own("self_attn." + name)
        else:
            by_head = [own(f"self_attn.{name}_proj").view(HEADS, HEAD_DIM, HIDDEN) for name in "qkv"]
            theirs[block + "self_attn.qkv_proj.weight"] = torch.stack(by_head, 1).reshape(-1, HIDDEN)
            for name in ("output_gate", "out_proj", "norm"):
                theirs[f"{block}self_attn.{name}.weight"] = own("self_attn." + name)
        theirs[block + "mlp.gate.weight"] = own("block_sparse_moe.gate")
        experts = [{w: own(f"block_sparse_moe.experts.{e}.{w}") for w in ("w1", "w2", "w3")} for e in range(EXPERTS)]
        theirs[block + "mlp.experts.gate_up_proj"] = torch.stack([torch.cat((e["w1"], e["w3"])) for e in experts])
        theirs[block + "mlp.experts.down_proj"] = torch.stack([e["w2"] for e in experts])
    return theirs


class MiniMax(unittest.TestCase):
    def test_logits_loss_and_gradients_agree(self):
        checkpoints = workbench.train("minimax", norm=NORM, model=MODEL)
        ours = workbench.dump(checkpoint=checkpoints)
        newest = max(checkpoints.glob("*/model.safetensors"))
        weights = {name: tensor.requires_grad_() for name, tensor in safetensors.torch.load_file(newest).items()}
        model = build()
        mapped = to_theirs(weights)
        self.assertEqual(set(mapped), {name for name, _ in model.named_parameters()})
        logits = torch.func.functional_call(model, mapped, (ours["inputs"],), {"use_cache": False}).logits
        self.assertGreater(ours["logits"].std().item(), 0.1, "the model has learned nothing that could differ")
        self.assertLess((logits - ours["logits"]).abs().max().item(), 1e-4)
        loss = workbench.loss_of(logits, ours["targets"])
        self.assertAlmostEqual(loss.item(), ours["loss"].item(), delta=1e-5)
        loss.backward()
        for name, weight in weights.items():
            # An expert that nobody chose has a gradient of zero.
            error = (weight.grad - ours["grad." + name]).norm().item()
            self.assertLess(error, 1e-3 * weight.grad.norm().item() + 1e-8, name)


if __name__ == "__main__":
    unittest.main()
