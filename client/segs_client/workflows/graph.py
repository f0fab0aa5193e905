"""Reads a workflow file in either of its formats as a graph of nodes.

The *API format* has, for each node's id, its class and its inputs by name; an input is a value or a
link ``[node, output]``. The *editor's format* has nodes with lists of inputs (links) and of
widgets' values, mostly without names, and a list of links.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

WIDGETS: Mapping[str, tuple[str, ...]] = {
    "SEGSDetailer": (
        "guide_size", "guide_size_for", "max_size", "seed", "steps", "cfg", "sampler_name",
        "scheduler", "denoise", "noise_mask", "force_inpaint", "refiner_ratio", "batch_size",
        "cycle", "inpaint_model", "noise_mask_feather",
    ),
    "SEGSPaste": ("feather", "alpha"),
    "CLIPTextEncode": ("text",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "ControlNetLoader": ("control_net_name",),
    "PrimitiveNode": ("value",),
}  # fmt: skip
"""Names of the nodes' widgets, in order, for files of the editor's format without names."""
_SEEDS = ("seed", "noise_seed")
_AFTER_SEED = ("fixed", "increment", "decrement", "randomize")
_MUTED, _BYPASSED = 2, 4


class WorkflowError(ValueError):
    """A file is no workflow, or cannot be read."""


@dataclass(frozen=True)
class Link:
    """The source of an input."""

    node: str
    output: int


@dataclass(frozen=True)
class Node:
    """One node: its inputs by name, as values or as links.

    ``old``: names of widgets without a value in the file.
    """

    id: str
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)
    muted: bool = False
    old: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"node {self.id} ({self.kind})"


@dataclass(frozen=True)
class Graph:
    """All nodes by id, in the file's order."""

    nodes: Mapping[str, Node]

    def of_kind(self, *kinds: str) -> Iterator[Node]:
        """The nodes of these classes."""
        return (node for node in self.nodes.values() if node.kind in kinds)

    def source(self, node: Node, name: str) -> Node | None:
        """The node that an input is linked to, without reroutes; None: no link."""
        link = node.links.get(name)
        visited: set[str] = set()
        while link is not None and link.node in self.nodes and link.node not in visited:
            found = self.nodes[link.node]
            if found.kind != "Reroute":
                return found
            visited.add(found.id)
            link = next(iter(found.links.values()), None)
        return None


def read(text: str | bytes) -> Graph:
    """The graph of a workflow file.

    Raises:
        WorkflowError: it is no workflow.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise WorkflowError("not a workflow: an object is expected")
    try:
        if "nodes" in content:
            return _editors(_Editor.model_validate(content))
        prompt = content.get("prompt", content)
        return _api({key: _ApiNode.model_validate(value) for key, value in prompt.items()})
    except (ValidationError, AttributeError) as error:
        reason = error.errors()[0] if isinstance(error, ValidationError) else {"msg": str(error)}
        where = ".".join(map(str, reason.get("loc", ())))
        raise WorkflowError(
            f"not a workflow: {where + ': ' if where else ''}{reason['msg']}"
        ) from None


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _ApiNode(_Loose):
    class_type: str
    inputs: dict[str, Any] = {}


def _api(nodes: Mapping[str, _ApiNode]) -> Graph:
    found = {}
    for key, node in nodes.items():
        links = {name: link for name, value in node.inputs.items() if (link := _link(value))}
        values = {name: value for name, value in node.inputs.items() if name not in links}
        found[key] = Node(key, node.class_type, values, links)
    return Graph(found)


def _link(value: Any) -> Link | None:
    match value:
        case [str() | int() as node, int() as output] if not isinstance(output, bool):
            return Link(str(node), output)
    return None


class _Widget(_Loose):
    name: str


class _Input(_Loose):
    name: str
    type: Any = None
    link: int | None = None
    widget: _Widget | None = None


class _EditorNode(_Loose):
    id: int | str
    type: str
    mode: int = 0
    inputs: list[_Input] = []
    widgets_values: list[Any] | dict[str, Any] | None = None


_Ends = Annotated[list[Any], Field(min_length=5)]


class _Editor(_Loose):
    nodes: list[_EditorNode]
    links: list[_Ends | dict[str, Any]] = []


def _editors(content: _Editor) -> Graph:
    origins = dict(_origin(link) for link in content.links)
    found: dict[str, Node] = {}
    for node in content.nodes:
        links = {
            each.name: origins[each.link]
            for each in node.inputs
            if each.link is not None and each.link in origins
        }
        values, old = _widgets(node)
        # The first input of a type is passed through a bypassed node as the output of this type. A
        # reroute passes its first input, which for models and conditionings is the same.
        kind = "Reroute" if node.mode == _BYPASSED else node.type
        unlinked = {name: value for name, value in values.items() if name not in links}
        found[str(node.id)] = Node(str(node.id), kind, unlinked, links, node.mode == _MUTED, old)
    return Graph(found)


def _origin(link: Sequence[Any] | Mapping[str, Any]) -> tuple[int, Link]:
    """A link is ``[id, from node, from output, to node, to input, type]``, or has these names."""
    if isinstance(link, Mapping):
        return link["id"], Link(str(link["origin_id"]), int(link["origin_slot"]))
    return link[0], Link(str(link[1]), int(link[2]))


def _widgets(node: _EditorNode) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The widgets' values by name, and the names without a value.

    Raises:
        WorkflowError: a used node has more values than known names.
    """
    if isinstance(node.widgets_values, dict):
        return node.widgets_values, ()
    values = list(node.widgets_values or [])
    named = [each.widget.name for each in node.inputs if each.widget is not None]
    names = list(WIDGETS.get(node.type, named))
    for seed in (name for name in _SEEDS if name in names):
        after = names.index(seed) + 1
        if after < len(values) and values[after] in _AFTER_SEED:
            del values[after]
    if node.type in WIDGETS and len(named) == len(values):
        names = named  # a newer file has all names
    if len(values) > len(names):
        if node.type in WIDGETS and node.type != "PrimitiveNode":
            raise WorkflowError(
                f"node {node.id} ({node.type}): it has {len(values)} values, of which "
                f"{len(names)} are known; save the workflow in the API format"
            )
        values = values[: len(names)]
    return dict(zip(names, values, strict=False)), tuple(names[len(values) :])
