"""The missing wedge that was declared against the one that the particles show."""

from __future__ import annotations

from collections.abc import Iterator

from faml.io.inspection.measured_wedge import MeasuredWedge

__all__ = ["agrees", "range_text", "wedge_warnings"]

_TOLERANCE = 1.5
"""Of the ends of ranges, in uncertainties of the measurement."""
_LEAST_TOLERANCE_DEG = 5.0
_BEAM_DEG = 35.0
"""How far the middle of the gap may lie from Z: further than any tilt series is lopsided."""
_AXIS_DEG = 10.0


def range_text(tilt_range_deg: tuple[float, float]) -> str:
    """As options take it: ``-50 70``."""
    low, high = tilt_range_deg
    return f"{max(low, -90.0):.0f} {min(high, 90.0):.0f}"


def agrees(
    one: tuple[float, float], other: tuple[float, float], measured: MeasuredWedge
) -> tuple[bool, bool]:
    """Whether smallest and largest tilt are the same as far as can be measured."""
    tolerance = max(_TOLERANCE * measured.uncertainty_deg, _LEAST_TOLERANCE_DEG)
    return abs(one[0] - other[0]) <= tolerance, abs(one[1] - other[1]) <= tolerance


def wedge_warnings(
    measured: MeasuredWedge, declared: MeasuredWedge | None, source: str
) -> tuple[str, ...]:
    """What is wrong with the wedge, in plain words.

    Parameters
    ----------
    measured : MeasuredWedge
        Of the particles. Where it cannot be told there are no warnings.
    declared : MeasuredWedge or None
        Of the weights, seen the same way; None where there are none.
    source : str
        Where the weights are from: `volumes`, `tilt range`, `tilt angles`, `tilt images`.

    Returns
    -------
    tuple of str
        One sentence, or none.
    """
    if not measured.told:
        return ()
    right = measured.tilt_range_deg
    if declared is not None and declared.told:
        # What was said is more precise than what is measured.
        said = declared.tilt_range_deg
        for exact in (said, _mirrored(said)):
            if all(agrees(measured.tilt_range_deg, exact, measured)):
                right = exact
                break
    return tuple(_warnings(measured, declared, _remedy(measured, source, right)))


def _warnings(
    measured: MeasuredWedge, declared: MeasuredWedge | None, remedy: str
) -> Iterator[str]:
    if 90.0 - abs(measured.beam_deg) > _BEAM_DEG or measured.tilt_axis == "z":
        yield (
            "the particles' missing wedge does not lie around Z, so the beam is along another "
            "axis of these boxes; rotate the tomograms so that Z is the beam (trimvol -rx) and "
            "extract the particles again"
        )
    elif declared is None:
        yield f"the particles look like {_words(measured)}; {remedy} if that is right"
    elif not declared.told:
        yield (
            f"the weights have no missing wedge, but the particles look like {_words(measured)}; "
            f"{remedy}"
        )
    elif "other" in (measured.tilt_axis, declared.tilt_axis):
        apart = abs((measured.axis_deg or 0.0) - (declared.axis_deg or 0.0)) % 180.0
        if min(apart, 180.0 - apart) > _AXIS_DEG:
            yield (
                f"the particles' tilt axis is turned in the plane to {measured.axis_deg or 0.0:.0f}"
                f" degrees from Y, the declared one lies at {declared.axis_deg or 0.0:.0f}; turn "
                "the tomograms so that tilts are about Y, or give weight volumes"
            )
    elif measured.tilt_axis != declared.tilt_axis:
        yield (
            f"tilts are declared about {declared.tilt_axis.upper()}, but the particles look like "
            f"{_words(measured)}; {remedy}"
        )
    else:
        yield from _range_warnings(measured, declared, remedy)


def _range_warnings(measured: MeasuredWedge, declared: MeasuredWedge, remedy: str) -> Iterator[str]:
    found, said = measured.tilt_range_deg, declared.tilt_range_deg
    same = agrees(found, said, measured)
    if all(same):
        return
    if all(agrees(found, _mirrored(said), measured)) and not any(same):
        yield (
            f"the sign of the tilts looks wrong: {range_text(said)} is declared, but the particles "
            f"look like {range_text(found)}; {remedy}"
        )
        return
    ends = [
        f"{name} tilt looks like {found[end]:.0f} degrees instead of {said[end]:.0f}"
        for end, name in enumerate(("smallest", "largest"))
        if not same[end]
    ]
    outside = [(said[0] - found[0]), (found[1] - said[1])]
    wider = [gap > 0 for gap, fits in zip(outside, same, strict=True) if not fits]
    kind = "shifted" if len(set(wider)) > 1 else "too narrow" if wider[0] else "too wide"
    yield f"the declared tilt range looks {kind}: the {' and the '.join(ends)}; {remedy}"


def _mirrored(tilt_range_deg: tuple[float, float]) -> tuple[float, float]:
    low, high = tilt_range_deg
    return -high, -low


def _words(measured: MeasuredWedge) -> str:
    about = (
        f"an axis {measured.axis_deg:.0f} degrees from Y"
        if measured.tilt_axis == "other"
        else measured.tilt_axis.upper()
    )
    low, high = measured.tilt_range_deg
    return f"tilts from {low:.0f} to {high:.0f} degrees about {about}"


def _remedy(measured: MeasuredWedge, source: str, right: tuple[float, float]) -> str:
    if measured.tilt_axis == "other":
        return "turn the tomograms so that tilts are about Y, or give weight volumes"
    if source == "volumes":
        return "check that the weight volumes (rlnCtfImage) belong to these particles"
    if source == "tilt images":
        return "check that the tomograms file belongs to these particles"
    axis = " --tilt-axis x" if measured.tilt_axis == "x" else ""
    if source == "tilt angles":
        return f"check the angles and signs of --tilt-angles, with --tilt-axis {measured.tilt_axis}"
    return f"give --tilt-range {range_text(right)}{axis}"
