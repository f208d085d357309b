"""The network of encoded blurs: names of the published files, codes, what is refused."""

import hashlib

import numpy as np
import pytest
import torch
from instances_restoration import blur_network

from lmaps_science.io import DataError
from lmaps_science.io.pytorch import write_tensors
from lmaps_science.physics.encoded_blur import BlurNetwork, EncodedBlur, load_blur_network


def published(state, prefix=""):
    """A file's content: the weights, and some of the encoder, which a known blur does without."""
    names = ("kernel_extractor.model.1.weight", "kernel_extractor.model.19.conv_block.5.weight")
    encoder = {name: torch.zeros(16, 16, 3, 3) for name in names}
    return {prefix + name: value for name, value in {**encoder, **state}.items()}


def test_names_and_shapes_are_those_of_the_published_network():
    """The digest is of those that the published code makes with options/generate_blur."""
    with torch.device("meta"):
        network = BlurNetwork()
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in network.state_dict().items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "0810fdc4116cb6ed25e7802b3344e7ec3c40876f8ae80f1dacf093ec74e265b6"
    assert sum(value.numel() for value in network.parameters()) == 23_662_531
    assert (network.factor, network.code_channels) == (128, 512)


def test_a_file_is_read_and_tells_the_size_of_its_network(tmp_path):
    network, path = blur_network(), tmp_path / "blur.pth"
    for prefix in ("", "module."):
        write_tensors(path, published(network.state_dict(), prefix))
        found = load_blur_network(path, torch.float64)
        x, code = torch.rand(2, 3, 32, 16).double(), torch.randn(2, 8, 2, 1).double()
        torch.testing.assert_close(found(x, code), network(x, code))


def test_the_code_is_that_of_its_seed_and_changes_the_blur():
    network = blur_network()
    first, again, other = (EncodedBlur(network, (3, 16, 32), seed) for seed in (0, 0, 1))
    drawn = 1.2 * np.random.RandomState(0).randn(8, 1, 2)
    np.testing.assert_array_equal(first.code, drawn)
    x = torch.rand(1, 3, 16, 32).double()
    assert torch.equal(first(x), again(x))
    assert float((first(x) - other(x)).abs().max()) > 0.01
    assert 0 <= float(first(x).min()) < float(first(x).max()) <= 1


def test_derivatives_are_those_of_differences():
    operator = EncodedBlur(blur_network(), (3, 16, 16))
    x = 0.3 + 0.4 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    assert torch.autograd.gradcheck(
        operator, x.requires_grad_(), eps=1e-7, atol=1e-5, fast_mode=True
    )


def test_a_copy_in_another_precision_leaves_the_network_as_it_is():
    operator = EncodedBlur(blur_network(), (3, 16, 16))
    single = operator.to(torch.float32)
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(single(x).double(), operator(x.double()), rtol=0, atol=1e-5)
    assert not any(weights.requires_grad for weights in single.network.parameters())
    with pytest.raises(ValueError, match=r"operator\.to"):
        operator(x)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 24, 16), r"multiples of 16, and this one has 24 x 16.*e\.g\. to 32 x 16"),
        ((3, 8, 5), r"to 16 x 16"),
        ((1, 16, 16), "expected 3"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        EncodedBlur(blur_network(), shape)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {"conv.weight": torch.zeros(2)},
            r"of another network.*conv\.weight.*GOPRO_wVAE",
        ),
        (lambda s: {}, "begin with nothing"),
        (lambda s: [1, 2], "no state dict"),
        (lambda s: {**s, "adapter.extra": torch.zeros(1)}, "1 unexpected: adapter.extra"),
        (lambda s: without(s, "recon_trunk.1.bias"), r"1 missing: recon_trunk\.1\.bias"),
        (lambda s: {**s, "recon_trunk.1.bias": torch.zeros(3)}, "of the wrong shape"),
        (lambda s: {**s, "recon_trunk.1.bias": torch.full((16,), torch.nan)}, "not finite"),
        (lambda s: {**s, "recon_trunk.1.bias": torch.zeros(1).expand(16)[:0]}, "wrong shape"),
        (lambda s: {**s, "adapter." + 2000 * "submodule.": torch.zeros(1)}, "unexpected"),
        (
            lambda s: {
                **s,
                "kernel_extractor.model.19.conv_block.5.weight": torch.zeros(8, 8, 3, 3),
            },
            r"without the variational term.*GOPRO_wVAE",
        ),
    ],
)
def test_files_of_other_networks_are_refused(change, message, tmp_path):
    path = tmp_path / "blur.pth"
    write_tensors(path, change(blur_network().state_dict()))
    with pytest.raises(DataError, match=message) as error:
        load_blur_network(path)
    assert str(error.value).count(str(path)) == 1
    assert len(str(error.value)) < 900


def test_files_that_are_none_or_would_run_code_are_refused(tmp_path):
    path = tmp_path / "blur.pth"
    with pytest.raises(DataError, match="no such file"):
        load_blur_network(path)
    path.write_text("weights")
    with pytest.raises(DataError, match=r"no PyTorch file.*GOPRO_wVAE"):
        load_blur_network(path)
    torch.save({"feature_extractor.0.weight": print}, path)
    with pytest.raises(DataError, match="run code"):
        load_blur_network(path)
