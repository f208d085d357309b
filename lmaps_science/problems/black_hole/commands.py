"""Commands of black-hole imaging."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lmaps_science.commands import PLAIN, Force, reported

__all__ = ["app"]

app = typer.Typer(**PLAIN)


@app.command()
@reported
def simulate(
    image: Annotated[str, typer.Argument(help="FITS or ehtim text file, phantom:K, or compact:K.")],
    out: Annotated[Path, typer.Option(help="uvfits file to write.")],
    array: Annotated[str, typer.Option(help="Array by name, or a file of stations.")] = "EHT2017",
    coverage: Annotated[
        Path | None, typer.Option(help="uvfits file whose baselines and noise to use instead.")
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Write the observed image as FITS.")] = None,
    flux: Annotated[
        float | None, typer.Option(help="Scale to this flux [Jy]; default: the image's, or 0.6.")
    ] = None,
    npix: Annotated[int, typer.Option(min=8, help="Pixels along each side.")] = 64,
    fov_uas: Annotated[float, typer.Option(help="Field of view [microarcsecond].")] = 160.0,
    phantom_seed: Annotated[int, typer.Option(min=0, help="Which set of phantoms.")] = 1,
    gain_std: Annotated[float, typer.Option(help="Error of the log gains, e.g. 0.1.")] = 0.0,
    thermal_noise: Annotated[bool, typer.Option(help="Add thermal noise.")] = True,
    random_phases: Annotated[bool, typer.Option(help="Lose the stations' phases.")] = True,
    scan_interval: Annotated[float, typer.Option(help="From scan to scan [s].")] = 600.0,
    integration: Annotated[float, typer.Option(help="Length of a scan [s].")] = 300.0,
    seed: Annotated[int, typer.Option(min=0, help="Of noise and gains.")] = 0,
    force: Force = False,
) -> None:
    """Observe an image with radio telescopes.

    \b
    lmaps simulate phantom:1 --out sim.uvfits --truth truth.fits --gain-std 0.1
    lmaps simulate model.fits --array EHT2025 --flux 0.6 --out sim.uvfits
    lmaps simulate model.fits --coverage measured.uvfits --out sim.uvfits
    """
    from lmaps_science.cards.load import load_card
    from lmaps_science.io import DataError, atomic_write, read_array, write_fits, write_uvfits
    from lmaps_science.io.folders import new_file
    from lmaps_science.problems.black_hole.data import PHANTOMS, observe, true_image

    out, truth = new_file(out, force), None if truth is None else new_file(truth, force)
    if truth == out:
        raise DataError(f"--out and --truth are both {out}: give each a file of its own.")
    read_array(array)  # says which there are, even where the coverage makes it superfluous
    source = {"kind": "uvfits", "file": str(coverage)} if coverage else None
    if flux is None and image.partition(":")[0] in PHANTOMS:
        flux = 0.6
    section = {
        "kind": "simulation",
        "image": image,
        "phantom_seed": phantom_seed,
        "flux": flux,
        "array": array,
        "coverage": source,
        "scan_interval_seconds": scan_interval,
        "integration_seconds": integration,
        "thermal_noise": thermal_noise,
        "gain_std": gain_std,
        "random_phases": random_phases,
        "seed": seed,
    }
    grid = {"npix": npix, "fov_uas": fov_uas}
    card: Any = load_card("black_hole/simulated", {"observation": section, "image": grid})
    seen = true_image(card.observation, card.image)
    observation = observe(card.observation, seen)
    with atomic_write(out) as temporary:  # both files, or none
        write_uvfits(temporary, observation)
        if truth is not None:
            write_fits(truth, seen, history=[f"lmaps simulate {image}"])
    stations = sorted({*observation["station1"].values, *observation["station2"].values})
    typer.echo(
        f"{out}: {observation.sizes['vis']} visibilities of {', '.join(map(str, stations))}; "
        f"{float(seen.sum()):.3g} Jy, {seen.attrs['source']}"
    )
