"""Ours on the observations that InverseBench saved, and in one table with its methods."""

import warnings

import numpy as np
import pytest
import torch
from inversebench_items import GOLDEN, MODELS, saved, write_mri, write_run

from lmaps_science import reconstruct
from lmaps_science.cards.load import load_problem
from lmaps_science.integrations.inversebench.export import as_forward_op
from lmaps_science.integrations.inversebench.observed import observed
from lmaps_science.integrations.inversebench.results import compare, read_results
from lmaps_science.io import DataError
from lmaps_science.solvers import DPS

SCATTERING = {"image.npix": 32, "observation.transmitters": 8, "observation.receivers": 40}


def scattering(**changes):
    overrides = {**SCATTERING, **changes}
    return load_problem("scattering/linear_60", prior="gaussian", overrides=overrides)


def black_hole(**changes):
    pytest.importorskip("ehtim")
    coverage = {"kind": "uvfits", "file": str(GOLDEN / "black_hole_obs.uvfits"),
                "average_seconds": None}  # fmt: skip
    overrides = {"observation.coverage": coverage, **changes}
    return load_problem("black_hole/inversebench_100", prior="gaussian", overrides=overrides)


def mri(tmp_path):
    pytest.importorskip("lmdb")
    folder = write_mri(tmp_path / "data" / "mri", range(2))
    overrides = {"kspace.benchmark_crop": False}
    return load_problem("mri/inversebench", folder, "gaussian", overrides)


def packed(problem, data):
    """Our data as the program saves them."""
    if data.shape[1:] == (571,):  # closures, after amplitudes that are not used
        return torch.cat([torch.ones(2 * 271), data.flatten()]).reshape(1, 1, -1, 1)
    return torch.view_as_real(data) if data.ndim == 4 else data.to(torch.complex128)


def save_one(folder, problem, item=7):
    """A result of another image of the same problem, with its own noise."""
    op = as_forward_op(problem)
    truth = torch.as_tensor(problem.truth.values).reshape(1, *problem.image_shape)
    target = (truth / truth.max() if problem.image_shape[-1] == 64 else truth).flip(-1)
    torch.manual_seed(11)
    y = op({"target": op.normalize(target)}).reshape(problem.misfit.data.shape)
    path = folder / f"result_{item}.pt"
    content = {"observation": packed(problem, y), "recon": 0.5 * target, "target": target}
    torch.save(content, path)
    return path, y, target


@pytest.mark.parametrize("field", ["scattering", "mri", "black_hole"])
def test_the_observation_and_the_truth_are_those_of_the_file(field, tmp_path):
    make = {"scattering": scattering, "mri": lambda: mri(tmp_path), "black_hole": black_hole}
    problem = make[field]()
    path, y, target = save_one(tmp_path, problem)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = observed(problem, path)
    torch.testing.assert_close(found.misfit.data, y)
    assert not torch.allclose(found.misfit.data, problem.misfit.data)
    values = torch.as_tensor(found.truth.values).reshape(target.shape)
    torch.testing.assert_close(values / values.max(), target / target.max())
    scores = found.evaluate(found.truth.values[None])
    chi2 = next(value for name, value in scores.items() if "chi2" in name)
    assert 0.3 < float(chi2[0]) < 2  # the truth explains the data
    if field == "black_hole":
        assert float(found.truth.sum()) == pytest.approx(0.6, rel=1e-5)
    assert "held_out_error" not in scores  # only what was saved is known


def test_ours_and_theirs_in_one_table(tmp_path):
    """The same observation is recognised, another is noted."""
    problem = scattering()
    folder = write_run(tmp_path, "scattering", range(0), data={"id_list": "7-8"})
    path, _, target = save_one(folder, problem)
    reconstruct(observed(problem, path), tmp_path / "ours" / "7", 2, solver=DPS(3), progress=False)
    ours = read_results(tmp_path / "ours")
    assert ours["item"].values.tolist() == [7]
    both = compare({"theirs": folder, "ours": tmp_path / "ours"})
    assert both.attrs["notes"] == []
    assert len(set(both["observation"].values.ravel())) == 1
    assert np.isfinite(both["corrected_chi2"]).all()
    assert float(both["benchmark_psnr"].sel({"method": "theirs"})[0]) == pytest.approx(
        -10 * np.log10(float((0.5 * target).square().mean()) + 1e-8), rel=1e-5
    )
    save_one(folder, scattering(**{"observation.noise": 2e-4}))
    assert "different observations of the item(s) 7" in compare(
        {"theirs": folder, "ours": tmp_path / "ours"}
    ).attrs["notes"][0]  # fmt: skip


def test_another_geometry_is_seen(tmp_path):
    path, _, _ = save_one(tmp_path, scattering())
    with pytest.warns(UserWarning, match="the card's geometry, or its slice"):
        observed(scattering(**{"observation.radius": 1.2}), path)
    with pytest.raises(DataError, match=r"result_7.pt: an observation of shape \(1, 8, 40\)"):
        observed(scattering(**{"observation.receivers": 41}), path)
    with pytest.raises(DataError, match=r"an image of \(1, 1, 32, 32\) are not those"):
        observed(scattering(**{"image.npix": 24}), path)
    with pytest.raises(DataError, match=r"result_9.pt: no such file"):
        observed(scattering(), tmp_path / "result_9.pt")


def test_other_baselines_are_refused(tmp_path):
    problem = black_hole()
    assert MODELS["black_hole"]["imsize"] == problem.image_shape[-1]
    item = saved("black_hole", 0)
    torch.save({**item, "observation": item["observation"][:, :, 2:]}, tmp_path / "result_0.pt")
    with pytest.raises(DataError, match="are not those of black_hole/inversebench_100"):
        observed(problem, tmp_path / "result_0.pt")
