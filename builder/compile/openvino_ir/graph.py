"""The few ways in which this package makes OpenVINO operations, and names for them that do not change.

OpenVINO names an operation after a counter that runs through the whole process, so a second build would write another
`.xml`; some operations even add constants on their own. So everything is renamed once the model is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Node = Any
"""An openvino node or output; openvino's own types are too loose to check against."""

_BY_SAFETENSORS = {"BF16": "bf16", "F16": "f16", "F32": "f32", "I8": "i8", "U8": "u8", "F8_E4M3": "f8e4m3"}
_BY_NUMPY = {"float32": "f32", "int32": "i32"}


class Graph:
    """Makes operations of one model. Keeps the numpy arrays alive that its constants point into.

    Args:
        scratch: a folder on a disk that what `spill` is given may go to; None keeps it in memory.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        import openvino
        from openvino import opset13

        self._openvino = openvino
        self._opset = opset13
        self._scalars: dict[tuple[Any, ...], Node] = {}
        self._keep: list[Any] = []
        self._scratch = scratch
        self._sinks: list[Node] = []
        self._public_names: list[str] = []

    def __call__(self, kind: str, *inputs: Any, **attributes: Any) -> Node:
        """One operation of the opset, e.g. ``graph("multiply", a, b)``. All inputs must be nodes."""
        return getattr(self._opset, kind)(*inputs, **attributes)

    def ints(self, *values: int, dtype: str = "int64") -> Node:
        """A vector of integers: shapes, axes, bounds. Equal ones are shared."""
        return self._shared(values, dtype, scalar=False)

    def scalar(self, value: float, dtype: str = "float32") -> Node:
        """A 0-d number. Equal ones are shared."""
        return self._shared((value,), dtype, scalar=True)

    def array(self, value: Any) -> Node:
        """A constant over a numpy array's own memory, in the array's dtype."""
        import numpy as np

        return self.stored(np.ascontiguousarray(value), _BY_NUMPY[value.dtype.name])

    def stored(self, value: Any, dtype: str, shape: Sequence[int] | None = None) -> Node:
        """A constant over the bits in `value`, read as safetensors dtype or openvino type `dtype`.

        `shape` counts elements, which differs from the array's where a byte holds two of them.
        """
        kind = getattr(self._openvino.Type, _BY_SAFETENSORS.get(dtype, dtype))
        sizes = self._openvino.Shape(list(value.shape if shape is None else shape))
        return self._constant(self._openvino.Tensor(value, sizes, kind), value)

    def spill(self, value: Any) -> Any:
        """`value`, a numpy array, moved to a file that has no name, so that a whole model's do not add up in memory."""
        import numpy as np

        if self._scratch is None:
            return value
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            value.tofile(file)
            return np.asarray(np.memmap(file, value.dtype, "r", shape=value.shape))

    def parameter(self, name: str, dtype: str, sizes: Sequence[int]) -> Node:
        """A model input; a size of -1 is open."""
        node = self._opset.parameter(self._openvino.PartialShape(list(sizes)), getattr(self._openvino.Type, dtype))
        return self._public(node, name)

    def result(self, name: str, value: Node) -> Node:
        """A model output."""
        return self._public(self._opset.result(value), name)

    def model(self, results: Sequence[Node], parameters: Sequence[Node], name: str) -> Any:
        """The finished `openvino.Model`; this graph must outlive it."""
        model = self._openvino.Model(list(results), self._sinks, list(parameters), name)
        for number, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name() not in self._public_names:
                node.set_friendly_name(f"{node.get_type_name()}_{number}")
        return model

    def state(self, name: str, initial: Node, sizes: Sequence[int]) -> Node:
        """What variable `name` held after the last step, float32 of open shape `sizes`; `initial` before the first."""
        shape = self._openvino.PartialShape(list(sizes))
        return self("read_value", initial, name, self._openvino.Type.f32, shape)

    def store(self, name: str, value: Node) -> Node:
        """Keep `value` in variable `name` until the next step; returns it."""
        self._sinks.append(self("assign", value, name))
        return value

    def _public(self, node: Node, name: str) -> Node:
        node.output(0).set_names({name})
        node.set_friendly_name(name)
        self._public_names.append(name)
        return node

    def _shared(self, values: tuple[float, ...], dtype: str, *, scalar: bool) -> Node:
        import numpy as np

        key = (values, dtype, scalar)
        if key not in self._scalars:
            array = np.array(values[0] if scalar else values, dtype)
            self._scalars[key] = self._opset.constant(array)
        return self._scalars[key]

    def _constant(self, tensor: Any, memory: Any) -> Node:
        self._keep += [tensor, memory]
        return self._openvino.op.Constant(tensor, shared_memory=True)
