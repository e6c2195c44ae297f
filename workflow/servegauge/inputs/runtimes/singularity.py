"""Singularity, where it is installed under its own name (SingularityCE, SingularityPRO; LUMI)."""

from __future__ import annotations

from servegauge.inputs.runtimes import apptainer


class Singularity(apptainer.Apptainer):
    name = "singularity"
    about = "Singularity: `container` is a .sif file, a folder or docker://..."
    program = "singularity"
    prefix = "SINGULARITYENV_"
