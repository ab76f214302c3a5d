"""The process inside an emulated CPU: open a model in its onnxruntime, and run images through it, one request a line.

A request is a JSON object with the `images` file (.npy, uint8), the `batch` (None for all at once) and the file to
write the `logits` to; the response is a JSON object too. It needs numpy and onnxruntime alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from mnist_edge.errors import MnistEdgeError
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.classifier import open_classifier


def main() -> None:
    """Serve requests from standard input until it ends, with arguments `MODEL SETTINGS`."""
    try:
        settings = SessionSettings(**json.loads(sys.argv[2]))
        # The file has been tried outside; without a time limit, because the parent has one.
        classifier = open_classifier(Path(sys.argv[1]), settings, trial=False, timeout=None)
        _respond(placement=classifier.placement, fixed_batch=classifier.fixed_batch)
        for line in sys.stdin:
            request = json.loads(line)
            logits = classifier.logits(np.load(request["images"]), request["batch"])
            np.save(request["logits"], logits)
            _respond(rows=len(logits))
    except MnistEdgeError as error:
        _respond(refused=[error.message, error.hint])


def _respond(**content: object) -> None:
    print(json.dumps(content), flush=True)  # noqa: T201 - standard output is the channel to the parent


if __name__ == "__main__":
    main()
