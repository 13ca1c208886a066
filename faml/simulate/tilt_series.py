"""Particles as tomography makes them: projected through tilts, imaged, put back into a box.

Each tilt image is a central slice of the specimen's spectrum times the microscope's transfer
function C, plus noise. Images are multiplied by C once more and back-projected, so that the data
term is ``y = sum C data`` and the weight ``W = sum C^2`` (method.md section 2), as RELION and Warp
write them. Nothing here shares code with the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.ndimage import map_coordinates, spline_filter
from scipy.sparse import csr_array

from faml.errors import ConfigurationError
from faml.transforms.rotations import random_rotations

__all__ = ["Imaging", "SliceSampler", "TiltGeometry", "TiltSeries", "tilt_angles_deg"]

_PADDING = 2
"""Of a density before its spectrum is sampled between grid points."""
_FINE = 2
"""Image pixels per voxel along the direction in which images are interpolated."""
_KEYS = -0.5  # parameter of cubic convolution (Keys 1981), of third order
_LEAST_RAMP = 0.25  # of a component: the axis itself is no loss
_LEAST_SEEN = 0.05  # of the best; further from a plane is mostly leakage
_ORIENTATIONS_MEASURED = 24
_NOISES_MEASURED = 8
_MEASURED_WITH = 0x5A2  # seed: the level must not depend on which particles are made
_EXPOSURE = (0.24499, -1.6649, 2.8141)
"""Critical exposure at 300 kV in electrons per square Angstrom, a k^b + c (Grant and Grigorieff
2015, Eq. 3)."""
_EXPOSURE_SCALE = {300.0: 1.0, 200.0: 0.8}
"""By voltage in kV (same paper)."""


@dataclass(frozen=True)
class Imaging:
    """What the microscope does to an image.

    Attributes
    ----------
    defocus_um : float or None
        Underfocus; None for no contrast transfer function.
    voltage_kv, spherical_aberration_mm, amplitude_contrast : float
    dose_per_tilt : float
        Electrons per square Angstrom; detail fades with the dose accumulated. 0 for no damage.
    detector : bool
        Modulation transfer ``sinc(pi omega / 2)``, omega = 1 at Nyquist (Zhao et al. 2018, 3.1).
    """

    defocus_um: float | None = None
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    dose_per_tilt: float = 0.0
    detector: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (
            ("defocus", self.defocus_um, None),
            ("voltage", self.voltage_kv, 0.0),
            ("spherical aberration", self.spherical_aberration_mm, None),
        ):
            if value is not None and not np.isfinite(value):
                raise ConfigurationError(f"expected a finite {name}, found {value}")
            if value is not None and least is not None and value <= least:
                raise ConfigurationError(f"expected a {name} above {least:g}, found {value:g}")
        if not 0.0 <= self.amplitude_contrast <= 1.0:
            raise ConfigurationError(
                f"expected an amplitude contrast from 0 to 1, found {self.amplitude_contrast:g}"
            )
        if not 0.0 <= self.dose_per_tilt < np.inf:
            raise ConfigurationError(
                f"expected a finite dose of 0 or more, found {self.dose_per_tilt:g}"
            )
        if self.dose_per_tilt > 0.0 and self.voltage_kv not in _EXPOSURE_SCALE:
            raise ConfigurationError(
                "damage by dose is known for 300 and 200 kV, found "
                f"{self.voltage_kv:g} kV; leave out the dose"
            )
        phase = abs(self.defocus_um or 0.0) + abs(self.spherical_aberration_mm)
        if self.defocus_um is not None and phase == 0.0 and self.amplitude_contrast == 0.0:
            raise ConfigurationError(
                "without defocus, spherical aberration and amplitude contrast nothing is seen; "
                "give one of them"
            )

    @property
    def wavelength_angstrom(self) -> float:
        """Of the electrons, relativistic."""
        volts = 1e3 * self.voltage_kv
        return float(12.2643 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))

    def transfer(
        self, frequency: npt.NDArray[np.float64], nyquist: float, exposure: float = 0.0
    ) -> npt.NDArray[np.float64]:
        """C at spatial frequencies in 1 / Angstrom; positive where there is no CTF.

        Parameters
        ----------
        frequency : float array
        nyquist : float
            1 / Angstrom.
        exposure : float
            Electrons per square Angstrom before and while the image was taken.
        """
        result = np.ones_like(frequency)
        if self.defocus_um is not None:
            wavelength = self.wavelength_angstrom
            phase = (
                np.pi * wavelength * 1e4 * self.defocus_um * frequency**2
                - 0.5 * np.pi * 1e7 * self.spherical_aberration_mm * wavelength**3 * frequency**4
            )
            result = np.sin(phase + np.arcsin(self.amplitude_contrast))
        if self.detector:
            result = result * np.sinc(0.5 * frequency / nyquist)
        if exposure > 0.0:
            a, b, c = _EXPOSURE
            with np.errstate(divide="ignore"):
                critical = (a * frequency**b + c) * _EXPOSURE_SCALE[self.voltage_kv]
            result = result * np.exp(-0.5 * exposure / critical)
        return result


@dataclass(frozen=True)
class TiltSeries:
    """How tomograms are recorded.

    Attributes
    ----------
    step_deg : float
    imagings : tuple of Imaging
        One per tomogram.
    """

    step_deg: float
    imagings: tuple[Imaging, ...] = (Imaging(),)


def tilt_angles_deg(
    tilt_range_deg: tuple[float, float], step_deg: float
) -> npt.NDArray[np.float64]:
    """Angles from the smallest by equal steps, none beyond the largest, (T,) float64.

    Raises
    ------
    ConfigurationError
        Range or step are no such.
    """
    low, high = tilt_range_deg
    if not -90.0 <= low < high <= 90.0:
        raise ConfigurationError(
            f"expected a tilt range -90 <= min < max <= 90 degrees, found {low:g} to {high:g}"
        )
    if not 0.0 < step_deg <= high - low:
        raise ConfigurationError(
            f"expected a tilt step above 0 and no larger than the range of {high - low:g} degrees, "
            f"found {step_deg:g}"
        )
    count = int((high - low) / step_deg + 1e-6) + 1
    angles: npt.NDArray[np.float64] = low + step_deg * np.arange(count, dtype=np.float64)
    return angles


class SliceSampler:
    """The spectrum of a density between grid points.

    Parameters
    ----------
    density : (n, n, n) float
        With nothing near its faces.
    """

    def __init__(self, density: npt.NDArray[np.floating]) -> None:
        n = density.shape[0]
        edge = _PADDING * n
        padded = np.zeros((edge,) * 3)
        first = edge // 2 - n // 2
        padded[(slice(first, first + n),) * 3] = density
        spectrum = scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(padded))) / n**1.5
        self._box = n
        self._parts = [spline_filter(part, 3, mode="grid-wrap") for part in
                       (spectrum.real, spectrum.imag)]  # fmt: skip

    def __call__(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
        """Values at (..., 3) points x, y, z in cycles per box; 0 beyond Nyquist."""
        n = self._box
        places = np.moveaxis(points[..., ::-1], -1, 0) * _PADDING + _PADDING * n // 2
        real, imaginary = (
            map_coordinates(part, places, order=3, prefilter=False, mode="grid-wrap")
            for part in self._parts
        )
        inside = (np.abs(points) <= n / 2).all(axis=-1)
        values: npt.NDArray[np.complex128] = np.where(inside, real + 1j * imaginary, 0.0)
        return values


@dataclass(frozen=True)
class TiltGeometry:
    """Images of one tilt series, and boxes made of them. The beam is along Z.

    Images are twice the box, so that neighbours outside it, and what the CTF spreads, do not come
    in again at the other side.

    Attributes
    ----------
    box : int
        Edge n in voxels.
    voxel_size_angstrom : float
    tilts_deg : (T,) float64
    imaging : Imaging
    tilt_axis : {"y", "x"}
        As in `particles.wedge.wedge_weight`.
    """

    box: int
    voxel_size_angstrom: float
    tilts_deg: npt.NDArray[np.float64]
    imaging: Imaging
    tilt_axis: str = "y"

    @cached_property
    def _frequencies(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(2n, 1) and (1, n + 1): along and across the axis, in units of 1 / n."""
        edge = 2 * self.box
        return (
            0.5 * scipy.fft.fftfreq(edge, 1.0 / edge)[:, None],
            0.5 * np.arange(self.box + 1, dtype=np.float64)[None, :],
        )

    @cached_property
    def transfers(self) -> npt.NDArray[np.float64]:
        """C of every image, (T, 2n, n + 1) float64. Small tilts are taken first."""
        axial, u = self._frequencies
        extent = self.box * self.voxel_size_angstrom
        frequency = np.sqrt(axial**2 + u**2) / extent
        nyquist = 0.5 / self.voxel_size_angstrom
        order = np.argsort(np.argsort(np.abs(self.tilts_deg), kind="stable"), kind="stable")
        dose = self.imaging.dose_per_tilt
        return np.stack(
            [self.imaging.transfer(frequency, nyquist, dose * (place + 1)) for place in order]
        )

    @cached_property
    def _points(self) -> npt.NDArray[np.float64]:
        """Where image components lie in the volume's spectrum, (T, 2n, n + 1, 3): x, y, z."""
        axial, u = self._frequencies
        angles = np.deg2rad(self._turns_deg)[:, None, None]
        axial, across, up = np.broadcast_arrays(
            axial + 0.0 * angles, u * np.cos(angles), u * np.sin(angles)
        )
        return np.stack((axial, across, up) if self.tilt_axis == "x" else (across, axial, up), -1)

    @property
    def _turns_deg(self) -> npt.NDArray[np.float64]:
        """From the direction across the axis towards Z."""
        return -self.tilts_deg if self.tilt_axis == "x" else self.tilts_deg

    @cached_property
    def _into_box(self) -> tuple[csr_array, ...]:
        """What puts each image into the box; the same for all particles."""
        return self._interpolations(self.box)

    def _interpolations(self, edge: int) -> tuple[csr_array, ...]:
        wide = 2 * self.box * _FINE
        return tuple(_interpolation(edge, wide, float(tilt)) for tilt in self._turns_deg)

    def slices(
        self,
        sampler: SliceSampler,
        rotation: npt.NDArray[np.float64],
        translation: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.complex128]:
        """Spectra of the projections of a density in a pose, (T, 2n, n + 1), without C."""
        phases = np.exp(-2j * np.pi / self.box * (self._points @ translation))
        # A(R^T k): rows times R is R^T applied to each.
        found: npt.NDArray[np.complex128] = sampler(self._points @ rotation) * phases
        return found

    def noise(self, rng: np.random.Generator) -> npt.NDArray[np.complex128]:
        """Spectra of white noise, (T, 2n, n + 1), for which components of y have variance W."""
        edge = 2 * self.box
        white = rng.normal(size=(len(self.tilts_deg), edge, edge))
        # A component of the box is as wide as four of an image, which is twice as large.
        spectra: npt.NDArray[np.complex128] = 2.0 * scipy.fft.rfft2(white, norm="ortho")
        return spectra

    @cached_property
    def _ramp(self) -> npt.NDArray[np.float64]:
        """What makes a sum of tilt planes even, (1, n + 1): distance from the axis."""
        _, u = self._frequencies
        step = np.deg2rad(np.diff(self.tilts_deg).mean()) if len(self.tilts_deg) > 1 else 1.0
        ramp: npt.NDArray[np.float64] = np.maximum(u, _LEAST_RAMP) * step
        return ramp

    @cached_property
    def _seen(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Signal and noise power of components of a filtered back-projection, per unit of each."""
        return (
            self._smeared(self._ramp * self.transfers**2),
            self._smeared((self._ramp * self.transfers) ** 2),
        )

    @cached_property
    def _gain(self) -> npt.NDArray[np.float64]:
        """By which a filtered back-projection becomes y: its noise then has variance W."""
        signal, noise = self._seen
        # Planes pass where they would without CTF, whose zeros are no missing wedge.
        passed = self._smeared(np.broadcast_to(self._ramp, self.transfers.shape))
        observed = passed > _LEAST_SEEN * float(passed.max())
        gain: npt.NDArray[np.float64] = np.divide(
            signal, noise, out=np.zeros_like(signal), where=observed & (noise > 0)
        )
        return gain

    @cached_property
    def weight(self) -> npt.NDArray[np.float32]:
        """W of the subtomograms, (n, n, n // 2 + 1) float32: sum of C^2 where tilt planes pass."""
        return np.asarray(self._seen[0] * self._gain, dtype=np.float32)

    def reconstruct(self, images: npt.NDArray[np.complex128]) -> npt.NDArray[np.float32]:
        """Subtomogram, (n, n, n) float32, whose spectrum is the data term y.

        Images are multiplied by C, filtered and back-projected. Without the filter what the faces
        of the box cut off from strong coarse components would drown the fine ones.

        Parameters
        ----------
        images : (T, 2n, n + 1) complex
            Spectra of images.
        """
        filtered = self._back_projected(self._ramp * self.transfers * images, self.box)
        spectrum = scipy.fft.rfftn(scipy.fft.ifftshift(filtered)) * self._gain
        shape = (self.box,) * 3
        return scipy.fft.fftshift(scipy.fft.irfftn(spectrum, s=shape)).astype(np.float32)

    def noise_level(self, snr: float, samplers: Sequence[SliceSampler]) -> float:
        """Factor of `noise` for a signal-to-noise ratio of the subtomogram.

        Measured, since what the CTF spreads beyond the box is hard to tell from its square.

        Parameters
        ----------
        snr : float
            Variance of signal over noise within the box; the signal's is the mean over densities
            and orientations.
        samplers : sequence of SliceSampler
            Of the densities.
        """
        rng = np.random.default_rng(_MEASURED_WITH)
        centre = np.zeros(3)
        signal = [
            self.reconstruct(self.transfers * self.slices(sampler, turn, centre)).var()
            for sampler in samplers
            for turn in random_rotations(_ORIENTATIONS_MEASURED, rng).as_matrix()
        ]
        noise = [self.reconstruct(self.noise(rng)).var() for _ in range(_NOISES_MEASURED)]
        return float(np.sqrt(np.mean(signal) / (np.mean(noise) * snr)))

    def _smeared(self, spectra: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sum of tilt planes, each as thick as the box makes it, on the grid of the box.

        One plane of ones has 1 where it passes.
        """
        n, edge = self.box, 2 * self.box
        spread = self._back_projected(spectra, edge) / n**1.5
        lags = 1.0 - np.abs(np.arange(edge) - n) / n
        spread *= lags[:, None, None] * lags[:, None] * lags
        power = scipy.fft.rfftn(scipy.fft.ifftshift(spread)).real
        return np.maximum(power[::2, ::2, : edge // 2 + 1 : 2], 0.0)

    def _back_projected(
        self, spectra: npt.NDArray[np.complexfloating] | npt.NDArray[np.float64], edge: int
    ) -> npt.NDArray[np.float64]:
        n = self.box
        wide = 2 * n * _FINE
        rows = slice(n - edge // 2, n - edge // 2 + edge)
        total = np.zeros((edge * edge, edge))
        matrices = self._into_box if edge == n else self._interpolations(edge)
        for spectrum, matrix in zip(spectra, matrices, strict=True):
            image = scipy.fft.fftshift(scipy.fft.irfft2(spectrum, s=(2 * n, wide)))
            total += matrix @ image[rows].T
        # [z, across, along the axis]; as many fine pixels as there are share what one held.
        volume = total.reshape(edge, edge, edge) * (_FINE * np.sqrt(n))
        if self.tilt_axis == "y":
            volume = volume.transpose(0, 2, 1)
        return np.ascontiguousarray(volume)


def _interpolation(edge: int, wide: int, tilt_deg: float) -> csr_array:
    """Values at ``u = x cos + z sin`` of each [z, x] from fine pixels; zero outside the image.

    x stands for the direction across the axis.
    """
    angle = np.deg2rad(tilt_deg)
    axis = np.arange(edge, dtype=np.float64) - edge // 2
    place = (axis[:, None] * np.sin(angle) + axis[None, :] * np.cos(angle)).ravel()
    place = place * _FINE + wide // 2
    first = np.floor(place).astype(np.int64) - 1
    columns = first[:, None] + np.arange(4)
    weights = _cubic(np.abs(columns - place[:, None]))
    weights[(columns < 0) | (columns >= wide)] = 0.0
    rows = np.repeat(np.arange(edge * edge), 4)
    return csr_array(
        (weights.ravel(), (rows, np.clip(columns, 0, wide - 1).ravel())), shape=(edge * edge, wide)
    )


def _cubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Kernel of cubic convolution at distances in pixels (Keys 1981)."""
    near = ((_KEYS + 2.0) * distance - (_KEYS + 3.0)) * distance**2 + 1.0
    far = _KEYS * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
    result: npt.NDArray[np.float64] = np.where(
        distance <= 1.0, near, np.where(distance < 2.0, far, 0.0)
    )
    return result
