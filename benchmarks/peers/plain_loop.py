"""Peer of the bench's process: a plain timed loop over session.run; prints the median in microseconds.

Arguments: an ONNX file and a golden file.
"""

import statistics
import sys
import time

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
images = np.load(sys.argv[2])["images"][:64]
feeds = [{"image": image[None]} for image in images]
for feed in feeds * 8:  # warm-up
    session.run(["logits"], feed)
times: list[int] = []
end = time.perf_counter_ns() + 400_000_000
while time.perf_counter_ns() < end:
    feed = feeds[len(times) % len(feeds)]
    before = time.perf_counter_ns()
    session.run(["logits"], feed)
    times.append(time.perf_counter_ns() - before)
print(statistics.median(times) / 1000)
