"""The peer: the same Llama model, optimizer and batches in eager PyTorch, as its users write it.

    python eager_llama.py train SPEC.json     one JSON line per update: {"step": 1, "loss": ..., "seconds": ...,
                                              "cpu_seconds": ...}
    python eager_llama.py compiled SPEC.json  the same with forward and backward through torch.compile
    python eager_llama.py evaluate SPEC.json CHECKPOINT_FOLDER     loss of normlab's weights on the same held-out windows

SPEC.json is what `normlab-train --spec` reads. Pre-LN only: the schemes differ by scalars, not by work.
"""

import json
import os
import struct
import sys
import time

import numpy
import torch
import torch.nn.functional as F
from torch import nn


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Attention(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.num_heads = model["num_heads"]
        hidden = model["hidden"]
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x, cos, sin):
        batch, seq, hidden = x.shape
        q, k, v = (
            proj(x).view(batch, seq, self.num_heads, -1).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = q * cos + rotate_half(q) * sin
        k = k * cos + rotate_half(k) * sin
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, seq, hidden))


class Mlp(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.gate_proj = nn.Linear(model["hidden"], model["ffn_hidden"], bias=False)
        self.up_proj = nn.Linear(model["hidden"], model["ffn_hidden"], bias=False)
        self.down_proj = nn.Linear(model["ffn_hidden"], model["hidden"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(model["hidden"], eps=model["norm_eps"])
        self.self_attn = Attention(model)
        self.post_attention_layernorm = nn.RMSNorm(model["hidden"], eps=model["norm_eps"])
        self.mlp = Mlp(model)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, model, vocab_size, seq_len):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, model["hidden"])
        self.layers = nn.ModuleList(Block(model) for _ in range(model["num_layers"]))
        self.norm = nn.RMSNorm(model["hidden"], eps=model["norm_eps"])
        head_dim = model["hidden"] // model["num_heads"]
        frequency = model["rope_base"] ** (-torch.arange(0, head_dim, 2).float() / head_dim)
        angle = torch.outer(torch.arange(seq_len).float(), frequency)
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angle, angle), -1).sin(), persistent=False)

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.norm(x)


class Llama(nn.Module):
    def __init__(self, model, vocab_size, seq_len):
        super().__init__()
        self.model = Decoder(model, vocab_size, seq_len)
        self.lm_head = nn.Linear(model["hidden"], vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=model["embed_init_std" if "embed" in name else "init_std"])

    def loss(self, inputs, targets):
        logits = self.lm_head(self.model(inputs))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def read_split(data_dir, split):
    """All tokens of a split (the shard format is a grammar in common/token_shard.h), and the vocabulary's size."""
    with open(os.path.join(data_dir, "manifest.json"), encoding="utf-8") as text:
        manifest = json.load(text)
    parts = []
    for shard in manifest["splits"][split]["shards"]:
        with open(os.path.join(data_dir, shard["file"]), "rb") as file:
            _, token_bytes, num_tokens = struct.unpack("<8x2IQ", file.read(64)[:24])
            parts.append(numpy.frombuffer(file.read(num_tokens * token_bytes), dtype=f"<u{token_bytes}"))
    return torch.from_numpy(numpy.concatenate(parts).astype(numpy.int64)), manifest["vocab_size"]


def train(spec, is_compiled):
    run, opt = spec["run"], spec["run"]["train"]
    seq_len, batch = run["data"]["seq_len"], opt["batch_size"]
    tokens, vocab_size = read_split(spec["data_dir"], "train")
    model = Llama(run["model"], vocab_size, seq_len)
    decayed = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    plain = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": opt["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=opt["lr"], betas=(opt["beta1"], opt["beta2"]), eps=opt["adam_eps"], fused=True)
    loss_of = torch.compile(model.loss) if is_compiled else model.loss
    for step in range(1, int(opt["steps"]) + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        first = (step - 1) * batch * seq_len % (len(tokens) - batch * seq_len - 1)
        window = tokens[first:first + batch * seq_len + 1]
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(window[:-1].view(batch, seq_len), window[1:].view(batch, seq_len))
        loss.backward()
        # The trainer reports the global gradient norm of every update, so its peer pays for it as well.
        grad_norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()], foreach=True)
        optimizer.step()
        values = {"step": step, "loss": loss.item(), "grad_norm": grad_norm.item()}
        values["seconds"], values["cpu_seconds"] = time.perf_counter() - start, time.process_time() - cpu_start
        print(json.dumps(values), flush=True)


def read_safetensors(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    return {
        name: torch.frombuffer(data, dtype=torch.float32, offset=entry["data_offsets"][0],
                               count=(entry["data_offsets"][1] - entry["data_offsets"][0]) // 4).view(entry["shape"])
        for name, entry in header.items() if name != "__metadata__"
    }


def evaluate(spec, checkpoint):
    run = spec["run"]
    seq_len = run["data"]["seq_len"]
    tokens, vocab_size = read_split(spec["data_dir"], "validation")
    model = Llama(run["model"], vocab_size, seq_len)
    model.load_state_dict(read_safetensors(os.path.join(checkpoint, "model.safetensors")))
    count = min(run["report"]["eval_sequences"], (len(tokens) - 1) // seq_len)
    inputs = tokens[:count * seq_len].view(count, seq_len)
    targets = tokens[1:count * seq_len + 1].view(count, seq_len)
    with torch.no_grad():
        losses = [model.loss(inputs[i:i + 1], targets[i:i + 1]).item() for i in range(count)]
    print(json.dumps({"loss": sum(losses) / len(losses)}))


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as text:
        SPEC = json.load(text)
    torch.set_num_threads(SPEC["threads"])
    if sys.argv[1] in ("train", "compiled"):
        train(SPEC, is_compiled=sys.argv[1] == "compiled")
    else:
        evaluate(SPEC, sys.argv[3])
