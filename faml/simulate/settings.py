"""Every setting of a simulated data set, as the command line and experiments give them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from faml.config import validated
from faml.simulate.particles import check_settings
from faml.simulate.tilt_series import Imaging, TiltSeries, tilt_angles_deg

__all__ = ["Simulation", "build_simulation"]

_OPTICS = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast", "dose_per_tilt")
_OF_CTF = {
    "voltage_kv": "voltage",
    "spherical_aberration_mm": "spherical aberration",
    "amplitude_contrast": "amplitude contrast",
}
_TILT_STEP_DEG = 3.0
_CONE_DEG = 30.0


class Simulation(BaseModel):
    """Particles of known structures. None means: as the microscope or the command has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(min_length=1)
    """PDB, mmCIF or MRC files, one a class."""
    counts: tuple[int, ...] = (100,)
    """Particles per model; one number for all."""
    box: int = Field(ge=2)
    """Edge of the subtomograms in voxels."""
    voxel_size_angstrom: float
    snr: float = 0.01
    """Variance of signal over noise within the box; infinity for no noise."""
    noise: Literal["white", "tilt-series"] = "white"
    tilt_range_deg: tuple[float, float] = (-60.0, 60.0)
    tilt_axis: Literal["x", "y"] = "y"
    tilt_step_deg: float | None = None
    """Tilt series only, as all up to `detector`."""
    defocus_um: tuple[float, ...] = ()
    """One per tomogram; none for images without CTF."""
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None
    dose_per_tilt: float | None = None
    detector: bool = False
    resolution_angstrom: float | None = None
    """Of atomic models; None is two voxels."""
    max_shift_voxels: float = 3.0
    orientations: str = "uniform"
    cone_angle_deg: float | None = None
    neighbours: int = 0
    dark: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _fit_together(self) -> Simulation:
        if self.cone_angle_deg is not None and self.orientations != "cone":
            msg = "a cone angle is for orientations in a cone; leave it out"
            raise ValueError(msg)
        if len(self.counts) not in (1, len(self.models)):
            msg = (
                f"expected one count, or one per model ({len(self.models)}), found "
                f"{len(self.counts)}"
            )
            raise ValueError(msg)
        if self.noise == "white":
            if self._optics or self.defocus_um or self.tilt_step_deg is not None:
                msg = (
                    "tilt step, defocus, microscope, dose and detector are for noise of a "
                    "tilt-series; ask for that or leave them out"
                )
                raise ValueError(msg)
            return self
        # Damage depends on the voltage, too.
        of_ctf = [
            text
            for name, text in _OF_CTF.items()
            if name in self._optics and not (name == "voltage_kv" and self.dose_per_tilt)
        ]
        if of_ctf and not self.defocus_um:
            msg = f"{', '.join(of_ctf)}: of a CTF; give a defocus as well or leave them out"
            raise ValueError(msg)
        return self

    @property
    def _optics(self) -> dict[str, Any]:
        """What is said of the microscope."""
        said = {name: getattr(self, name) for name in _OPTICS}
        return {name: value for name, value in said.items() if value is not None} | (
            {"detector": True} if self.detector else {}
        )

    @property
    def cone_deg(self) -> float:
        """Half-angle of the cone of preferred orientations."""
        return _CONE_DEG if self.cone_angle_deg is None else self.cone_angle_deg

    @property
    def counts_of_models(self) -> tuple[int, ...]:
        """Particles of each model."""
        return self.counts * len(self.models) if len(self.counts) == 1 else self.counts

    @property
    def tilt_series(self) -> TiltSeries | None:
        """Tomograms, or None for white noise behind a wedge.

        Raises
        ------
        ConfigurationError
            Of a microscope that there is none of.
        """
        if self.noise == "white":
            return None
        defoci: tuple[float | None, ...] = self.defocus_um or (None,)
        imagings = tuple(Imaging(defocus_um=each, **self._optics) for each in defoci)
        return TiltSeries(
            _TILT_STEP_DEG if self.tilt_step_deg is None else self.tilt_step_deg, imagings
        )


def build_simulation(**settings: Any) -> Simulation:
    """Settings of a simulation; None values mean "not set".

    Raises
    ------
    ConfigurationError
        An unknown setting, one out of range, or some that do not fit together.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(given.get("orientations"), str):
        given["orientations"] = given["orientations"].replace("-", "_")
    simulation = validated(Simulation, given)
    check_settings(
        box=simulation.box,
        counts=simulation.counts_of_models,
        snr=simulation.snr,
        tilt_range_deg=simulation.tilt_range_deg,
        max_shift_voxels=simulation.max_shift_voxels,
        voxel_size_angstrom=simulation.voxel_size_angstrom,
        rotations=simulation.orientations,
        cone_deg=simulation.cone_deg,
        neighbours=simulation.neighbours,
        seed=simulation.seed,
    )
    series = simulation.tilt_series
    if series is not None:
        tilt_angles_deg(simulation.tilt_range_deg, series.step_deg)
    return simulation
