"""A package of a user's own: a model, one that cannot be written, and a data set."""

import torch
from torch import nn

from expanders.data import Source, digits


class Net(nn.Module):
    """Two convolutions and a linear layer, for digits of 32x32 pixels."""

    def __init__(self, num_classes, width):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.pool = nn.AvgPool2d(4)
        self.classifier = nn.Linear(32 * width, num_classes)

    def forward(self, x):
        """Logits of images."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


def net(num_classes, width=16):
    return Net(num_classes, width)


class Moody(Net):
    """What it computes depends on the values that it sees."""

    def forward(self, x):
        """Logits of images, or of none."""
        return super().forward(x if x.sum() > 1 else x * 0)


def moody(num_classes, width=16):
    return Moody(num_classes, width)


def images() -> Source:
    return digits(num_images=300)


not_a_function = torch.zeros(1)
