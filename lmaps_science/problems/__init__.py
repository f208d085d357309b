"""Fields of science, one package each, all with the same rooms; see `cards.kind`."""
