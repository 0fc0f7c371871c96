"""What `validate` knows about the thing behind the endpoint: from its artifact, or from what the user says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.digests import DigestCache
from builder.fetch import fetch
from builder.store import Store
from profiles import capacity, model_shape, precisions, skus
from profiles.cost import Worked
from profiles.model_shape import ModelShape
from trtllm_kit.cli import options
from trtllm_kit.cli.model_source import read_model
from trtllm_kit.cli.price_options import PriceRequest, price_options
from trtllm_kit.console import Silent
from trtllm_kit.errors import KitError, UsageError
from trtllm_kit.files import read_json
from trtllm_kit.identifier import BuildIdentifier, model_slug

if TYPE_CHECKING:
    from profiles.performance import Setup
    from profiles.skus import Sku
    from serving.validate.run import Subject

_COUNT = click.IntRange(min=1)

_OPTIONS = (
    click.option("--sku", "sku_id", help="GPU SKU, where no artifact says it."),
    click.option("--model", help="Its model, likewise: folder, config.json or a public model's name."),
    click.option("--precision", help="Its precision, likewise."),
    click.option("--tp", "tp_size", type=_COUNT, default=1, show_default=True),
    click.option("--pp", "pp_size", type=_COUNT, default=1, show_default=True),
    click.option("--price", type=click.FloatRange(min=0, min_open=True), metavar="USD", help="Of a GPU hour."),
)

subject_options = options.together(*_OPTIONS, price_options)
"""All of them, with those of prices."""


@dataclass(frozen=True, kw_only=True)
class _Replica:
    """What is served; None where nobody says."""

    identifier: str | None
    sku: Sku | None
    shape: ModelShape | None
    precision: str | None
    kv_bits: float
    tp_size: int
    pp_size: int


@dataclass(frozen=True, kw_only=True)
class SubjectRequest:
    """The options as click hands them over."""

    sku_id: str | None
    model: str | None
    precision: str | None
    tp_size: int
    pp_size: int
    price: float | None
    prices: PriceRequest

    @classmethod
    def take(cls, keywords: dict[str, Any]) -> SubjectRequest:
        """Move its options out of a command's keywords."""
        prices = PriceRequest(**{field.name: keywords.pop(field.name) for field in fields(PriceRequest)})
        own = {field.name: keywords.pop(field.name) for field in fields(cls) if field.name != "prices"}
        return cls(**own, prices=prices)

    def subject(self, store: Store, folder: Path | None, content: Mapping[str, Any] | None) -> Subject:
        """Checks, prediction, price and baseline for it; `content` is the manifest of the artifact in `folder`."""
        from serving.validate.run import Subject

        replica = self._replica(store, folder, content)
        setup, no_setup = _setup(replica)
        hour, no_price = self._hour(replica)
        shared: dict[str, Any] = {
            "setup": setup,
            "no_setup_reason": no_setup,
            "usd_per_hour": hour,
            "no_price_reason": no_price,
        }
        if folder is None or content is None:
            return Subject(about={"identifier": replica.identifier} if replica.identifier else {}, **shared)
        checkpoint, reason = _same_weights(store, content)
        return Subject(
            tokenizer_dir=folder / "tokenizer",
            checkpoint=checkpoint,
            no_checkpoint_reason=reason,
            add_special_tokens=content["spec"]["serving"]["add_special_tokens"],
            about={key: content[key] for key in ("identifier", "digest", "runtime", "precision", "target", "versions")},
            **shared,
        )

    def _replica(self, store: Store, folder: Path | None, content: Mapping[str, Any] | None) -> _Replica:
        if folder is not None and content is not None:
            self._refuse_what_is_known(str(content["identifier"]))
            target, kv_dtype = content["target"], str(content["spec"]["kv_cache"]["dtype"])
            return _Replica(
                identifier=str(content["identifier"]),
                sku=skus.find(str(target["sku"])),
                shape=_shape(store, folder, content),
                precision=str(content["precision"]),
                kv_bits=precisions.KV_BITS[kv_dtype],
                tp_size=int(target["tp_size"]),
                pp_size=int(target["pp_size"]),
            )
        precision = precisions.find(self.precision).id if self.precision else None
        return _Replica(
            identifier=self._identifier(),
            sku=skus.find(self.sku_id) if self.sku_id else None,
            shape=read_model(self.model).shape if self.model else None,
            precision=precision,
            kv_bits=precisions.KV_BITS[capacity.usual_kv_dtype(precision)] if precision else 16,
            tp_size=self.tp_size,
            pp_size=self.pp_size,
        )

    def _refuse_what_is_known(self, identifier: str) -> None:
        if self.sku_id or self.model or self.precision or self.tp_size * self.pp_size > 1:
            raise UsageError(
                f"the artifact {identifier} says its SKU, model, precision and parallelism itself",
                expected="--sku, --model, --precision, --tp and --pp only with a --url and no artifact",
            )

    def _identifier(self) -> str | None:
        if not (self.model and self.precision and self.sku_id):
            return None
        return str(
            BuildIdentifier(
                model=model_slug(self.model),
                precision=self.precision,
                sku=self.sku_id,
                tp=self.tp_size,
                pp=self.pp_size,
                runtime="served",
            )
        )

    def _hour(self, replica: _Replica) -> tuple[Worked | None, str]:
        gpus = replica.tp_size * replica.pp_size
        usd, source = self.price, "as given"
        if usd is None:
            if replica.sku is None:
                return None, "no price without a SKU: give --sku or --price"
            found = self.prices.book().cheapest(replica.sku, self.prices.kind, self.prices.provider)
            if found is None:
                return None, f"no {self.prices.kind} price of {replica.sku.id} is known: give --price"
            self.prices.warn_of_old([found])
            usd, source = found.usd_per_gpu_hour, f"{found}, {found.source}, {found.date}"
        formula = f"{gpus} GPU{'s' * (gpus > 1)} × ${usd:g} ({source})"
        return Worked("an hour of the replica", usd * gpus, "$/h", formula), ""


def _setup(replica: _Replica) -> tuple[Setup | None, str]:
    """The replica for the performance model, or why it cannot say anything about it."""
    if replica.sku is not None and replica.sku.is_cpu:
        return None, "the profiles predict GPUs, this runs on the cpu"
    if replica.sku is None or replica.shape is None or replica.precision is None:
        known = {"--sku": replica.sku, "--model": replica.shape, "--precision": replica.precision}
        missing = ", ".join(name for name, value in known.items() if value is None)
        return None, f"not known what is served: {missing} would say it"
    from profiles import performance

    setup = performance.Setup(
        shape=replica.shape,
        precision=replica.precision,
        kv_bits=replica.kv_bits,
        sku=replica.sku,
        tp_size=replica.tp_size,
        pp_size=replica.pp_size,
    )
    try:
        performance.at_concurrency(setup, 1, 1, 1)
    except KitError as error:
        return None, error.happened
    return setup, ""


def _shape(store: Store, folder: Path, content: Mapping[str, Any]) -> ModelShape | None:
    """From the engine's own config, else from the checkpoint it was built from, else by the model's name."""
    identifier = BuildIdentifier.parse(str(content["identifier"]))
    try:
        raw = read_json(folder / "engine" / "config.json", "the engine's config.json")
        return ModelShape.from_config(raw.get("pretrained_config") or raw, identifier.model)
    except (KitError, AttributeError):
        pass
    record = store.get_ref(str(identifier)) or {}
    for source in (str(record.get("source", "")), identifier.model):
        try:
            return read_model(source).shape if Path(source).is_dir() else model_shape.find(source)
        except KitError:
            continue
    return None


def _same_weights(store: Store, content: Mapping[str, Any]) -> tuple[Path | None, str]:
    """The checkpoint that the artifact was built from, if its bytes are still the same; else why there is none."""
    if content["runtime"] != "cpu" or content["precision"] not in ("bf16", "fp16"):
        return None, "greedy tokens can only equal transformers' for unquantized builds of the cpu runtime"
    record = store.get_ref(content["identifier"])
    if record is None:
        return None, "the store does not say where the checkpoint lay"
    trusted, digests = bool(content["spec"]["trust_remote_code"]), DigestCache(store.digests_file)
    try:
        found = fetch(record["source"], trust_remote_code=trusted, digests=digests, talk=Silent())
    except KitError as error:
        return None, f"the checkpoint cannot be read any more: {error.happened}"
    if found.digest != content["model"]["digest"]:
        return None, f"{record['source']} has changed since the build"
    return found.path, ""
