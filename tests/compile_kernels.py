"""Compile all Triton kernels for a Hopper GPU, which need not be there; run by tests, outside the interpreter.

The interpreter takes programs that the compiler refuses.
"""

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from cryomorph.gridding import _triton
from cryomorph.likelihood import _weigh_triton
from cryomorph.scan import _triton as _scan_triton

FLOATS = (
    "points",
    "amplitude",
    "table",
    "grid",
    "samples",
    "value",
    "gradient",
    "spectrum",
    "share",
    "axis",
    "radius",
    "turn",
    "wavenumber",
    "harmonics",
    "sums",
    "power",
    "lowest",
)
INTEGERS = ("bead_class", "step_index", "first", "last", "offset", "group")
TYPES = {"phase": "*fp64"} | dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(INTEGERS, "*i64")


def build(kernel, **constants):
    types = {name: TYPES.get(name, "i32") for name in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, types, constants)
    built = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})
    print(kernel.__name__, constants, len(built.asm["cubin"]))


for kernel in (_triton._spread, _triton._collect):
    build(kernel, TAPS=24, COLUMNS=32, BEADS=_triton.BREADTH // 32)
build(_weigh_triton._weigh_box, PARTS=256)
build(_scan_triton._project, RINGS=_scan_triton.RINGS, ORDERS=128)
for normalised in (False, True):
    build(_scan_triton._minima, NORMALISED=normalised, DIRECTIONS=_scan_triton.DIRECTIONS)
