"""What the tests beside the peers share: a small dataset of real text, runs trained on it, and what they compute.

Environment: NORMLAB_BIN, the folder of the programs; NORMLAB_PEER_DUMP, the path of normlab-peer-dump.
"""

import atexit
import functools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import safetensors.torch
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ["NORMLAB_BIN"])
PEER_DUMP = os.environ["NORMLAB_PEER_DUMP"]
NUM_LAYERS = 4
SEQ_LEN = 48

# More would wait for each other on a busy machine; these models are tiny.
torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


@functools.cache
def workspace():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="normlab-peers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def run(program, *arguments, expected=0, **options):
    """Runs one of normlab's programs and returns what it did; AssertionError with its words if it ends otherwise."""
    path = program if os.path.isabs(program) else BIN / program
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300, **options)
    if done.returncode != expected:
        raise AssertionError(f"{path} {' '.join(map(str, arguments))}: exit {done.returncode}, not {expected}\n"
                             f"{done.stdout}\n{done.stderr}")
    return done


@functools.cache
def dataset():
    """The pages of this project, in 512 pieces."""
    folder = workspace() / "data"
    pages = sorted(str(path) for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/decisions/*.md"), ROOT / "README.md"])
    run("normlab-prepare", "--out", folder, "--vocab-size", "512", "--validation-every", "4", *pages)
    return folder


def complete_run(norm=None, model=None, train=None):
    """A RunSpec with every default filled in, as the coordinator stores it."""
    spec = {
        "name": "peers",
        "base": {
            "model": {"num_layers": NUM_LAYERS, "hidden": 32, "num_heads": 4, "ffn_hidden": 88, **(model or {})},
            "norm": norm or {},
            "data": {"dataset": "data", "seq_len": SEQ_LEN},
            "train": {"steps": 12, "batch_size": 8, "lr": 0.02, "warmup_steps": 2, **(train or {})},
            "report": {"eval_every_steps": 1000, "eval_sequences": 4, "checkpoint_every_steps": 6},
        },
    }
    # JSON is YAML.
    done = run("normlab", "-o", "json", "submit", "--dry-run", "-", input=json.dumps(spec))
    return json.loads(done.stdout)["runs"][0]


def train(name, **sections):
    """Trains a small run, so that no gain is 1 and no weight is where it started; the folder of its checkpoints."""
    checkpoints = workspace() / "checkpoints" / name
    if checkpoints.exists():
        return checkpoints
    spec = {"run": complete_run(**sections), "data_dir": str(dataset()), "checkpoint_dir": str(checkpoints), "attempt": 1,
            "world_size": 1, "threads": 1}
    path = workspace() / f"{name}.json"
    path.write_text(json.dumps(spec))
    done = run("normlab-train", "--spec", path)
    last = json.loads(done.stdout.splitlines()[-1])
    assert "finished" in last and not last["finished"].get("diverged"), last
    return checkpoints


def export(checkpoints, name=None):
    """The folder that normlab-export makes of the newest checkpoint."""
    folder = workspace() / "exports" / (name or checkpoints.name)
    if not folder.exists():
        run("normlab-export", "--checkpoint", checkpoints, "--data", dataset(), "--out", folder)
    return folder


def dump(**source):
    """What our model computes on one batch: a dict of tensors. `source` is checkpoint=DIR or model=DIR."""
    (kind, folder), = source.items()
    path = workspace() / "dump.safetensors"
    run(PEER_DUMP, f"--{kind}", folder, "--data", dataset(), "--seq-len", SEQ_LEN, "--out", path)
    arrays = {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    arrays["inputs"] = arrays["inputs"].long()
    arrays["targets"] = arrays["targets"].long()
    return arrays


def loss_of(logits, targets):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
