"""Writes particles the way RELION 5 extracts them as 2-D stacks; shares no code with the package.

Projections of a phantom of Gaussian blobs are known in closed form; rotations, CTF and exposure
are spelled out as in RELION's sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mrcfile
import numpy as np

PIXEL = 8.0
BINNING = 4.0


def rx(deg):
    c, s = np.cos(np.deg2rad(deg)), np.sin(np.deg2rad(deg))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def ry(deg):
    c, s = np.cos(np.deg2rad(deg)), np.sin(np.deg2rad(deg))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rz(deg):
    c, s = np.cos(np.deg2rad(deg)), np.sin(np.deg2rad(deg))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def relion_matrix(rot, tilt, psi):
    """Euler_angles2matrix of RELION."""
    return (rz(rot) @ ry(tilt) @ rz(psi)).T


def relion_ctf(x, y, tilt, tomogram, depth):
    """CTF times exposure decay at spatial frequencies in 1 / angstrom (ctf.h, damage.cpp)."""
    volts = tomogram.voltage * 1e3
    wavelength = 12.2643247 / np.sqrt(volts * (1.0 + volts * 0.978466e-6))
    dz = tomogram.hand * depth
    azimuth = np.deg2rad(tilt.angle)
    turn = np.array([[np.cos(azimuth), np.sin(azimuth)], [-np.sin(azimuth), np.cos(azimuth)]])
    a = turn.T @ np.diag([-(tilt.u + dz), -(tilt.v + dz)]) @ turn
    square = x**2 + y**2
    gamma = (
        np.pi * wavelength * (a[0, 0] * x**2 + 2 * a[0, 1] * x * y + a[1, 1] * y**2)
        + np.pi / 2 * tomogram.cs * 1e7 * wavelength**3 * square**2
        - np.deg2rad(tilt.phase)
        - np.arctan(tomogram.q0 / np.sqrt(1 - tomogram.q0**2))
    )
    with np.errstate(divide="ignore"):
        critical = 0.245 * np.sqrt(square) ** -1.665 + 2.81
    return -np.sin(gamma) * tilt.scale * np.exp(-0.5 * tilt.exposure / critical)


@dataclass
class Tilt:
    """One image of a tilt series."""

    x: float
    y: float
    z: float
    u: float
    v: float
    angle: float
    exposure: float
    scale: float = 1.0
    phase: float = 0.0

    @property
    def matrix(self):
        return rz(self.z) @ ry(self.y) @ rx(self.x)


@dataclass
class Tomogram:
    """A tilt series and its microscope."""

    name: str
    tilts: list
    hand: int = 1
    voltage: float = 300.0
    cs: float = 2.7
    q0: float = 0.1


@dataclass
class Blobs:
    """Gaussian blobs that have neither symmetry nor hand."""

    box: int
    seed: int = 3
    count: int = 16
    spread: float = 0.15
    sigma: float = 0.028
    centres: np.ndarray = field(init=False)
    heights: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        self.centres = rng.uniform(-self.spread, self.spread, (self.count, 3)) * self.box
        self.heights = rng.uniform(0.4, 1.6, self.count)

    def volume(self, rotation=None, shift=(0.0, 0.0, 0.0)):
        n, width = self.box, self.sigma * self.box
        z, y, x = np.indices((n, n, n)) - n // 2
        out = np.zeros((n, n, n))
        turned = self.centres @ (np.eye(3) if rotation is None else rotation).T + shift
        for (cx, cy, cz), height in zip(turned, self.heights, strict=True):
            out += height * np.exp(
                -((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * width**2)
            )
        return out.astype(np.float32)

    def image(self, projection, rotation, shift, edge):
        """Projection along ``projection``'s third row, (edge, edge)."""
        width = self.sigma * self.box
        places = (self.centres @ rotation.T + shift) @ projection.T
        y, x = np.indices((edge, edge)) - edge // 2
        out = np.zeros((edge, edge))
        for (cx, cy, _), height in zip(places, self.heights, strict=True):
            out += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
        return out * np.sqrt(2 * np.pi) * width


@dataclass
class Particle:
    """Where and how one particle lies."""

    tomogram: int
    position: np.ndarray
    angles: tuple
    subtomogram: tuple
    origin: np.ndarray
    visible: np.ndarray

    @property
    def rotation(self):
        return relion_matrix(*self.angles)

    @property
    def shift(self):
        return -self.origin / PIXEL


def tomograms():
    """Two that differ in axis, range, hand, voltage, defocus and exposure."""
    first = [
        Tilt(1.5, a, 84.0, 28000 + 40 * i, 26500 + 40 * i, 30.0, 3.0 * abs(i - 16) + 1,
             np.cos(np.deg2rad(a)))
        for i, a in enumerate(np.arange(-46.0, 58.0, 3.0))
    ]  # fmt: skip
    second = [
        Tilt(-2.0, a, -7.0, 36000 - 30 * i, 37000 - 30 * i, -50.0, 2.0 * i, phase=4.0)
        for i, a in enumerate(np.arange(-60.0, 40.5, 3.5))
    ]
    return [
        Tomogram("TS_01", first, hand=-1),
        Tomogram("02", second, hand=1, voltage=200.0, cs=1.4, q0=0.07),
    ]


def particles(count, series, seed=0, *, hide=0.1, shift=1.5, subtomogram=True):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        which = i % len(series)
        visible = rng.random(len(series[which].tilts)) >= hide
        visible[3] = True
        angles = [
            (rng.uniform(-180, 180), np.rad2deg(np.arccos(rng.uniform(-1, 1))),
             rng.uniform(-180, 180))
            for _ in range(2)
        ]  # fmt: skip
        made.append(
            Particle(
                tomogram=which,
                position=rng.uniform(-1, 1, 3) * np.array([6000, 6000, 900]),
                angles=angles[0],
                subtomogram=angles[1] if subtomogram else (0.0, 0.0, 0.0),
                origin=rng.uniform(-shift, shift, 3) * PIXEL,
                visible=visible,
            )
        )
    return made


def stack(phantom, particle, tomogram, *, premultiplied=True, noise=0.0, rng=None):
    """The visible images of a particle, (F, n, n)."""
    n = phantom.box
    wide = 2 * n
    y, x = np.meshgrid(np.fft.fftfreq(wide, PIXEL), np.fft.rfftfreq(wide, PIXEL), indexing="ij")
    frame = relion_matrix(*particle.subtomogram)
    rows, columns = np.indices((n, n)) - n // 2
    mask = np.clip((n / 2 - np.hypot(rows, columns)) / 3, 0, 1)
    images = []
    for tilt in [t for t, seen in zip(tomogram.tilts, particle.visible, strict=True) if seen]:
        image = phantom.image(tilt.matrix @ frame, particle.rotation, particle.shift, wide)
        c = relion_ctf(x, y, tilt, tomogram, tilt.matrix[2] @ particle.position)
        spectrum = np.fft.rfft2(np.fft.ifftshift(image)) * c
        if noise:
            spectrum += noise * np.fft.rfft2(rng.normal(size=(wide, wide)))
        if premultiplied:
            spectrum *= c
        image = np.fft.fftshift(np.fft.irfft2(spectrum, s=(wide, wide)))
        images.append(image[n // 2 : n // 2 + n, n // 2 : n // 2 + n] * mask)
    return np.array(images, dtype=np.float32)


def table(name, columns, rows):
    text = f"\n# version 50001\n\ndata_{name}\n\nloop_\n"
    text += "".join(f"_{column} #{i}\n" for i, column in enumerate(columns, 1))
    return text + "".join(" ".join(map(str, row)) + "\n" for row in rows) + "\n"


def write_project(folder, phantom, made, series, *, matrices=False, premultiplied=True, noise=0.0):
    """A RELION project; ``matrices`` writes tilt series as RELION 4 and WarpTools do.

    Returns the path of particles.star.
    """
    rng = np.random.default_rng(5)
    job = folder / "Extract" / "job007"
    (folder / "Tomograms").mkdir(parents=True)
    rows = []
    for i, particle in enumerate(made):
        tomogram = series[particle.tomogram]
        name = f"Extract/job007/Subtomograms/{tomogram.name}/{i + 1}_stack2d.mrcs"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        images = stack(phantom, particle, tomogram, premultiplied=premultiplied, noise=noise,
                       rng=rng)  # fmt: skip
        with mrcfile.new(folder / name, overwrite=True) as file:
            file.set_data(images.astype(np.float16) if i % 2 else images)
            file.set_image_stack()
            file.voxel_size = PIXEL
        position = (
            particle.position / (PIXEL / BINNING) + np.array([501, 400, 200]) / 2
            if matrices
            else particle.position
        )
        rows.append([
            tomogram.name, f"{tomogram.name}/{i + 1}", name, *position, *particle.angles,
            *particle.subtomogram, *particle.origin, 1 + particle.tomogram,
            "[" + ",".join(map(str, particle.visible.astype(int))) + "]", 0.5,
        ])  # fmt: skip
    coordinates = (
        [f"rlnCoordinate{a}" for a in "XYZ"]
        if matrices
        else [f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"]
    )
    text = "\n# version 50001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n\n"
    text += table(
        "optics",
        ["rlnOpticsGroup", "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality",
         "rlnCtfDataAreCtfPremultiplied", "rlnTomoTiltSeriesPixelSize", "rlnVoltage"],
        [[1 + i, PIXEL, phantom.box, 2, int(premultiplied), PIXEL / BINNING, t.voltage]
         for i, t in enumerate(series)],
    )  # fmt: skip
    text += table(
        "particles",
        ["rlnTomoName", "rlnTomoParticleName", "rlnImageName", *coordinates, "rlnAngleRot",
         "rlnAngleTilt", "rlnAnglePsi", "rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt",
         "rlnTomoSubtomogramPsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst",
         "rlnOpticsGroup", "rlnTomoVisibleFrames", "rlnKept"],
        rows,
    )  # fmt: skip
    (job / "particles.star").write_text(text)
    write_tomograms(folder, series, matrices=matrices)
    (job / "optimisation_set.star").write_text(
        "\n# version 50001\n\ndata_\n\n_rlnTomoParticlesFile Extract/job007/particles.star\n"
        "_rlnTomoTomogramsFile Tomograms/tomograms.star\n"
    )
    return job / "particles.star"


def write_tomograms(folder, series, *, matrices):
    columns = ["rlnTomoName", "rlnTomoHand", "rlnTomoTiltSeriesPixelSize", "rlnVoltage",
               "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnTomoSizeX", "rlnTomoSizeY",
               "rlnTomoSizeZ"]  # fmt: skip
    rows = [[t.name, t.hand, PIXEL / BINNING, t.voltage, t.cs, t.q0, 501, 400, 200] for t in series]
    optics = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnMicrographPreExposure",
              "rlnCtfScalefactor", "rlnPhaseShift"]  # fmt: skip
    tables = {}
    for tomogram in series:
        lines = []
        for t in tomogram.tilts:
            vectors = [
                "[" + ",".join(f"{value:.9f}" for value in (*row, 123.0)) + "]" for row in t.matrix
            ]
            geometry = [*vectors, "[0,0,0,1]"] if matrices else [t.x, t.y, t.z, 12.5, -31.0]
            lines.append([*geometry, t.u, t.v, t.angle, t.exposure, t.scale, t.phase])
        names = (
            [f"rlnTomoProj{a}" for a in "XYZW"]
            if matrices
            else ["rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot", "rlnTomoXShiftAngst",
                  "rlnTomoYShiftAngst"]
        )  # fmt: skip
        tables[tomogram.name] = table(tomogram.name, [*names, *optics], lines)
    if not matrices:
        columns.append("rlnTomoTiltSeriesStarFile")
        for row in rows:
            name = f"Tomograms/tilt_series/{row[0]}.star"
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(tables.pop(row[0]))
            row.append(name)
    text = table("global", columns, rows) + "".join(tables.values())
    (folder / "Tomograms" / "tomograms.star").write_text(text)
