#!/usr/bin/env python3
"""Writes normlab's Grafana dashboards beside this file: dashboards/generate.py [--check]

With --check nothing is written; the exit status is 1 if a committed file is not what this source makes.
"""

import json
import pathlib
import sys

from panels import by_layer, counts, dashboard, layer_heatmap, lines, number, table, target, variable

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
            [layer_heatmap("Output variance of $norm: layer by time, log10",
                           "Variance of the residual stream behind each layer, mean over seeds. 0 is a variance of 1, and "
                           "one more is ten times as much. Each scheme has a color scale of its own.",
                           'norm_layer:normlab_layer_output_variance:mean{experiment="$experiment",norm=~"$norm"}',
                           repeat="norm")],
            [by_layer("Output variance against depth", "Of the residual stream, now, mean over seeds.",
                      f"norm_layer:normlab_layer_output_variance:mean{OF_EXPERIMENT}", axis="variance"),
             by_layer("Gradient norm against depth",
                      "Of all parameters of a layer, before clipping, now, mean over seeds.",
                      f"norm_layer:normlab_layer_grad_norm:mean{OF_EXPERIMENT}", axis="gradient norm")],
            [lines("Growth exponent of the variance",
                   "p of the fit variance = c * layer^p, mean over seeds: 0 is a flat profile, 1 grows like the layer.",
                   target(f"norm:normlab_variance_growth_exponent:mean{OF_EXPERIMENT}", "{{norm}}"), axis="p", height=9),
             by_layer("What a layer adds, relative to the stream",
                      "Root of the mean square of attention and feed-forward over that of the stream, now, mean over seeds. "
                      "Near 0 a layer does nothing.",
                      f"norm_layer:normlab_branch_to_stream:ratio{OF_EXPERIMENT}", axis="ratio")],
            [lines("LNS minus Pre-LN: growth exponent", "Mean over the seeds that both have. LNS is made to be below 0.",
                   target('experiment:normlab_variance_growth_exponent:lns_minus_pre_ln{experiment="$experiment"}',
                          "difference"), axis="difference of p"),
             lines("LNS minus Pre-LN: validation loss", "Mean over the seeds that both have. Below 0, LNS is better.",
                   target('experiment:normlab_eval_loss_nats:lns_minus_pre_ln{experiment="$experiment"}', "difference"),
                   axis="nats per token")],
            [lines("Gradient before the first layer over that behind the last",
                   "Norms of the loss's gradient by the residual stream, mean over seeds. Far from 1, the two ends of the "
                   "network learn at different speeds.",
                   target(f"avg by (norm) (normlab_gradient_boundary_ratio{OF_EXPERIMENT})", "{{norm}}"), axis="ratio",
                   log=True, height=9),
             by_layer("Gradient before a layer over that behind it, against depth",
                      "Norms of the loss's gradient by the residual stream, now, mean over seeds. 1 where a layer does "
                      "nothing.",
                      f"avg by (norm, layer) (normlab_layer_stream_grad_ratio{OF_EXPERIMENT})", axis="ratio", log=False)],
            [by_layer("Largest absolute value against depth",
                      "In the output of a layer, now, mean over seeds. Far above the root of the variance, a few tokens or "
                      "channels carry massive activations.",
                      f"avg by (norm, layer) (normlab_layer_output_max_abs{OF_EXPERIMENT})", axis="largest |x|"),
             by_layer("Weight norm against depth", "Of all matrices of a layer, now, mean over seeds.",
                      f"avg by (norm, layer) (normlab_layer_weight_norm{OF_EXPERIMENT})", axis="weight norm", log=False)],
        ])


def experiment():
    # Of the labels only these: the address of a worker would come before the norm in the order of lines, and the name of the
    # metric would keep Grafana from joining the rows of a table.
    def by_run(metric):
        return target(f"max by (norm, run, seed) ({metric}{OF_EXPERIMENT})", "{{norm}}, seed {{seed}}")

    return dashboard(
        "normlab-experiment", "normlab: Experiment", "All runs of an experiment, schemes side by side.",
        [EXPERIMENT, NORM], [
            [lines("Training loss by run", "Of the last update.",
                   by_run("normlab_train_loss_nats"), axis="nats per token"),
             lines("Validation loss by scheme", "On held-out text, mean over the runs of a scheme.",
                   target(f"avg by (norm) (normlab_eval_loss_nats{OF_EXPERIMENT})", "{{norm}}"), axis="nats per token")],
            [lines("Gradient norm by run", "Of all parameters, before clipping.",
                   by_run("normlab_train_grad_norm"), axis="gradient norm", log=True),
             lines("Tokens per second by scheme", "Mean over the runs of a scheme.",
                   target(f"avg by (norm) (normlab_train_tokens_per_second{OF_EXPERIMENT})", "{{norm}}"),
                   axis="tokens per second")],
            [table("Runs", "Where each run is. Runs that ended are no longer here: normlab compare has them.",
                   by_run("normlab_train_step"), by_run("normlab_train_loss_nats"), by_run("normlab_eval_loss_nats"),
                   by_run("normlab_eval_perplexity"), by_run("normlab_variance_growth_exponent"),
                   by_run("normlab_train_clip_ratio"), by_run("normlab_train_tokens_per_second"),
                   by_run("normlab_train_flops_utilization_ratio"),
                   columns={"run": "Run", "norm": "Norm", "seed": "Seed", "Value #A": "Update", "Value #B": "Training loss",
                            "Value #C": "Validation loss", "Value #D": "Perplexity", "Value #E": "Growth exponent",
                            "Value #F": "Clipped updates", "Value #G": "Tokens per s",
                            "Value #H": "Utilization"},
                   units={"Update": ("none", 0), "Training loss": ("none", 4), "Validation loss": ("none", 4),
                          "Perplexity": ("none", 2), "Growth exponent": ("none", 3), "Clipped updates": ("percentunit", 1),
                          "Tokens per s": ("short", 1), "Utilization": ("percentunit", 1)})],
        ])


def run():
    def named(part, metric):
        return f'label_replace(avg by (layer) ({metric}{OF_RUN}), "part", "{part}", "", "")'

    return dashboard(
        "normlab-run", "normlab: Run", "One run.", [EXPERIMENT, NORM, RUN], [
            [number("Update", "Last update.", f"normlab_train_step{OF_RUN}", unit="none", decimals=0),
             number("Training loss", "Nats per token.", f"normlab_train_loss_nats{OF_RUN}", decimals=4),
             number("Validation loss", "Nats per token on held-out text.", f"normlab_eval_loss_nats{OF_RUN}", decimals=4),
             number("Growth exponent", "p of the fit variance = c * layer^p.",
                    f"normlab_variance_growth_exponent{OF_RUN}", decimals=3),
             number("Updates since checkpoint", "What a failure now would cost.",
                    f"normlab_train_step{OF_RUN} - ignoring(__name__) normlab_checkpoint_step{OF_RUN}", unit="none",
                    decimals=0),
             number("Time per update", "The last one.", f"normlab_train_step_seconds{OF_RUN}", unit="s")],
            [lines("Loss", "Training: of the last update. Validation: on held-out text.",
                   target(f"normlab_train_loss_nats{OF_RUN}", "training"),
                   target(f"normlab_eval_loss_nats{OF_RUN}", "validation"), axis="nats per token"),
             lines("Learning rate", "Of the last update.", target(f"normlab_train_learning_rate{OF_RUN}", "rate"), unit="sci")],
            [lines("Gradient norm", "Of all parameters, before clipping.",
                   target(f"normlab_train_grad_norm{OF_RUN}", "norm"), axis="gradient norm", log=True),
             lines("Clipped updates", "Part of all updates since the first.",
                   target(f"normlab_train_clip_ratio{OF_RUN}", "clipped"), unit="percentunit", least=0, most=1)],
            "Layers",
            [layer_heatmap("Output variance: layer by time, log10",
                           "Of the residual stream. 0 is a variance of 1, and one more is ten times as much.",
                           f"normlab_layer_output_variance{OF_RUN}", width=12),
             layer_heatmap("Gradient norm: layer by time, log10", "Of all parameters of a layer, before clipping.",
                           f"normlab_layer_grad_norm{OF_RUN}", width=12)],
            [by_layer("Output variance against depth: mean and median over tokens",
                      "Of the residual stream, now. A mean far above the median is that of a few tokens with massive "
                      "activations.",
                      f"{named('mean', 'normlab_layer_output_variance')} or "
                      f"{named('median', 'normlab_layer_output_variance_median')}", column="part", axis="variance"),
             by_layer("Variance of what attention and feed-forward add, against depth",
                      "Over hidden, mean over tokens, and that of the residual stream, now.",
                      f"{named('attention', 'normlab_layer_attention_variance')} or "
                      f"{named('feed-forward', 'normlab_layer_ffn_variance')} or "
                      f"{named('stream', 'normlab_layer_output_variance')}", column="part", axis="variance")],
            [by_layer("What attention and feed-forward add, relative to the stream",
                      "Root mean square over that of the layer's output, now. Near 0 they do nothing.",
                      f"{named('attention', 'normlab_layer_attention_stream_ratio')} or "
                      f"{named('feed-forward', 'normlab_layer_ffn_stream_ratio')}", column="part", axis="ratio"),
             by_layer("Learned scales against depth",
                      "Of branches (LayerScale, SkipInit, nGPT), GPAS's gate and DyT's alpha, now. Empty for schemes that "
                      "learn none.",
                      f"{named('attention', 'normlab_layer_attention_scale')} or "
                      f"{named('feed-forward', 'normlab_layer_ffn_scale')} or "
                      f"{named('gate', 'normlab_layer_gpas_gate')} or {named('alpha', 'normlab_layer_dyt_alpha')}",
                      column="part", axis="scale", log=False)],
            [lines("Gradient before the first layer over that behind the last",
                   "Norms of the loss's gradient by the residual stream.",
                   target(f"normlab_gradient_boundary_ratio{OF_RUN}", "ratio"), axis="ratio", log=True, height=9),
             by_layer("Gains of the norms against depth", "Of all channels of a layer's norms, now. They begin at 1.",
                      f"{named('largest', 'normlab_layer_norm_gain_max')} or "
                      f"{named('mean', 'normlab_layer_norm_gain_mean')} or "
                      f"{named('smallest', 'normlab_layer_norm_gain_min')}", column="part", axis="gain", log=False)],
            "Cost",
            [lines("Time of an update by phase", "Of the last update; checkpoint: since the last report.",
                   target(f"normlab_train_phase_seconds{OF_RUN}", "{{phase}}"), unit="s", stacked=True),
             lines("Tokens per second", "Of all ranks.", target(f"normlab_train_tokens_per_second{OF_RUN}", "tokens"),
                   axis="tokens per second", least=0)],
            [lines("Model FLOPs utilization",
                   "The model's operations per second over those that the devices can do; a CPU's are measured at the start.",
                   target(f"normlab_train_flops_utilization_ratio{OF_RUN}", "utilization"), unit="percentunit", least=0),
             lines("Lost choices of experts", "Part of the tokens' choices for which an expert had no room, mean over layers. "
                   "Empty without a mixture of experts.",
                   target(f"avg by (run) (normlab_layer_dropped_ratio{OF_RUN})", "lost"), unit="percentunit", least=0, most=1)],
            [lines("Memory", "Resident memory of rank 0's trainer.",
                   target(f"normlab_train_memory_bytes{OF_RUN}", "resident"), unit="bytes"),
             lines("Checkpoint stall", "Time for which training stood still for the last checkpoint.",
                   target(f"normlab_checkpoint_stall_seconds{OF_RUN}", "stall"), unit="s")],
        ])


def fleet():
    return dashboard(
        "normlab-fleet", "normlab: Fleet", "Workers, queue and coordinator.", [], [
            "Queue and workers",
            [number("Running", "Runs that train.", 'sum(normlab_runs{state="RUNNING"})', unit="none"),
             number("Queued", "Runs that wait.", 'sum(normlab_runs{state="QUEUED"})', unit="none"),
             number("Oldest wait", "Of the run that waits longest.", "max(normlab_queue_age_seconds)", unit="s",
                    red_above=6 * 3600),
             number("Utilization", "Part of the workers that are there and train.",
                    'sum(normlab_workers{state="busy"}) / sum(normlab_workers{state=~"idle|busy"})', unit="percentunit",
                    decimals=0),
             number("Leases lost in a day", "Workers that fell silent.", "sum(increase(normlab_leases_lost_total[1d]))",
                    unit="none", decimals=0, red_above=1),
             number("Targets down", "Daemons that cannot be scraped.", 'count(up{job=~"normlab-.*"} == 0) or vector(0)',
                    unit="none", red_above=1)],
            [counts("Runs by state", "Of all experiments.", target("sum by (state) (normlab_runs)", "{{state}}"),
                    axis="runs"),
             counts("Workers by state", "All that the coordinator knows.",
                    target("sum by (state) (normlab_workers)", "{{state}}"), axis="workers")],
            [counts("Attempts that ended", "By outcome, since the coordinator's start.",
                    target("sum by (outcome) (normlab_attempts_total)", "{{outcome}}"), axis="attempts"),
             lines("Free disk", "Under the coordinator's folder (data) and those of the workers.",
                   target("max by (folder, worker) (normlab_disk_free_bytes / normlab_disk_size_bytes)",
                          "{{folder}} {{worker}}"), unit="percentunit", least=0, most=1)],
            [counts("Runs that wait, by reason", "held, after a failure (backoff), no worker with the labels, too few workers, the "
                    "user's quota, or all workers busy.",
                    target("sum by (reason) (normlab_queued_runs)", "{{reason}}"), axis="runs"),
             lines("Longest wait", "Of the run that waits longest.", target("max(normlab_queue_age_seconds)", "wait"), unit="s",
                   least=0)],
            "Coordinator",
            [lines("Calls, 99th percentile", "Of the last five minutes, by method; methods that were not called are left out.",
                   target("method:normlab_rpc_seconds:p99 >= 0", "{{method}}"), unit="s", log=True, width=24)],
            [lines("Commits and scheduling, 99th percentile", "Time of a synced batch and of a scheduling pass.",
                   target("normlab_commit_seconds:p99 >= 0", "commit"),
                   target("normlab_scheduling_pass_seconds:p99 >= 0", "scheduling"), unit="s", log=True),
             lines("Commits per second", "Synced batches, and the records in them.",
                   target("sum(rate(normlab_commit_seconds_count[5m]))", "commits"),
                   target("sum(rate(normlab_commit_records_sum[5m]))", "records"), axis="per second", log=True)],
            [counts("Open streams", "Sessions of workers, and watches of runs.",
                    target("sum(normlab_worker_sessions)", "workers"), target("sum(normlab_watchers)", "watchers"),
                    axis="streams"),
             lines("Commands in a tick", "What one tick of the engine serves, mean of the last five minutes.",
                   target("sum(rate(normlab_tick_commands_sum[5m])) / sum(rate(normlab_tick_commands_count[5m]))", "commands"),
                   axis="commands")],
            "Store",
            [lines("Size", "Table files and write-ahead logs on the disk; memtables and block cache in memory.",
                   target("sum(normlab_store_sst_bytes)", "table files"), target("sum(normlab_store_wal_bytes)", "logs"),
                   target("sum(normlab_store_memtable_bytes)", "memtables"),
                   target("sum(normlab_store_block_cache_bytes)", "block cache"), unit="bytes", least=0),
             lines("Writes held up", "Part of the time for which RocksDB held writes up, because flushes or compactions are "
                   "behind; 1 of the other line: it lets none through.",
                   target("sum(rate(normlab_store_write_stall_seconds_total[5m]))", "held up"),
                   target("max(normlab_store_write_stopped)", "stopped"), unit="percentunit", least=0)],
            [lines("Compaction debt", "What RocksDB's compactions have still to rewrite, estimated; and what is written to its logs "
                   "per second.",
                   target("sum(normlab_store_pending_compaction_bytes)", "to rewrite"),
                   target("sum(rate(normlab_store_wal_written_bytes_total[5m]))", "written per second"), unit="bytes", least=0),
             counts("Background work", "Flushes and compactions that run, and errors of theirs since the coordinator's start.",
                    target("sum(normlab_store_running_flushes)", "flushes"),
                    target("sum(normlab_store_running_compactions)", "compactions"),
                    target("sum(normlab_store_background_errors_total)", "errors"), axis="number")],
            "Workers",
            [counts("Reports that wait for the coordinator", "Grows while it is away.",
                    target("max by (worker) (normlab_worker_reports_pending)", "{{worker}}"), axis="reports"),
             lines("Lease left", "Time for which a worker may train without hearing from the coordinator.",
                   target("max by (worker) (normlab_worker_lease_remaining_seconds)", "{{worker}}"), unit="s", least=0)],
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
