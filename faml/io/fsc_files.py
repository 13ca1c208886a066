"""Fourier shell correlations as files: CSV to plot, STAR for RELION's users, XML for EMDB."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd

from faml.io.atomic import write_text_atomic
from faml.io.star import Block, write_star
from faml.metrics.fsc import CorrectedFsc

__all__ = ["write_fsc"]

_VERSION = 30001


def write_fsc(
    directory: Path, curves: list[CorrectedFsc], box: int, voxel_size_angstrom: float
) -> None:
    """Write ``fsc_class_001.csv`` and ``.xml`` for each class, and ``fsc.star`` for all.

    The XML is what EMDB's deposition takes; it holds the corrected curve.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    blocks: dict[str, Block] = {}
    for k, curve in enumerate(curves):
        shells = np.arange(len(curve.corrected))
        frequency = shells / (box * voxel_size_angstrom)
        resolution = np.divide(1.0, frequency, out=np.full(len(shells), 999.0), where=shells > 0)
        table = pd.DataFrame(
            {
                "shell": shells,
                "frequency_per_angstrom": frequency,
                "fsc_corrected": curve.corrected,
                "fsc_masked": curve.masked,
                "fsc_unmasked": curve.unmasked,
                "fsc_phase_randomised": curve.randomised,
            }
        )
        name = f"fsc_class_{k + 1:03d}"
        write_text_atomic(directory / f"{name}.csv", table.to_csv(index=False, float_format="%.6f"))
        write_text_atomic(directory / f"{name}.xml", _emdb_xml(frequency, curve.corrected))
        columns = {
            "rlnSpectralIndex": shells,
            "rlnResolution": frequency,
            "rlnAngstromResolution": resolution,
            "rlnFourierShellCorrelationCorrected": curve.corrected,
            "rlnFourierShellCorrelationUnmaskedMaps": curve.unmasked,
            "rlnFourierShellCorrelationMaskedMaps": curve.masked,
            "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": curve.randomised,
        }
        blocks[f"fsc_class_{k + 1:03d}"] = pd.DataFrame(
            {
                key: [str(v) if values.dtype.kind == "i" else f"{v:.6f}" for v in values]
                for key, values in columns.items()
            },
            dtype=object,
        )
    write_star(directory / "fsc.star", blocks, _VERSION, "Written by faml.")


def _emdb_xml(frequency: np.ndarray, correlation: np.ndarray) -> str:
    root = ET.Element(
        "fsc",
        title="Corrected FSC of half-maps",
        xaxis="Resolution (A-1)",
        yaxis="Correlation Coefficient",
    )
    for x, y in zip(frequency, correlation, strict=True):
        point = ET.SubElement(root, "coordinate")
        ET.SubElement(point, "x").text = f"{x:.6f}"
        ET.SubElement(point, "y").text = f"{y:.6f}"
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
