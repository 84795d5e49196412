"""Small particle files for the tests: one set of facts, written in each program's format."""

from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import numpy as np
from numpy.lib import recfunctions

from cryomorph.geometry import matrix_to_cryosparc, relion_to_matrix

PIXEL = 1.5
VOLTAGE, CS, AMPLITUDE = 300.0, 2.7, 0.1


def write_stack(path: Path, images: np.ndarray, pixel_size: float = PIXEL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, data=images, overwrite=True) as file:
        file.set_image_stack()
        file.voxel_size = pixel_size
    return path


def noise(count: int, box: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, 2.0, (count, box, box)).astype(np.float32)


@dataclass
class Facts:
    """Facts of a few particles, all in one stack."""

    count: int = 5
    box: int = 16
    name: str = "stack.mrcs"
    columns: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(3)
        self.frame = np.arange(self.count)
        self.angles = np.round(rng.uniform([-180, 5, -180], [180, 175, 180], (self.count, 3)), 6)
        self.origin = np.round(rng.uniform(-5, 5, (self.count, 2)), 6)
        self.defocus_u = np.round(rng.uniform(10000, 20000, self.count), 2)
        self.defocus_v = self.defocus_u - 300
        self.angle = np.round(rng.uniform(0, 180, self.count), 2)
        self.phase = np.round(rng.uniform(0, 90, self.count), 2)
        self.half = 1 + np.arange(self.count) % 2

    @property
    def rotation(self) -> np.ndarray:
        return relion_to_matrix(*self.angles.T)

    def star_columns(self) -> dict[str, list[str]]:
        columns = {
            "rlnImageName": [f"{frame + 1:06d}@{self.name}" for frame in self.frame],
            "rlnAngleRot": self.angles[:, 0],
            "rlnAngleTilt": self.angles[:, 1],
            "rlnAnglePsi": self.angles[:, 2],
            "rlnDefocusU": self.defocus_u,
            "rlnDefocusV": self.defocus_v,
            "rlnDefocusAngle": self.angle,
            "rlnPhaseShift": self.phase,
            "rlnRandomSubset": self.half,
        }
        return {name: [str(value) for value in values] for name, values in columns.items()} | self.columns

    def star31(self) -> dict[str, dict[str, list[str]]]:
        particles = self.star_columns() | {
            "rlnOriginXAngst": [str(x) for x in self.origin[:, 0]],
            "rlnOriginYAngst": [str(y) for y in self.origin[:, 1]],
            "rlnOpticsGroup": ["1"] * self.count,
        }
        optics = {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": [str(VOLTAGE)],
            "rlnSphericalAberration": [str(CS)],
            "rlnAmplitudeContrast": [str(AMPLITUDE)],
            "rlnImagePixelSize": [str(PIXEL)],
            "rlnImageSize": [str(self.box)],
            "rlnImageDimensionality": ["2"],
        }
        return {"optics": optics, "particles": particles}

    def star30(self) -> dict[str, dict[str, list[str]]]:
        particles = self.star_columns() | {
            "rlnOriginX": [repr(float(x / PIXEL)) for x in self.origin[:, 0]],
            "rlnOriginY": [repr(float(y / PIXEL)) for y in self.origin[:, 1]],
            "rlnVoltage": [str(VOLTAGE)] * self.count,
            "rlnSphericalAberration": [str(CS)] * self.count,
            "rlnAmplitudeContrast": [str(AMPLITUDE)] * self.count,
            "rlnMagnification": ["10000.0"] * self.count,
            "rlnDetectorPixelSize": [str(PIXEL)] * self.count,
        }
        return {"": particles}

    def cs(self) -> np.ndarray:
        pixel = PIXEL * 2  # aligned on binned images
        fields = {
            "uid": np.arange(self.count, dtype="<u8") + 10**18,
            "blob/path": np.array([f">{self.name}".encode()] * self.count),
            "blob/idx": self.frame.astype("<u4"),
            "blob/psize_A": np.full(self.count, PIXEL, "<f4"),
            "blob/shape": np.full((self.count, 2), self.box, "<u4"),
            "blob/sign": np.full(self.count, -1, "<f4"),
            "ctf/accel_kv": np.full(self.count, VOLTAGE, "<f4"),
            "ctf/cs_mm": np.full(self.count, CS, "<f4"),
            "ctf/amp_contrast": np.full(self.count, AMPLITUDE, "<f4"),
            "ctf/df1_A": self.defocus_u.astype("<f4"),
            "ctf/df2_A": self.defocus_v.astype("<f4"),
            "ctf/df_angle_rad": np.deg2rad(self.angle).astype("<f4"),
            "ctf/phase_shift_rad": np.deg2rad(self.phase).astype("<f4"),
            "alignments3D/split": (self.half - 1).astype("<u4"),
            "alignments3D/pose": matrix_to_cryosparc(self.rotation).astype("<f4"),
            "alignments3D/shift": (self.origin / pixel).astype("<f4"),
            "alignments3D/psize_A": np.full(self.count, pixel, "<f4"),
        }
        return records(fields)


def records(fields: dict[str, np.ndarray]) -> np.ndarray:
    count = len(next(iter(fields.values())))
    result = np.empty(count, dtype=[(name, column.dtype, column.shape[1:]) for name, column in fields.items()])
    for name, column in fields.items():
        result[name] = column
    return result


def without(array: np.ndarray, *names: str) -> np.ndarray:
    return recfunctions.repack_fields(array[[name for name in array.dtype.names if name not in names]])


def write_cs(path: Path, array: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.save(file, array)
    return path


def spelled(value: str) -> str:
    return f"\n{value}\n" if value.startswith(";") else value  # a text field begins at the start of a line


def star_text(blocks: dict[str, dict[str, list[str]]]) -> str:
    text = ""
    for block, columns in blocks.items():
        text += f"\ndata_{block}\n\nloop_\n" + "".join(f"_{name} #{i}\n" for i, name in enumerate(columns, 1))
        text += "".join(" ".join(map(spelled, row)) + "\n" for row in zip(*columns.values(), strict=True)) + "\n"
    return text


def write_star(path: Path, blocks: dict[str, dict[str, list[str]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(star_text(blocks), encoding="utf-8")
    return path
