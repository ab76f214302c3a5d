"""The two kinds of network that a run trains, the perceptron and a student, and what differs between them."""

from __future__ import annotations

from torch import Tensor, nn

from mnist_edge.contract import Normalization
from mnist_edge.pixels import ImageFile, Images
from mnist_edge.training.model import accuracy, build_model
from mnist_edge.training.qat import deployed_network
from mnist_edge.training.recipes import Recipe, Settings
from mnist_edge.training.step import EagerStep, WrittenStep
from mnist_edge.training.student import Student, quantised_network
from mnist_edge.training.student_step import StudentStep


def build_network(settings: Settings) -> nn.Sequential:
    """Return the untrained network of a run; its weights are drawn from torch's global generator."""
    return build_model(settings.widths) if settings.student is None else Student(settings.student)


def step_for(model: nn.Sequential, recipe: Recipe, momentum: dict[str, Tensor]) -> EagerStep:
    """Return the step of one process."""
    kind = StudentStep if isinstance(model, Student) else WrittenStep
    return kind(model, recipe, momentum)


def normalization_of(model: nn.Sequential) -> Normalization:
    """Return what a network in training expects of its pixels."""
    return "unit" if isinstance(model, Student) else "seed"


def deployed_accuracy(model: nn.Sequential, images: Images | ImageFile, labels: Images) -> float:
    """Return the accuracy of a network in training, 0 to 1; of a student, that of the network as it is deployed."""
    if not isinstance(model, Student):
        return accuracy(model, images, labels)
    device = next(model.parameters()).device
    return accuracy(deployed_network(quantised_network(model)).to(device), images, labels, normalization="raw")
