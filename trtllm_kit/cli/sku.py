"""`trtllm-kit sku`: the GPUs that the kit knows, the one in this machine, and what fits on it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from profiles import detect as detection
from profiles import precisions, prices, skus
from profiles.skus import Sku
from trtllm_kit.cli import options

_FIGURES = ("memory_gb", "bandwidth_gbs", "bf16_tflops", "fp8_tflops", "fp4_tflops", "nvlink_gbs")


@click.group()
def sku() -> None:
    """List, show and detect GPU SKUs, MIG slices included; see what fits on one."""


@sku.command("list")
@click.option("--mig", is_flag=True, help="MIG slices too.")
@options.output
def list_(mig: bool, output: str) -> None:
    """Every SKU with its figures; an empty cell is not confirmed, 0 is a unit that the GPU does not have."""
    rows = [_row(item) for item in (*skus.skus().values(), *(skus.slices().values() if mig else ()))]
    if output == "json":
        options.show_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("id")
    table.add_column("arch")
    for name in ("SM", "GB", "GB/s", "bf16", "fp8", "fp4 TFLOP/s", "NVLink GB/s", "$/h"):
        table.add_column(name, justify="right")
    for row in rows:
        usd = row["usd_per_gpu_hour"]["on_demand"]
        figures = [_plain(row[name]) for name in _FIGURES]
        table.add_row(row["id"], row["arch"], _plain(row["sm"]), *figures, "" if usd is None else f"{usd:.2f}")
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)


@sku.command()
@click.argument("sku_id", metavar="SKU")
@options.output
def show(sku_id: str, output: str) -> None:
    """All facts of SKU with their source: memory, speed, names, labels, MIG profiles, prices."""
    found = skus.find(sku_id)
    facts = _facts(found)
    if output == "json":
        options.show_json(facts)
        return
    for name, value in facts.items():
        if name not in ("mig_profiles", "prices"):
            text = ", ".join(map(str, value)) if isinstance(value, list) else _plain(value)
            click.echo(f"{name:<18} {text or 'not confirmed'}")
    for profile in facts["mig_profiles"]:
        click.echo(f"{'mig':<18} {profile['id']}: up to {profile['max_instances']}, {profile['memory_share']} memory")
    for offer in facts["prices"]:
        mark = ", an estimate" if offer["estimate"] else ""
        click.echo(
            f"{'price':<18} ${offer['usd_per_gpu_hour']:.3f}/h {offer['kind']} at {offer['provider']}{mark}"
            f" ({offer['source']}, {offer['date']})"
        )


@sku.command()
@options.output
def detect(output: str) -> None:
    """The GPUs of this machine by PCI id, then by exact name, with their MIG slices."""
    found = detection.detect()
    rows = [_detected(gpu) for gpu in found.gpus]
    if output == "json":
        options.show_json({"driver_version": found.driver_version, "reason": found.reason, "gpus": rows})
        return
    if not rows:
        click.echo(f"no GPU: {found.reason}", err=True)
    for row in rows:
        click.echo(f"{row['index']}  {row['sku'] or 'unknown'}  {row['name']}  ({row['how']})")
        for part in row["mig_slices"]:
            click.echo(f"   {part['sku'] or 'unknown'}  MIG {part['profile']}  {part['uuid']}")


@sku.command()
@click.argument("sku_id", metavar="SKU")
@click.option("--model", "model_name", required=True, help="Folder, config.json or the name of a public model.")
@click.option("--precision", default="bf16", show_default=True, help="Of the weights.")
@click.option("--kv-dtype", default="auto", show_default=True, type=click.Choice(list(precisions.KV_DTYPES)))
@click.option("--tp", "tp_size", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--pp", "pp_size", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--max-batch-size", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--max-num-tokens", default=8192, show_default=True, type=click.IntRange(min=1))
@click.option("--max-seq-len", default=8192, show_default=True, type=click.IntRange(min=1))
@click.option("--lengths", help="fixed:4096, uniform:50:2048, or a file with a length a line.  [default: max_seq_len]")
@click.option("--draft", help="A draft model beside it, in 16 bits.")
@options.output
def fit(
    sku_id: str,
    model_name: str,
    precision: str,
    kv_dtype: str,
    tp_size: int,
    pp_size: int,
    lengths: str | None,
    draft: str | None,
    output: str,
    **limits: Any,
) -> None:
    """The memory ledger of a model on SKU, the largest safe limits, the sequences that fit; exit 8 when it does not."""
    from profiles import fit_check, kv, ledger
    from trtllm_kit.cli.model_source import read_model

    model = read_model(model_name)
    place = ledger.Placement(
        shape=model.shape,
        weights=model.weights,
        weight_bits=precisions.find(precision).weight_bits,
        sku=_with_memory(skus.find(sku_id)),
        tp_size=tp_size,
        pp_size=pp_size,
        limits=ledger.Limits(kv_bits=precisions.KV_BITS[kv_dtype], **limits),
        draft=read_model(draft).shape if draft else None,
    )
    made = fit_check.check_fits(place)
    spread = kv.Lengths.parse(lengths or f"fixed:{place.limits.max_seq_len}")
    held = kv.sequences(made.kv_pool_bytes, made.kv_token_bytes, spread, place.limits.tokens_per_block)
    part = fit_check.smallest_slice(place)
    answers: dict[str, int | str] = {
        "kv_pool_tokens": made.kv_tokens,
        "largest_max_batch_size": ledger.largest_batch(place, max(spread.values)),
        "largest_max_num_tokens": ledger.largest_num_tokens(place),
        "longest_sequence": ledger.largest_seq_len(place),
        "sequences_on_average": held.on_average,
        "sequences_safely": held.safely,
        "sequences_at_full_length": held.at_full_length,
        "smallest_mig_slice": part.id if part else "",
    }
    if output == "json":
        lines = [asdict(line) for line in made.lines]
        options.show_json({"lines": lines, "kv_sequence_bytes": made.sequence_bytes, **answers})
        return
    click.echo(
        f"{model.name} {precision} on {place.sku.id} with tp{tp_size}pp{pp_size}, weights by {_origin(model.weights)}"
    )
    click.echo(fit_check.table(made))
    for name, value in answers.items():
        click.echo(f"  {name:<26}{value if isinstance(value, str) else format(value, ',')}")


def _origin(weights: Any) -> str:
    return "config.json" if weights is None else str(weights.origin)


def _with_memory(found: Sku) -> Sku:
    if found.memory_bytes is None:
        from trtllm_kit.errors import SpecError

        raise SpecError(
            f"the memory of {found.id} is read where the build runs",
            expected="a GPU SKU",
            fix="choose one of `sku list`",
        )
    return found


def _row(item: Sku) -> dict[str, Any]:
    book = prices.load()
    cheapest = {kind: book.cheapest(item, kind) for kind in prices.KINDS}
    return {
        "id": item.id,
        "name": item.name,
        "arch": item.arch,
        "sm": item.sm,
        "memory_gb": item.memory_gb,
        "bandwidth_gbs": item.bandwidth_gbs,
        **{f"{kind}_tflops": rate for kind, rate in item.dense_tflops.items()},
        "nvlink_gbs": item.nvlink_gbs,
        "trtllm_supported": item.trtllm_supported,
        "usd_per_gpu_hour": {kind: price and price.usd_per_gpu_hour for kind, price in cheapest.items()},
    }


def _facts(found: Sku) -> dict[str, Any]:
    book = prices.load()
    offers = [offer for kind in prices.KINDS for offer in book.offers(found, kind)]
    row = _row(found)
    del row["usd_per_gpu_hour"]
    return {
        **row,
        "memory_bytes": found.memory_bytes,
        "pcie": found.pcie,
        "tdp_w": found.tdp_w,
        "nvml_names": list(found.nvml_names),
        "pci_device_ids": list(found.pci_device_ids),
        "kubernetes_label": found.k8s_label,
        "source": found.source,
        "date": found.date,
        "note": found.note,
        "mig_profiles": [
            {
                "id": skus.slice_id(found.id, profile.name),
                "profile": profile.name,
                "max_instances": profile.max_instances,
                "memory_share": str(profile.memory_share),
                "compute_share": str(profile.compute_share),
            }
            for profile in found.mig_profiles
        ],
        "prices": [{**asdict(offer), "date": str(offer.date)} for offer in offers],
    }


def _detected(gpu: detection.DetectedGpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "name": gpu.name,
        "sku": gpu.sku and gpu.sku.id,
        "how": gpu.how,
        "uuid": gpu.reading.uuid,
        "memory_bytes": gpu.reading.memory_bytes,
        "mig_slices": [
            {"sku": part and part.id, **asdict(reading)}
            for part, reading in zip(gpu.slices, gpu.reading.mig_slices, strict=True)
        ],
    }


def _plain(value: float | str | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, (int, float)) and value < 1e6 else str(value)
