"""Files in and out, one module per format; arrays keep their units and coordinates (xarray).

Names are imported when they are first used, as those of the package: a card needs no xarray.
`__init__.pyi` says where each one is.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
