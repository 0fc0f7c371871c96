"""STAND-IN for the library of the same name, for tests only: no model, it says the prompt's own words again and again.

Strict where the real classes are: an argument that they do not know is refused. It proves that the repository loads and
that the model code drives an asynchronous generator rightly; it proves nothing about the real library.
"""

import asyncio
from types import SimpleNamespace

KNOWN = {
    "model",
    "tokenizer",
    "backend",
    "trust_remote_code",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "max_batch_size",
    "max_num_tokens",
    "max_seq_len",
    "max_beam_width",
    "enable_chunked_prefill",
    "kv_cache_config",
    "scheduler_config",
    "cuda_graph_config",
}


class SamplingParams:
    def __init__(self, max_tokens=32, stop=None, temperature=None, top_k=None, top_p=None, seed=None, best_of=None):
        self.max_tokens = max_tokens
        self.stop = stop or []
        self.pause_s = (seed or 0) / 1000  # the tests' way to make a generation last


class LLM:
    def __init__(self, **arguments):
        if unknown := arguments.keys() - KNOWN:
            raise ValueError(f"unknown arguments: {unknown}")
        if not arguments["model"].startswith("/"):
            raise ValueError(f"no model at {arguments['model']}")

    def generate_async(self, prompt, sampling_params=None, lora_request=None, streaming=False):
        return Generation(prompt.split(), sampling_params, streaming)

    def shutdown(self):
        pass


class Generation:
    def __init__(self, words, params, streaming):
        self._words, self._params, self._streaming = words, params, streaming
        self._aborted = False

    def abort(self):
        self._aborted = True

    async def __aiter__(self):
        text = ""
        for count in range(1, self._params.max_tokens + 1):
            await asyncio.sleep(self._params.pause_s)
            text += " " + self._words[(count - 1) % len(self._words)]
            done = self._aborted or count == self._params.max_tokens or any(text.endswith(s) for s in self._params.stop)
            if self._streaming or done:
                output = SimpleNamespace(text=text, finish_reason="length", stop_reason=None, cumulative_logprob=-2.5)
                yield SimpleNamespace(outputs=[output], finished=done)
            if done:
                return
