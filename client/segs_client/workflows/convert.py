"""Converts a detailer node to a request, with notes on the parts that are missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any

from pydantic import ValidationError

from segs_client.contract import DetailRequest, from_validation_error
from segs_client.workflows.graph import WIDGETS, Graph, Node, WorkflowError, read

DETAILER = "SEGSDetailer"
RELATED = ("DetailerForEach", "DetailerForEachPipe", "FaceDetailer", "FaceDetailerPipe")
"""Nodes with the same options that also paste; some also detect the SEGS."""
_OPTIONS = WIDGETS[DETAILER]
_CONTROLNETS = ("ImpactControlNetApplySEGS", "ImpactControlNetApplyAdvancedSEGS")
_LORAS = ("LoraLoader", "LoraLoaderModelOnly")
_CLIP_CHANGES = (*_LORAS, "CLIPSetLastLayer")
"""Nodes between a checkpoint's text encoder and the prompts that are carried over."""
_MOST_HOPS = 100


@dataclass(frozen=True)
class Conversion:
    """The request of one node, without its SEGS.

    Args:
        node: such as ``node 12 (SEGSDetailer)``.
        request: with the options of the workflow.
        notes: missing options and those that cannot be converted, one sentence each.
    """

    node: str
    request: DetailRequest
    notes: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The fields that differ from the contract's defaults, and an empty ``segs``."""
        content = self.request.model_dump(mode="json", exclude_defaults=True)
        return {"pipeline": content.pop("pipeline"), "segs": {"items": []}, **content}


def convert(text: str | bytes, pipelines: Mapping[str, str] | None = None) -> list[Conversion]:
    """The requests of all detailer nodes of a workflow, in the file's order.

    Args:
        text: a workflow in the API format or the editor's.
        pipelines: checkpoint file → pipeline; the default is the file's name.

    Raises:
        WorkflowError: no workflow, or one without a detailer.
    """
    graph = read(text)
    detailers = [node for node in graph.of_kind(DETAILER, *RELATED) if not node.muted]
    if not detailers:
        known = ", ".join((DETAILER, *RELATED))
        raise WorkflowError(f"no node of the workflow is one of {known}")
    return [_Converter(graph, pipelines or {}, node).run() for node in detailers]


@dataclass
class _Converter:
    graph: Graph
    pipelines: Mapping[str, str]
    node: Node
    notes: list[str] = field(default_factory=list)

    def run(self) -> Conversion:
        content: dict[str, Any] = {}
        pipe = self.node
        if "basic_pipe" in self.node.links or "positive" not in self.node.links:
            pipe = self._pipe(self.node, "basic_pipe")
        content["pipeline"] = self._pipeline(pipe)
        content["prompt"] = self._text(pipe, "positive")
        content["negative"] = self._text(pipe, "negative")
        content |= self._options()
        content |= self._refiner()
        content |= self._segs()
        content["paste"] = self._paste()
        self._rest()
        request = self._valid(content)
        return Conversion(str(self.node), request, tuple(dict.fromkeys(self.notes)))

    def _note(self, text: str) -> None:
        self.notes.append(text)

    def _value(self, node: Node, name: str) -> Any:
        """An input's value, or that of the linked primitive node; None: unknown."""
        if name not in node.links:
            return node.values.get(name)
        source = self.graph.source(node, name)
        if source is not None and len(source.values) >= 1 and not source.links:
            value = source.values.get("value", next(iter(source.values.values())))
            if isinstance(value, str | int | float):
                return value
        self._note(f"{name}: comes from {source or 'a node that is missing'}; set it yourself")
        return None

    def _options(self) -> dict[str, Any]:
        found = {}
        for name in _OPTIONS:
            if (value := self._value(self.node, name)) is not None:
                found[name] = value
        # Options of optional inputs, and those that the node lacks, have their defaults.
        missing = [name for name in self.node.old if name in _OPTIONS]
        if missing:
            self._note(f"{', '.join(missing)}: not in the file; the defaults are taken")
        if self.node.kind != DETAILER:
            self._note(
                f"{self.node.kind} has SEGSDetailer's options, but the service was compared with "
                "SEGSDetailer alone: compare a few pictures"
            )
        return found

    def _pipe(self, node: Node, name: str) -> Node:
        """The node with the model and the conditionings of a basic_pipe."""
        source = self.graph.source(node, name)
        hops = 0
        while source is not None and hops < _MOST_HOPS:
            if "positive" in source.links or "model" in source.links:
                return source
            source = self.graph.source(source, "basic_pipe")
            hops += 1
        self._note(
            f"{name}: no node with a model and prompts leads there; set pipeline and prompts"
        )
        return Node("", "")

    def _pipeline(self, pipe: Node) -> str:
        """The pipeline's name by the checkpoint at the end of the chain of models."""
        chain = list(self._chain(pipe, "model"))
        for node in chain:
            if node.kind not in _LORAS and "ckpt_name" not in node.values:
                self._note(f"{node} changes the model; that is not carried over")
        if not chain or "ckpt_name" not in chain[-1].values:
            self._note("pipeline: no checkpoint leads to the node; name the pipeline yourself")
            return "base"
        self._parts(pipe, chain[-1])
        checkpoint = str(chain[-1].values["ckpt_name"])
        name = self.pipelines.get(checkpoint) or _name(checkpoint)
        options = [*self._loras(pipe, chain), *self._clip_skip(pipe)]
        build = " ".join([shlex.quote(checkpoint), f"--name {name}", *options])
        self._note(f"pipeline {name}: build it with python -m build_engines {build}")
        return name

    def _chain(self, node: Node, name: str) -> Iterator[Node]:
        """The nodes that an input comes from, one behind the other, up to the checkpoint's."""
        source = self.graph.source(node, name)
        for _ in range(_MOST_HOPS):
            if source is None:
                return
            yield source
            if "ckpt_name" in source.values:
                return
            source = self.graph.source(source, name)

    def _loras(self, pipe: Node, models: Sequence[Node]) -> list[str]:
        """The options of the LoRAs on the way of the model or of the prompts' text encoder."""
        sides = [self._encoders(pipe, side) for side in ("positive", "negative")]
        encoders, negative = ([node for node in side if node.kind in _LORAS] for side in sides)
        if "negative" in pipe.links and negative != encoders:
            self._note("negative: other LoRAs change its text encoder; those of positive are taken")
        # A chain is followed upwards, so its first LoRA is found last.
        found = {node.id: node for node in (*reversed(models), *reversed(encoders))}
        options = []
        for node in (node for node in found.values() if node.kind in _LORAS):
            strengths = [
                self._strength(node, name) if node in chain else "0"
                for name, chain in (("strength_model", models), ("strength_clip", encoders))
            ]
            file = self._value(node, "lora_name") or "FILE"
            options.append(f"--lora {shlex.quote(':'.join((str(file), *strengths)))}")
        return options

    def _encoders(self, pipe: Node, side: str) -> list[Node]:
        """The chain of the text encoder that a prompt is encoded with."""
        prompt = self.graph.source(pipe, side)
        encoded = prompt is not None and "clip" in prompt.links
        return list(self._chain(prompt if prompt and encoded else pipe, "clip"))

    def _strength(self, node: Node, name: str) -> str:
        value = self._value(node, name)
        return f"{value:g}" if isinstance(value, int | float) else "1"

    def _parts(self, pipe: Node, checkpoint: Node) -> None:
        """Adds a note if the text encoder or the VAE is not the checkpoint's."""
        for name in ("clip", "vae"):
            source, hops = self.graph.source(pipe, name), 0
            while source is not None and source.kind in _CLIP_CHANGES and hops < _MOST_HOPS:
                source, hops = self.graph.source(source, name), hops + 1
            if source is not None and source.id != checkpoint.id:
                self._note(
                    f"{name}: {source} is not the checkpoint's own; that is not carried over"
                )

    def _clip_skip(self, pipe: Node) -> list[str]:
        """The build's option for a CLIPSetLastLayer before the prompt, or before the pipe."""
        for node in self._encoders(pipe, "positive"):
            if node.kind == "CLIPSetLastLayer":
                layer = self._value(node, "stop_at_clip_layer")
                return [f"--clip-skip {-layer}"] if isinstance(layer, int) and layer < 0 else []
        return []

    def _text(self, pipe: Node, side: str) -> str:
        source = self.graph.source(pipe, side)
        if source is None:
            return ""
        if source.kind != "CLIPTextEncode":
            self._note(f"{side}: {source} is more than a prompt; see prompts and negatives")
            return ""
        text = self._value(source, "text")
        return text if isinstance(text, str) else ""

    def _refiner(self) -> dict[str, Any]:
        if "refiner_basic_pipe_opt" not in self.node.links:
            return {}
        pipe = self._pipe(self.node, "refiner_basic_pipe_opt")
        return {
            "refiner": {
                "pipeline": self._pipeline(pipe),
                "prompt": self._text(pipe, "positive"),
                "negative": self._text(pipe, "negative"),
            }
        }

    def _segs(self) -> dict[str, Any]:
        """ControlNets on the path of the SEGS, and the SEGS' crop factor."""
        controlnets: list[dict[str, Any]] = []
        found: dict[str, Any] = {}
        source = self.graph.source(self.node, "segs")
        for _ in range(_MOST_HOPS):
            if source is None:
                break
            if source.kind in _CONTROLNETS:
                controlnets.insert(0, self._controlnet(source))
            if isinstance(factor := source.values.get("crop_factor"), int | float):
                found["crop_factor"] = factor
            if "segs" not in source.links:
                break
            source = self.graph.source(source, "segs")
        if isinstance(factor := self.node.values.get("bbox_crop_factor"), int | float):
            found["crop_factor"] = factor  # of a node that detects SEGS itself
        finder = "" if source is None else f"{source} finds them; "
        self._note(f"segs: {finder}give boxes or masks with each picture")
        return found | ({"controlnets": controlnets} if controlnets else {})

    def _controlnet(self, node: Node) -> dict[str, Any]:
        loader = self.graph.source(node, "control_net")
        file = None if loader is None else loader.values.get("control_net_name")
        name = _name(str(file)) if file else "controlnet"
        self._note(f"controlnet {name}: build it in with --controlnet {name}={file or 'FILE'}")
        if "segs_preprocessor" in node.links:
            source = self.graph.source(node, "segs_preprocessor")
            self._note(f"controlnet {name}: {source} prepares its picture; set preprocessor")
        if "control_image" in node.links:
            self._note(f"controlnet {name}: it has a picture of its own; send it as image")
        wanted = ("strength", "start_percent", "end_percent")
        values = {each: node.values[each] for each in wanted if each in node.values}
        return {"name": name, **values}

    def _paste(self) -> dict[str, Any]:
        """The options of the SEGSPaste after this node, or of the node itself if it pastes."""
        if self.node.kind in RELATED:
            feather = self._value(self.node, "feather")
            return {} if feather is None else {"feather": feather}
        for paste in self.graph.of_kind("SEGSPaste"):
            source = self.graph.source(paste, "segs")
            if source is not None and source.id == self.node.id:
                values = {name: self._value(paste, name) for name in ("feather", "alpha")}
                return {name: value for name, value in values.items() if value is not None}
        self._note("paste: no SEGSPaste follows; the answer's picture is pasted with its defaults")
        return {}

    def _rest(self) -> None:
        """Adds notes on inputs without an equivalent in a request."""
        for name in ("scheduler_func_opt", "detailer_hook"):
            if name in self.node.links:
                self._note(f"{name}: {self.graph.source(self.node, name)} is not carried over")
        if self.node.values.get("wildcard"):
            self._note("wildcard: not carried over; see seg_prompts and wildcards")

    def _valid(self, content: dict[str, Any]) -> DetailRequest:
        """The request; values that the contract refuses are dropped with a note."""
        while True:
            try:
                return DetailRequest.model_validate(content)
            except ValidationError as error:
                refused = from_validation_error(error).detail
                path = str(error.errors()[0]["loc"][0])
                if path not in content:
                    raise WorkflowError(f"{self.node}: {refused.message}") from None
                self._note(f"{refused.message}; left out")
                del content[path]
                if path == "pipeline":
                    content[path] = "base"


def _name(file: str) -> str:
    """A valid pipeline name: the file's, without folder and suffix."""
    stem = PureWindowsPath(file).stem  # accepts both kinds of slashes
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip("_.-")[:64] or "base"
