"""Problem cards: YAML files that name the data, the prior and the solvers of a problem.

A card is read in three steps: find it and merge it into the card that it `extends`, apply the
overrides, validate everything against the schema of its `kind`. What kinds and solvers there are,
`registry` knows.
"""
