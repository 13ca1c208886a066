"""Every setting of a run, its default, and the named presets.

The resolved configuration is written as TOML beside the results and inside the checkpoint, so a
run can always be repeated.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from faml.errors import ConfigurationError
from faml.symmetry import point_group

__all__ = [
    "BLIND_STARTS",
    "DRAWN_MASKS",
    "PRESETS",
    "DataConfig",
    "EmConfig",
    "RunConfig",
    "SearchConfig",
    "build_config",
    "config_from_toml",
    "config_to_toml",
    "toml_values",
    "validated",
]

Settings = TypeVar("Settings", bound=BaseModel)

_INTEGER_BITS = 63
_DEEP_KEY = re.compile(
    r"""(?:(?:[A-Za-z0-9_-]{1,64}|"[^"\n]{0,64}"|'[^'\n]{0,64}')[ \t]{0,8}\.[ \t]{0,8}){100}"""
)
"""A name of more than 100 parts."""


DRAWN_MASKS = ("sphere", "auto")
"""Values of `EmConfig.mask` that are no file."""


BLIND_STARTS = ("random", "average")
"""Values of `EmConfig.start` that know nothing of the poses."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DataConfig(_Section):
    """Which particles are read and how."""

    inputs: tuple[str, ...] = ()
    """MRC or EM files, folders, globs, one pack, or one table: STAR file, Dynamo table, motive
    list."""
    particles_folder: str | None = None
    """Where the files are of a table that knows particles by number; None looks beside it."""
    wedge_list: str | None = None
    """Tilts by tomogram: EM, STOPGAP's STAR file, or text (`faml.io.formats.wedge_lists`)."""
    tilt_range_deg: tuple[float, float] | None = None
    """Tilt range (min, max) in degrees; needed where no weight volume is given."""
    tilt_angles_file: str | None = None
    """Text with the angle of each tilt, one a line (IMOD's .tlt), in place of the range."""
    tilt_axis: Literal["y", "x"] = "y"
    """What it is about (`faml.conventions`)."""
    tomograms: str | None = None
    """RELION 5's tomograms.star, for particles that are stacks of tilt images; by default that of
    the optimisation set which is the input or lies beside it."""
    voxel_size_angstrom: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Overrides the voxel size of the files."""
    invert: bool = False
    """Multiply every particle by -1 (density must be positive)."""
    normalise: Literal["auto", "always", "never"] = "auto"
    """Background mean 0 and variance 1 outside the particle radius. `auto` does so per particle
    only where the particles disagree, otherwise by one common factor."""
    particle_diameter_angstrom: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Diameter of the particle; bounds the background, the mask and the angular band limit."""
    min_distance_angstrom: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Particles of one tomogram that end closer than this are one: the better explained stays."""
    subset: int | None = Field(default=None, ge=1)
    """Use only so many particles, drawn at random with the run's seed."""


class SearchConfig(_Section):
    """How each particle's poses are proposed and weighted."""

    strategy: str = "faml"
    proposal: str = "phase"
    """How candidate poses are found: `phase` (likelihood at low resolution for all rotations and
    shifts) or `amplitude` (translation-invariant bound, paper Eq. 2)."""
    max_poses: int = Field(default=200, ge=1, le=100_000)
    """`exhaustive`: largest number of poses that stand for a particle's posterior."""
    posterior_mass: float = Field(default=0.999, gt=0, le=1)
    """`exhaustive`: share of the posterior that the poses kept should hold."""
    search_shell: int | None = Field(default=None, ge=2)
    """Last Fourier shell of searches over the whole pose space with phases; finer ones are added
    around what they find. None resolves a sixth of the particle's diameter."""
    angular_step_deg: float | None = Field(default=None, gt=0, le=90, allow_inf_nan=False)
    """Euler step of those searches; None follows from resolution and particle radius."""
    shift_step_voxels: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Step of their shifts; None is a third of the finest wave length, or for candidates, whose
    shifts are searched afterwards, a body-centred lattice as dense as that takes."""
    oversampling: int = Field(default=3, ge=0, le=6)
    """`exhaustive`: how often cells that hold the posterior may be halved."""
    max_candidates: int = Field(default=50, ge=1, le=5000)
    """Candidate poses kept per particle and class."""
    keep_previous: int = Field(default=9, ge=0)
    """Also try the particle's previous rotation, which the bound may miss, and random neighbours
    of it: so many rotations in all."""
    max_shift_voxels: float | None = Field(default=None, ge=0)
    """Largest translation searched; None takes one eighth of the box, or what the input poses of
    a run that begins from them need."""
    local_angle_deg: float | None = Field(default=None, gt=0, le=180, allow_inf_nan=False)
    """Search only within this angle of the particle's input pose."""
    refine: bool = True
    """In the pass after the last iteration, move each particle's most probable poses to the nearby
    maximum of the likelihood, below the spacing of the search grids."""
    max_bandwidth: int = Field(default=32, ge=4, le=128)
    """Upper limit of the spherical-harmonic band limit L of the rotational search."""
    voronoi_samples: int = Field(default=10_000, ge=10)
    voronoi_measure: Literal["haar", "euler"] = "haar"
    """`euler` draws independent uniform Euler angles, as the paper does."""
    voronoi_volume: Literal["region", "normalised"] = "region"
    """`region` multiplies the Voronoi fractions by the volume sampled; `normalised` is the
    paper's, which drops it."""


class EmConfig(_Section):
    """The model and how expectation maximisation runs."""

    classes: int = Field(default=1, ge=1)
    iterations: int = Field(default=40, ge=0)
    """Maximum number of iterations."""
    seed: int = Field(default=0, ge=0)
    start: str = "random"
    """`random` orientations, plain `average`, the input `poses`, or an MRC file."""
    starts: int = Field(default=1, ge=1)
    """Short runs from so many random starts, of which the best goes on. They are ranked by how
    well each explains particles that are not in its averages."""
    start_iterations: int = Field(default=12, ge=1)
    """Iterations of each of several `starts`."""
    symmetry: str = "C1"
    """Point group of every class: C1, C2, ..., D2, ..., T, O, I, with RELION's axes (main axis on
    Z). Averages are symmetrised, and each pose is searched in the asymmetric unit only."""
    symmetry_after: int | None = Field(default=None, ge=0)
    """Iterations of a reference-free start before symmetry is imposed, on the axes that the
    averages show by then; None is as long as poses are explored."""
    start_lowpass_angstrom: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Low-pass of the starting reference."""
    folds: int | None = Field(default=None, ge=1)
    """Parts of the particles, each aligned to the average of the others, so that no particle sees
    its own noise; 1 is one common average. None is 5, or fewer where there are fewer
    particles. Half-sets have folds of their own."""
    mask: str = "sphere"
    """Where averages may have structure: `sphere` (of the particle's diameter, where it is given),
    `auto` (also each average's own soft outline), or an MRC file."""
    half_sets: bool = False
    """Two halves of the particles that never see each other. Their FSC drives the resolution, and
    is the map's (gold standard)."""
    split_by: Literal["particle", "tomogram"] = "particle"
    """What is drawn at random for `half_sets`."""
    check_overfitting: bool = False
    """After a run with `half_sets`: three iterations with data that are random where the halves
    stop agreeing well. They must not agree there then."""
    b_factor: float | None = Field(default=None, ge=-5000, le=5000, allow_inf_nan=False)
    """Angstrom^2 by which the final map of `half_sets` is sharpened (negative) or blurred. None
    measures it where the resolution allows."""
    update: Literal["ratio", "impute"] = "ratio"
    """M-step: direct maximiser with a Wiener prior, or the paper's Eq. 10."""
    noise: Literal["shell", "scalar"] = "shell"
    """Noise variance per Fourier shell, or one number."""
    march: bool = True
    """Let the resolution grow with the measured signal-to-noise ratio; False uses all shells."""
    first_shell: int | None = Field(default=None, ge=2)
    """Fourier radius of the first iteration when marching; None resolves a sixth of the particle's
    diameter."""
    exploration: int = Field(default=12, ge=0)
    """Iterations over which the chance to disregard a particle's previous pose falls to zero."""
    sharpness: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Power to which posteriors are raised in the first iterations of a start without poses, as
    long as these are explored. Above 1, structures emerge that broad posteriors average out."""
    balance: int = Field(default=5, ge=0)
    """First iterations of a reference-free start in which every class gets at least half of an
    equal share."""
    smallest_class: float = Field(default=0.1, ge=0, lt=1)
    """Classes with less than this of an equal share of the particles begin again from those that
    are explained worst, while poses are still explored; 0 leaves them."""
    similarity: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How strongly class averages are pulled to their common mean in the first iteration, relative
    to their data; falls to zero with `exploration` (Scheres et al. 2009)."""
    batch: int | None = Field(default=None, ge=1)
    """Particles that each of the first iterations visits, drawn at random; averages are made of
    decaying means over batches. None visits all from the beginning."""
    batch_iterations: int = Field(default=24, ge=1)
    """How many iterations visit a `batch`; the others visit all particles."""
    max_shell: int | None = Field(default=None, ge=2)
    """Largest Fourier radius used for alignment; None is the last shell below Nyquist."""
    chunk_size: int = Field(default=8, ge=1)
    """Particles per work item. Sums are taken chunk by chunk in a fixed order."""

    @field_validator("symmetry")
    @classmethod
    def _known_symmetry(cls, name: str) -> str:
        try:
            return point_group(name).name
        except ConfigurationError as error:
            raise ValueError(str(error)) from None


class RunConfig(_Section):
    """A complete run."""

    preset: Literal["robust", "paper"] = "robust"
    output: str = ""
    threads: int = Field(default=1, ge=1)
    memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Bounds what each process keeps in memory of particles and weights, so that they are not read
    again; no result depends on it. None keeps a few weights and no particles."""
    data: DataConfig = DataConfig()
    search: SearchConfig = SearchConfig()
    em: EmConfig = EmConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        self._check_tilts()
        if not self.em.half_sets:
            for option, given in (
                ("--b-factor", self.em.b_factor is not None),
                ("--check-overfitting", self.em.check_overfitting),
                ("--split-by tomogram", self.em.split_by != "particle"),
            ):
                if given:
                    msg = f"{option} is for half-sets; give --half-sets as well or leave it out"
                    raise ValueError(msg)
        if self.em.starts > 1 and self.em.start != "random":
            msg = (
                f"several starts differ in their random orientations only, found --start "
                f"{self.em.start}; leave out --starts"
            )
            raise ValueError(msg)
        self._check_unused()
        first, last = self.em.first_shell, self.em.max_shell
        if first is not None and last is not None and last < first:
            msg = f"the last shell ({last}) lies below the first ({first}); raise it or lower it"
            raise ValueError(msg)
        return self

    def _check_tilts(self) -> None:
        """Raise ValueError for tilts that are none or said twice."""
        data = self.data
        given = [
            name
            for name, value in (
                ("--tilt-range", data.tilt_range_deg),
                ("--tilt-angles", data.tilt_angles_file),
                ("--wedge-list", data.wedge_list),
            )
            if value is not None
        ]
        if data.tilt_angles_file is not None and len(given) > 1:
            msg = f"{' and '.join(given)} both say what the tilts are; give one of them"
            raise ValueError(msg)
        if data.tilt_range_deg is None and data.tilt_angles_file is None and data.tilt_axis != "y":
            msg = (
                "--tilt-axis belongs to --tilt-range or --tilt-angles; give one as well or leave "
                "it out"
            )
            raise ValueError(msg)
        if data.tilt_range_deg is not None:
            low, high = data.tilt_range_deg
            if not -90.0 <= low < high <= 90.0:
                msg = (
                    f"tilt range must satisfy -90 <= MIN < MAX <= 90 degrees, found {low:g} "
                    f"{high:g}; give the smaller angle first"
                )
                raise ValueError(msg)

    def _check_unused(self) -> None:
        """Raise ValueError for settings that others make meaningless."""
        em = self.em
        symmetric = point_group(em.symmetry).order > 1
        if em.similarity > 0 and em.classes == 1:
            msg = "--similarity is for several classes; leave it out or give --classes"
            raise ValueError(msg)
        if em.similarity > 0 and em.update == "impute":
            msg = "--similarity is for the update `ratio`; leave it out or give --update ratio"
            raise ValueError(msg)
        if em.batch is not None and em.start not in BLIND_STARTS:
            msg = "--batch is for a start without poses; leave it out"
            raise ValueError(msg)
        if em.symmetry_after is not None and not (symmetric and em.start in BLIND_STARTS):
            msg = "symmetry_after is for a symmetry and a start without poses; leave it out"
            raise ValueError(msg)
        late = symmetric and em.start in BLIND_STARTS and em.symmetry_after != 0
        if late and em.mask not in DRAWN_MASKS:
            msg = (
                f"averages are turned onto the axes of {em.symmetry} when they show them, a mask "
                "from a file is not; leave out --mask or set symmetry_after = 0 under [em]"
            )
            raise ValueError(msg)


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "robust": {},
    # Zhao et al. 2018, section 3: what the paper's program does, misprints corrected.
    "paper": {
        "em": {
            "start": "average",
            "folds": 1,
            "sharpness": 1.0,
            "update": "impute",
            "noise": "scalar",
            "march": False,
            "exploration": 0,
            "balance": 0,
        },
        "search": {
            "proposal": "amplitude",
            "max_candidates": 50,
            "keep_previous": 0,
            "refine": False,
            "voronoi_samples": 10_000,
            "voronoi_measure": "euler",
            "voronoi_volume": "normalised",
        },
    },
}


def build_config(
    *, preset: str = "robust", **sections: dict[str, Any] | str | int | None
) -> RunConfig:
    """A configuration from a preset and explicit settings, which win over it.

    Parameters
    ----------
    preset : str
        A key of `PRESETS`.
    **sections
        ``data``, ``search``, ``em`` as dictionaries (None values mean "not set"), and ``output``,
        ``threads`` and ``memory_gb``.

    Raises
    ------
    ConfigurationError
        For an unknown preset or setting, or a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigurationError(
            f"unknown preset {preset!r}; expected one of {', '.join(sorted(PRESETS))}"
        )
    values: dict[str, Any] = {"preset": preset}
    for name in ("data", "search", "em"):
        given = sections.pop(name, None) or {}
        if not isinstance(given, dict):
            raise ConfigurationError(f"section {name!r} must be a table of settings")
        values[name] = PRESETS[preset].get(name, {}) | {
            key: value for key, value in given.items() if value is not None
        }
    if values["search"].get("local_angle_deg") is not None:
        values["em"].setdefault("start", "poses")
    values |= {key: value for key, value in sections.items() if value is not None}
    return _validated(values)


def config_to_toml(config: RunConfig) -> str:
    """The configuration as TOML; settings that are None are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def config_from_toml(text: str) -> RunConfig:
    """Inverse of `config_to_toml`; raises ConfigurationError for anything not understood."""
    try:
        values = toml_values(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"the configuration is {error}") from error
    return _validated(values)


def toml_values(text: str) -> dict[str, Any]:
    """What TOML says; raises ConfigurationError for what is none, or whole numbers beyond 64 bits.

    Python would read those, and fail to write or convert them later.
    """
    nested = "not valid TOML: tables or lists are nested too deeply"
    if _DEEP_KEY.search(text):  # which would take the square of its parts to read
        raise ConfigurationError(nested)
    try:
        values = tomllib.loads(text)
        _check_integers(values)
    except RecursionError as error:
        raise ConfigurationError(nested) from error
    except ValueError as error:  # also for numbers of too many digits
        raise ConfigurationError(f"not valid TOML: {error}") from error
    return values


def _check_integers(value: object) -> None:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        _check_integers(each)
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        msg = f"expected whole numbers of 64 bits, found one of {value.bit_length()} bits"
        raise ValueError(msg)


def _validated(values: dict[str, Any]) -> RunConfig:
    return validated(RunConfig, values, unknown="; settings stand in data, search and em")


def validated(model: type[Settings], values: dict[str, Any], unknown: str = "") -> Settings:
    """Settings of any kind from plain values.

    Parameters
    ----------
    model : type of BaseModel
    values : dict
    unknown : str
        What to add about a setting that does not exist.

    Raises
    ------
    ConfigurationError
        Every setting that is unknown or out of range, in one message.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            place = ".".join(str(part) for part in item["loc"])
            text = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                lines.append(f"unknown setting {place}{unknown}")
            elif place:
                lines.append(f"{place}: {text}, found {item['input']!r}")
            else:
                lines.append(text)
        raise ConfigurationError("; ".join(lines)) from None
