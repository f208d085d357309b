"""Forward models: inverse scattering, MRI, interferometry, restoration."""
