"""From one response's outputs to a Delta, the same for every wire; cumulative text is cut to its news."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.client.layouts import Layout, Value
from serving.client.request import Delta


class DeltaDecoder:
    """Decodes the responses of one request, in order."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._seen = ""

    def decode(self, outputs: Mapping[str, Sequence[Value]], at_s: float, *, final: bool = False) -> Delta:
        """A Delta from {output name: flat values}; outputs that the layout does not name are ignored."""
        layout = self._layout
        text = "".join(str(part) for part in outputs.get(layout.text or "", ()))
        if layout.cumulative and layout.text in outputs:
            text = self._news(text)
        ids = tuple(int(value) for value in outputs.get(layout.ids or "", ()))
        return Delta(
            text=text,
            tokens=_count(outputs, layout.tokens),
            at_s=at_s,
            ids=ids,
            input_tokens=_count(outputs, layout.input_tokens),
            final=final,
        )

    def _news(self, text: str) -> str:
        known = self._seen
        self._seen = text
        # A character that came in two halves is replaced when its second half arrives, so the end may be rewritten.
        same = len(known) if text.startswith(known) else _common_length(known, text)
        return text[same:]


def _common_length(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def _count(outputs: Mapping[str, Sequence[Value]], name: str | None) -> int | None:
    values = outputs.get(name or "", ())
    return int(values[0]) if values else None
