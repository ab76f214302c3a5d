"""Peer of the bench's process: a plain timed loop over OpenVINO's inference; prints the median in microseconds.

Arguments: an ONNX file and a golden file.
"""

import statistics
import sys
import time

import numpy as np
import openvino  # type: ignore[import-not-found]

core = openvino.Core()
settings = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
}
model = core.read_model(sys.argv[1])
model.reshape({0: [1, 28, 28]})  # a fixed batch, which is faster there
request = core.compile_model(model, "CPU", settings).create_infer_request()
feeds = [np.ascontiguousarray(image[None]) for image in np.load(sys.argv[2])["images"][:64]]
for feed in feeds * 8:  # warm-up
    request.infer([feed], share_inputs=True, share_outputs=True)
times: list[int] = []
end = time.perf_counter_ns() + 400_000_000
while time.perf_counter_ns() < end:
    feed = feeds[len(times) % len(feeds)]
    before = time.perf_counter_ns()
    request.infer([feed], share_inputs=True, share_outputs=True)
    times.append(time.perf_counter_ns() - before)
print(statistics.median(times) / 1000)
