"""The two largest singular values of sparse matrices."""

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from expanders.graphs.edges import FloatArray

DENSE_SIZE = 128  # up to this size of the smaller side, all eigenvalues cost less than iterations
TOLERANCE = 1e-10  # of an eigenvector; its eigenvalue is then right to about the square
NOTHING = 1e-13  # a share of the largest eigenvalue that is a rounding error of zero
DIGITS = 13  # of a singular value; what follows are rounding errors, other on other machines


def two_largest(matrix: sparse.csr_array, first: FloatArray | None = None) -> tuple[float, float]:
    """The two largest singular values of a matrix with at least as many columns as rows.

    They are square roots of eigenvalues of matrix @ matrix.T. `first`: the eigenvector of the
    largest, where that one is known to be 1. A multiple eigenvalue counts as often as it occurs.
    """
    if matrix.shape[0] <= DENSE_SIZE:
        eigenvalues = np.append(0.0, linalg.eigvalsh((matrix @ matrix.T).toarray()))
        largest, second = eigenvalues[-1], eigenvalues[-2]
    else:
        # The start vectors are fixed, so that equal graphs have equal measures everywhere. They
        # differ, since of a multiple eigenvalue the first run finds what its own start holds.
        starts = np.random.default_rng(0).standard_normal((2, matrix.shape[0]))
        largest, first = (1.0, first) if first is not None else _largest(matrix, starts[0])
        second, _ = _largest(matrix, starts[1], known=(largest, first))
    if second < NOTHING * largest:
        second = 0.0
    return _rounded(np.sqrt(largest)), _rounded(np.sqrt(second))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _largest(
    matrix: sparse.csr_array, start: FloatArray, known: tuple[float, FloatArray] | None = None
) -> tuple[float, FloatArray]:
    """The largest eigenvalue of matrix @ matrix.T and its eigenvector, by ARPACK.

    `known` is an eigenvalue with its eigenvector that is left out.
    """
    transposed = matrix.T.tocsr()
    # All eigenvalues are raised by their mean: ARPACK fails where nothing but zeros is left over.
    shift = (matrix.data @ matrix.data) / start.size

    def multiply(vector: FloatArray) -> FloatArray:
        image: FloatArray = matrix @ (transposed @ vector) + shift * vector
        if known is not None:
            image -= known[0] * (known[1] @ vector) * known[1]
        return image

    operator = LinearOperator((start.size, start.size), matvec=multiply, dtype=np.float64)
    values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=TOLERANCE)
    return float(values[0] - shift), vectors[:, 0]
