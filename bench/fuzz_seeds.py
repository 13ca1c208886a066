"""Whole files of every kind that faml reads, for `bench/fuzz_readers.py`; each has a few lines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from fuzz_mutate import SECRET

from faml.config import build_config, config_to_toml
from faml.em.state import Assignments, Changes, State, SymmetrySeen
from faml.io.checkpoint import HDF5Checkpoint
from faml.io.em import write_em
from faml.io.mrc import write_volume
from faml.model import Model
from faml.particles import ParticleSet

BOX, COUNT, CLASSES = 4, 3, 2


def _written(name: str, write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def mrc(shape: tuple[int, int, int], kind: str = "f4") -> bytes:
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    data = bytearray(_written("a.mrc", lambda path: write_volume(path, values, 3.5)))
    if kind == "i1":
        data[12:16] = bytes(4)
        data[1024:] = values.astype("i1").tobytes()
    return bytes(data)


def em(shape: tuple[int, int, int]) -> bytes:
    values = np.random.default_rng(2).normal(size=shape)
    return _written("a.em", lambda path: write_em(path, values))


def motl() -> bytes:
    values = np.random.default_rng(3).uniform(-50, 50, (1, COUNT, 20))
    for row in (3, 4, 6, 19):
        values[0, :, row] = [1, 2, 1]
    values[0, :, 3] = [1, 2, 3]
    return _written("a.em", lambda path: write_em(path, values))


_RELION31 = b"""
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnImagePixelSize #3
_rlnImageSize #4
_rlnImageDimensionality #5
_rlnCtfDataAreCtfPremultiplied #6
1 opticsGroup1 3.500000 4 3 1
2 "optics 2" 3.5 4 3 0

# version 30001

data_particles

loop_
_rlnImageName #1
_rlnCtfImage #2
_rlnMicrographName #3
_rlnOpticsGroup #4
_rlnAngleRot #5
_rlnAngleTilt #6
_rlnAnglePsi #7
_rlnOriginXAngst #8
_rlnOriginYAngst #9
_rlnOriginZAngst #10
_rlnCoordinateX #11
_rlnCoordinateY #12
_rlnCoordinateZ #13
_rlnClassNumber #14
_rlnRandomSubset #15
_rlnMaxValueProbDistribution #16
a.mrc ctf.mrc TS_01.mrc 1 10.0 20.0 30.0 1.5 -2.0 0.0 100 200 50 1 1 0.5
b.mrc ctf.mrc TS_01.mrc 1 -170 90.5 3e1 0 0 0 10.5 20.5 5 2 2 0.25
'c d.mrc' ctf.mrc TS_02.mrc 2 0 0 0 0 0 0 1 2 3 1 1 1.0 # comment
"""
_RELION30 = b"""
data_

loop_
_rlnImageName
_rlnMicrographName
_rlnMagnification
_rlnDetectorPixelSize
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginX
_rlnOriginY
_rlnOriginZ
_dynamo_ftype
_dynamo_ymintilt
_dynamo_ymaxtilt
_dynamo_xmintilt
_dynamo_xmaxtilt
_dynamo_tag
a.mrc t1.tomostar 10000 7.5 1 2 3 0.5 1 2 1 -60 60 0 0 5
b.mrc t2.tomostar 10000 7.5 4 5 6 0 0 0 4 -60 50 -40 40 6
"""
_RELION5 = b"""
# version 50001
data_general
_rlnTomoSubTomosAre2DStacks 0

data_optics
_rlnOpticsGroup 1
_rlnTomoTiltSeriesPixelSize 1.35
_rlnImagePixelSize 5.4

data_particles
loop_
_rlnTomoName
_rlnImageName
_rlnTomoSubtomogramRot
_rlnTomoSubtomogramTilt
_rlnTomoSubtomogramPsi
_rlnCenteredCoordinateXAngst
_rlnCenteredCoordinateYAngst
_rlnCenteredCoordinateZAngst
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
TS_1 a.mrc 1 2 3 10 20 30 4 5 6
TS_2 b.mrc 0 0 0 -10 -20 -30 0 0 0
"""


def star() -> tuple[bytes, ...]:
    return _RELION31, _RELION30, _RELION5


def stack_particles() -> tuple[bytes, ...]:
    centred = b"""
# version 50001
data_general
_rlnTomoSubTomosAre2DStacks 1

data_optics
loop_
_rlnOpticsGroup
_rlnImagePixelSize
_rlnImageDimensionality
_rlnCtfDataAreCtfPremultiplied
1 5.4 2 1

data_particles
loop_
_rlnTomoName
_rlnImageName
_rlnTomoVisibleFrames
_rlnOpticsGroup
_rlnCenteredCoordinateXAngst
_rlnCenteredCoordinateYAngst
_rlnCenteredCoordinateZAngst
_rlnTomoSubtomogramRot
_rlnTomoSubtomogramTilt
_rlnTomoSubtomogramPsi
TS_1 a.mrcs [1,0,1] 1 10 20 30 4 5 6
TS_1 b.mrcs [1,1,0] 1 -10 -20 30 0 0 0
"""
    pixels = centred.replace(b"rlnCenteredCoordinate", b"rlnCoordinate").replace(b"Angst", b"")
    return centred, pixels.replace(b" 2 1\n", b" 2 0\n")


_TILT_COLUMNS = b"""loop_
_rlnTomoXTilt
_rlnTomoYTilt
_rlnTomoZRot
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnCtfScalefactor
_rlnMicrographPreExposure
0 -30 85 30000 29000 40 0.9 0
0 0 85 31000 30000 41 1 3
0.5 30 85 32000 31000 42 0.9 6
"""
_GLOBAL = b"""
data_global
loop_
_rlnTomoName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnTomoHand
_rlnTomoTiltSeriesPixelSize
_rlnTomoSizeX
_rlnTomoSizeY
_rlnTomoSizeZ
"""


def tilts() -> bytes:
    return b"\ndata_TS_1\n" + _TILT_COLUMNS


def tomograms() -> tuple[bytes, ...]:
    row = b"TS_1 300.0 2.7 0.1 -1 1.35 4000 4000 1000"
    own_file = _GLOBAL + b"_rlnTomoTiltSeriesStarFile\n" + row + b" ts.star\n"
    matrices = b"""
data_TS_1
loop_
_rlnTomoProjX
_rlnTomoProjY
_rlnTomoProjZ
_rlnTomoProjW
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnMicrographPreExposure
[1,0,0,5] [0,1,0,5] [0,0,1,5] [0,0,0,1] 3e4 3e4 0 0
[0,-1,0,5] [1,0,0,5] [0,0,1,5] [0,0,0,1] 3e4 3e4 0 3
[0.8,0,0.6,5] [0,1,0,5] [-0.6,0,0.8,5] [0,0,0,1] 3e4 3e4 0 6
"""
    return own_file, _GLOBAL + row + b"\n" + tilts(), _GLOBAL + row + b"\n" + matrices


def optimisation_set() -> bytes:
    return (
        b"data_optimisation_set\n\n_rlnTomoParticlesFile particles.star\n"
        b"_rlnTomoTomogramsFile tomograms.star\n"
    )


def dynamo() -> tuple[bytes, ...]:
    row = "{tag} 1 1 0.5 -1 2 10 20 30 0.4 0 0 1 -60 60 0 0 0 0 {tomo} 0 1 0 100.5 200 50 0 0 0 0"
    row += " 0 0 0 0 0 5.4 0 0 0 0 0 0"
    whole = "\n".join(row.format(tag=tag, tomo=1 + tag // 2) for tag in (1, 2, 3)) + "\n"
    return whole.encode(), b"1 1 0 0 0 0 10 20 30\n2 1 1+2i 0 0 0 -10 0 1e1\n"


def stopgap() -> tuple[bytes, ...]:
    head = "\ndata_stopgap_motivelist\n\nloop_\n" + "".join(
        f"_{name}\n"
        for name in (
            *("motl_idx", "tomo_num", "object", "subtomo_num", "halfset", "orig_x", "orig_y"),
            *("orig_z", "score", "x_shift", "y_shift", "z_shift", "phi", "psi", "the", "class"),
        )
    )
    rows = "1 1 1 1 A 10 20 30 0.5 0.1 0.2 -0.3 10 20 30 1\n2 2 1 2 B 1 2 3 0.1 0 0 0 0 0 0 2\n"
    return ((head + rows).encode(),)


def wedge_lists() -> tuple[bytes, ...]:
    values = np.array([[[1.0, -60.0, 60.0], [2.0, -51.0, 48.0]]])
    return (
        _written("w.em", lambda path: write_em(path, values)),
        b"# tomogram, tilts\n1 -60 60\n2 -51.5 48\n",
        b"\ndata_stopgap_wedgelist\nloop_\n_tomo_num\n_tilt_angle\n1 -60\n1 60\n2 -50\n2 48\n",
    )


def log() -> bytes:
    return b"""2025-01-02 10:00:00,001 INFO python 3.11, faml 0.1.0
2025-01-02 10:00:01,001 WARNING iteration 1: something
2025-01-02 10:00:02,001 INFO iteration 1: log-likelihood -1.0, aligned to 30.0 Angstrom
2025-01-02 10:00:03,001 INFO 0 particles are outliers of their class (famlOutlier)
2025-01-02 10:00:04,001 INFO CPU seconds: expectation 1.5, maximisation 0.5
"""


def configs() -> tuple[bytes, ...]:
    some = build_config(
        data={"inputs": ("a.mrc", "b.mrc"), "tilt_range_deg": (-60.0, 60.0)},
        em={"classes": 2, "symmetry": "D7", "half_sets": True},
        search={"max_shift_voxels": 3.0},
    )
    return config_to_toml(some).encode(), config_to_toml(build_config(preset="paper")).encode()


def experiments() -> tuple[bytes, ...]:
    return (
        b"""title = "GroEL"
section = "3.1"
seeds = [1, 2]
symmetries = ["D7"]
[data]
models = ["model.mrc"]
counts = [10]
box = 16
voxel_size_angstrom = 6.0
tilt_range_deg = [-60.0, 60.0]
[sweep]
snr = [0.1, 0.01]
[methods.faml]
em = {iterations = 3}
[methods.fa]
search = {strategy = "fa"}
only = {snr = [0.1]}
[methods.oracle]
kind = "oracle"
[[cases]]
name = "white"
[[cases]]
name = "shifted"
max_shift_voxels = 2.0
[quick]
seeds = [1]
[quick.data]
counts = [4]
""",
    )


def runs() -> tuple[bytes, ...]:
    """Checkpoints of a run with folds and half-sets, and of one with neither."""

    def write(path: Path, *, rich: bool) -> None:
        particles = ParticleSet.from_arrays(
            np.zeros((COUNT, BOX, BOX, BOX), np.float32),
            np.ones((1, BOX, BOX, BOX // 2 + 1), np.float32),
            voxel_size_angstrom=5.0,
            names=tuple(f"{i}.mrc" for i in range(COUNT)),
        )
        config = build_config(
            data={"tilt_range_deg": (-60.0, 60.0)}, em={"classes": CLASSES, "half_sets": rich}
        )
        kept = HDF5Checkpoint(path, config, particles)
        kept.save(_state(0, rich=rich))
        kept.save(_state(1, rich=rich))

    return tuple(
        _written("run.h5", lambda path, rich=rich: write(path, rich=rich))  # type: ignore[misc]
        for rich in (True, False)
    )


def _state(iteration: int, *, rich: bool) -> State:
    rng = np.random.default_rng([4, iteration])
    shells = (BOX - 1) // 2 + 1

    def model() -> Model:
        return Model(
            volumes=rng.normal(size=(CLASSES,) + (BOX,) * 3).astype(np.float32),
            class_fractions=np.array([0.4, 0.6]),
            noise_variance=np.ones(shells),
            signal_power=np.ones((CLASSES, shells)),
            shift_variance=1.0,
        )

    return State(
        iteration=iteration,
        model=model(),
        assignments=Assignments(
            classes=np.array([0, 1, 1]),
            rotations=np.tile(np.eye(3), (COUNT, 1, 1)),
            translations=rng.normal(size=(COUNT, 3)),
            probabilities=rng.uniform(0.2, 1.0, COUNT),
            class_probabilities=np.full((COUNT, CLASSES), 0.5),
            effective_poses=np.ones(COUNT),
            log_likelihoods=rng.normal(size=COUNT),
            log_evidences=rng.normal(size=COUNT),
            fallbacks=np.zeros(COUNT, dtype=bool),
            kept_masses=np.ones(COUNT),
        ),
        align_shell=2,
        next_align_shell=2,
        log_likelihood=-10.0 + iteration,
        ssnr=np.ones((CLASSES, shells)),
        changes=Changes(1.0, 0.5, 0.1) if iteration else None,
        empty_classes=(),
        stop_reason="",
        fold_models=tuple(model() for _ in range(4)) if rich else (),
        half_models=(model(), model()) if rich else (),
        fsc=np.full((CLASSES, BOX // 2), 0.5) if rich else None,
        symmetry_seen=(SymmetrySeen(0.9, 0.8, 0.1, 0.9),) * CLASSES if rich else (),
    )


def secret(whole: bytes) -> bytes:
    """A checkpoint whose numbers and names no reader of another one may return."""

    def write(path: Path) -> None:
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:

            def mark(_: str, item: object) -> None:
                if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
                    item[...] = SECRET

            file.visititems(mark)
            file["particles/names"][...] = ["SECRET"] * COUNT
            file["values"] = np.full(4096, SECRET)

    return _written("run.h5", write)
