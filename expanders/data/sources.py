"""The data sets. Each is one function here and one file in conf/dataset/.

A data set is a function that returns a `Source` at once: the number of classes, and how to load
the images. It reads no image before `load()` is called.
"""

import torch
import torch.nn.functional as F

from expanders.data.images import Images, Source, split
from expanders.seeds import stream


def digits() -> Source:
    """Scikit-learn's handwritten digits: 1,797 real grey images of 10 classes, no download.

    Enlarged from 8x8 to 32x32 by bilinear interpolation, which keeps strokes smooth where copying
    pixels would add edges that nobody wrote. The test part is a fixed stratified fifth.
    """

    def load() -> tuple[Images, Images]:
        from sklearn.datasets import load_digits

        data = load_digits()
        grey = torch.from_numpy(data.images).float()[:, None] * (255 / 16)
        large = F.interpolate(grey, (32, 32), mode="bilinear").round().to(torch.uint8)
        images = Images(large.repeat(1, 3, 1, 1), torch.from_numpy(data.target).long())
        return split(images, 0.2, stream(0, "digits", "test"))

    return Source(10, load)
