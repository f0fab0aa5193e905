"""A whole pipeline of a size, in this process and on disk, and requests for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property, lru_cache, partial
from pathlib import Path

from benchmarks.gpu.cases import Case, Latest, Options, Row, free_memory
from benchmarks.gpu.networks import FACTOR, MODES, SIDES_PX
from benchmarks.random_networks import configs, row_flops, write_random
from benchmarks.rewritten import rewrite
from benchmarks.standin import CHECKPOINTS
from benchmarks.workload import Kind
from build_engines import TargetOptions, build
from networks import ClipTextEncoder, Unet, VaeDecoder, VaeEncoder
from networks.stored import StoredNetwork, read_network
from pipelines import load_all
from runners.in_process import LocalNetworks
from runners.torch_session import TorchSession

NAME = "random"
UNET = f"{NAME}_unet"


class RandomPipeline:
    """SD1.5's networks, or tiny ones, with random weights, for the torch backend."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.size = "tiny" if options.is_rehearsal else "sd15"
        self._networks: Latest[LocalNetworks] = Latest()

    @property
    def kind(self) -> Kind:
        """Requests for one SEG with guidance."""
        return Kind(SIDES_PX[self.size], self._options.steps)

    @cached_property
    def row_flops(self) -> int:
        """Operations of the UNet on a row."""
        return row_flops(Unet(configs(self.size)["unet"]), SIDES_PX[self.size] // FACTOR)

    @cached_property
    def repository(self) -> Path:
        """Its folder, written now: built without a checkpoint, whose making, loading and checking
        would take minutes."""
        source = self._options.folder / "source"
        build(CHECKPOINTS / "sd15", "tiny", source, TargetOptions("torch"))
        made = configs(self.size)
        exports = {
            each.role: each
            for each in (
                ClipTextEncoder(made["text_encoder"]),
                Unet(made["unet"]),
                VaeEncoder(made["vae"]),
                VaeDecoder(made["vae"]),
            )
        }
        options = self._options
        folder = options.folder / "pipeline"
        shutil.rmtree(folder, ignore_errors=True)
        rewrite(
            source,
            folder,
            NAME,
            context_dim=made["unet"]["cross_attention_dim"],
            write=lambda role, version, config: write_random(
                exports[role], version, options.device, options.precision
            ),
            precision=options.precision,
        )
        return folder

    @cached_property
    def _stored(self) -> Mapping[str, StoredNetwork]:
        """The networks by their models' names, on the device."""
        ((descriptor, folder),) = load_all([self.repository]).values()
        return {
            network.model: read_network(folder / network.model / "1", self._options.device)
            for network in descriptor.all_networks
        }

    def networks(self, mode: str) -> LocalNetworks:
        """Its networks in this process; those of the mode before are freed."""
        return self._networks.get(mode, lambda: self._opened(mode))

    def _opened(self, mode: str) -> LocalNetworks:
        sessions = {
            name: TorchSession(stored.network, stored.module, self._options.device, MODES[mode])
            for name, stored in self._stored.items()
        }
        return _OpenNetworks(self.repository, sessions)

    def free(self) -> None:
        """Frees the networks in this process; they can be had again."""
        self._networks.free()
        self.__dict__.pop("_stored", None)
        free_memory()


class _OpenNetworks(LocalNetworks):
    """Networks that are open already."""

    def __init__(self, repository: Path, sessions: Mapping[str, TorchSession]) -> None:
        super().__init__([repository])
        self._sessions.update(sessions)


def pipeline(options: Options, stack: ExitStack) -> list[Case]:
    """One row: making it takes time that no other part has."""
    made = random_pipeline(options)
    return [Case({"networks": made.size}, partial(_written, made))]


def _written(made: RandomPipeline, seconds: float) -> Row:
    start_s = time.perf_counter()
    files = [path for path in made.repository.rglob("*") if path.is_file()]
    taken_s = time.perf_counter() - start_s
    size_gb = sum(path.stat().st_size for path in files) / 1e9
    return {"s": round(taken_s, 1), "GB": round(size_gb, 2)}


@lru_cache(maxsize=1)
def random_pipeline(options: Options) -> RandomPipeline:
    """The pipeline that the parts share."""
    return RandomPipeline(options)
