"""The peer on a GPU: bench/trainer's Llama through torch.compile with flash attention and fused AdamW, as its users write it.

    python compiled_llama.py SPEC.json [CHECKPOINT_FOLDER]     one JSON line per update

param_dtype fp32_master is float32 weights under autocast to bfloat16; bf16_pure is everything in bfloat16. Every update sees
the first batch of the dataset. With a checkpoint it starts from its weights.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trainer"))
from eager_llama import Llama, read_safetensors, read_split  # noqa: E402


def main():
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    run, device = spec["run"], torch.device("cuda")
    opt, seq_len, batch = run["train"], run["data"]["seq_len"], run["train"]["batch_size"]
    micro = opt["micro_batch_size"] or batch
    tokens, vocab_size = read_split(spec["data_dir"], "train")
    torch.manual_seed(run["seed"])
    model = Llama(run["model"], vocab_size, seq_len)
    if len(sys.argv) > 2:
        model.load_state_dict(read_safetensors(os.path.join(sys.argv[2], "model.safetensors")))
    model = model.to(device, torch.bfloat16 if opt["param_dtype"] == "bf16_pure" else torch.float32)
    decayed = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    plain = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": opt["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
        lr=opt["lr"], betas=(opt["beta1"], opt["beta2"]), eps=opt["adam_eps"], fused=True)
    loss_of = torch.compile(model.loss)
    inputs = tokens[:batch * seq_len].view(batch, seq_len).to(device)
    targets = tokens[1:batch * seq_len + 1].view(batch, seq_len).to(device)
    for step in range(1, int(opt["steps"]) + 1):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = opt["lr"] * min(1, (step - 1) / opt["warmup_steps"]) if opt["warmup_steps"] else opt["lr"]
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for first in range(0, batch, micro):
            with torch.autocast("cuda", torch.bfloat16, enabled=opt["param_dtype"] == "fp32_master"):
                loss = loss_of(inputs[first:first + micro], targets[first:first + micro]) * (micro / batch)
            loss.backward()
            total += loss.detach()
        grad_norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()], foreach=True)
        optimizer.step()
        values = {"step": step, "loss": total.item(), "grad_norm": grad_norm.item()}
        torch.cuda.synchronize()
        values["seconds"] = time.perf_counter() - start
        values["memory_peak"] = torch.cuda.max_memory_allocated()
        print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
