"""What commands share once their options are parsed: the store, the talk, and a resolved plan with its pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.digests import DigestCache
from builder.fetch import fetch
from builder.pipeline import Pipeline
from builder.quantize.calibration.resources import Resources
from builder.resolve import resolve
from builder.store import Store, default_root
from serving.render import RepositoryRenderer
from trtllm_kit import spec as specs
from trtllm_kit.console import StderrTalk
from trtllm_kit.errors import SpecError

if TYPE_CHECKING:
    from builder.depot import Depot
    from serving.client.request import Endpoint
    from serving.deploy.state import Deployment


def open_store(root: Path | None) -> Store:
    """The store that the user chose, else the default."""
    return Store(root.expanduser().absolute() if root else default_root())


def open_depot(url: str | None, store_root: Path | None) -> Depot:
    """The depot that the user chose, else the one in the store."""
    from builder.depot.depot import Depot, default_url

    return Depot.open(url or default_url(open_store(store_root)))


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """The options of every command that resolves a spec, as click hands them over."""

    spec_path: Path
    settings: tuple[str, ...]
    store_root: Path | None
    model: str | None
    precision: str | None
    sku: str | None
    runtime: str | None
    max_ram: int | None
    max_vram: int | None
    output: str
    quiet: bool

    @property
    def talk(self) -> StderrTalk:
        return StderrTalk(quiet=self.quiet or self.output == "json")

    def pipeline(self) -> Pipeline:
        """Load the spec, fetch and check the checkpoint, resolve every `auto`."""
        store, talk = open_store(self.store_root), self.talk
        spec = self._spec()
        digests = DigestCache(store.digests_file)
        checkpoint = fetch(spec.model, trust_remote_code=spec.trust_remote_code, digests=digests, talk=talk)
        digests.save()
        plan = resolve(spec, checkpoint)
        for warning in plan.warnings:
            talk.warn(warning)
        resources = Resources(max_ram_bytes=self.max_ram, max_vram_bytes=self.max_vram)
        return Pipeline(plan=plan, store=store, renderer=RepositoryRenderer(), resources=resources)

    def _spec(self) -> specs.Spec:
        flags = {"model": self.model, "precision": self.precision, "target.sku": self.sku, "runtime": self.runtime}
        overrides: dict[str, Any] = dict(specs.override(text) for text in self.settings)
        overrides |= {key: value for key, value in flags.items() if value is not None}
        if self.model is not None and not self.spec_path.exists():
            return specs.parse({}, overrides, origin="the command line")
        return specs.load(self.spec_path, overrides)


def open_endpoint(store: Store, deployment: str | None, url: str | None) -> Endpoint:
    """Where to send requests: an address, a named deployment, or the only one there is."""
    from serving.client.request import Endpoint
    from serving.deploy.readiness import endpoint_of

    return endpoint_of(find_deployment(store, deployment)) if url is None else Endpoint.from_url(url)


def find_deployment(store: Store, name: str | None) -> Deployment:
    """The named deployment, or the only one there is; SpecError when that is not one."""
    from serving.deploy import state

    names = [row.name for _, row in state.read_all(store.root)]
    if name is None and len(names) != 1:
        raise SpecError(
            f"{len(names) or 'no'} deployments in {store.root}" + (f": {', '.join(names)}" if names else ""),
            expected="one deployment, or its name",
            fix="name one, give --url, or start one with `trtllm-kit deploy`",
        )
    return state.find(store.root, name or names[0])[1]
