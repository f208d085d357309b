"""Methods: each a frozen dataclass with a schedule and `step`, run by `sample`."""

from lmaps_science.solvers.annealed_langevin import AnnealedLangevin
from lmaps_science.solvers.daps import DAPS
from lmaps_science.solvers.dcdp import DCDP
from lmaps_science.solvers.ddnm import DDNM
from lmaps_science.solvers.ddrm import DDRM
from lmaps_science.solvers.diffpir import DiffPIR
from lmaps_science.solvers.dmap import DMAP
from lmaps_science.solvers.dmplug import DMPlug
from lmaps_science.solvers.dps import DPS
from lmaps_science.solvers.dsg import DSG
from lmaps_science.solvers.exact_svd import ExactSVD
from lmaps_science.solvers.fps_smc import FPSSMC
from lmaps_science.solvers.freedom import FreeDoM
from lmaps_science.solvers.frequency_hopping import FrequencyHopping
from lmaps_science.solvers.lgd import LGD
from lmaps_science.solvers.lmaps import LMAPS
from lmaps_science.solvers.local_posterior import Langevin, Metropolis, PerturbAndMAP
from lmaps_science.solvers.map_ga import MAPGA
from lmaps_science.solvers.mcg_diff import MCGDiff
from lmaps_science.solvers.pigdm import PiGDM
from lmaps_science.solvers.pnp_dm import PnPDM
from lmaps_science.solvers.population import Population
from lmaps_science.solvers.psld import PSLD
from lmaps_science.solvers.red_diff import REDDiff
from lmaps_science.solvers.resample import ReSample
from lmaps_science.solvers.score_mri import ScoreMRI
from lmaps_science.solvers.sitcom import SITCOM
from lmaps_science.solvers.vml_map import VMLMAP

__all__ = [
    "DAPS",
    "DCDP",
    "DDNM",
    "DDRM",
    "DMAP",
    "DPS",
    "DSG",
    "FPSSMC",
    "LGD",
    "LMAPS",
    "MAPGA",
    "PSLD",
    "SITCOM",
    "VMLMAP",
    "AnnealedLangevin",
    "DMPlug",
    "DiffPIR",
    "ExactSVD",
    "FreeDoM",
    "FrequencyHopping",
    "Langevin",
    "MCGDiff",
    "Metropolis",
    "PerturbAndMAP",
    "PiGDM",
    "PnPDM",
    "Population",
    "REDDiff",
    "ReSample",
    "ScoreMRI",
]
