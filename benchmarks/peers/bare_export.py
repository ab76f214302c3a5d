"""Peer of `mnist-edge export`: torch, the same network with random weights, one bare call of the exporter."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """uint8 images (batch, 28, 28) to logits, 784-600-400-200-100-10."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [784, 600, 400, 200, 100, 10]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, image: Tensor) -> Tensor:
        """Return logits float32 (batch, 10)."""
        return self.layers(image.float().flatten(1))  # type: ignore[no-any-return]


model, example = Network().eval(), torch.zeros(2, 28, 28, dtype=torch.uint8)
torch.onnx.export(
    model,
    (example,),
    "x.onnx",
    dynamo=True,
    input_names=["image"],
    output_names=["logits"],
    dynamic_shapes=({0: "batch"},),
    opset_version=20,
    external_data=False,
    verbose=False,
)
