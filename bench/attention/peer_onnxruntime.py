#!/usr/bin/env python3
"""ONNX Runtime's GroupQueryAttention with float, int8 and int4 caches (per channel), updated in place."""

import numpy
import onnx
import onnxruntime
from attention.peer import Peer, serve_peer
from onnx import TensorProto, helper


class OnnxRuntime(Peer):
    ARMS = {"f32": 32, "int8": 8, "int4": 4}  # bits

    def about(self) -> dict:
        return {"engine": f"onnxruntime {onnxruntime.__version__} GroupQueryAttention", "isa": "mlas"}

    def _quantized(self, x: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Symmetric, one scale per channel over all tokens; two 4-bit values a byte, the even channel low."""
        most = 2 ** (self.arm - 1) - 1
        scale = numpy.abs(x).max(axis=1, keepdims=True) / most  # [heads, 1, head_dim]
        codes = numpy.clip(numpy.rint(x / scale), -most - 1, most).astype(numpy.int8)
        if self.arm == 4:
            codes = (codes + 8).astype(numpy.uint8)
            codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
        return codes, scale.astype(numpy.float32)

    def _model(self, case) -> bytes:
        heads = case.num_kv_heads
        width = case.head_dim // 2 if self.arm == 4 else case.head_dim
        cache_type = {32: TensorProto.FLOAT, 8: TensorProto.INT8, 4: TensorProto.UINT8}[self.arm]
        value = helper.make_tensor_value_info
        cache_shape = [1, heads, case.tokens, width]
        inputs = [
            value("query", TensorProto.FLOAT, [1, 1, case.num_qo_heads * case.head_dim]),
            value("key", TensorProto.FLOAT, [1, 1, heads * case.head_dim]),
            value("value", TensorProto.FLOAT, [1, 1, heads * case.head_dim]),
            value("past_key", cache_type, cache_shape),
            value("past_value", cache_type, cache_shape),
            value("seqlens_k", TensorProto.INT32, [1]),
            value("total_sequence_length", TensorProto.INT32, []),
        ]
        names = [item.name for item in inputs]
        attributes = {"num_heads": case.num_qo_heads, "kv_num_heads": heads, "scale": case.scale}
        if self.arm != 32:
            attributes.update(k_quant_type="PER_CHANNEL", v_quant_type="PER_CHANNEL", kv_cache_bit_width=self.arm)
            scale_shape = [1, heads, 1, case.head_dim]
            inputs += [value(name, TensorProto.FLOAT, scale_shape) for name in ("k_scale", "v_scale")]
            names += [""] * 5 + ["k_scale", "v_scale"]
        node = helper.make_node(
            "GroupQueryAttention",
            names,
            ["output", "present_key", "present_value"],
            domain="com.microsoft",
            **attributes,
        )
        outputs = [
            value("output", TensorProto.FLOAT, [1, 1, case.num_qo_heads * case.head_dim]),
            value("present_key", cache_type, cache_shape),
            value("present_value", cache_type, cache_shape),
        ]
        graph = helper.make_graph([node], "attention", inputs, outputs)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def load(self, case, k, v) -> int:
        # The step writes the last token's keys and values, as every decode step does: they are those of the data.
        self.last = [numpy.ascontiguousarray(x[:, -1, :]).reshape(1, 1, -1) for x in (k, v)]
        self.scales = []
        packed = []
        for x in (k, v):
            codes, scale = (x, None) if self.arm == 32 else self._quantized(x)
            packed.append(codes[None])
            self.scales.append(scale)
        per_step = sum(x.nbytes for x in packed)
        copies = -(-self.min_bytes // per_step)
        ort = onnxruntime.OrtValue.ortvalue_from_numpy
        self.copies = [[ort(numpy.ascontiguousarray(x)) for x in packed] for _ in range(copies)]
        return per_step

    def stored(self):
        return tuple(self._unpacked(x.numpy()[0], scale) for x, scale in zip(self.copies[0], self.scales))

    def _unpacked(self, codes: numpy.ndarray, scale) -> numpy.ndarray:
        if self.arm == 32:
            return codes
        if self.arm == 4:
            halves = numpy.stack([codes & 15, codes >> 4], axis=-1).astype(numpy.int8) - 8
            codes = halves.reshape(*codes.shape[:-1], -1)
        return codes * scale

    def ask(self, case, q) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self._model(case), options, providers=["CPUExecutionProvider"])
        ort = onnxruntime.OrtValue.ortvalue_from_numpy
        self.out = ort(numpy.zeros((1, 1, case.num_qo_heads * case.head_dim), dtype=numpy.float32))
        self.out_shape = (case.num_qo_heads, case.head_dim)
        fixed = {
            "query": ort(q.reshape(1, 1, -1)),
            "key": ort(self.last[0]),
            "value": ort(self.last[1]),
            "seqlens_k": ort(numpy.array([case.tokens - 1], dtype=numpy.int32)),
            "total_sequence_length": ort(numpy.array(case.tokens, dtype=numpy.int32)),
        }
        if self.arm != 32:
            fixed["k_scale"], fixed["v_scale"] = (ort(scale[None]) for scale in self.scales)
        self.bindings = []
        for k, v in self.copies:
            binding = self.session.io_binding()
            for name, item in {**fixed, "past_key": k, "past_value": v}.items():
                binding.bind_ortvalue_input(name, item)
            for name, item in {"output": self.out, "present_key": k, "present_value": v}.items():
                binding.bind_ortvalue_output(name, item)
            self.bindings.append(binding)
        self.next = 0

    def step(self) -> None:
        self.session.run_with_iobinding(self.bindings[self.next])
        self.next = (self.next + 1) % len(self.bindings)

    def output(self):
        return self.out.numpy().reshape(self.out_shape)


if __name__ == "__main__":
    serve_peer(OnnxRuntime)
