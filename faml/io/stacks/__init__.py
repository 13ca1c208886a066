"""RELION 5 particles that are stacks of 2-D tilt images (rlnTomoSubTomosAre2DStacks 1).

The format, as RELION 5.0 (repository 3dem/relion) writes and reads it; in brackets the source:

Files
    ``particles.star`` has ``data_general`` with rlnTomoSubTomosAre2DStacks, an optics table with
    rlnImageDimensionality 2, and per particle rlnImageName, a stack ``*_stack2d.mrcs`` of its own
    without ``@``, and rlnTomoVisibleFrames ``[1,0,1,...]``, one flag for each row of its tilt
    series. The stack holds the visible images only, in the order of those rows
    [programs/subtomo.cpp, NewStackHelper::getVisibleSlices]. Float16 (MRC mode 12) is usual.
    ``tomograms.star`` has ``data_global`` with one row per tomogram (rlnTomoName, rlnVoltage,
    rlnSphericalAberration, rlnAmplitudeContrast, rlnTomoHand, rlnTomoTiltSeriesPixelSize) and
    rlnTomoTiltSeriesStarFile, a file with the table ``data_<rlnTomoName>`` of one row per tilt;
    files without that column hold those tables themselves, as RELION 4 did and WarpTools does
    [tomogram_set.cpp]. ``optimisation_set.star`` names both files (rlnTomoParticlesFile,
    rlnTomoTomogramsFile). Paths are relative to the project directory.
Projection
    A point x of the tomogram falls on ``P x`` of the image (columns along x, rows along y), with
    ``P = Rz(rlnTomoZRot) Ry(rlnTomoYTilt) Rx(rlnTomoXTilt)``, right-handed rotations in degrees
    [tomogram.cpp, setProjectionMatrix], or, where present, with the rows rlnTomoProjX, Y, Z
    (``[a,b,c,d]``), which go first [tomogram_set.cpp]. The third row is the depth along the beam.
    Shifts and deformations say where images were cut out, and are spent.
Centre
    Every image is shifted by the fraction of a pixel that is left, so that the particle's
    coordinate is at pixel n // 2 [extraction.h]; so faml's rotation centre needs no correction.
Frame
    relion_refine projects along ``P A_subtomogram`` (rlnTomoSubtomogramRot, Tilt, Psi; identity
    where absent) and seeks rlnAngleRot, Tilt, Psi and rlnOriginX, Y, ZAngst in the frame of the
    subtomogram [exp_model.cpp; Experiment::getTranslationInTiltSeries]. Images are put in along
    the same axes here, so that poses mean what they mean for 3-D pseudo-subtomograms.
Contrast
    Images are inverted by default (density positive), multiplied by C unless
    rlnCtfDataAreCtfPremultiplied is 0, masked to the circle of the box and, unless asked
    otherwise, not whitened [programs/subtomo.cpp]. C is rlnCtfScalefactor times ``sin(pi lambda
    f^2 z - pi / 2 Cs lambda^3 f^4 + rlnPhaseShift + asin Q0)`` with the astigmatic z of
    rlnDefocusU, V, Angle, times ``exp(-rlnCtfBfactor f^2 / 4)`` [ctf.h] and the decay by the
    exposure N = rlnMicrographPreExposure, ``exp(-N / (2 (0.245 f^-1.665 + 2.81)))`` at any voltage,
    or ``exp(-B N f^2 / 4)`` with B = rlnCtfBfactorPerElectronDose above 0 [optics/damage.cpp].
    Defocus grows with the particle's depth by rlnTomoHand times rlnTomoDefocusSlope (1), in
    angstrom from the middle of the tomogram [tomogram.cpp, getCtf]. Coordinates are
    rlnCenteredCoordinateX, Y, ZAngst, else rlnCoordinateX, Y, Z in pixels of the tilt series minus
    half of rlnTomoSizeX, Y, Z [particle_set.cpp].

WarpTools (``ts_export_particles --2d``) writes the same files, with matrices and one
``*_tomograms.star`` [ExportParticlesTiltseries.cs]; its images are weighted by its own model of
the exposure, and RELION, like faml here, reads them as if by the one above.

Data term and weight (method.md section 2): ``y = sum C image`` and ``W = sum C^2`` over the planes
that pass a point of the grid (`kernels.tilt_planes`). Masking blurs C^2, so that noise does not
vanish at the zeros of C. Where premultiplied noise has variance ``V``, both are multiplied by
``W / V``: the estimate of the structure stays and its noise is what the data model says.

None of this could be compared with a file that RELION itself wrote: conventions are from the
sources, and tests write the files themselves. Not modelled: rlnEvenZernike, anisotropic
magnification, whitening, and a CTF that spreads beyond the box.
"""

from faml.io.stacks.metadata import (
    OptimisationSet,
    TiltSeries,
    find_tomograms,
    read_optimisation_set,
    read_tilt_series,
)
from faml.io.stacks.reader import TiltStacks, TiltStackWeights, open_stacks, unmodelled

__all__ = [
    "OptimisationSet",
    "TiltSeries",
    "TiltStackWeights",
    "TiltStacks",
    "find_tomograms",
    "open_stacks",
    "read_optimisation_set",
    "read_tilt_series",
    "unmodelled",
]
