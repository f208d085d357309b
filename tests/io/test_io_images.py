"""Images: FITS and ehtim text files, resampling, the sky's orientation."""

from pathlib import Path

import numpy as np
import pytest

from lmaps_science.io import (
    DataError,
    make_image,
    pixel_size_rad,
    read_image,
    regrid_image,
    write_fits,
)
from lmaps_science.io._ehtim import import_ehtim, quiet
from lmaps_science.io.images import MICROARCSECOND

GOLDEN = Path(__file__).parents[1] / "golden"
M87 = {"source": "M87", "ra_hours": 12.5137287, "dec_degrees": 12.391123}


@pytest.fixture
def image():
    values = np.random.default_rng(0).uniform(size=(6, 8))  # no symmetry: a flip would show
    return make_image(values, 2 * MICROARCSECOND, frequency_hz=227.07e9, mjd=57848.25, **M87)


def test_coordinates_grow_to_the_north_and_east(image):
    np.testing.assert_allclose(image["x"], [7, 5, 3, 1, -1, -3, -5, -7])
    np.testing.assert_allclose(image["y"], [5, 3, 1, -1, -3, -5])
    assert pixel_size_rad(image) == pytest.approx(2 * MICROARCSECOND)
    assert image.attrs["units"] == "Jy/pixel"


def test_fits_round_trip(tmp_path, image):
    write_fits(tmp_path / "image.fits", image, history=["solver = lmaps"])
    back = read_image(tmp_path / "image.fits")
    np.testing.assert_array_equal(back.values, image.values)
    np.testing.assert_allclose(back["x"], image["x"], rtol=1e-9)
    for name, value in image.attrs.items():
        assert back.attrs[name] == pytest.approx(value) if name != "source" else value


def test_ehtim_opens_our_fits(tmp_path, image):
    write_fits(tmp_path / "image.fits", image)
    ehtim = import_ehtim()
    with quiet():
        theirs = ehtim.image.load_fits(str(tmp_path / "image.fits"))
    np.testing.assert_array_equal(theirs.imarr(), image.values)
    assert theirs.psize == pytest.approx(2 * MICROARCSECOND, rel=1e-9)
    assert (theirs.source, theirs.rf, theirs.mjd, theirs.time) == ("M87", 227.07e9, 57848, 6.0)
    assert (theirs.ra, theirs.dec) == pytest.approx((M87["ra_hours"], M87["dec_degrees"]))


def test_viewers_find_the_sky_in_our_fits(tmp_path, image):
    from astropy.io import fits
    from astropy.wcs import WCS

    write_fits(tmp_path / "image.fits", image)
    with fits.open(tmp_path / "image.fits") as hdus:
        hdus.verify("exception")
        header, values = hdus[0].header, hdus[0].data
        wcs = WCS(header)
    # The north-east pixel: the last row and the first column of the file.
    assert values[-1, 0] == image.values[0, 0]
    ra, dec = wcs.pixel_to_world_values(0, 5)
    cos_dec = np.cos(np.radians(M87["dec_degrees"]))
    assert (ra - 15 * M87["ra_hours"]) * cos_dec * 3600e6 == pytest.approx(7, rel=1e-2)
    assert (dec - M87["dec_degrees"]) * 3600e6 == pytest.approx(5, rel=1e-2)


def test_reads_ehtim_fits_as_ehtim_does():
    ehtim = import_ehtim()
    with quiet():
        theirs = ehtim.image.load_fits(str(GOLDEN / "black_hole_ref.fits"))
    ours = read_image(GOLDEN / "black_hole_ref.fits")
    np.testing.assert_array_equal(ours.values, theirs.imarr())
    assert pixel_size_rad(ours) == pytest.approx(theirs.psize)
    golden = np.load(GOLDEN / "black_hole.npz")
    assert pixel_size_rad(ours) == pytest.approx(float(golden["psize_rad"]))


def test_reads_ehtim_text_as_ehtim_does(tmp_path, image):
    ehtim = import_ehtim()
    square = image.values[:, :6]
    with quiet():
        theirs = ehtim.image.Image(square, 2e-12, 17.7611, -28.9922, rf=230e9, mjd=57849)
        theirs.save_txt(str(tmp_path / "image.txt"))
        theirs = ehtim.image.load_txt(str(tmp_path / "image.txt"))
    ours = read_image(tmp_path / "image.txt")
    np.testing.assert_allclose(ours.values, square, atol=1e-9)
    np.testing.assert_array_equal(ours.values, theirs.imarr())
    assert pixel_size_rad(ours) == pytest.approx(theirs.psize)
    assert (ours.attrs["frequency_hz"], ours.attrs["mjd"]) == (230e9, 57849)
    assert ours.attrs["ra_hours"] == pytest.approx(theirs.ra)
    assert ours.attrs["dec_degrees"] == pytest.approx(theirs.dec)
    text = (tmp_path / "image.txt").read_text()
    (tmp_path / "image.txt").write_text(text.replace("-28 deg 59", "-00 deg 30"))
    assert read_image(tmp_path / "image.txt").attrs["dec_degrees"] == pytest.approx(-0.5, abs=0.01)


def test_simulated_black_hole_image(data_dir):
    path = data_dir / "eht" / "grmhd_mad_sgra_dexter.txt"
    image = read_image(path)
    assert (image.shape, image.attrs["source"]) == ((150, 150), "SgrA")
    assert float(image.sum()) == pytest.approx(4.1043715, rel=1e-7)
    coarse = read_image(path, npix=64, fov_uas=160)
    assert coarse.shape == (64, 64)
    assert pixel_size_rad(coarse) == pytest.approx(2.5 * MICROARCSECOND)
    assert float(coarse.sum()) == pytest.approx(float(image.sum()), rel=1e-12)
    with pytest.raises(DataError, match=r"smaller than the source: .* % of the flux lies outside"):
        read_image(path, npix=64, fov_uas=30)


@pytest.mark.parametrize(("npix", "fov_uas"), [(5, 30), (64, 30), (None, 16), (3, None)])
def test_regridding_conserves_flux_and_centroid(image, npix, fov_uas):
    new = regrid_image(image, npix, fov_uas)
    assert float(new.sum()) == pytest.approx(float(image.sum()), rel=1e-12)
    assert new.sizes["x"] == new.sizes["y"]
    for axis in "xy":
        before, after = (float((im * im[axis]).sum() / im.sum()) for im in (image, new))
        # Pixels shared between new ones smear by half a pixel at most.
        assert after == pytest.approx(before, abs=float(-new[axis].diff(axis)[0]) / 2)
    assert new.attrs["source"] == "M87"


def test_regridding_to_the_same_grid_changes_nothing(image):
    square = make_image(image.values[:, :6], 1e-11)
    np.testing.assert_allclose(regrid_image(square, 6).values, square.values, rtol=1e-12)
    # Splitting each pixel in 2 x 2 gives each part a quarter.
    fine = regrid_image(square, 12).values
    np.testing.assert_allclose(fine, np.kron(square.values, np.full((2, 2), 0.25)), rtol=1e-12)


def test_lost_flux_is_stated_and_can_be_allowed():
    values = np.zeros((8, 8))
    values[3:5, 3:5] = 0.2475
    values[0, 0] = 0.01
    image = make_image(values, MICROARCSECOND)
    assert float(regrid_image(image, 8, 4.0, max_lost_flux=0.02).sum()) == pytest.approx(0.99)
    with pytest.raises(DataError, match=r"1 % of the flux lies outside \(allowed: 0.5 %\)"):
        regrid_image(image, 8, 4.0, max_lost_flux=0.005)


def edited(path, tmp_path, **cards):
    from astropy.io import fits

    with fits.open(path) as hdus:
        values = hdus[0].data.copy()
        header = hdus[0].header.copy()
    for key, value in cards.items():
        if value is None:
            header.remove(key)
        else:
            header[key] = value
    fits.PrimaryHDU(values, header).writeto(tmp_path / "edited.fits")
    return tmp_path / "edited.fits"


def test_fits_of_other_orientation_and_units(tmp_path):
    path = GOLDEN / "black_hole_ref.fits"
    step = read_image(path)
    flipped = read_image(edited(path, tmp_path, CDELT1=6.94444444444444e-10))
    np.testing.assert_array_equal(flipped.values, step.values[:, ::-1])
    (tmp_path / "edited.fits").unlink()
    beam = read_image(edited(path, tmp_path, BUNIT="Jy/beam", BMAJ=7e-9, BMIN=7e-9))
    area = np.pi * 7e-9**2 / (4 * np.log(2)) / 6.94444444444444e-10**2
    np.testing.assert_allclose(beam.values * area, step.values)


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"BUNIT": "K"}, "convert it to Jy/pixel"),
        ({"BUNIT": "JY/BEAM"}, "without BMAJ and BMIN"),
        ({"CDELT1": -1e-9}, "must be square"),
        ({"CDELT1": None}, "no pixel size"),
    ],
)
def test_unusable_fits(tmp_path, cards, reason):
    with pytest.raises(DataError, match=reason):
        read_image(edited(GOLDEN / "black_hole_ref.fits", tmp_path, **cards))


def test_unusable_images(tmp_path, image):
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "none.fits")
    (tmp_path / "notes.fits").write_text("no image\n")
    with pytest.raises(DataError, match="neither FITS nor"):
        read_image(tmp_path / "notes.fits")
    whole = (GOLDEN / "black_hole_ref.fits").read_bytes()
    for size in (100, 2000, 5000, 30_000):
        (tmp_path / "cut.fits").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.fits"):
            read_image(tmp_path / "cut.fits")
    write_fits(tmp_path / "nan.fits", image.where(image > 0.1))
    with pytest.raises(DataError, match="NaN"):
        read_image(tmp_path / "nan.fits")
    with pytest.raises(DataError, match="DataArray with dims"):
        write_fits(tmp_path / "a.fits", image.values)
    with pytest.raises(DataError, match="decrease in equal steps"):
        pixel_size_rad(image[:, ::-1])
    for npix, fov_uas in ((0, 10), (8, -1.0)):
        with pytest.raises(DataError, match="must be"):
            regrid_image(image, npix, fov_uas)
    with pytest.raises(DataError, match=r"shape \(H, W\)"):
        make_image(np.zeros(3), 1e-11)
