"""Networks: preconditioning, architectures, derivatives, refusals."""

import math

import pytest
import torch

from lmaps_science.priors import DiagonalCovariance, NetworkDenoiser, build_network
from lmaps_science.priors.layers import Conv, attend

SONG = {
    "architecture": "song",
    "preconditioning": "edm",
    "image_shape": [1, 8, 8],
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}
CONFIGS = {
    "ddpm++": SONG,
    "ncsn++": SONG
    | {
        "preconditioning": "ve",
        "embedding": "fourier",
        "encoder": "residual",
        "decoder": "skip",
        "resample_filter": [1, 3, 3, 1],
        "channel_mult_noise": 2,
    },
    "skip encoder": SONG | {"encoder": "skip", "preconditioning": "vp"},
    "patch 2": SONG | {"patch": 2, "image_shape": [2, 8, 16], "attn_resolutions": [2]},
    "dhariwal": SONG | {"architecture": "dhariwal", "model_channels": 64, "channel_mult": [1]},
    "adm": SONG
    | {
        "architecture": "adm",
        "preconditioning": "iddpm",
        "model_channels": 32,
        "num_heads": 2,
        "out_channels": 2,
    },
    "adm, discrete steps": SONG
    | {
        "architecture": "adm",
        "preconditioning": "ddpm",
        "model_channels": 32,
        "channels_per_head": 32,
        "out_channels": 2,
    },
    "adm, convolutions": SONG
    | {
        "architecture": "adm",
        "preconditioning": "vp",
        "model_channels": 32,
        "channels_per_head": 16,
        "resblock_updown": False,
        "scale_shift": False,
        "new_attention_order": True,
    },
}


def random_network(config: dict, seed: int = 0) -> torch.nn.Module:
    """A network none of whose layers is zero, so that a test sees every path."""
    torch.manual_seed(seed)
    network = build_network(config)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))
    return network


def denoiser(name: str, dtype: torch.dtype = torch.float64) -> NetworkDenoiser:
    return NetworkDenoiser(random_network(CONFIGS[name])).to(dtype=dtype)


def image(prior: NetworkDenoiser, batch: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *prior.image_shape, generator=generator, dtype=prior.dtype)


@pytest.fixture(params=CONFIGS)
def prior(request) -> NetworkDenoiser:
    return denoiser(request.param)


def test_shape_dtype_and_noise_dependence(prior):
    x = image(prior)
    denoised = prior(x, 0.7)
    assert denoised.shape == x.shape
    assert denoised.dtype == torch.float64
    assert prior(x.float(), 0.7).dtype == torch.float32
    assert (denoised - prior(x, 2.0)).abs().max() > 1e-3


def test_samples_are_independent(prior):
    x, sigma = image(prior, 3), torch.tensor([0.1, 1.0, 20.0], dtype=torch.float64)
    together = prior(x, sigma)
    for k in range(3):
        torch.testing.assert_close(together[k : k + 1], prior(x[k : k + 1], float(sigma[k])))


def test_derivatives(prior):
    """Reverse mode against finite differences; forward mode against reverse mode."""
    x = image(prior, 1)
    u, v = image(prior, 1, seed=2), image(prior, 1, seed=3)

    def along(step: torch.Tensor) -> torch.Tensor:
        return (prior(x + step * v, 0.5) * u).sum()

    assert torch.autograd.gradcheck(along, torch.zeros((), dtype=x.dtype, requires_grad=True))
    _, forward = torch.func.jvp(lambda z: prior(z, 0.5), (x,), (v,))
    _, pull = torch.func.vjp(lambda z: prior(z, 0.5), x)
    torch.testing.assert_close((u * forward).sum(), (pull(u)[0] * v).sum())


def test_second_derivatives():
    prior = denoiser("ddpm++")
    x = image(prior, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(prior(x, 0.5).square().sum(), x, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), x)[0].isfinite().all()


def test_gradient_reaches_the_image_alone():
    prior = denoiser("ddpm++")
    x = image(prior).requires_grad_()
    prior(x, 0.5).sum().backward()
    assert x.grad is not None
    assert not any(p.requires_grad for p in prior.network.parameters())


def test_float32_agrees_with_float64(prior):
    x = image(prior)
    single = prior.to(dtype=torch.float32)(x.float(), 0.7)
    torch.testing.assert_close(single.double(), prior(x, 0.7), rtol=1e-3, atol=2e-4)


def test_autocast_stays_close_and_returns_float32():
    network = random_network(SONG)
    exact, mixed = NetworkDenoiser(network), NetworkDenoiser(network, autocast=torch.bfloat16)
    x = image(exact)
    assert mixed(x, 0.7).dtype == torch.float32
    assert (mixed(x, 0.7) - exact(x, 0.7)).norm() < 0.02 * exact(x, 0.7).norm()


def test_channels_last_agrees():
    prior = denoiser("ncsn++", torch.float32)
    x = image(prior)
    expected = prior(x, 0.7)
    prior.network.to(memory_format=torch.channels_last)
    got = prior(x.contiguous(memory_format=torch.channels_last), 0.7)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_to_leaves_the_original_alone():
    prior = denoiser("ddpm++", torch.float32)
    assert prior.to(dtype=torch.float64).dtype == torch.float64
    assert prior.dtype == torch.float32
    assert prior.device == torch.device("cpu")


def test_repr_and_checksum():
    prior = denoiser("patch 2")
    assert repr(prior) == "NetworkDenoiser(image 2x8x16, values in [-1, 1])"
    assert prior.checksum() == denoiser("patch 2").checksum() != denoiser("ddpm++").checksum()


def test_config_rebuilds_the_network():
    network = build_network(CONFIGS["ncsn++"])
    twin = build_network(network.config)
    assert [*twin.state_dict()] == [*network.state_dict()]


# -- Preconditioning: table 1 of arXiv:2206.00364 -------------------------------------------------

SIGMA = torch.tensor([0.02, 0.5, 3.0, 80.0], dtype=torch.float64)


def coefficients(kind: str, **options) -> tuple[torch.Tensor, ...]:
    return build_network(SONG | {"preconditioning": kind} | options).coefficients(SIGMA)


def test_edm_scales_inputs_and_targets_to_unit_variance():
    c_skip, c_out, c_in, c_noise = coefficients("edm", sigma_data=0.3)
    torch.testing.assert_close(c_in**2 * (SIGMA**2 + 0.09), torch.ones_like(SIGMA))
    target = (1 - c_skip) ** 2 * 0.09 + c_skip**2 * SIGMA**2  # variance of x0 - c_skip x
    torch.testing.assert_close(target, c_out**2)
    torch.testing.assert_close(c_noise, SIGMA.log() / 4)


def test_vp_label_is_the_time_of_the_noise_level():
    c_skip, c_out, c_in, c_noise = coefficients("vp")
    time = c_noise / 999
    torch.testing.assert_close((9.95 * time**2 + 0.1 * time).expm1().sqrt(), SIGMA)
    torch.testing.assert_close(c_in**2 * (SIGMA**2 + 1), torch.ones_like(SIGMA))
    assert (c_skip == 1).all()
    assert (c_out == -SIGMA).all()


def test_ve():
    c_skip, c_out, c_in, c_noise = coefficients("ve")
    assert (c_skip == 1).all()
    assert (c_in == 1).all()
    assert (c_out == SIGMA).all()
    torch.testing.assert_close(c_noise, (SIGMA / 2).log())


def test_iddpm_labels_are_the_nearest_steps():
    network = build_network(SONG | {"preconditioning": "iddpm", "out_channels": 2})
    levels = network.u[[10, 500, 990]].double()
    assert network.coefficients(1.0001 * levels)[3].tolist() == [989, 499, 9]
    # alpha_bar of the cosine schedule, half way
    signal = math.sin(0.25 * math.pi / 1.008) ** 2 / math.sin(0.5 * math.pi / 1.008) ** 2
    assert network.u[500].item() == pytest.approx(math.sqrt(1 / signal - 1), rel=1e-3)


# -- Layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["up", "down"])
def test_box_filter_shortcut_equals_the_depthwise_convolution(direction):
    shortcut = Conv(3, 3, 0, resample_filter=[1, 1], **{direction: True})
    general = Conv(3, 3, 0, resample_filter=[1, 1], **{direction: True})
    general.box_filter = False
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(shortcut(x), general(x))


def test_fused_attention_of_large_maps_is_the_same_function():
    q, k, v = torch.randn(3, 1, 2, 1200, 4, dtype=torch.float64)
    weights = torch.softmax(q @ k.mT / 2, dim=-1)
    torch.testing.assert_close(attend(q, k, v), weights @ v)


# -- Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_chanels": 8}, "Did you mean 'model_channels'.* Known: .*num_blocks"),
        ({"architecture": "unet"}, "architecture must be one of song, dhariwal, adm"),
        ({"architecture": ["song"]}, "architecture must be one of"),
        ({"preconditioning": None}, "preconditioning must be one of"),
        ({"image_shape": [8, 8]}, "three positive integers"),
        ({"image_shape": [1, 8, 8.0]}, "three positive integers"),
        ({"image_shape": [1, 7, 8]}, "cannot be halved"),
        ({"patch": 3}, "patch must be 1, 2 or 4"),
        ({"channel_mult": []}, "channel_mult must be"),
        ({"channel_mult": 2}, "channel_mult must be"),
        ({"num_blocks": -1}, "num_blocks must be"),
        ({"dropout": "0.1"}, "dropout must be"),
        ({"sigma_data": float("nan")}, "sigma_data must be"),
        ({"encoder": "plain"}, "knows encoder = standard, skip, residual"),
        ({"out_channels": 0}, "out_channels must be at least 1"),
        ({"architecture": "adm", "model_channels": 32}, "exactly one of num_heads"),
        (
            {"architecture": "adm", "model_channels": 32, "num_heads": 5},
            "do not divide into heads",
        ),
    ],
)
def test_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_network({**SONG, **change})


def test_dhariwal_says_that_a_narrow_level_has_no_attention():
    with pytest.warns(UserWarning, match="no attention at resolution 4"):
        build_network(SONG | {"architecture": "dhariwal"})


@pytest.mark.parametrize(
    ("x", "sigma", "error", "message"),
    [
        ([[1.0]], 1.0, TypeError, "must be a torch.Tensor"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int64), 1.0, TypeError, "a real floating-point"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.complex64), 1.0, TypeError, "two channels"),
        (torch.zeros(1, 8, 8), 1.0, ValueError, r"\(1, 8, 8\), expected \(B, 1, 8, 8\)"),
        (torch.zeros(1, 2, 8, 8), 1.0, ValueError, r"has shape \(1, 2, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), 0.0, ValueError, "finite, positive sigma"),
        (torch.zeros(1, 1, 8, 8), float("inf"), ValueError, "finite, positive sigma"),
        (torch.zeros(1, 1, 8, 8), torch.tensor(-1.0), ValueError, "finite, positive sigma"),
        (torch.zeros(2, 1, 8, 8), torch.ones(3), ValueError, r"of shape \(2,\)"),
        (torch.zeros(2, 1, 8, 8), torch.ones(2, 1), ValueError, r"of shape \(2,\)"),
    ],
)
def test_arguments_are_refused(x, sigma, error, message):
    with pytest.raises(error, match=message):
        denoiser("ddpm++")(x, sigma)


def test_to_refuses_a_dtype_that_cannot_compute():
    with pytest.raises(TypeError, match="floating-point dtype"):
        denoiser("ddpm++").to(dtype=torch.complex64)


def test_a_network_without_config_needs_an_image_shape():
    with pytest.raises(ValueError, match="image_shape must be"):
        NetworkDenoiser(torch.nn.Identity())


def test_the_covariance_moves_with_its_network():
    covariance = DiagonalCovariance(torch.ones(1, 8, 8))
    prior = NetworkDenoiser(random_network(SONG), covariance=covariance)
    moved = prior.to(dtype=torch.float64)
    assert moved.covariance.eigenvalues.dtype == torch.float64
    assert prior.covariance is covariance
    assert covariance.eigenvalues.dtype == torch.float32


CROPS = {
    "architecture": "song", "preconditioning": "edm", "image_shape": [2, 16, 16], "patch": 2,
    "model_channels": 8, "channel_mult": [1, 2], "attn_resolutions": [],
}  # fmt: skip


def test_a_prior_trained_on_crops_serves_other_sizes():
    torch.manual_seed(0)
    prior = NetworkDenoiser(build_network(CROPS))
    x = torch.randn(2, 2, 23, 30)
    denoised = prior.for_size(23, 30)(x, 0.5)
    assert denoised.shape == x.shape
    padded = torch.nn.functional.pad(x, (0, 2, 0, 1), mode="reflect")
    expected = prior.for_size(24, 32)(padded, 0.5)[..., :23, :30]
    torch.testing.assert_close(denoised, expected)
    assert prior.image_shape == (2, 16, 16)
    assert prior.for_size(16, 16) is prior


def test_a_prior_with_attention_refuses_other_sizes():
    prior = NetworkDenoiser(build_network(CROPS | {"attn_resolutions": [8]}))
    with pytest.raises(ValueError, match=r"16 x 16 pixels, not 24 x 24: .*attn_resolutions=\[\]"):
        prior.for_size(24, 24)
