"""`trtllm-kit profile`: make predictions follow the user's own measurements."""

from __future__ import annotations

from pathlib import Path

import click

from profiles import skus
from trtllm_kit.cli import options
from trtllm_kit.cli.predict import Shapes, configs


@click.group()
def profile() -> None:
    """Make predictions follow your own measurements."""


@profile.command()
@click.argument(
    "results",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="RESULTS...",
)
@click.option("--sku", "sku_id", required=True, help="The SKU that was measured.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Another file than the user's own.")
@configs
@options.output
def calibrate(
    results: tuple[Path, ...], sku_id: str, out: Path | None, config_paths: tuple[str, ...], output: str
) -> None:
    """Refine predictions for a SKU with 8 to 32 measured points, kept in the user's config folder.

    RESULTS are reports of `trtllm-kit validate --output json`, or JSON or CSV files of points: model, precision, isl,
    osl, concurrency, with tpot_ms, ttft_ms or output_tokens_per_s.
    """
    from profiles.performance import calibration, points

    sku = skus.find(sku_id)
    found = [point for path in results for point in points.read(path)]
    scales = calibration.refine(points.misses(found, sku, Shapes(config_paths)))
    path = out or calibration.store()
    calibration.save(scales, path)
    if output == "json":
        options.show_json({"path": str(path), "scales": {key: vars(scale) for key, scale in scales.items()}})
        return
    for key, scale in scales.items():
        click.echo(
            f"{key}: decode x{scale.decode:g}, prefill x{scale.prefill:g} of the time predicted,"
            f" interval x{scale.width:g}, from {scale.points} points"
        )
    click.echo(f"kept in {path}")
