"""The text of a C file around the calls, constants and loops of a network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK = 16  # positions computed at a time: they fill the widest vectors


@dataclass(frozen=True)
class Source:
    """A C file, and what it takes.

    Attributes:
        text: of the file.
        read_only_bytes: of weights and edges.
        working_bytes: of the buffers for values.
        unshared_bytes: what the buffers would take if no place were used twice.
    """

    text: str
    read_only_bytes: int
    working_bytes: int
    unshared_bytes: int


def text_of(
    name: str,
    facts: Mapping[str, int],
    constants: Sequence[str],
    calls: Sequence[str],
    num_values: int,
    num_sums: int,
) -> str:
    """The whole file.

    Args:
        name: what its first comment calls the network.
        facts: numbers that it defines for those who include it.
        constants: definitions of weights and edges.
        calls: of the loops in layers.c, one after the other.
        num_values: size of the buffer of tensors.
        num_sums: size of the buffer of the channel that is being computed.
    """
    body = "\n".join(f"  {call}" for call in calls)
    return _FILE.format(
        name=name.replace("*/", ""),
        defines="\n".join(f"#define {key} {value}" for key, value in facts.items()),
        block=BLOCK,
        values=num_values,
        sums=num_sums,
        layers=_used_layers(body),
        constants="\n\n".join(constants),
        calls=body,
    )


_FILE = """\
/* {name}. Written by expanders; C99, needs only the standard headers.

   predict() takes NETWORK_HEIGHT x NETWORK_WIDTH pixels of 0 to 255, row by row, the
   NETWORK_CHANNELS values of a pixel side by side, and writes NETWORK_CLASSES logits. It allocates
   nothing: weights and edges are NETWORK_READ_ONLY_BYTES of constants, values between layers
   NETWORK_WORKING_BYTES of static memory, so that two threads must not call it at the same time. */

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

{defines}

#define BLOCK {block} /* positions computed at a time */

static float values[{values}]; /* between layers */
static float sums[{sums}];   /* of the channel that is being computed */

{layers}

{constants}

void predict(const uint8_t *pixels, float *logits);

void predict(const uint8_t *pixels, float *logits) {{
{calls}
}}
"""


_DEFINITION = re.compile(  # of a function, a struct or a type of functions
    r"^static [\w ]*?\**(\w+)\(|^} (\w+);|\(\*(\w+)\)\(", re.MULTILINE
)


def _used_layers(calls: str) -> str:
    """The pieces of layers.c that `calls` need, directly or through one another."""
    pieces = Path(__file__).with_name("layers.c").read_text().strip().split("\n\n")
    kept: list[str] = []
    text = calls
    for piece in reversed(pieces):  # everything is defined before it is used
        names = [name for found in _DEFINITION.findall(piece) for name in found if name]
        if any(re.search(rf"\b{name}\b", text) for name in names):
            kept.insert(0, piece)
            text += piece
    return "\n\n".join(kept)
