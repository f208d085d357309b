"""Priors from functions and from diffusers."""

import pytest
import torch

from lmaps_science.priors import from_diffusers, from_function


def test_function_becomes_a_prior():
    prior = from_function(lambda x, s: x / (1 + s**2), (1, 4, 3), (0.0, 1.0))
    x = torch.randn(
        3,
        1,
        4,
        3,  # as many as a row has pixels: sigma must not go along the row
        dtype=torch.float64,
    )
    torch.testing.assert_close(prior(x, torch.tensor([1.0, 2.0, 3.0]))[1], x[1] / 5)
    assert prior.value_range == (0.0, 1.0)


def test_module_moves_with_the_prior():
    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x, sigma):
            return self.gain * x

    module = Scale()
    moved = from_function(module, (1, 4, 4)).to(dtype=torch.float64)
    assert moved.function.gain.dtype == torch.float64
    assert module.gain.dtype == torch.float32


@pytest.mark.parametrize("function", [lambda x, s: x[:, :, :2], lambda x, s: None])
def test_function_of_the_wrong_output_is_refused(function):
    with pytest.raises(ValueError, match="must return a tensor of shape"):
        from_function(function, (1, 4, 4))(torch.zeros(1, 1, 4, 4), 1.0)


def test_function_must_be_callable():
    with pytest.raises(TypeError, match="callable"):
        from_function(torch.ones(3), (1, 4, 4))


# -- diffusers ------------------------------------------------------------------------------------


def make_unet(**options):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=options.pop("out_channels", 1),
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        **options,
    )


def make_scheduler(**options):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    return diffusers.DDPMScheduler(clip_sample=False, **options)


@pytest.mark.parametrize("interpolate", [True, False])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_diffusers_predicts_the_same_clean_image(prediction, interpolate):
    """At a time step of the training, D is the ``pred_original_sample`` of diffusers."""
    unet, scheduler = make_unet(), make_scheduler(prediction_type=prediction)
    prior = from_diffusers(unet, scheduler, interpolate=interpolate)
    step = 400
    alpha_bar = scheduler.alphas_cumprod[step]
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    x = torch.randn(2, 1, 8, 8)
    scaled = alpha_bar.sqrt() * x
    with torch.no_grad():
        output = unet(scaled, step).sample
    expected = scheduler.step(output, step, scaled).pred_original_sample
    torch.testing.assert_close(prior(x, sigma), expected, rtol=1e-4, atol=1e-4)


def test_time_steps_lie_between_and_stay_inside_the_table():
    scheduler = make_scheduler()
    sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    between = (sigmas[10] * sigmas[11]).sqrt()
    levels = torch.stack([between, 1.001 * sigmas[700], torch.tensor(1e-9), torch.tensor(1e9)])
    smooth = from_diffusers(make_unet(), scheduler).network.time_step(levels)
    assert smooth.tolist() == pytest.approx([10.5, 700.1, 0, 999], abs=0.1)
    nearest = from_diffusers(make_unet(), scheduler, interpolate=False).network.time_step(levels)
    assert nearest[1:].tolist() == [700, 0, 999]
    assert nearest[0] in (10, 11)


def test_diffusers_details():
    """Gradients reach the image, learned variances are dropped, zero terminal SNR is finite."""
    scheduler = make_scheduler(rescale_betas_zero_snr=True)
    prior = from_diffusers(make_unet(out_channels=2), scheduler)
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    prior(x, 1e4).sum().backward()
    assert x.grad.isfinite().all()
    assert prior.image_shape == (1, 8, 8)
    assert prior.to(dtype=torch.float64)(x.double(), 1.0).dtype == torch.float64


def test_diffusers_refusals():
    unet, scheduler = make_unet(), make_scheduler()
    with pytest.raises(ValueError, match="no alphas_cumprod"):
        from_diffusers(unet, object())
    with pytest.raises(ValueError, match="class-conditional"):
        from_diffusers(make_unet(num_class_embeds=3), scheduler)
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="unknown prediction_type 'flow'"):
        from_diffusers(unet, scheduler)
