"""Peer of the bench's process on a GPU: a plain timed loop with IO binding; prints the median in microseconds.

Arguments: an ONNX file, a golden file and the batch size.
"""

import statistics
import sys
import time

import numpy as np
import onnxruntime

onnxruntime.preload_dlls()
session = onnxruntime.InferenceSession(sys.argv[1], providers=[("CUDAExecutionProvider", {"use_tf32": "0"})])
if session.get_providers()[0] != "CUDAExecutionProvider":
    sys.exit("CUDA is not available")
batch = int(sys.argv[3])
images = np.load(sys.argv[2])["images"]
feeds = [images[start : start + batch] for start in range(0, min(64 * batch, len(images) - batch + 1), batch)]
entered = onnxruntime.OrtValue.ortvalue_from_numpy(feeds[0], "cuda", 0)
binding = session.io_binding()
binding.bind_ortvalue_input("image", entered)
binding.bind_ortvalue_output(
    "logits", onnxruntime.OrtValue.ortvalue_from_shape_and_type([batch, 10], np.float32, "cuda", 0)
)
times: list[int] = []
warm = time.perf_counter_ns() + 400_000_000
end = warm + 400_000_000
while time.perf_counter_ns() < end:
    feed = feeds[len(times) % len(feeds)]
    before = time.perf_counter_ns()
    entered.update_inplace(feed)
    session.run_with_iobinding(binding)
    binding.get_outputs()[0].numpy()
    after = time.perf_counter_ns()
    if before > warm:
        times.append(after - before)
print(statistics.median(times) / 1000)
