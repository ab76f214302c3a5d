"""The process that times onnxruntime: one candidate, once. Torch is never imported here."""

from __future__ import annotations

import time
from pathlib import Path

from mnist_edge.benchmarking.gpu import GpuRun, measure_transfers
from mnist_edge.benchmarking.process import (
    ProcessResult,
    Task,
    judge,
    load_golden,
    process_result,
    random_feeds,
    row_groups,
    serve,
)
from mnist_edge.benchmarking.sampling import sample
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import require_provider


def measure(task: Task) -> ProcessResult:
    """Create the session, run, warm up, time, and judge what the timed runs answered."""
    require_provider(task.settings.provider)  # imports onnxruntime, which is no part of creating a session
    process_ns = time.monotonic_ns() - task.started_ns
    started = time.perf_counter_ns()
    classifier = open_classifier(
        Path(task.model), task.settings, normalization=task.normalization, timeout=None, trial=False
    )
    session_ns = time.perf_counter_ns() - started
    golden = load_golden(task.golden)
    if golden is None:
        groups, feeds = [], random_feeds(classifier.input, task.batch)
    else:
        groups = row_groups(len(golden[0]), task.batch)
        feeds = [classifier.prepare(golden[0][rows]) for rows in groups]
    transfers = None
    if task.settings.provider == "cpu":
        run, names, key = classifier.session.run, [classifier.output.name], classifier.input.name
        samples = sample(
            lambda feed: run(names, feed), [{key: feed} for feed in feeds], task.scenario, task.batch, task.seed
        )
        outputs = {index: answer[0] for index, answer in samples.timed.outputs.items()}
    else:
        gpu = GpuRun(classifier, feeds[0])
        samples = sample(gpu.whole, feeds, task.scenario, task.batch, task.seed)
        outputs = samples.timed.outputs
        transfers = measure_transfers(gpu, feeds)
    return process_result(
        samples,
        process_ns=process_ns,
        session_ns=session_ns,
        placement=classifier.placement,
        judged=(0, 0) if golden is None else judge(outputs, groups, golden[1]),
        transfers=transfers,
    )


if __name__ == "__main__":
    serve(measure)
