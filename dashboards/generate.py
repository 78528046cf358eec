#!/usr/bin/env python3
"""Writes normlab's Grafana dashboards beside this file: dashboards/generate.py [--check]

With --check nothing is written; the exit status is 1 if a committed file is not what this source makes.
"""

import json
import pathlib
import sys

from panels import by_layer, dashboard, layer_heatmap, lines, number, table, target, variable

HERE = pathlib.Path(__file__).parent

EXPERIMENT = variable("experiment", "Experiment", "label_values(normlab_train_step, experiment)", many=False)
NORM = variable("norm", "Norm", 'label_values(normlab_train_step{experiment="$experiment"}, norm)')
RUN = variable("run", "Run", 'label_values(normlab_train_step{experiment="$experiment",norm=~"$norm"}, run)', many=False)
OF_EXPERIMENT = '{experiment="$experiment",norm=~"$norm"}'
OF_RUN = '{run="$run"}'


def layer_variance():
    return dashboard(
        "normlab-layers", "normlab: Layer variance", "What happens inside the layers of an experiment, by norm scheme.",
        [EXPERIMENT, NORM], [
            [layer_heatmap("Output variance, $norm", "Variance of the residual stream behind each layer, mean over seeds.",
                           'norm_layer:normlab_layer_output_variance:mean{experiment="$experiment",norm=~"$norm"}',
                           repeat="norm")],
            [by_layer("Output variance against depth", "Now, mean over seeds; logarithmic.",
                      f"avg by (norm, layer) (normlab_layer_output_variance{OF_EXPERIMENT})"),
             by_layer("Gradient norm against depth", "Of all parameters of a layer, before clipping.",
                      f"avg by (norm, layer) (normlab_layer_grad_norm{OF_EXPERIMENT})")],
            [lines("Growth exponent of the variance", "p of the fit variance = c * layer^p; flat depth profiles have 0.",
                   target(f"norm:normlab_variance_growth_exponent:mean{OF_EXPERIMENT}", "{{norm}}")),
             by_layer("What a block adds, relative to the stream",
                      "Root of the mean square of attention and feed-forward over that of the stream: near 0 a block does "
                      "nothing.",
                      'avg by (norm, layer) (norm_layer:normlab_branch_to_stream:ratio{experiment="$experiment",'
                      'norm=~"$norm"})')],
            [lines("LNS minus Pre-LN", "Growth exponent and validation loss; negative is what LNS is made for.",
                   target('experiment:normlab_variance_growth_exponent:lns_minus_pre_ln{experiment="$experiment"}',
                          "growth exponent"),
                   target('experiment:normlab_eval_loss_nats:lns_minus_pre_ln{experiment="$experiment"}',
                          "validation loss"), width=24)],
        ])


def experiment():
    return dashboard(
        "normlab-experiment", "normlab: Experiment", "All runs of an experiment, schemes side by side.",
        [EXPERIMENT, NORM], [
            [lines("Training loss by run", "Nats per token.",
                   target(f"normlab_train_loss_nats{OF_EXPERIMENT}", "{{norm}} seed {{seed}} ({{run}})")),
             lines("Validation loss by scheme", "Nats per token on held-out text, mean over seeds.",
                   target(f"avg by (norm) (normlab_eval_loss_nats{OF_EXPERIMENT})", "{{norm}}"))],
            [lines("Gradient norm by run", "Of all parameters, before clipping.",
                   target(f"normlab_train_grad_norm{OF_EXPERIMENT}", "{{norm}} seed {{seed}}"), log=True),
             lines("Tokens per second by scheme", "Mean over runs.",
                   target(f"avg by (norm) (normlab_train_tokens_per_second{OF_EXPERIMENT})", "{{norm}}"))],
            [table("Runs", "Where each run is.",
                   target(f"normlab_train_step{OF_EXPERIMENT}"), target(f"normlab_train_loss_nats{OF_EXPERIMENT}"),
                   target(f"normlab_eval_perplexity{OF_EXPERIMENT}"),
                   columns={"run": "Run", "norm": "Norm", "seed": "Seed", "Value #A": "Update", "Value #B": "Training loss",
                            "Value #C": "Perplexity"})],
        ])


def run():
    return dashboard(
        "normlab-run", "normlab: Run", "One run.", [EXPERIMENT, NORM, RUN], [
            [number("Update", "Last update.", f"normlab_train_step{OF_RUN}"),
             number("Training loss", "Nats per token.", f"normlab_train_loss_nats{OF_RUN}"),
             number("Validation loss", "Nats per token on held-out text.", f"normlab_eval_loss_nats{OF_RUN}"),
             number("Tokens per second", "All ranks.", f"normlab_train_tokens_per_second{OF_RUN}"),
             number("Updates since checkpoint", "What a failure now would cost.",
                    f"normlab_train_step{OF_RUN} - ignoring(__name__) normlab_checkpoint_step{OF_RUN}"),
             number("Seconds per update", "The last one.", f"normlab_train_step_seconds{OF_RUN}", unit="s")],
            [lines("Loss", "Nats per token.", target(f"normlab_train_loss_nats{OF_RUN}", "training"),
                   target(f"normlab_eval_loss_nats{OF_RUN}", "validation")),
             lines("Learning rate", "Of the last update.", target(f"normlab_train_learning_rate{OF_RUN}", "rate"))],
            [lines("Gradient norm", "Of all parameters, before clipping.",
                   target(f"normlab_train_grad_norm{OF_RUN}", "norm"), log=True),
             lines("Output variance by layer", "Of the residual stream.",
                   target(f"normlab_layer_output_variance{OF_RUN}", "layer {{layer}}"), log=True)],
            [lines("Attention's contribution by layer", "Mean square of what attention adds to the stream.",
                   target(f"normlab_layer_attention_mean_square{OF_RUN}", "layer {{layer}}"), log=True),
             lines("Feed-forward's contribution by layer", "Mean square of what the feed-forward network adds.",
                   target(f"normlab_layer_ffn_mean_square{OF_RUN}", "layer {{layer}}"), log=True)],
        ])


def fleet():
    return dashboard(
        "normlab-fleet", "normlab: Fleet", "Workers, queue and coordinator.", [], [
            "Queue and workers",
            [number("Running", "Runs that train.", 'sum(normlab_runs{state="RUNNING"})'),
             number("Queued", "Runs that wait.", 'sum(normlab_runs{state="QUEUED"})'),
             number("Oldest wait", "Of the run that waits longest.", "max(normlab_queue_age_seconds)", unit="s",
                    red_above=6 * 3600),
             number("Workers", "Sessions that are open.", "sum(normlab_worker_sessions)"),
             number("Leases lost in a day", "Workers that fell silent.", "sum(increase(normlab_leases_lost_total[1d]))",
                    red_above=1),
             number("Targets down", "Daemons that cannot be scraped.", 'count(up{job=~"normlab-.*"} == 0) or vector(0)',
                    red_above=1)],
            [lines("Runs by state", "", target("sum by (state) (normlab_runs)", "{{state}}")),
             lines("Workers by state", "", target("sum by (state) (normlab_workers)", "{{state}}"))],
            [lines("Attempts that ended, per minute", "By outcome.",
                   target("sum by (outcome) (rate(normlab_attempts_total[5m])) * 60", "{{outcome}}")),
             lines("Free disk", "Of the coordinator's and the workers' folders.",
                   target("normlab_disk_free_bytes", "{{folder}} of {{instance}}"), unit="bytes")],
            "Coordinator",
            [lines("Calls, 99th percentile", "By method.", target("method:normlab_rpc_seconds:p99", "{{method}}"),
                   unit="s", log=True),
             lines("Commits and scheduling, 99th percentile", "Time of a synced batch and of a scheduling pass.",
                   target("normlab_commit_seconds:p99", "commit"),
                   target("normlab_scheduling_pass_seconds:p99", "scheduling"), unit="s", log=True)],
            [lines("Commits per second", "", target("sum(rate(normlab_commit_seconds_count[5m]))", "commits")),
             lines("Open streams", "", target("sum(normlab_worker_sessions)", "workers"),
                   target("sum(normlab_watchers)", "watchers"))],
            "Workers",
            [lines("Reports that wait for the coordinator", "Grows while it is away.",
                   target("normlab_worker_reports_pending", "{{instance}}")),
             lines("Lease left", "Time for which a worker may train without hearing from the coordinator.",
                   target("normlab_worker_lease_remaining_seconds", "{{instance}}"), unit="s")],
        ])


DASHBOARDS = {"layer-variance.json": layer_variance, "experiment.json": experiment, "run.json": run, "fleet.json": fleet}


def render():
    """File name -> text."""
    return {name: json.dumps(make(), indent=1) + "\n" for name, make in DASHBOARDS.items()}


def main():
    is_check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not is_check:
        sys.exit(__doc__)
    stale = [name for name, text in render().items() if not (HERE / name).is_file() or (HERE / name).read_text() != text]
    if is_check:
        if stale:
            sys.exit(f"not what dashboards/generate.py makes: {', '.join(stale)}; run it and commit the files")
        return
    for name, text in render().items():
        (HERE / name).write_text(text)
    print(f"wrote {', '.join(stale)}" if stale else "nothing to change")


if __name__ == "__main__":
    main()
