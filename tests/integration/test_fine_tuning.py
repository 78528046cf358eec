"""Fine-tuning on prompts with responses, as a user does it: pretrain, prepare the pairs, start from the run's weights."""

import json
import random
import unittest

import cluster
from cluster import experiment_spec

STEPS = 60


class FineTuningTest(cluster.ClusterTest):
    num_workers = 1

    def prepare_pairs(self):
        """The responses say the prompt's words again: what a model of these words can learn."""
        chance = random.Random(3)
        words = (self.cluster.root / "source/00.txt").read_text().replace(".", "").split()
        lines = []
        for _ in range(400):
            prompt = " ".join(chance.choices(words, k=3))
            lines.append(json.dumps({"prompt": prompt, "response": f" {prompt}.", "source": "made up"}))
        pairs = self.cluster.write("pairs.jsonl", "\n".join(lines) + "\n")
        out = self.cluster.data_root / "pairs"
        tokenizer = self.cluster.data_root / cluster.DATASET / "tokenizer.model"
        self.cluster.cli("data", "prepare", "--sft", "--tokenizer", tokenizer, "--out", out, "--validation-every", "8", pairs)
        self.cluster.cli("data", "check", out)
        return json.loads((out / "manifest.json").read_text())

    def fine_tune(self, init_from):
        spec = experiment_spec(f"tune-{init_from or 'nothing'}".replace("/", "-"), STEPS, norm={"scheme": "pre_ln"},
                               data={"dataset": "pairs", "form": "documents", "seq_len": 48},
                               train={"init_from": init_from, "lr": 0.005}, report={"eval_every_steps": 30, "step_every_steps": 1})
        run_id, = self.cluster.submit(spec)
        self.cluster.wait_state(run_id, "SUCCEEDED")
        return self.cluster.run(run_id), self.assert_whole_history(run_id, STEPS)

    def test_a_run_goes_on_from_another_runs_weights_on_responses_alone(self):
        spec = experiment_spec("pretrain", 300, norm={"scheme": "pre_ln"}, data={"seq_len": 48})
        pretrained, = self.cluster.submit(spec)
        self.cluster.wait_state(pretrained, "SUCCEEDED")
        manifest = self.prepare_pairs()
        split = manifest["splits"]["train"]
        self.assertLess(split["documents"] * 3, split["tokens"])

        tuned, history = self.fine_tune(pretrained)
        _, from_nothing = self.fine_tune("")
        losses, scratch = ([entry["report"]["loss"] for entry in one] for one in (history, from_nothing))
        self.assertLess(losses[0], scratch[0] - 0.5, "the weights are those that were trained")
        self.assertLess(losses[-1], losses[0] - 0.3, "and they learn to answer")
        per_update = int(history[-1]["report"]["tokens"]) / STEPS
        self.assertLess(per_update, 4 * 48 / 2, "prompts and padding are no targets")
        self.assertTrue(any("weights from " in line and pretrained in line for line in self.cluster.logs(tuned["id"])),
                        "the log says from where")

        exported = self.cluster.data_root / "exported"
        self.cluster.cli("export", pretrained, "-o", exported, "--root", self.cluster.root)
        _, from_export = self.fine_tune("exported")
        self.assertEqual(from_export[0]["report"]["loss"], losses[0], "a Hugging Face folder holds the same weights")


if __name__ == "__main__":
    unittest.main()
