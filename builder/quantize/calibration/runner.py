"""One decoder layer over all samples: observed and propagated in the same pass."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from builder.quantize.calibration.experts import Routing
from builder.quantize.calibration.heap import share_one_heap
from builder.quantize.calibration.hidden import CHUNK_TOKENS, HiddenStates
from builder.quantize.calibration.statistics import WAVE_TOKENS, InputObserver
from builder.quantize.problem import Tensor

T = TypeVar("T")


class Workers:
    """Threads that each compute alone: torch's own would make the last bits depend on their number."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads)

    def run(self, tasks: Iterable[Callable[[], T]]) -> list[T]:
        """All tasks, several at once. The first error is raised when none is under way any more."""
        started = [self._pool.submit(task) for task in tasks]
        wait(started)
        return [task.result() for task in started]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def workers(threads: int | None = None) -> Iterator[Workers]:
    """As many threads as there are processors, while torch itself has one."""
    import torch

    share_one_heap()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = Workers(threads or len(os.sched_getaffinity(0)))
    try:
        yield pool
    finally:
        pool.close()
        torch.set_num_threads(before)


class Watcher(Protocol):
    """Takes the positional inputs of a submodule, chunk by chunk, from several threads at once."""

    def see(self, chunk: int, *inputs: Tensor) -> None: ...


@contextmanager
def watching(module: Any, watchers: Mapping[str, Watcher]) -> Iterator[Callable[[int], None]]:
    """Let each watcher see the inputs of the submodule that it is named by. Yields how a thread says which chunk it
    is about to compute."""
    current = threading.local()

    def hook(watcher: Watcher) -> Callable[[Any, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: watcher.see(current.chunk, *inputs)

    with ExitStack() as hooks:
        for name, watcher in watchers.items():
            hooks.callback(module.get_submodule(name).register_forward_pre_hook(hook(watcher)).remove)
        yield lambda chunk: setattr(current, "chunk", chunk)


def run_layer(
    layer: Any,
    call: Mapping[str, Any],
    source: HiddenStates,
    target: HiddenStates | None,
    watchers: Mapping[str, Watcher],
    pool: Workers,
) -> None:
    """`source` through `layer` into `target`, observed on the way.

    Args:
        call: the layer's keyword arguments for one sample.
        target: None where only the watchers matter.
    """
    import torch

    pieces = source.chunks()
    with watching(layer, watchers) as announce:

        def forward(chunk: int) -> None:
            announce(chunk)
            with torch.inference_mode():
                made = layer(source.read(pieces[chunk]), **call)
                if target is not None:
                    target.write(pieces[chunk], made[0] if isinstance(made, tuple) else made)

        in_waves(len(pieces), source.chunk_tokens, forward, watchers.values(), pool)


def run_expert(
    module: Any,
    routing: Routing,
    number: int,
    target: HiddenStates | None,
    watchers: Mapping[str, Watcher],
    pool: Workers,
) -> None:
    """Add what expert `number` makes of its tokens to `target`."""
    import torch

    shares = routing.shares(number)
    with watching(module, watchers) as announce:

        def forward(chunk: int) -> None:
            announce(chunk)
            share = shares[chunk]
            with torch.inference_mode():
                made = module(routing.inputs(share))
                if target is not None:  # no token comes to an expert twice, so no two threads add to one
                    target.add(share.tokens, made * share.weights[:, None].to(made.device))

        in_waves(len(shares), CHUNK_TOKENS, forward, watchers.values(), pool)


def in_waves(
    chunks: int, chunk_tokens: int, work: Callable[[int], None], watchers: Iterable[Watcher], pool: Workers
) -> None:
    """`work` on the number of each chunk, as many at once as the watchers' Gram matrices take up together."""
    grams = [found.gram for found in watchers if isinstance(found, InputObserver) and found.gram is not None]
    step = wave_chunks(chunk_tokens) if grams else max(1, chunks)
    for start in range(0, chunks, step):
        wave = range(start, min(start + step, chunks))
        pool.run(partial(work, chunk) for chunk in wave)
        pool.run(product for gram in grams for product in gram.products())


def wave_chunks(chunk_tokens: int) -> int:
    return max(1, WAVE_TOKENS // chunk_tokens)
