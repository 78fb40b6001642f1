"""The networks of the paper and others, as plain dense modules that know nothing of graphs.

Every function takes `num_classes` and returns an `nn.Module` that maps images (N, 3, H, W) to
logits (N, num_classes). To add a model, write one such function and one YAML file in `conf/model`.

`width` scales the channels of a whole network, the stem included: each number of channels becomes
`round(width * channels)`, and at least 1. So a thin dense network can have the parameters of a
sparse one. In the ResNets of CIFAR this holds for the channels of a stage; those within a block,
between its convolutions, are rounded apart (see `CifarResNet`), so that networks of more sizes are
to be had.

ResNets 18 to 152 are torchvision's (He et al., 2016). Their `stem` is `"imagenet"`, 7x7 with stride
2 and a max-pool, as in the paper, or `"cifar"`, 3x3 with stride 1 and no pool. On 32x32 pixels the
first leaves a large part of the deeper kernels outside of every image: without any gradient.
"""

import difflib
import math
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as zoo
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from expanders.errors import SettingError, check_choice

Stem = Literal["imagenet", "cifar"]

_VGG16_WIDTHS = (64, 64, "M", 128, 128, "M", *3 * (256,), "M", *3 * (512,), "M", *3 * (512,), "M")


def scaled(channels: int, width: float) -> int:
    """So many channels in a network of this width.

    Raises:
        SettingError: if `width` is not above 0.
    """
    if not width > 0:
        raise SettingError("model.width", width, "must be above 0; 1 is the published network")
    return max(1, round(width * channels))


# ---------------------------------------------------------------------------- VGG


class VGG(nn.Module):
    """Convolutions with batch norm in `features`, two linear layers in `classifier`."""

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for size in _VGG16_WIDTHS:
            if isinstance(size, str):
                layers.append(nn.MaxPool2d(2))
            else:
                conv = nn.Conv2d(channels, scaled(size, width), 3, padding=1)
                channels = conv.out_channels
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)  # the identity for 32x32 images
        self.classifier = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(channels, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images `x`, (N, 3, H, W) with H and W of at least 32 pixels."""
        x = self.pool(self.features(x)).flatten(1)
        return self.classifier(x)  # type: ignore[no-any-return]


def vgg16bn(num_classes: int = 10, width: float = 1) -> nn.Module:
    """VGG-16 with batch norm for 32x32 images (Simonyan & Zisserman, 2015; 512-wide classifier)."""
    return VGG(num_classes, width)


# ---------------------------------------------------------------------------- ResNets of ImageNet


class _WideOrThinResNet(ResNet):  # type: ignore[misc]
    """Torchvision's ResNet, with the same names, but channels of any width and a choice of stem."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, int, int, int],
        num_classes: int,
        stem: Stem,
        width: float,
    ) -> None:
        check_choice("model.stem", stem, Stem)
        super().__init__(block, list(blocks), num_classes)
        self.inplanes = scaled(64, width)
        if width != 1:
            self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
            for stage, count in enumerate(blocks):
                channels, stride = scaled(64 * 2**stage, width), min(stage, 1) + 1
                layer = self._make_layer(block, channels, count, stride)
                setattr(self, f"layer{stage + 1}", layer)
            self.fc = nn.Linear(channels * block.expansion, num_classes)
        if stem == "cifar":
            self.conv1 = nn.Conv2d(3, scaled(64, width), 3, padding=1, bias=False)
            self.maxpool = nn.Identity()


def resnet18(num_classes: int = 10, stem: Stem = "imagenet", width: float = 1) -> nn.Module:
    """ResNet-18 (basic blocks); `stem` and `width` are explained in this module's docstring."""
    return _WideOrThinResNet(BasicBlock, (2, 2, 2, 2), num_classes, stem, width)


def resnet34(num_classes: int = 10, stem: Stem = "imagenet", width: float = 1) -> nn.Module:
    """ResNet-34 (basic blocks); `stem` and `width` are explained in this module's docstring."""
    return _WideOrThinResNet(BasicBlock, (3, 4, 6, 3), num_classes, stem, width)


def resnet50(num_classes: int = 10, stem: Stem = "imagenet", width: float = 1) -> nn.Module:
    """ResNet-50 (bottleneck blocks); `stem` and `width`: see this module's docstring."""
    return _WideOrThinResNet(Bottleneck, (3, 4, 6, 3), num_classes, stem, width)


def resnet101(num_classes: int = 10, stem: Stem = "imagenet", width: float = 1) -> nn.Module:
    """ResNet-101 (bottleneck blocks); `stem` and `width`: see this module's docstring."""
    return _WideOrThinResNet(Bottleneck, (3, 4, 23, 3), num_classes, stem, width)


def resnet152(num_classes: int = 10, stem: Stem = "imagenet", width: float = 1) -> nn.Module:
    """ResNet-152 (bottleneck blocks); `stem` and `width`: see this module's docstring."""
    return _WideOrThinResNet(Bottleneck, (3, 8, 36, 3), num_classes, stem, width)


# ---------------------------------------------------------------------------- ResNets of CIFAR


class CifarBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (He et al., 2016, option A)."""

    def __init__(self, in_channels: int, within: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, within, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(within)
        self.conv2 = nn.Conv2d(within, out_channels, 3, padding=1, bias=False)
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


class WideBlock(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, beside a shortcut (Zagoruyko & Komodakis, 2016).

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, in_channels: int, within: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, within, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(within)
        self.conv2 = nn.Conv2d(within, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y = F.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        return x + y  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """A ResNet for 32x32 images: a stem, and three stages of blocks, the second two with stride 2.

    `channels` are those of the stem and the three stages at width 1. The blocks of a stage round
    the channels between their two convolutions from ever higher up: with n blocks, block i has
    floor(width * channels + i / n) of them.
    """

    def __init__(
        self,
        block: type[CifarBlock | WideBlock],
        blocks_per_stage: int,
        channels: tuple[int, int, int, int],
        num_classes: int,
        width: float,
    ) -> None:
        super().__init__()
        stem, *stages = (scaled(full, width) for full in channels)
        self.preactivated = block is WideBlock  # its norm comes before the sum, so one is left
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stages[-1] if self.preactivated else stem)
        blocks = []
        in_channels = stem
        for stage, out_channels in enumerate(stages):
            for index in range(blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                within = math.floor(width * channels[stage + 1] + index / blocks_per_stage)
                blocks.append(block(in_channels, max(1, within), out_channels, stride))
                in_channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images `x`, (N, 3, H, W)."""
        x = self.conv1(x)
        if self.preactivated:
            x = F.relu(self.bn1(self.blocks(x)))
        else:
            x = self.blocks(F.relu(self.bn1(x)))
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def _cifar_resnet(depth: int, num_classes: int, width: float) -> nn.Module:
    """He et al. (2016), section 4.2: stages of 16, 32 and 64 channels, depth = 6 n + 2."""
    return CifarResNet(CifarBlock, (depth - 2) // 6, (16, 16, 32, 64), num_classes, width)


def resnet20(num_classes: int = 10, width: float = 1) -> nn.Module:
    """The CIFAR ResNet-20 of He et al. (2016): 3 stages of 3 blocks."""
    return _cifar_resnet(20, num_classes, width)


def resnet32(num_classes: int = 10, width: float = 1) -> nn.Module:
    """The CIFAR ResNet-32 of He et al. (2016): 3 stages of 5 blocks."""
    return _cifar_resnet(32, num_classes, width)


def resnet56(num_classes: int = 10, width: float = 1) -> nn.Module:
    """The CIFAR ResNet-56 of He et al. (2016): 3 stages of 9 blocks."""
    return _cifar_resnet(56, num_classes, width)


def wideresnet(
    num_classes: int = 10, depth: int = 22, widening: int = 2, width: float = 1
) -> nn.Module:
    """WRN-depth-widening of Zagoruyko & Komodakis (2016), such as WRN-22-2 and WRN-28-10.

    Stem of 16 channels, stages of 16, 32 and 64 times `widening`; no dropout.

    Raises:
        SettingError: if `depth` is not 6 n + 4 with n of at least 1, or `widening` is below 1.
    """
    if depth < 10 or depth % 6 != 4:
        raise SettingError("model.depth", depth, "must be 6 n + 4, such as 16, 22, 28 or 40")
    if widening < 1:
        raise SettingError("model.widening", widening, "must be 1 or more")
    channels = (16, 16 * widening, 32 * widening, 64 * widening)
    return CifarResNet(WideBlock, (depth - 4) // 6, channels, num_classes, width)


# ---------------------------------------------------------------------------- torchvision's


def torchvision(name: str, num_classes: int = 10, **options: Any) -> nn.Module:
    """A classification model of torchvision by its name, such as `mobilenet_v2`, untrained.

    `options` go to torchvision's function, such as `image_size=64` for `vit_b_16`.

    Raises:
        SettingError: if there is no such model, if it does not take an option, or if it returns
            more than logits in training.
    """
    names = zoo.list_models(module=zoo)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=5, cutoff=0.5)
        remedy = "torchvision has no such classification model"
        raise SettingError("model.name", name, f"{remedy}; near ones: {', '.join(near)}")
    if name in ("googlenet", "inception_v3"):
        raise SettingError(
            "model.name", name, "returns more than logits in training: not supported"
        )
    try:
        model: nn.Module = zoo.get_model(name, weights=None, num_classes=num_classes, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise SettingError(
            "model.name", name, f"torchvision refuses the options: {error}"
        ) from None
    return model
