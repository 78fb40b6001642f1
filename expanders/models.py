"""The networks of the paper, as plain dense modules that know nothing of graphs.

Every function takes `num_classes` and returns an `nn.Module` that maps images (N, 3, H, W) to
logits (N, num_classes). To add a model, write one such function and one YAML file in `conf/model`.

ResNets 18 to 152 are torchvision's (He et al., 2016). Their `stem` is `"imagenet"`, 7x7 with stride
2 and a max-pool, as in the paper, or `"cifar"`, 3x3 with stride 1 and no pool. On 32x32 pixels the
first leaves a large part of the deeper kernels outside of every image: without any gradient.
"""

from collections.abc import Callable
from typing import Literal

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from expanders.errors import SettingError

_VGG16_WIDTHS = (64, 64, "M", 128, 128, "M", *3 * (256,), "M", *3 * (512,), "M", *3 * (512,), "M")


class VGG(nn.Module):
    """Convolutions with batch norm in `features`, two linear layers in `classifier`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _VGG16_WIDTHS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                conv = nn.Conv2d(channels, width, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)  # the identity for 32x32 images
        self.classifier = nn.Sequential(
            nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(512, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images `x`, (N, 3, H, W) with H and W of at least 32 pixels."""
        x = self.pool(self.features(x)).flatten(1)
        return self.classifier(x)  # type: ignore[no-any-return]


def vgg16bn(num_classes: int = 10) -> nn.Module:
    """VGG-16 with batch norm for 32x32 images (Simonyan & Zisserman, 2015; 512-wide classifier)."""
    return VGG(num_classes)


Stem = Literal["imagenet", "cifar"]


def _resnet(build: Callable[..., nn.Module], num_classes: int, stem: Stem) -> nn.Module:
    if stem not in ("imagenet", "cifar"):
        raise SettingError("model.stem", stem, "must be imagenet or cifar")
    model = build(num_classes=num_classes)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def resnet18(num_classes: int = 10, stem: Stem = "imagenet") -> nn.Module:
    """ResNet-18 (basic blocks); `stem` is explained in this module's docstring."""
    return _resnet(torchvision.models.resnet18, num_classes, stem)


def resnet34(num_classes: int = 10, stem: Stem = "imagenet") -> nn.Module:
    """ResNet-34 (basic blocks); `stem` is explained in this module's docstring."""
    return _resnet(torchvision.models.resnet34, num_classes, stem)


def resnet50(num_classes: int = 10, stem: Stem = "imagenet") -> nn.Module:
    """ResNet-50 (bottleneck blocks); `stem` is explained in this module's docstring."""
    return _resnet(torchvision.models.resnet50, num_classes, stem)


def resnet101(num_classes: int = 10, stem: Stem = "imagenet") -> nn.Module:
    """ResNet-101 (bottleneck blocks); `stem` is explained in this module's docstring."""
    return _resnet(torchvision.models.resnet101, num_classes, stem)


def resnet152(num_classes: int = 10, stem: Stem = "imagenet") -> nn.Module:
    """ResNet-152 (bottleneck blocks); `stem` is explained in this module's docstring."""
    return _resnet(torchvision.models.resnet152, num_classes, stem)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (He et al., 2016, option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(y + shortcut)


class CifarResNet(nn.Module):
    """The ResNet for 32x32 images: three stages of 16, 32 and 64 channels (He et al., 2016)."""

    def __init__(self, blocks_per_stage: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = []
        in_channels = 16
        for width in (16, 32, 64):
            for _ in range(blocks_per_stage):
                stride = 1 if width in (16, in_channels) else 2
                blocks.append(BasicBlock(in_channels, width, stride))
                in_channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images `x`, (N, 3, H, W)."""
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def resnet32(num_classes: int = 10) -> nn.Module:
    """The CIFAR ResNet-32 of He et al. (2016), section 4.2: 3 stages of 5 blocks."""
    return CifarResNet(5, num_classes)
