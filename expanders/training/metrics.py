"""The names of metrics, in one place for all who write and read them.

A run writes them to `metrics.jsonl` (one row an epoch), to `summary.json` and to W&B; tables,
reports and dashboards read them there. Whoever needs a name takes it from here, so that a name
that changes cannot make a picture vanish. Measures of graphs and of connectivity are `graph/KEY`,
where the functions that compute them choose the keys (`expanders.graphs.spectra.summary`,
`expanders.wiring.connectivity.measure`, `expanders.wiring.scored`); those that are read have a name
here, and a test asks a run for each.
Importing this module does not import PyTorch.
"""

from typing import Literal

Part = Literal["train", "val", "test"]
"""The images of a data set. On those of `train` a network is evaluated while it trains."""

EPOCH = "epoch"  # of a row, counted from 1
LEARNING_RATE = "lr"  # in the epoch
IMAGES_PER_SECOND = "images_per_second"  # in training, without evaluation
SECONDS = "seconds"  # of an epoch, evaluation included; in the summary, of all epochs
FIRST_STEP_SECONDS = "first_step_seconds"  # of a process, compiling included

# Mean cross-entropy in nats; None where it is not finite. That of `train` has label smoothing.
LOSS = "loss"
ACCURACY = "accuracy"  # of 0 to 1
TOP5_ACCURACY = "top5_accuracy"  # of 0 to 1; of sets with more than 20 classes

EPOCHS = "epochs"  # done
BEST_EPOCH = "best_epoch"  # whose network was evaluated, counted from 1
LIVE_PARAMETERS = "params/live"  # of the whole network
DENSE_PARAMETERS = "params/dense"  # of its dense twin
LIVE_FLOPS = "flops/live"  # per image, forward, two for a multiply-add
DENSE_FLOPS = "flops/dense"
COMPUTED_BY = "computed_by"  # versions, commit, processor, threads, and so on
PEAK_MEMORY = "peak_memory_bytes"  # of the GPU, or without one of the process
STARTED_FROM = "started_from"  # folder of the run whose training this one goes on with
TEST_READ_BEFORE = "test_read_before"  # whether that one had evaluated on the test images
WIRING_SECONDS = "wiring_seconds"  # to choose the edges of all layers


def of(part: Part, metric: str) -> str:
    """The name of a metric on some images: `val/accuracy`."""
    return f"{part}/{metric}"


def graph(measure: str) -> str:
    """The name of a measure of the graphs, or of the network that they wire: `graph/edges`."""
    return f"graph/{measure}"


TRAIN_LOSS = of("train", LOSS)
TRAIN_ACCURACY = of("train", ACCURACY)
VAL_ACCURACY = of("val", ACCURACY)
VAL_LOSS = of("val", LOSS)
TEST_ACCURACY = of("test", ACCURACY)
TEST_TOP5_ACCURACY = of("test", TOP5_ACCURACY)

EDGES = graph("edges")  # of all wired layers
NORMALISED_GAP = graph("normalised_gap_mean")  # over the wired layers
RAMANUJAN_RATIO = graph("ramanujan_ratio_mean")
LEAST_GAP = graph("normalised_gap_min")
LARGEST_RATIO = graph("ramanujan_ratio_max")
RAMANUJAN_SHARE = graph("ramanujan_share")  # of the wired layers
DISCONNECTED_LAYERS = graph("disconnected_layers")
EFFECTIVE_PARAMETERS = graph("effective_parameters")  # weights on a path from input to output
EFFECTIVE_SHARE = graph("effective_share")  # of the live weights
REACH = graph("reach")  # share of the first layer's channels that channels of later layers see
DEAD_OUTPUTS = graph("dead_outputs")
UNUSED_INPUTS = graph("unused_inputs")
FLOOR_EDGES = graph("floor_edges")  # of scored wirings: those that only the floor keeps
LAYERS = graph("layers")  # the table of the layers, on W&B only
PICTURE = graph("picture")  # matrices and spectra of some layers, on W&B only
