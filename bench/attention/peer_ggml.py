#!/usr/bin/env python3
"""llama.cpp's flash attention, called through ggml's C interface in the libraries of llama-cpp-python."""

import ctypes
import importlib.util
import pathlib

import numpy
from attention.peer import Peer, serve_peer

TYPE_F32, TYPE_F16, TYPE_Q4_0, TYPE_Q8_0 = 0, 1, 2, 8  # enum ggml_type
GRAPH_MEMORY = 16 << 20  # tensors' headers and the graph; data is ours


class InitParams(ctypes.Structure):  # struct ggml_init_params
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class Plan(ctypes.Structure):  # struct ggml_cplan, with room for fields to come
    _fields_ = [
        ("work_size", ctypes.c_size_t),
        ("work_data", ctypes.c_void_p),
        ("n_threads", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


def libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    # Found without importing the package, whose own bindings we do not need.
    folder = pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib"
    base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"), mode=ctypes.RTLD_GLOBAL)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    base.ggml_init.restype = pointer
    base.ggml_init.argtypes = [InitParams]
    base.ggml_free.argtypes = [pointer]
    base.ggml_new_tensor_3d.restype = pointer
    base.ggml_new_tensor_3d.argtypes = [pointer, ctypes.c_int, number, number, number]
    base.ggml_nbytes.restype = ctypes.c_size_t
    base.ggml_nbytes.argtypes = [pointer]
    base.ggml_flash_attn_ext.restype = pointer
    base.ggml_flash_attn_ext.argtypes = [pointer] * 5 + [ctypes.c_float] * 3
    base.ggml_new_graph.restype = pointer
    base.ggml_new_graph.argtypes = [pointer]
    base.ggml_build_forward_expand.argtypes = [pointer, pointer]
    base.ggml_quantize_chunk.restype = ctypes.c_size_t
    base.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    base.ggml_version.restype = ctypes.c_char_p
    cpu.ggml_graph_plan.restype = Plan
    cpu.ggml_graph_plan.argtypes = [pointer, ctypes.c_int, pointer]
    cpu.ggml_graph_compute.argtypes = [pointer, ctypes.POINTER(Plan)]
    return base, cpu


def set_data(tensor: int, data: numpy.ndarray) -> None:
    """Points a tensor at memory of ours: ggml has no call for it outside its own buffers."""
    ctypes.c_void_p.from_address(tensor + DATA_OFFSET).value = data.ctypes.data


# struct ggml_tensor: type 4 (+4), buffer 8, ne 32, nb 32, op 4, op_params 64, flags 4, src 10 x 8, view_src 8,
# view_offs 8, data. Checked against ggml_get_data when a peer starts.
DATA_OFFSET = 8 + 8 + 32 + 32 + 4 + 64 + 4 + 80 + 8 + 8


class Ggml(Peer):
    ARMS = {"f16": TYPE_F16, "q8_0": TYPE_Q8_0, "q4_0": TYPE_Q4_0}

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.base, self.cpu = libraries()
        self.cpu.ggml_cpu_init()
        self.contexts: list[int] = []
        self._check_layout()

    def about(self) -> dict:
        names = ["avx2", "avx512", "avx512_vnni", "avx512_bf16"]
        have = [name for name in names if getattr(self.cpu, f"ggml_cpu_has_{name}")()]
        return {"engine": f"ggml {self.base.ggml_version().decode()} flash attention", "isa": have[-1] if have else ""}

    def _context(self) -> int:
        return self.base.ggml_init(InitParams(GRAPH_MEMORY, None, True))

    def _check_layout(self) -> None:
        context = self._context()
        tensor = self.base.ggml_new_tensor_3d(context, TYPE_F32, 4, 1, 1)
        data = numpy.zeros(4, dtype=numpy.float32)
        set_data(tensor, data)
        self.base.ggml_get_data.restype = ctypes.c_void_p
        self.base.ggml_get_data.argtypes = [ctypes.c_void_p]
        if self.base.ggml_get_data(tensor) != data.ctypes.data:
            raise RuntimeError("struct ggml_tensor has another layout in this version")
        self.base.ggml_free(context)

    def _packed(self, x: numpy.ndarray, case) -> numpy.ndarray:
        if self.arm == TYPE_F16:
            return x.astype(numpy.float16)
        rows = case.num_kv_heads * case.tokens
        block_bytes = {TYPE_Q8_0: 34, TYPE_Q4_0: 18}[self.arm]
        out = numpy.empty(rows * case.head_dim // 32 * block_bytes, dtype=numpy.uint8)
        x = numpy.ascontiguousarray(x)
        self.base.ggml_quantize_chunk(self.arm, x.ctypes.data, out.ctypes.data, 0, rows, case.head_dim, None)
        return out

    def load(self, case, k, v) -> int:
        packed = [self._packed(x, case) for x in (k, v)]
        self.shape = k.shape
        per_step = sum(x.nbytes for x in packed)
        self.copies = [[x.copy() for x in packed] for _ in range(-(-self.min_bytes // per_step))]
        return per_step

    def stored(self):
        return tuple(self._unpacked(x).reshape(self.shape) for x in self.copies[0])

    def _unpacked(self, x: numpy.ndarray) -> numpy.ndarray:
        if self.arm == TYPE_F16:
            return x
        if self.arm == TYPE_Q8_0:  # f16 scale, 32 signed bytes
            blocks = x.reshape(-1, 34)
            codes = blocks[:, 2:].view(numpy.int8)
        else:  # f16 scale, 16 bytes: the low halves are the first 16 values
            blocks = x.reshape(-1, 18)
            codes = numpy.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(numpy.int8) - 8
        return codes * blocks[:, :2].copy().view(numpy.float16).astype(numpy.float32)

    def ask(self, case, q) -> None:
        for context in self.contexts:
            self.base.ggml_free(context)
        self.contexts, self.steps, self.next = [], [], 0
        self.q = numpy.ascontiguousarray(q)  # [head_dim, 1 token, num_qo_heads] in ggml's order
        self.out = numpy.zeros_like(self.q)
        self.work = None
        for copy in self.copies:
            context = self._context()
            self.contexts.append(context)
            tensor = self.base.ggml_new_tensor_3d
            query_tensor = tensor(context, TYPE_F32, case.head_dim, 1, case.num_qo_heads)
            k, v = (tensor(context, self.arm, case.head_dim, case.tokens, case.num_kv_heads) for _ in range(2))
            result = self.base.ggml_flash_attn_ext(context, query_tensor, k, v, None, case.scale, 0.0, 0.0)
            for handle, data in ((query_tensor, self.q), (k, copy[0]), (v, copy[1]), (result, self.out)):
                if self.base.ggml_nbytes(handle) != data.nbytes:
                    raise RuntimeError("a tensor is not as large as its data")
                set_data(handle, data)
            graph = self.base.ggml_new_graph(context)
            self.base.ggml_build_forward_expand(graph, result)
            plan = self.cpu.ggml_graph_plan(graph, self.threads, None)
            if self.work is None:
                self.work = numpy.empty(plan.work_size + 64, dtype=numpy.uint8)
            plan.work_data = self.work.ctypes.data
            self.steps.append((graph, plan))

    def step(self) -> None:
        graph, plan = self.steps[self.next]
        self.next = (self.next + 1) % len(self.steps)
        if self.cpu.ggml_graph_compute(graph, ctypes.byref(plan)) != 0:
            raise RuntimeError("ggml_graph_compute failed")

    def output(self):
        return self.out


if __name__ == "__main__":
    serve_peer(Ggml)
