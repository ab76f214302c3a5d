"""The process that times one candidate in onnxruntime, once; it never imports PyTorch."""

from __future__ import annotations

import time
from pathlib import Path

from mnist_edge.benchmarking.bound import HostBoundRun
from mnist_edge.benchmarking.feeds import random_feeds
from mnist_edge.benchmarking.gpu import BoundRun, time_calls
from mnist_edge.benchmarking.outputs import check_outputs, load_golden, row_groups
from mnist_edge.benchmarking.process import ProcessResult, Task, process_result, serve
from mnist_edge.benchmarking.sampling import sample
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.runtime.session import require_provider


def measure(task: Task) -> ProcessResult:
    """Open the session, run, warm up, time, and check the outputs of the timed runs."""
    require_provider(task.settings.provider)  # imports onnxruntime, which is no part of opening a session
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
        groups = row_groups(len(golden.images), task.batch)
        feeds = [classifier.prepare(golden.images[rows]) for rows in groups]
    calls = None
    if task.settings.provider == "cpu" and task.settings.io_binding:
        samples = sample(HostBoundRun(classifier, feeds[0]).whole, feeds, task.scenario, task.batch, task.seed)
        outputs = samples.timed.outputs
    elif task.settings.provider == "cpu":
        run, names, key = classifier.session.run, [classifier.output.name], classifier.input.name
        samples = sample(
            lambda feed: run(names, feed), [{key: feed} for feed in feeds], task.scenario, task.batch, task.seed
        )
        outputs = {index: output[0] for index, output in samples.timed.outputs.items()}
    else:
        bound = BoundRun(classifier, feeds[0])
        samples = sample(bound.whole, feeds, task.scenario, task.batch, task.seed)
        outputs = samples.timed.outputs
        calls = time_calls(bound, feeds)
    return process_result(
        samples,
        process_ns=process_ns,
        session_ns=session_ns,
        placement=classifier.placement,
        check=None if golden is None else check_outputs(outputs, groups, golden, task.requirement),
        gpu_calls=calls,
    )


if __name__ == "__main__":
    serve(measure)
