"""The largest singular values of sparse matrices."""

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

FloatArray = NDArray[np.float64]

DENSE_SIZE = 128  # up to this size of the smaller side, all eigenvalues cost less than Lanczos


def two_largest(matrix: sparse.csr_array, first: FloatArray | None = None) -> tuple[float, float]:
    """The two largest singular values of a matrix with at least as many columns as rows.

    `first`: the left singular vector of the largest, where that one is known to be 1.
    """
    if matrix.shape[0] <= DENSE_SIZE:
        eigenvalues = np.append(0.0, linalg.eigvalsh((matrix @ matrix.T).toarray()))
        largest, second = eigenvalues[-1], eigenvalues[-2]
    else:
        largest, first = (1.0, first) if first is not None else _lanczos(matrix)
        second, _ = _lanczos(matrix, without=first)
    if second < 1e-12 * largest:  # rounding errors of a zero
        second = 0.0
    return float(np.sqrt(largest)), float(np.sqrt(second))


def _lanczos(
    matrix: sparse.csr_array, without: FloatArray | None = None, tolerance: float = 1e-10
) -> tuple[float, FloatArray]:
    """The largest eigenvalue of matrix @ matrix.T and its eigenvector.

    `without` is an eigenvector that is projected out. Plain Lanczos: without reorthogonalisation
    an eigenvalue found again as a copy does no harm to the largest one (Paige, 1980). The start
    vector is fixed, so that equal graphs have equal measures everywhere; with `without` it is
    another one, since of a multiple eigenvalue the first run took all that its own start held.
    """
    transposed = matrix.T.tocsr()
    start = np.random.default_rng(0 if without is None else 1)
    vector = start.standard_normal(matrix.shape[0])
    if without is not None:
        vector -= without * (without @ vector)
    basis = [vector / np.linalg.norm(vector)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    nothing = 1e-13 * (matrix.data @ matrix.data)  # in relation to the sum of all eigenvalues
    check = 32
    while True:
        image = matrix @ (transposed @ basis[-1])
        if off_diagonal:
            image -= off_diagonal[-1] * basis[-2]
        diagonal.append(float(basis[-1] @ image))
        image -= diagonal[-1] * basis[-1]
        if without is not None:
            image -= without * (without @ image)
        off_diagonal.append(float(np.linalg.norm(image)))
        size = len(diagonal)
        exhausted = off_diagonal[-1] <= nothing
        if size == check or exhausted:
            values, vectors = linalg.eigh_tridiagonal(
                diagonal, off_diagonal[:-1], select="i", select_range=(size - 1, size - 1)
            )
            residual = off_diagonal[-1] * abs(vectors[-1, 0])
            if exhausted or residual <= tolerance * values[0] or size >= 4 * image.size:
                ritz = np.stack(basis, axis=1) @ vectors[:, 0]
                return values[0], ritz / np.linalg.norm(ritz)
            check = size + max(16, size // 4)
        basis.append(image / off_diagonal[-1])
