"""What the latents carry: rates, active units, mutual information, and what the text costs without a level."""

from textvae.evaluation.diagnostics.latents import LatentReport, LevelDiagnostics, latent_diagnostics
from textvae.evaluation.diagnostics.reconstruction import Reconstruction, exact_match, reconstruct
from textvae.evaluation.diagnostics.statistics import active_units, mutual_information

__all__ = [
    "LatentReport",
    "LevelDiagnostics",
    "Reconstruction",
    "active_units",
    "exact_match",
    "latent_diagnostics",
    "mutual_information",
    "reconstruct",
]
