"""Runs of normlab-train outside of a coordinator, for benchmarks and for tests of what is installed."""

import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/house"))
import spec_page  # noqa: E402


def write_dataset(folder, vocab_size, tokens, seed):
    """Zipf-like random tokens in normlab's shard format; speed does not depend on what they say."""
    rng = random.Random(seed)
    weights = [1 / (rank + 3) for rank in range(vocab_size)]
    block = 65536
    splits = {}
    for split, count in (("train", tokens), ("validation", tokens // 8)):
        values = rng.choices(range(vocab_size), weights, k=count)
        body = struct.pack(f"<{count}HQ", *values, count)
        header = struct.pack("<8s2I3Q2I12x", b"NLTOKENS", 2, 2, count, block, 1, max(values), 0)
        header += struct.pack("<I", zlib.crc32(header))
        sums = b"".join(struct.pack("<I", zlib.crc32(body[i:i + block])) for i in range(0, len(body), block))
        shard = header + body + sums
        (folder / f"{split}-00000.bin").write_bytes(shard)
        splits[split] = {"tokens": count, "documents": 1, "text_bytes": 0, "empty": 0, "invalid": 0,
                         "shards": [{"file": f"{split}-00000.bin", "tokens": count, "documents": 1,
                                     "sha256": hashlib.sha256(shard).hexdigest()}]}
    (folder / "tokenizer.model").write_bytes(b"")
    manifest = {"format": "normlab-tokens-v2", "vocab_size": vocab_size, "eos_id": 2, "source": {}, "splits": splits,
                "tokenizer": {"file": "tokenizer.model", "sha256": hashlib.sha256(b"").hexdigest()}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def default_of(kind, rule):
    """The default that a field's rule in experiment.proto gives, or None."""
    if text := re.search(r'\btext: "([^"]*)"', rule or ""):
        return text.group(1)
    number = re.search(r"\bnumber: ([^\s}]+)", rule or "")
    if number is None:
        return None
    return bool(float(number.group(1))) if kind == "bool" else json.loads(number.group(1))


def defaults(message):
    proto = (ROOT / "proto/normlab/v1/experiment.proto").read_text(encoding="utf-8")
    found = {name: default_of(kind, rule) for name, kind, rule, _ in spec_page.fields_of(message, proto)}
    return {name: value for name, value in found.items() if value is not None}


def make_spec(args, folder, name, steps, layers_every_steps, checkpoint_every_steps=1_000_000_000):
    far = 1_000_000_000
    spec = {
        "run": {
            "model": {**defaults("ModelSpec"), "num_layers": args.layers, "hidden": args.hidden, "num_heads": args.heads,
                      "ffn_hidden": args.ffn_hidden},
            "norm": defaults("NormSpec"),
            "data": {**defaults("DataSpec"), "dataset": "bench", "seq_len": args.seq_len},
            "train": {**defaults("TrainSpec"), "steps": steps, "batch_size": args.batch_size, "weight_decay": 0.1},
            "report": {**defaults("ReportSpec"), "eval_every_steps": far, "eval_sequences": 16,
                       "checkpoint_every_steps": checkpoint_every_steps, "layers_every_steps": layers_every_steps},
            "resources": {"workers": 1, "worker_labels": {}, "threads": args.threads},
            "seed": 1, "retries_max": 0,
        },
        "data_dir": str(folder / "data"), "checkpoint_dir": str(folder / name), "attempt": 1, "resume_from_attempt": 1,
        "rank": 0, "world_size": 1, "rendezvous": "", "bind_host": "127.0.0.1", "threads": args.threads,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(spec))
    return path


def run_lines(command):
    """Runs a command to its end; its JSON lines and its peak memory in MB. A failure shows what it said."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        lines = [json.loads(line) for line in process.stdout if line.startswith("{")]
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed (status {status}): {errors.read().decode()[-2000:]} {lines[-1:]}")
    return lines, usage.ru_maxrss / 1024
