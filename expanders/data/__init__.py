"""Image data sets as tensors: sources, split, batches, and augmentation on the device.

source = digits()
train, test = source.load()                    # Images: uint8 pixels and int64 labels
train, val = split(train, 0.1, stream(seed, "split"))
for pixels, labels in batches(train.to(device), batch_size, order):
    inputs = transform.train(pixels, transform.draw(len(pixels), 32, 32, generator))
"""

from expanders.data.images import Images, Source, batches, sample, split
from expanders.data.sources import cifar10, cifar100, digits, image_folder, svhn, tinyimagenet
from expanders.data.transform import Transform

__all__ = [
    "Images",
    "Source",
    "Transform",
    "batches",
    "cifar10",
    "cifar100",
    "digits",
    "image_folder",
    "sample",
    "split",
    "svhn",
    "tinyimagenet",
]
