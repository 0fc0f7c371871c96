"""The `trtllm-kit` command: a table of lazily loaded subcommands, and the one place that exits."""

from __future__ import annotations

import os
import sys
import traceback

import click

from trtllm_kit import __version__
from trtllm_kit.cli.lazy_group import LazyGroup
from trtllm_kit.errors import KitError

_COMMANDS = {
    "init": ("trtllm_kit.cli.init:init", "Write a commented trtllm-kit.yaml for a model."),
    "doctor": ("trtllm_kit.cli.doctor:doctor", "Tell what this machine can do, and how to mend what it cannot."),
    "sku": ("trtllm_kit.cli.sku:sku", "List, show and detect GPUs and their MIG slices; see what fits on one."),
    "plan": ("trtllm_kit.cli.plan:plan", "Show what a build will do and why, or which configuration serves a load."),
    "predict": ("trtllm_kit.cli.predict:predict", "Predict throughput and latency for rows of a CSV file."),
    "profile": ("trtllm_kit.cli.profile:profile", "Make predictions follow your own measurements."),
    "cost": ("trtllm_kit.cli.cost:cost", "Money for tokens: prices, break-even, GPU mix, utilisation, bills."),
    "build": ("trtllm_kit.cli.build:build", "Build a model, or one stage of it."),
    "checkpoint": ("trtllm_kit.cli.checkpoint:checkpoint", "Look into a checkpoint, quantized or not."),
    "evaluate": ("trtllm_kit.cli.evaluate:evaluate", "Tell what a quantized checkpoint lost against its base."),
    "deploy": ("trtllm_kit.cli.deploy:deploy", "Serve an artifact with Triton; status, logs and stop."),
    "generate": ("trtllm_kit.cli.generate:generate", "Stream a completion of a deployment to the terminal."),
    "validate": ("trtllm_kit.cli.validate:validate", "Prove a deployment: smoke, parity, throughput, verdict."),
    "mock-server": ("trtllm_kit.cli.mock_server:mock_server", "Serve set latencies and faults, to check clients with."),
    "artifact": ("trtllm_kit.cli.artifact:artifact", "List, show, verify, sign, push, pull and collect artifacts."),
    "nightly": ("trtllm_kit.cli.nightly:nightly", "Rebuild what changed, prove it no worse, promote it or not."),
    "migrate": ("trtllm_kit.cli.migrate:migrate", "Move an artifact's spec to another runtime, and say what is lost."),
    "completion": ("trtllm_kit.cli.completion:completion", "Print the shell completion script."),
}


@click.group(cls=LazyGroup, table=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="trtllm-kit")
def cli() -> None:
    """From a Hugging Face checkpoint to a validated Triton deployment of TensorRT-LLM.

    \b
    trtllm-kit init --model MODEL     write a spec
    trtllm-kit build model            quantize, compile, render, package
    trtllm-kit deploy                 serve the artifact with Triton
    trtllm-kit validate               prove it: smoke, parity, throughput
    """


def main() -> None:
    """Run the command line; the only place that turns an error into an exit code."""
    sys.exit(_run())


def _run() -> int:
    try:
        result = cli.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except KitError as error:
        _complain(str(error))
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.exceptions.Abort, KeyboardInterrupt):
        _complain("interrupted; what was finished is kept, and the same command goes on from there")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to say
        return 0
    except Exception:
        traceback.print_exc()
        _complain("this is a bug in trtllm-kit; please report it with the lines above")
        return 1


def _complain(text: str) -> None:
    red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    sys.stderr.write(f"\x1b[31merror:\x1b[0m {text}\n" if red else f"error: {text}\n")
