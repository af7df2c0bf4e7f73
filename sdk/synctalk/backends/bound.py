"""A session of ONNX Runtime whose inputs and outputs stay in one place: nothing is allocated while it runs.

On a CUDA device the places are the GPU's, and a size of input may be captured once as a CUDA graph (not yet run on
hardware).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctalk.rows import Feed, bucket_of

__all__ = ["BoundSession"]

Float = NDArray[np.float32]


class BoundSession:
    """Evaluates feeds of at most so many rows (a ``synctalk.rows.Lane``); one caller at a time.

    All inputs and outputs of the session are float32 with the rows first and all other axes fixed.
    """

    def __init__(self, session: Any, sizes: Sequence[int], device: str, is_captured: bool = False) -> None:
        """sizes: numbers of rows that it is run with, ascending, each with memory of its own; device: ``cpu`` or ``cuda``.

        is_captured: the session captures CUDA graphs (provider option ``enable_cuda_graph``), one for each size.
        """
        self._session, self._sizes, self._device, self._is_captured = (
            session,
            tuple(sizes),
            device,
            is_captured,
        )
        self._inputs = {one.name: tuple(one.shape[1:]) for one in session.get_inputs()}
        self._outputs = {one.name: tuple(one.shape[1:]) for one in session.get_outputs()}
        self._places: dict[int, _Places] = {}

    def __call__(self, feeds: Sequence[Feed]) -> dict[str, Float]:
        """The rows of all feeds, one after the other; valid until the next call."""
        n_rows = sum(len(feed[next(iter(self._inputs))]) for feed in feeds)
        if not n_rows:
            return {name: np.zeros((0, *shape), np.float32) for name, shape in self._outputs.items()}
        size = bucket_of(n_rows, self._sizes)
        if size not in self._places:
            self._places[size] = _Places(self._session, size, self._inputs, self._outputs, self._device)
        places = self._places[size]
        places.fill(feeds)
        self._session.run_with_iobinding(places.binding, self._run_options(size))
        return {name: values[:n_rows] for name, values in places.results().items()}

    def _run_options(self, size: int) -> Any:
        import onnxruntime

        options = onnxruntime.RunOptions()
        if self._is_captured:  # ONNX Runtime keeps a graph for each number
            options.add_run_config_entry("gpu_graph_id", str(1 + self._sizes.index(size)))
        return options


class _Places:
    """Where the inputs and outputs of one size are."""

    def __init__(
        self,
        session: Any,
        size: int,
        inputs: dict[str, tuple[int, ...]],
        outputs: dict[str, tuple[int, ...]],
        device: str,
    ) -> None:
        import onnxruntime

        self._is_on_host = device == "cpu"
        self._host = {
            name: np.zeros((size, *shape), np.float32) for name, shape in (inputs | outputs).items()
        }
        self._values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(values, device, 0)
            for name, values in self._host.items()
        }
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self.binding = session.io_binding()
        for name in inputs:
            self.binding.bind_ortvalue_input(name, self._values[name])
        for name in outputs:
            self.binding.bind_ortvalue_output(name, self._values[name])

    def fill(self, feeds: Sequence[Feed]) -> None:
        """Copy feeds to where the session reads them; rows beyond them keep what was there."""
        for name in self._inputs:
            first, host = 0, self._host[name]
            for feed in feeds:
                rows = feed[name]
                host[first : first + len(rows)] = rows
                first += len(rows)
            if not self._is_on_host:  # on the host the session reads the array itself
                self._values[name].update_inplace(host)

    def results(self) -> dict[str, Float]:
        """What the session wrote, on the host."""
        if self._is_on_host:
            return {name: self._host[name] for name in self._outputs}
        return {name: self._values[name].numpy() for name in self._outputs}
