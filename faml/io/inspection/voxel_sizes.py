"""Where the voxel size comes from, and what makes it suspicious."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from faml.io.dataset import Dataset
from faml.io.star import star_pixel_size

__all__ = ["VoxelSizes", "survey_voxel_sizes"]

_UNKNOWN = (0.0, 1.0)
_PLAUSIBLE_ANGSTROM = (0.3, 60.0)


@dataclass(frozen=True)
class VoxelSizes:
    """Voxel sizes in Angstrom as each source says.

    Attributes
    ----------
    option, table : float or None
    headers : tuple of (float, int)
        Different sizes in file headers, 0 for none, with how many files say so; of the first 1000.
    """

    option: float | None
    table: float | None
    headers: tuple[tuple[float, int], ...]

    def warnings(self, used: float) -> Iterator[str]:
        """What a user should check about the size that is used."""
        low, high = _PLAUSIBLE_ANGSTROM
        unknown = sum(count for size, count in self.headers if size in _UNKNOWN)
        if used == 1.0:
            yield (
                "the voxel size is exactly 1 A, which programs write when they do not know it; "
                "give --voxel-size if it is another"
            )
        elif not low <= used <= high:
            yield (
                f"a voxel size of {used:g} A is unusual for subtomograms; give --voxel-size in "
                "Angstrom (not nanometres) if it is wrong"
            )
        elif unknown and (self.option is not None or self.table is not None):
            source = "--voxel-size" if self.option is not None else "the table"
            yield (
                f"{unknown} file headers have a voxel size of 0 or 1 A, which means unknown; the "
                f"{used:g} A of {source} are used, check them"
            )


def survey_voxel_sizes(dataset: Dataset, option: float | None) -> VoxelSizes:
    """Sizes of all sources."""
    table = None if dataset.star is None else star_pixel_size(dataset.star)
    return VoxelSizes(option, table, dataset.header_sizes)
