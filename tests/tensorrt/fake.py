"""What the double's calls do in these tests: parse, build, refit and keep timings, by pretence."""

from __future__ import annotations

from typing import Any

import onnx

from tests.tensorrt.double import Double


class Fake:
    """Gives a double its handlers. A plan is the bytes ``plan:`` and what went in; a timing cache
    is words, set apart by blanks, the first of which names the GPU."""

    def __init__(self, double: Double, gpu: str = "a10") -> None:
        self.double = double
        self.gpu = gpu
        double.handlers |= {
            "OnnxParser.__init__": lambda parser, network, logger: parser.__dict__.update(
                network=network
            ),
            "OnnxParser.parse_from_file": self._parse,
            "INetworkDefinition.get_input": lambda network, index: network.__dict__["inputs"][
                index
            ],
            "Builder.__init__": lambda builder, logger: builder.__dict__.update(said=logger),
            "Builder.build_serialized_network": self._build,
            "IBuilderConfig.create_timing_cache": self._create_cache,
            "IBuilderConfig.set_timing_cache": self._set_cache,
            "IBuilderConfig.get_timing_cache": lambda config: config.__dict__["cache"],
            "ITimingCache.combine": self._combine,
            "ITimingCache.serialize": lambda cache: self.memory(" ".join(cache.__dict__["words"])),
            "Runtime.deserialize_cuda_engine": self._load,
            "Refitter.get_all_weights": lambda refitter: ["weight", "bias", "two", ""],
            "Refitter.get_missing_weights": lambda refitter: [],
            "ICudaEngine.serialize_with_config": lambda engine, arg0: self.memory("refitted"),
        }

    def memory(self, text: str) -> Any:
        """The bytes as TensorRT hands them out."""
        return self.double.IHostMemory(text.encode())

    def _parse(self, parser: Any, model: str) -> bool:
        inputs = onnx.load(model, load_external_data=False).graph.input
        network = parser.__dict__["network"]
        tensors = [self.double.new("ITensor", name=value.name) for value in inputs]
        network.__dict__.update(inputs=tensors, _num_inputs=len(tensors))
        return True

    def _build(self, builder: Any, network: Any, config: Any) -> Any:
        severity = self.double.ILogger.Severity
        builder.__dict__["said"].log(severity.WARNING, "slow")
        builder.__dict__["said"].log(severity.VERBOSE, "chatter")
        monitor = config.progress_monitor
        monitor.phase_start("tactics", None, 2)
        for step in range(2):
            if not monitor.step_complete("tactics", step):
                return None
        monitor.phase_finish("tactics")
        if cache := config.__dict__.get("cache"):
            cache.__dict__["words"].append("measured")
        return self.memory("plan:" + " ".join(each.name for each in network.__dict__["inputs"]))

    def _create_cache(self, config: Any, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache == b"broken":
            return None
        cache = self.double.new("ITimingCache")
        cache.__dict__["words"] = serialized_timing_cache.decode().split() or [self.gpu]
        return cache

    def _set_cache(self, config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.__dict__["words"][0] != self.gpu:
            return ignore_mismatch
        config.__dict__["cache"] = cache
        return True

    def _combine(self, cache: Any, input_cache: Any, ignore_mismatch: bool) -> bool:
        words, more = cache.__dict__["words"], input_cache.__dict__["words"]
        if more[0] != self.gpu:
            return ignore_mismatch
        words += [word for word in more if word not in words]
        return True

    def _load(self, runtime: Any, serialized_engine: bytes) -> Any:
        if serialized_engine == b"broken":
            return None
        refittable = serialized_engine != b"fixed"
        return self.double.new("ICudaEngine", refittable=refittable)
