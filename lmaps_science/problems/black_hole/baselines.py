"""Regularised maximum likelihood (RML): black-hole imaging without a learned prior.

The classical baseline, by the imager of eht-imaging (ehtim), from closure quantities alone.

Sources: Chael et al. 2018, ApJ 857, 23 (closure imaging); EHT Collaboration 2019, ApJL 875, L4,
section 6.2 (the eht-imaging pipeline for M87* and its fiducial parameters).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from lmaps_science.io._ehtim import import_ehtim, quiet
from lmaps_science.io.images import MICROARCSECOND, make_image
from lmaps_science.io.uvfits import write_uvfits

__all__ = ["regularised_maximum_likelihood"]

# The fiducial weights of the EHT's M87* pipeline, without the terms that need calibrated
# amplitudes; "cm" holds the centre, which closure quantities leave free.
DATA_TERMS = {"cphase": 1.0, "logcamp": 1.0}
REGULARISERS = {"simple": 100.0, "tv": 1.0, "tv2": 1.0, "flux": 1e4, "cm": 1e4}


def regularised_maximum_likelihood(
    observation: xr.Dataset,
    npix: int = 64,
    fov_uas: float = 128.0,
    *,
    flux: float | None = None,
    prior_fwhm_uas: float = 40.0,
    data_terms: Mapping[str, float] | None = None,
    regularisers: Mapping[str, float] | None = None,
    rounds: int = 4,
    data_growth: float = 3.0,
    blur: float = 0.5,
    iterations: int = 100,
    tolerance: float = 1e-4,
) -> xr.DataArray:
    r"""Image a compact source from its closure phases and log closure amplitudes.

    .. math:: J(I) = \sum_D \alpha_D (\chi^2_D(I) - 1) + \sum_R \beta_R S_R(I)

    is minimised over positive images, by L-BFGS, in `rounds`: each starts from the last image,
    blurred, and weighs the data `data_growth` times more than the one before. The closure
    quantities are ehtim's minimal sets, above the observation's `snr_cut`.

    Args:
        observation: see `lmaps_science.io.observation`; its errors are taken as they are.
        npix, fov_uas: pixels along each side, and the field of view they span.
        flux: total flux density [Jy], which no closure quantity knows; the observation's if None.
        prior_fwhm_uas: width of the circular Gaussian that is the first image and the entropy's
            reference.
        data_terms: weights alpha of ehtim's data terms, first round; default: those of
            `DATA_TERMS` of which there are any.
        regularisers: weights beta of ehtim's regularisers; default `REGULARISERS`: relative
            entropy, total variation, total squared variation, flux and centre.
        rounds, data_growth: see above.
        blur: width of the blur between rounds, in units of the array's nominal resolution.
        iterations, tolerance: of L-BFGS, in each round.

    Returns:
        The image (y, x) [Jy/pixel], with the chi2 of its data terms, as ehtim computes them, and
        the settings among its attributes.

    Raises:
        ImportError: eht-imaging is missing.
        ValueError: the flux is unknown, a term is, or an argument is out of its range.

    Example:
        >>> image = regularised_maximum_likelihood(problem.observation, flux=0.6)  # doctest: +SKIP
    """
    flux = float(observation["flux"]) if flux is None and "flux" in observation else flux
    if flux is None or not flux > 0:
        raise ValueError(
            f"the total flux is {flux}, and closure quantities do not tell it: give it in Jy, e.g. "
            "flux=0.6 for M87* in 2017."
        )
    if npix < 8 or min(rounds, iterations) < 1 or min(fov_uas, prior_fwhm_uas) <= 0 or blur < 0:
        raise ValueError(
            "regularised_maximum_likelihood needs npix >= 8, rounds and iterations >= 1, positive "
            f"fov_uas and prior_fwhm_uas and blur >= 0, got npix={npix}, rounds={rounds}, "
            f"iterations={iterations}, fov_uas={fov_uas}, prior_fwhm_uas={prior_fwhm_uas}, "
            f"blur={blur}."
        )
    # Three stations have no closure amplitude, on which eht-imaging stumbles.
    present = {name: w for name, w in DATA_TERMS.items() if observation.sizes[name] > 0}
    data_terms = dict(present if data_terms is None else data_terms)
    regularisers = dict(REGULARISERS if regularisers is None else regularisers)
    ehtim = import_ehtim()
    with quiet():
        from ehtim.imager import REGULARIZERS, Imager

        _check_terms("data term", data_terms, present)
        _check_terms("regulariser", regularisers, REGULARIZERS)
        data = _obsdata(ehtim, observation)
        first = _first_image(ehtim, data, npix, fov_uas, prior_fwhm_uas, flux)
        imager = Imager(
            data,
            first,
            prior_im=first,
            flux=flux,
            data_term=data_terms,
            reg_term=regularisers,
            maxit=iterations,
            stop=tolerance,
            snrcut=float(observation.attrs.get("snr_cut", 0.0)),
            norm_reg=True,
            ttype="direct",
        )
        for k in range(rounds):
            if k > 0:
                imager.init_next = imager.out_last().blur_circ(blur * data.res())
            imager.dat_term_next = {n: w * data_growth**k for n, w in data_terms.items()}
            imager.make_image_I(show_updates=False)
        image = imager.out_last()
        chi2 = imager.make_chisq_dict(image.imvec)
    facts: dict[str, Any] = {
        "method": "regularised maximum likelihood (eht-imaging)",
        **{f"chi2_{name}": float(value) for name, value in chi2.items()},
        "data_terms": data_terms,
        "regularisers": regularisers,
        "prior_fwhm_uas": float(prior_fwhm_uas),
        "rounds": rounds,
    }
    known = ("source", "ra_hours", "dec_degrees", "frequency_hz", "mjd")
    facts |= {name: observation.attrs[name] for name in known if name in observation.attrs}
    return make_image(
        image.imvec.reshape(npix, npix).copy(), fov_uas * MICROARCSECOND / npix, **facts
    )


def _first_image(
    ehtim: Any, data: Any, npix: int, fov_uas: float, fwhm_uas: float, flux: float
) -> Any:
    """A circular Gaussian, with a little of another away from the centre.

    A symmetric image has no slope in its closure phases, and the long baselines of a smooth one
    are too small to divide by.
    """
    width = fwhm_uas * MICROARCSECOND
    square = ehtim.image.make_square(data, npix, fov_uas * MICROARCSECOND)
    centred = square.add_gauss(flux, (width, width, 0, 0, 0))
    return centred.add_gauss(1e-2 * flux, (width, width, 0, width, width))


def _check_terms(kind: str, given: Mapping[str, float], known: Collection[str]) -> None:
    if not given or set(given) - set(known):
        raise ValueError(
            f"{kind}s {sorted(given)}: choose one or more of {', '.join(sorted(known))}, each with "
            f"its weight, e.g. {{{sorted(known)[0]!r}: 1.0}}."
        )


def _obsdata(ehtim: Any, observation: xr.Dataset) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observation.uvfits"
        write_uvfits(path, observation)
        return ehtim.obsdata.load_uvfits(str(path))
