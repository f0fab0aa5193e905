"""ComfyUI workflows as requests, in both forms that the files have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segs_client import cli
from segs_client.contract import DetailRequest, parse_request
from segs_client.workflows import Conversion, WorkflowError, convert
from segs_client.workflows.graph import WIDGETS

EXAMPLE = Path(__file__).parents[2] / "examples" / "workflows" / "faces.json"
VALUES = {
    "guide_size": 384, "guide_size_for": False, "max_size": 1024, "seed": 2**63, "steps": 12,
    "cfg": 6.5, "sampler_name": "heun", "scheduler": "karras", "denoise": 0.35,
    "noise_mask": False, "force_inpaint": False, "refiner_ratio": 0.4, "batch_size": 2, "cycle": 3,
    "inpaint_model": True, "noise_mask_feather": 7,
}  # fmt: skip


def api(**changes: Any) -> dict[str, Any]:
    """A small workflow in the API format; ``changes`` are inputs of the detailer."""
    return {
        "1": _node("CheckpointLoaderSimple", ckpt_name="sd\\real.safetensors"),
        "2": _node("CLIPTextEncode", text="a face", clip=["1", 1]),
        "3": _node("CLIPTextEncode", text="blurry", clip=["1", 1]),
        "4": _node(
            "ToBasicPipe",
            model=["1", 0], clip=["1", 1], vae=["1", 2], positive=["2", 0], negative=["3", 0],
        ),
        "5": _node("MaskToSEGS", crop_factor=2.0),
        "6": _node(
            "SEGSDetailer", **{**VALUES, "basic_pipe": ["4", 0], "segs": ["5", 0], **changes}
        ),
    }  # fmt: skip


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def editors(workflow: dict[str, Any], *, named: bool = False) -> dict[str, Any]:
    """The same in the editor's format; ``named``: as newer files, which name every widget."""
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    for key, node in workflow.items():
        inputs: list[dict[str, Any]] = []
        values: list[Any] = []
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(key), len(inputs), "*"])
                inputs.append({"name": name, "type": "*", "link": len(links)})
                continue
            values.append(value)
            if name == "seed":
                values.append("randomize")
            if named:
                inputs.append({"name": name, "type": "*", "widget": {"name": name}, "link": None})
        nodes.append(
            {"id": int(key), "type": node["class_type"], "mode": 0, "inputs": inputs,
             "widgets_values": values, "pos": [0, 0]}
        )  # fmt: skip
    return {"last_node_id": 9, "nodes": nodes, "links": links, "version": 0.4}


def only(workflow: dict[str, Any], **pipelines: str) -> Conversion:
    (found,) = convert(json.dumps(workflow), pipelines)
    return found


@pytest.mark.parametrize("form", ["api", "editor", "editor, named", "queued"])
def test_every_option_is_carried_over(form: str) -> None:
    workflow = api()
    if form.startswith("editor"):
        workflow = editors(workflow, named=form == "editor, named")
    elif form == "queued":
        workflow = {"prompt": workflow}
    found = only(workflow)
    assert found.node == "node 6 (SEGSDetailer)"
    request = found.request
    assert {name: getattr(request, name) for name in VALUES} == VALUES
    assert (request.pipeline, request.prompt, request.negative) == ("real", "a face", "blurry")
    if form != "editor":  # there only names tell what a value is, and MaskToSEGS' are not known
        assert request.crop_factor == 2.0
    assert parse_request(json.dumps(found.json())) == request


def test_the_widgets_are_the_options_of_the_contract() -> None:
    assert set(WIDGETS["SEGSDetailer"]) == set(VALUES)
    assert set(VALUES) <= set(DetailRequest.model_fields)


def test_the_example() -> None:
    (found,) = convert(EXAMPLE.read_bytes())
    assert found.json() == {
        "pipeline": "portrait-v2",
        "segs": {"items": []},
        "prompt": "a smiling face, (freckles:1.2)",
        "negative": "blurry",
        "crop_factor": 2.5,
        "max_size": 1024.0,
        "seed": 42,
        "steps": 24,
        "cfg": 7.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "denoise": 0.4,
        "controlnets": [{"name": "canny-sd15", "strength": 0.7}],
        "paste": {"feather": 8},
    }
    assert found.notes == (
        "pipeline portrait-v2: build it with python -m build_engines "
        "'SD15/portrait v2.safetensors' --name portrait-v2 --lora ink.safetensors:0.8:0.8",
        "controlnet canny-sd15: build it in with --controlnet canny-sd15=canny-sd15.safetensors",
        "segs: node 7 (BboxDetectorSEGS) finds them; give boxes or masks with each picture",
    )


def test_pipelines_can_be_named() -> None:
    (found,) = convert(json.dumps(api()), {"sd\\real.safetensors": "base"})
    assert found.request.pipeline == "base"


def test_a_refiner_is_the_second_pipe() -> None:
    workflow = api(refiner_basic_pipe_opt=["9", 0])
    workflow["8"] = _node("CheckpointLoaderSimple", ckpt_name="xl-refiner.safetensors")
    workflow["9"] = _node(
        "ToBasicPipe", model=["8", 0], clip=["8", 1], vae=["8", 2], positive=["2", 0]
    )
    refiner = only(workflow).request.refiner
    assert refiner is not None
    assert (refiner.pipeline, refiner.prompt, refiner.negative) == ("xl-refiner", "a face", "")


def test_controlnets_are_a_chain_first_to_last() -> None:
    workflow = api(segs=["11", 0])
    workflow["7"] = _node("ControlNetLoader", control_net_name="canny.safetensors")
    workflow["8"] = _node("ControlNetLoader", control_net_name="depth.safetensors")
    workflow["9"] = _node("CannyPreprocessor_Provider")
    workflow["10"] = _node(
        "ImpactControlNetApplySEGS",
        segs=["5", 0], control_net=["7", 0], strength=0.5, segs_preprocessor=["9", 0],
    )  # fmt: skip
    workflow["11"] = _node(
        "ImpactControlNetApplyAdvancedSEGS",
        segs=["10", 0], control_net=["8", 0], strength=1.0, start_percent=0.1, end_percent=0.6,
    )  # fmt: skip
    found = only(workflow)
    chain = [each.model_dump(exclude={"image"}) for each in found.request.controlnets]
    assert [each["name"] for each in chain] == ["canny", "depth"]
    assert (chain[0]["strength"], chain[1]["start_percent"], chain[1]["end_percent"]) == (
        0.5,
        0.1,
        0.6,
    )
    assert (
        "controlnet canny: node 9 (CannyPreprocessor_Provider) prepares its picture; "
        in " ".join(found.notes)
    )
    assert found.request.crop_factor == 2.0


def lora(kind: str = "LoraLoader", source: str = "1", **inputs: Any) -> dict[str, Any]:
    links = (
        {"model": [source, 0], "clip": [source, 1]}
        if kind == "LoraLoader"
        else {"model": [source, 0]}
    )
    return _node(kind, **{**inputs, **links})


def loras(workflow: dict[str, Any]) -> str:
    """The options that the conversion says after the pipeline's name."""
    (note,) = (note for note in only(workflow).notes if note.startswith("pipeline "))
    return note.partition(" --name real")[2].strip()


INK = {"lora_name": "my ink.safetensors", "strength_model": 0.8, "strength_clip": -0.5}


@pytest.mark.parametrize(
    ("model", "prompts", "expected"),
    [
        ("7", "7", "--lora 'my ink.safetensors:0.8:-0.5'"),
        ("7", "1", "--lora 'my ink.safetensors:0.8:0'"),
        ("1", "7", "--lora 'my ink.safetensors:0:-0.5'"),
        ("1", "1", ""),
    ],
)
@pytest.mark.parametrize("form", ["api", "editor"])
def test_a_lora_has_both_strengths_where_it_changes_both(
    model: str, prompts: str, expected: str, form: str
) -> None:
    """What counts for the text is the encoder of the prompts, before that of the pipe."""
    workflow = api()
    workflow["7"] = lora(**INK)
    workflow["4"]["inputs"]["model"] = [model, 0]
    for prompt in ("2", "3"):
        workflow[prompt]["inputs"]["clip"] = [prompts, 1]
    assert loras(editors(workflow) if form == "editor" else workflow) == expected


def test_loras_are_told_first_to_last() -> None:
    workflow = api()
    workflow["7"] = lora(**INK)
    workflow["8"] = lora("LoraLoaderModelOnly", "7", lora_name="b", strength_model=1)
    workflow["9"] = lora(source="7", lora_name="c", strength_model=2, strength_clip=0.25)
    workflow["10"] = _node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["9", 1])
    workflow["4"]["inputs"]["model"] = ["8", 0]
    for prompt in ("2", "3"):
        workflow[prompt]["inputs"]["clip"] = ["10", 0]
    expected = "--lora 'my ink.safetensors:0.8:-0.5' --lora b:1:0 --lora c:0:0.25 --clip-skip 2"
    assert loras(workflow) == expected


def test_strengths_that_are_linked_and_loras_of_one_side() -> None:
    workflow = api()
    workflow["7"] = lora(lora_name="a", strength_model=["8", 0], strength_clip=["9", 0])
    workflow["8"] = _node("PrimitiveFloat", value=0.25)
    workflow["9"] = _node("RandomStrength", seed=["8", 0])
    workflow["4"]["inputs"]["model"] = ["7", 0]
    workflow["2"]["inputs"]["clip"] = ["7", 1]
    assert loras(workflow) == "--lora a:0.25:1"
    notes = only(workflow).notes
    assert "strength_clip: comes from node 9 (RandomStrength); set it yourself" in notes
    assert "negative: other LoRAs change its text encoder; those of positive are taken" in notes


def test_nodes_that_paste_by_themselves() -> None:
    workflow = api()
    inputs = {**VALUES, "feather": 9, "wildcard": "[SEP]", "segs": ["5", 0]}
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "positive": ["2", 0],
             "negative": ["3", 0], "detailer_hook": ["5", 0]}  # fmt: skip
    workflow["6"] = _node("DetailerForEach", **inputs, **links)
    found = only(workflow)
    assert found.request.paste.feather == 9
    assert found.request.prompt == "a face"
    told = " ".join(found.notes)
    for part in ("wildcard: not", "detailer_hook: node 5", "compare a few pictures"):
        assert part in told


def test_what_is_linked_is_followed_or_named() -> None:
    workflow = api(steps=["7", 0], cfg=["8", 0])
    workflow["7"] = _node("PrimitiveInt", value=9)
    workflow["8"] = _node("RandomCfg", low=1, high=9, from_=["7", 0])
    found = only(workflow)
    assert found.request.steps == 9
    assert found.request.cfg == 8.0
    assert "cfg: comes from node 8 (RandomCfg); set it yourself" in found.notes


def test_what_a_request_has_no_place_for_is_named() -> None:
    workflow = api(scheduler_func_opt=["9", 0])
    workflow["7"] = _node("CLIPLoader", clip_name="other.safetensors")
    workflow["8"] = _node("VAELoader", vae_name="other.pt")
    workflow["9"] = _node("GITSSchedulerFuncProvider", coeff=1.2, denoise=1.0)
    workflow["10"] = _node("FreeU_V2", model=["1", 0])
    workflow["11"] = _node("ConditioningCombine", conditioning_1=["2", 0], conditioning_2=["3", 0])
    workflow["4"]["inputs"] |= {
        "clip": ["7", 0], "vae": ["8", 0], "model": ["10", 0], "positive": ["11", 0],
    }  # fmt: skip
    told = " ".join(only(workflow).notes)
    for part in (
        "clip: node 7 (CLIPLoader) is not the checkpoint's own",
        "vae: node 8 (VAELoader) is not",
        "scheduler_func_opt: node 9 (GITSSchedulerFuncProvider) is not carried over",
        "node 10 (FreeU_V2) changes the model",
        "positive: node 11 (ConditioningCombine) is more than a prompt",
        "paste: no SEGSPaste follows",
    ):
        assert part in told


@pytest.mark.parametrize("form", ["api", "editor"])
@pytest.mark.parametrize("linked", ["prompts", "pipe", "both"])
def test_clip_skip_becomes_an_option_of_the_build(form: str, linked: str) -> None:
    workflow = api()
    workflow["7"] = _node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["8", 1])
    workflow["8"] = _node(
        "LoraLoader",
        **{"lora_name": "ink.safetensors", "strength_model": 1, "strength_clip": 1},
        **{"model": ["1", 0], "clip": ["1", 1]},
    )
    workflow["4"]["inputs"] |= {"model": ["8", 0]}
    if linked != "pipe":
        for prompt in ("2", "3"):
            workflow[prompt]["inputs"]["clip"] = ["7", 0]
    if linked != "prompts":
        workflow["4"]["inputs"]["clip"] = ["7", 0]
    if linked == "pipe":  # and the prompts come from nodes that are more than a prompt
        workflow["9"] = _node("ConditioningCombine", conditioning_1=["2", 0])
        workflow["4"]["inputs"]["positive"] = ["9", 0]
    notes = only(editors(workflow) if form == "editor" else workflow).notes
    (build,) = [note for note in notes if "build_engines" in note]
    assert build.endswith("--name real --lora ink.safetensors:1:1 --clip-skip 2")
    assert "not the checkpoint's own" not in " ".join(notes)


@pytest.mark.parametrize("layer", [0, 2, "last"])
def test_a_clip_skip_that_is_none_is_left_out(layer: object) -> None:
    workflow = api()
    workflow["7"] = _node("CLIPSetLastLayer", stop_at_clip_layer=layer, clip=["1", 1])
    workflow["2"]["inputs"]["clip"] = ["7", 0]
    assert "--clip-skip" not in " ".join(only(workflow).notes)


def test_values_that_the_contract_refuses_are_left_out() -> None:
    found = only(api(scheduler="OSS Wan", steps=0))
    assert (found.request.scheduler, found.request.steps) == ("normal", 20)
    told = " ".join(found.notes)
    assert "scheduler: " in told
    assert "steps: too small (got 0); allowed: whole numbers 1 … 10000; left out" in told


def test_reroutes_bypassed_and_muted_nodes_of_the_editor() -> None:
    workflow = api()
    workflow["7"] = _node(
        "LoraLoader", lora_name="ink.safetensors", strength_model=1, strength_clip=0.5,
        model=["1", 0], clip=["1", 1],
    )  # fmt: skip
    workflow["8"] = _node("Reroute", **{"": ["7", 0]})
    workflow["4"]["inputs"]["model"] = ["8", 0]
    workflow["9"] = dict(workflow["6"])
    content = editors(workflow)
    for node in content["nodes"]:
        node["mode"] = {7: 4, 9: 2}.get(node["id"], 0)
    found = only(content)
    assert found.request.pipeline == "real"
    assert "--lora" not in " ".join(found.notes)
    content["nodes"][6]["mode"] = 0
    assert "--lora ink.safetensors:1:0" in " ".join(only(content).notes)


def test_older_files_of_the_editor_lack_the_newest_options() -> None:
    content = editors(api())
    (node,) = [each for each in content["nodes"] if each["type"] == "SEGSDetailer"]
    node["widgets_values"] = node["widgets_values"][:-2]
    found = only(content)
    assert found.request.cycle == 3
    assert (
        "inpaint_model, noise_mask_feather: not in the file; the defaults are taken" in found.notes
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "an object is expected"),
        ('{"a": 1}', "not a workflow"),
        ('{"1": {"class_type": "KSampler", "inputs": {}}}', "no node of the workflow is one of"),
        ('{"nodes": [{"id": 1}]}', "nodes.0.type"),
        ('{"nodes": [{"id": 1, "type": "SEGSDetailer", "widgets_values": [' + "1," * 30 + "1]}]}",
         "save the workflow in the API format"),
        ('{"nodes": [], "links": [[1, 2]]}', "links"),
    ],
)  # fmt: skip
def test_files_that_are_no_workflow(text: str, told: str) -> None:
    with pytest.raises(WorkflowError, match=told):
        convert(text)


def test_loops_end() -> None:
    workflow = api(basic_pipe=["7", 0], segs=["8", 0])
    workflow["7"] = _node("EditBasicPipe", basic_pipe=["7", 0])
    workflow["8"] = _node("SEGSFilter", segs=["8", 0])
    found = only(workflow)
    assert found.request.pipeline == "base"
    assert "basic_pipe: no node with a model" in " ".join(found.notes)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = ["convert", str(EXAMPLE), "--pipeline", "SD15/portrait v2.safetensors=base"]
    assert cli.main(given) == cli.DONE
    told = capsys.readouterr()
    (request,) = json.loads(told.out)
    assert parse_request(json.dumps(request)).pipeline == "base"
    assert told.err.startswith("node 11 (SEGSDetailer): pipeline base: build it with ")
    missing = tmp_path / "none.json"
    assert cli.main(["convert", str(missing)]) == cli.WRONG_INPUT
    assert str(missing) in capsys.readouterr().err


def test_the_guide_shows_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (EXAMPLE.parents[2] / "docs" / "migration.md").read_text()
    assert cli.main(["convert", str(EXAMPLE)]) == cli.DONE
    told = capsys.readouterr()
    assert f"```json\n{told.out}```" in guide
    assert f"```\n{told.err}```" in guide
